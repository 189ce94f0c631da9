"""The figures of README.md, and of docs/explanation/benchmarks.md and growth.md, from the JSON.

Each block of a page stands between two comments, `<!-- bench:NAME -->` and `<!-- bench:end -->`.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from agent_credits.values.credits import format_credits
from tests.benchmarks.cost_model import (
    ITEM_WRITE_UNITS_PER_SECOND,
    MEGABYTES_PER_PROCESSOR,
    MILLION,
)
from tests.benchmarks.stores import Network
from tests.benchmarks.workloads import SIZES
from tools import blocks
from tools.blocks import table as _table

Document = dict[str, Any]

ROOT = Path(__file__).parents[2]
RESULTS_FILE = ROOT / "docs" / "benchmarks.json"
EXPLANATION = ROOT / "docs" / "explanation"
PAGES = (ROOT / "README.md", EXPLANATION / "benchmarks.md", EXPLANATION / "growth.md")
BLOCK = blocks.pattern("bench")

LATENCIES = ("request_milliseconds", "request_milliseconds_slow")
# MaximumConcurrency: one copy, the default, and what is a good start for a larger account.
COPIES = (1, 2, 10, 100)
# DynamoDB: what a new table on demand takes at once, and the quota of a table.
TABLE_WRITE_UNITS_PER_SECOND = (4_000, 40_000)

TITLES = {
    "agent-credits": "this project",
    "agent-credits-in-turn": "this project, one account after another",
    "agent-credits-spanned": "this project, under a limit of the team",
    "powertools": "(a) Powertools idempotency, update, put",
    "transaction-1": "(b) a transaction per event",
    "transaction-99": "(c) a transaction per account and batch",
    "postgres-1": "PostgreSQL, a transaction per event",
    "postgres-100": "PostgreSQL, a transaction per 100 events",
}
WORKLOADS = {
    "hot-1": "one account, 1 a batch",
    "hot-10": "one account, 10 a batch",
    "hot-100": "one account, 100 a batch",
    "hot-1000": "one account, 1,000 a batch",
    "uniform": "1,000 accounts alike",
    "reserving-1": "runs that reserve, 1 a batch",
    "counted-1": "one account with a limit of its own, 1 a batch",
    "members-100": "200 members alike, 100 a batch",
    "azure-trace": "the Azure trace",
}


def refreshed(page: str, document: Document) -> str:
    """Return the page with each of its blocks written again."""
    written = {name: partial(block, document) for name, block in BLOCKS.items()}
    return blocks.refreshed(page, "bench", written)


def refresh_pages(document: Document) -> None:
    for page in PAGES:
        page.write_text(refreshed(page.read_text(), document))


def _machine(document: Document) -> str:
    machine, versions = document["machine"], document["versions"]
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    skipped = [f" Skipped: {name}, because {why}." for name, why in document["skipped"].items()]
    return (
        f"Measured on {document['measured_on']} with `make bench` on {machine['cores']} cores"
        f" ({machine['architecture']}, {machine['memory_gb']} GB, {machine['system']},"
        f" Python {machine['python']}): {listed}. The load average before it began was"
        f" {machine['load_before']:.1f}: the further above 0, the less what was timed says."
        f"{''.join(skipped)}"
    )


def _sentence(document: Document) -> str:
    """Return what an event costs, in the one sentence of the README."""
    one, many = (_model(document, "agent-credits", size) for size in (1, 100))
    low, high = (many["total_dollars_per_million"], one["total_dollars_per_million"])
    kept = [model["dollars_per_million"]["storage"] for model in (many, one)]
    prices = document["prices"]
    return (
        f"A million events cost ${low:.2f} where an account gets a hundred in a batch and"
        f" ${high:.2f} where it gets one, of which a year of storage is ${kept[0]:.2f} and"
        f" ${kept[1]:.2f}: counted requests and bytes, priced by AWS's list for"
        f" {prices['region']} as of {prices['as_of']}."
    )


def _summary(document: Document) -> str:
    """Return units and dollars of each design, at one and at a hundred events."""
    rows = []
    for size in (1, 100):
        for design in ("agent-credits", "powertools", "transaction-1", "transaction-99"):
            cost, modelled = _cost(document, design, f"hot-{size}"), _model(document, design, size)
            rows.append(
                (
                    str(size),
                    TITLES[design],
                    f"{cost['write_units']:.2f}",
                    f"{cost['read_units']:.2f}",
                    f"{cost['requests']:.2f}",
                    f"${modelled['dollars_per_million']['dynamodb']:.2f}",
                    f"${modelled['total_dollars_per_million']:.2f}",
                    f"{modelled['ceiling_per_second']:,.0f}",
                )
            )
    return _table(
        (
            ">events per account and batch",
            "design",
            ">write units",
            ">read units",
            ">requests",
            ">DynamoDB, per million events",
            ">all in, per million events",
            ">one account, events/s",
        ),
        rows,
    )


def _costs(document: Document) -> str:
    rows = [
        (
            WORKLOADS[cost["workload"]],
            TITLES[cost["design"]],
            f"{cost['write_units']:.3f}",
            f"{cost['index_write_units']:.2f}",
            f"{cost['read_units']:.2f}",
            f"{cost['requests']:.3f}",
            f"{cost['stored_bytes']:,.0f}",
            f"{cost['cpu_microseconds']:,.0f}",
        )
        for cost in document["counts"]["costs"]
    ]
    return _table(
        (
            "workload",
            "design",
            ">write units",
            ">of which index",
            ">read units",
            ">requests",
            ">bytes stored",
            ">client CPU, µs",
        ),
        rows,
    )


def _depths(document: Document) -> str:
    rows = [
        (
            TITLES[depth["design"]],
            f"{depth['accounts']:,}",
            str(depth["events_per_batch"]),
            _range(depth["warm_min"], depth["warm_max"]),
            _range(depth["cold_min"], depth["cold_max"]),
        )
        for depth in document["counts"]["depths"]
    ]
    return _table(
        ("design", ">accounts", ">events per batch", ">warm worker", ">cold worker"), rows
    )


def _rates(document: Document) -> str:
    near = [rate for rate in document["rates"] if not rate["network"]["request_milliseconds"]]
    workers = sorted({rate["workers"] for rate in near})
    lines: dict[tuple[Any, ...], dict[int, Document]] = {}
    for rate in near:
        line = (rate["store"], rate["accounts"], rate["design"], rate["events_per_batch"])
        lines.setdefault(line, {})[rate["workers"]] = rate
    rows = [
        (
            store,
            f"{accounts:,}",
            _title(design, size),
            *(f"{by_workers[n]['events_per_second']:,.0f}" for n in workers),
            " / ".join(str(by_workers[n]["races_lost"]) for n in workers),
        )
        for (store, accounts, design, size), by_workers in lines.items()
    ]
    headings = (
        "store",
        ">accounts",
        "design",
        *(f">{n} worker{'s' * (n > 1)}" for n in workers),
        ">races lost",
    )
    return _table(headings, rows)


def _far_rates(document: Document) -> str:
    """Show one worker over each network, design by design; empty where it was not measured."""
    lines: dict[str, dict[str, str]] = {}
    networks: dict[str, None] = {}
    for rate in document["rates"]:
        is_far = rate["network"]["request_milliseconds"] > 0
        if is_far and rate["workers"] == 1 and rate["accounts"] == 1:
            network = Network(**rate["network"]).title
            networks[network] = None
            line = lines.setdefault(_title(rate["design"], rate["events_per_batch"]), {})
            line[network] = f"{rate['events_per_second']:,.0f}"
    rows = [
        (design, *(by_network.get(network, "") for network in networks))
        for design, by_network in lines.items()
    ]
    return _table(("design, events/s", *(f">{network}" for network in networks)), rows)


def _advantage(document: Document) -> str:
    """Show the rates on one account that are compared, each at its best number of workers."""
    best: dict[str, dict[str, Document]] = {}
    for rate in document["rates"]:
        if rate["accounts"] == 1 and rate["design"] in ("agent-credits", "transaction-1"):
            by_design = best.setdefault(Network(**rate["network"]).title, {})
            known = by_design.setdefault(rate["design"], rate)
            by_design[rate["design"]] = max(known, rate, key=lambda r: r["events_per_second"])
    rows = []
    for network, by_design in best.items():
        ours, theirs = by_design["agent-credits"], by_design["transaction-1"]
        times = ours["events_per_second"] / theirs["events_per_second"]
        figures = (f"{r['events_per_second']:,.0f} ({r['workers']})" for r in (ours, theirs))
        rows.append((network, *figures, f"{times:.1f}"))
    titles = (_title(design, 100) for design in ("agent-credits", "transaction-1"))
    return _table(("network", *(f">{title}" for title in titles), ">times"), rows)


def _spanned_costs(document: Document) -> str:
    """Show what an event costs without a limit and under one that spans accounts."""
    rows = []
    for workload in ("hot-1", "hot-10", "hot-100", "members-100"):
        costs = [
            _cost(document, design, workload)
            for design in ("agent-credits", "agent-credits-spanned")
        ]
        figures = (
            [f"{cost['write_units']:.2f}" for cost in costs],
            [f"{cost['read_units']:.2f}" for cost in costs],
            [f"{cost['requests']:.2f}" for cost in costs],
        )
        rows.append((WORKLOADS[workload], *(f for figure in figures for f in figure)))
    names = ("write units", "read units", "requests")
    headings = [f">{text}" for name in names for text in (name, "under a limit of the team")]
    return _table(("workload", *headings), rows)


def _spanned_rates(document: Document) -> str:
    """Show what members under one limit came to in virtual time."""
    rows = [
        (
            str(rate["events_per_batch"]),
            str(rate["workers"]),
            f"{rate['events_per_second']:,.0f}",
            f"{rate['commits_per_second']:,.0f}",
            f"{rate['transactions'] / rate['seconds']:,.0f}",
            f"{rate['share_lost']:.0%}",
            f"{rate['lost'] / rate['seconds'] / rate['workers']:.1f}",
            f"{rate['came_back'] / (rate['events'] + rate['came_back']):.0%}",
        )
        for rate in document["spanned_rates"]
    ]
    headings = (
        ">events per batch",
        ">workers",
        ">events/s",
        ">commits/s",
        ">transactions/s",
        ">of which lost",
        ">lost by each worker/s",
        ">events that came back",
    )
    return _table(headings, rows)


def _spanned_on_emulator(document: Document) -> str:
    """Show the same on MiniStack, a hundred events in a batch."""
    rates = [rate for rate in document["rates"] if rate["design"] == "agent-credits-spanned"]
    rows = [
        (
            str(rate["workers"]),
            f"{rate['events_per_second']:,.0f}",
            f"{rate['commits'] / rate['seconds']:,.0f}",
            f"{rate['races_lost'] / rate['workers']:,.0f}",
        )
        for rate in rates
    ]
    network = Network(**rates[0]["network"]).title
    headings = (f">workers, {network}", ">events/s", ">commits/s", ">commits lost by each worker")
    return _table(headings, rows)


def _side_by_side(document: Document) -> str:
    """Show how much faster many accounts are committed side by side than in turn."""
    rates = {
        rate["design"]: rate
        for rate in document["rates"]
        if rate["network"]["request_milliseconds"] and rate["accounts"] > 1
    }
    in_turn, ours = rates["agent-credits-in-turn"], rates["agent-credits"]
    times = ours["events_per_second"] / in_turn["events_per_second"]
    rows = [
        (
            TITLES[rate["design"]],
            f"{rate['events_per_second']:,.0f}",
            f"{rate['cpu_microseconds']:,.0f}",
        )
        for rate in (in_turn, ours)
    ]
    network = Network(**ours["network"]).title
    return (
        f"{_table((f'design, {network}', '>events/s', '>client CPU of an event, µs'), rows)}\n\n"
        f"Side by side is {times:.1f} times as fast."
    )


def _dollars(document: Document) -> str:
    rows = [
        (
            str(m["events_per_batch"]),
            TITLES[m["design"]],
            *(f"{dollars:.3f}" for dollars in m["dollars_per_million"].values()),
            f"{m['total_dollars_per_million']:.2f}",
        )
        for m in document["modelled"]
    ]
    headings = ("SQS", "Lambda", "DynamoDB", "SNS", "logs", "a year of storage", "total")
    return _table((">events per batch", "design", *(f">{name}" for name in headings)), rows)


def _logs(document: Document) -> str:
    """Show what the log of an event costs, at both levels that log it."""
    measured, per_gb = document["log_bytes"], document["prices"]["prices"]["log_per_gb"]
    rows = []
    for size, at_info in measured["of_commit"].items():
        by_level = (at_info, at_info + measured["of_events"][size])
        per_event = [total / int(size) for total in by_level]
        rows.append(
            (
                size,
                *(f"{size_:,.0f}" for size_ in per_event),
                *(f"{size_ / 1_000 * per_gb:.3f}" for size_ in per_event),
            )
        )
    headings = (
        ">events in a commit",
        ">bytes per event",
        ">at DEBUG",
        ">dollars per million events",
        ">at DEBUG",
    )
    return _table(headings, rows)


def _table_class(document: Document) -> str:
    rows = []
    for size in SIZES:
        of = _model(document, "agent-credits", size)["ledger_class"]
        rows.append(
            (
                str(size),
                f"{of['standard_requests']:.3f}",
                f"{of['infrequent_requests']:.3f}",
                f"{of['standard_storage_month']:.3f}",
                f"{of['infrequent_storage_month']:.3f}",
                f"{of['break_even_months']:.1f}",
            )
        )
    headings = (
        ">events per batch",
        ">requests, standard",
        ">infrequent",
        ">a month of storage, standard",
        ">infrequent",
        ">even after, months",
    )
    return _table(headings, rows)


def _idle(document: Document) -> str:
    stacks = document["idle_stacks"]
    rows = [
        (
            share["what"],
            f"{share['dollars_each']:.2f}",
            str(share["count"]),
            f"{_dollars_of(share):.2f}",
            str(more["count"]),
            f"{_dollars_of(more):.2f}",
        )
        for share, more in zip(stacks["by_default"], stacks["with_every_part"], strict=True)
    ]
    totals = (
        f"{sum(map(_dollars_of, stacks[which])):.2f}" for which in ("by_default", "with_every_part")
    )
    by_default, with_every_part = totals
    rows.append(("**total**", "", "", by_default, "", with_every_part))
    headings = (
        "what",
        ">dollars each",
        ">by default",
        ">dollars a month",
        ">with every part",
        ">dollars a month",
    )
    each = document["prices"]["prices"]["custom_metric_per_month"]
    number = stacks["custom_metrics"]
    return (
        f"{_table(headings, rows)}\n\n"
        f"While events come, the {number} metrics of its own that the alarms and the dashboard read"
        f" add up to {number} x ${each:.2f} = ${number * each:.2f} a month."
    )


def _dollars_of(share: Document) -> float:
    dollars: float = share["count"] * share["dollars_each"]
    return dollars


def _limits_of_an_account(document: Document) -> str:
    """Show what one account's row takes, by each of its two limits."""
    assumptions = document["prices"]["assumptions"]
    turns = [f"{assumptions[name]:g}" for name in LATENCIES]
    rows = []
    for size in SIZES:
        row_units = _cost(document, "agent-credits", f"hot-{size}")["row_write_units"]
        modelled = _model(document, "agent-credits", size)
        rows.append(
            (
                str(size),
                f"{ITEM_WRITE_UNITS_PER_SECOND / row_units:,.0f}",
                f"{modelled['ceiling_per_second']:,.0f}",
                f"{modelled['ceiling_per_second_slow']:,.0f}",
            )
        )
    headings = (
        ">its events in a batch",
        ">events/s by write units",
        *(f">events/s by turns of {latency} ms a request" for latency in turns),
    )
    return _table(headings, rows)


def _limits_of_copies(document: Document) -> str:
    """Show what the processor of a copy of DebitRuns allows; no request is waited for."""
    megabytes = document["prices"]["assumptions"]["debit_megabytes"]
    rows = []
    for workload in ("uniform", *(f"hot-{size}" for size in SIZES)):
        microseconds = _cost(document, "agent-credits", workload)["cpu_microseconds"]
        seconds = microseconds / MILLION * MEGABYTES_PER_PROCESSOR / megabytes
        rows.append(
            (
                WORKLOADS[workload],
                f"{seconds * 1_000:.1f}",
                *(f"{copies / seconds:,.0f}" for copies in COPIES),
            )
        )
    headings = (
        "traffic",
        ">ms of an event",
        *(f">events/s of {copies} {'copy' if copies == 1 else 'copies'}" for copies in COPIES),
    )
    return _table(headings, rows)


def _limits_of_announce(document: Document) -> str:
    megabytes = document["prices"]["assumptions"]["announce_megabytes"]
    rows = []
    for size, microseconds in document["announce_cpu_microseconds"].items():
        seconds = microseconds / MILLION * MEGABYTES_PER_PROCESSOR / megabytes
        rows.append((size, f"{seconds * 1_000:.1f}", f"{1 / seconds:,.0f}"))
    return _table((">events in a commit", ">ms of a record", ">commits/s of a shard"), rows)


def _limits_of_tables(document: Document) -> str:
    rows = []
    for size in SIZES:
        cost = _cost(document, "agent-credits", f"hot-{size}")
        units = cost["ledger_write_units"]
        rows.append(
            (
                str(size),
                f"{units:.2f}",
                *(f"{limit / units:,.0f}" for limit in TABLE_WRITE_UNITS_PER_SECOND),
            )
        )
    headings = (
        ">an account's events in a batch",
        ">write units of LedgerTable",
        *(f">events/s at {limit:,} units/s" for limit in TABLE_WRITE_UNITS_PER_SECOND),
    )
    return _table(headings, rows)


def _ceilings(document: Document) -> str:
    assumptions = document["prices"]["assumptions"]
    rows = [
        (
            str(m["events_per_batch"]),
            TITLES[m["design"]],
            f"{m['ceiling_per_second']:,.0f}",
            f"{m['ceiling_per_second_slow']:,.0f}",
        )
        for m in document["modelled"]
    ]
    headings = (
        ">events per batch",
        "design",
        f">events/s at {assumptions['request_milliseconds']:g} ms a request",
        f">at {assumptions['request_milliseconds_slow']:g} ms",
    )
    return _table(headings, rows)


def _prices(document: Document) -> str:
    prices = document["prices"]
    sources = ", ".join(f"<{source}>" for source in prices["sources"])
    return f"Prices as of {prices['as_of']}, {prices['region']}: {sources}."


def _end_to_end(document: Document) -> str:
    measured = document["end_to_end"]
    passages = [
        (
            str(p["pack"]),
            f"{p['events']:,}",
            f"{p['deliveries']:,}",
            f"{p['seconds']:.1f}",
            f"{p['deliveries_per_second']:,.0f}",
        )
        for p in measured["passages"]
    ]
    headings = (">events in a message", ">events", ">deliveries", ">seconds", ">deliveries/s")
    latency = measured["latency"]
    return (
        f"{_table(headings, passages)}\n\n"
        f"From `SendMessage` of a run that fails to its notice in a subscriber's queue,"
        f" {latency['notices']} times one after the other:"
        f" p50 {latency['p50_milliseconds']:,.0f} ms, p95 {latency['p95_milliseconds']:,.0f} ms,"
        f" p99 {latency['p99_milliseconds']:,.0f} ms."
    )


def _cold_starts(document: Document) -> str:
    measured = document["cold_starts"]
    least = measured["starts"][0]
    rows = []
    for start in measured["starts"]:
        compiled, built = start["with_byte_code"], start["as_built"]
        event = compiled["first_event_milliseconds"]
        rows.append(
            (
                "the least" if start is least else f"`{start['function']}`",
                "" if start["instructions"] is None else f"{start['instructions'] / 1e6:,.0f}",
                f"{compiled['import_milliseconds'] / _import_of(least):.2f}",
                f"{compiled['import_milliseconds']:,.0f}",
                f"{built['import_milliseconds']:,.0f}",
                "" if event is None else f"{event:,.1f}",
                f"{start['zip_bytes_with_byte_code'] / 1_000:,.0f}",
                f"{start['zip_bytes_as_built'] / 1_000:,.0f}",
            )
        )
    headings = (
        "function",
        ">import, million instructions",
        ">import, times the least's CPU",
        ">import, CPU ms",
        ">as built, CPU ms",
        ">first event, CPU ms",
        ">zip, kB",
        ">as built, kB",
    )
    layer = (
        f"The layer's zip: {measured['layer_zip_bytes_with_byte_code'] / 1e6:.1f} MB with byte"
        f" code, {measured['layer_zip_bytes_as_built'] / 1e6:.1f} MB as built."
    )
    why = measured["uncounted_because"]
    uncounted = f" No instructions were counted, because {why}." if why else ""
    return f"{_table(headings, rows)}\n\n{layer}{uncounted}"


def _import_of(start: Document) -> float:
    milliseconds: float = start["with_byte_code"]["import_milliseconds"]
    return milliseconds


def _gates(document: Document) -> str:
    rows = [
        (
            gate["name"],
            f"{gate['figure']:g}",
            f"{'≥' if gate['is_least'] else '≤'} {gate['bound']:g}",
            "yes" if gate["holds"] else "NO",
        )
        for gate in document["gates"]
    ]
    return _table(("what must hold", ">figure", ">bound", "holds"), rows)


def _cost(document: Document, design: str, workload: str) -> Document:
    costs: Iterator[Document] = iter(document["counts"]["costs"])
    return next(c for c in costs if (c["design"], c["workload"]) == (design, workload))


def _model(document: Document, design: str, size: int) -> Document:
    models: Iterator[Document] = iter(document["modelled"])
    return next(m for m in models if (m["design"], m["events_per_batch"]) == (design, size))


def _title(design: str, events_per_batch: int) -> str:
    """Return a design's title, with the size of a batch where it was measured at several."""
    title = TITLES[design]
    return f"{title}, {events_per_batch} a batch" if design == "agent-credits" else title


def _range(fewest: int, most: int) -> str:
    return str(fewest) if fewest == most else f"{fewest} to {most}"


def _reservations(document: Document) -> str:
    """Return what an event of a run that reserves costs, and what fixed estimates cost in runs."""
    cost = _cost(document, "agent-credits", "reserving-1")
    found = document["false_rejections"]
    rows = [
        (
            f"{f['estimate']}, {format_credits(f['estimate_microcredits'])} credits",
            f"{f['rejected']:,}",
            f"{f['share']:.2%}",
            f"{f['overdrawn']:,}",
        )
        for f in found
    ]
    table = _table(
        ("what every run reserves", ">runs rejected", ">share", ">runs that used more"), rows
    )
    return (
        f"An event of a run that reserves costs {cost['write_units']:.2f} write units and"
        f" {cost['read_units']:.2f} read units, at one event a batch with one reservation live.\n\n"
        f"Of {found[0]['runs']:,} runs, each of which would have fitted:\n\n{table}"
    )


BLOCKS: dict[str, Callable[[Document], str]] = {
    "machine": _machine,
    "sentence": _sentence,
    "summary": _summary,
    "costs": _costs,
    "depths": _depths,
    "rates": _rates,
    "far-rates": _far_rates,
    "advantage": _advantage,
    "side-by-side": _side_by_side,
    "spanned-costs": _spanned_costs,
    "spanned-rates": _spanned_rates,
    "spanned-on-emulator": _spanned_on_emulator,
    "dollars": _dollars,
    "logs": _logs,
    "table-class": _table_class,
    "idle": _idle,
    "limits-of-an-account": _limits_of_an_account,
    "limits-of-copies": _limits_of_copies,
    "limits-of-tables": _limits_of_tables,
    "limits-of-announce": _limits_of_announce,
    "ceilings": _ceilings,
    "prices": _prices,
    "end-to-end": _end_to_end,
    "cold-start": _cold_starts,
    "reservations": _reservations,
    "gates": _gates,
}
