"""The plots of docs/benchmarks.json: the same JSON gives the same bytes, on any day.

`plots.py FOLDER` draws them into that folder, in an environment of its own that has matplotlib and
nothing of the project.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

RESULTS_FILE = Path(__file__).parents[2] / "docs" / "benchmarks.json"

# Colours that the colour-blind tell apart (Okabe and Ito), and dark enough on white and on black.
COLOURS = {
    "agent-credits": "#0072B2",
    "powertools": "#D55E00",
    "transaction-1": "#E69F00",
    "transaction-99": "#009E73",
    "postgres-1": "#999999",
    "postgres-100": "#CC79A7",
}
TITLES = {
    "agent-credits": "this project",
    "powertools": "(a) Powertools idempotency,\nupdate, put",
    "transaction-1": "(b) a transaction per event",
    "transaction-99": "(c) a transaction per\naccount and batch",
    "postgres-1": "PostgreSQL, a transaction\nper event",
    "postgres-100": "PostgreSQL, a transaction\nper 100 events",
}
DYNAMODB = ("agent-credits", "powertools", "transaction-1", "transaction-99")
SERVICES = {
    "dynamodb": ("DynamoDB", "#0072B2"),
    "storage": ("a year of storage", "#56B4E9"),
    "functions": ("Lambda", "#E69F00"),
    "logs": ("logs", "#009E73"),
    "sqs": ("SQS", "#CC79A7"),
    "sns": ("SNS", "#999999"),
}
STYLE = {
    "svg.hashsalt": "agent-credits",
    "svg.fonttype": "path",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#dddddd",
    "figure.facecolor": "white",
    "legend.frameon": False,
}


def draw(results: dict[str, Any], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    with mpl.rc_context(STYLE):
        _save(_units(results), folder / "units.svg")
        _save(_dollars(results), folder / "dollars.svg")
        _save(_rates(results), folder / "rates.svg")


def _save(figure: Any, path: Path) -> None:
    # Without a date, and with identifiers from a fixed salt.
    figure.savefig(path, metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    plt.close(figure)


def _with_legend(figure: Any, panel: Any) -> Any:
    """Return the figure with the legend of all its panels, which are alike, at its right."""
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    return figure


def _units(results: dict[str, Any]) -> Any:
    sizes = (1, 10, 100, 1_000)
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.4))
    costs = {(c["design"], c["workload"]): c for c in results["counts"]["costs"]}
    for panel, (name, title) in zip(
        panels,
        (("write_units", "write units per event"), ("requests", "requests per event")),
        strict=True,
    ):
        for design in DYNAMODB:
            figures = [costs[design, f"hot-{size}"][name] for size in sizes]
            # Dashed, so that what it lies upon is seen as well.
            style = "--" if design == "transaction-1" else "-"
            panel.plot(
                sizes, figures, style, marker="o", color=COLOURS[design], label=TITLES[design]
            )
        panel.set_xscale("log")
        panel.set_xticks(sizes, [f"{size:,}" for size in sizes])
        panel.set_xlabel("events of one account in a batch")
        panel.set_title(title, loc="left")
        panel.set_ylim(bottom=0)
    return _with_legend(figure, panels[0])


def _dollars(results: dict[str, Any]) -> Any:
    sizes = (1, 10, 100)
    figure, panels = plt.subplots(1, len(sizes), figsize=(9, 3.2), sharex=True)
    for panel, size in zip(panels, sizes, strict=True):
        models = {m["design"]: m for m in results["modelled"] if m["events_per_batch"] == size}
        names = [TITLES[design] for design in DYNAMODB]
        left = [0.0] * len(names)
        for service, (title, colour) in SERVICES.items():
            parts = [models[design]["dollars_per_million"][service] for design in DYNAMODB]
            panel.barh(names, parts, left=left, color=colour, label=title)
            left = [sofar + part for sofar, part in zip(left, parts, strict=True)]
        for place, total in enumerate(left):
            panel.text(total, place, f" ${total:.2f}", va="center", fontsize=9)
        panel.invert_yaxis()
        panel.grid(visible=False)
        panel.set_title(f"{size:,} a batch", loc="left")
        panel.set_xlabel("$ per million events")
    highest = max(m["total_dollars_per_million"] for m in results["modelled"])
    panels[0].set_xlim(0, highest * 1.25)
    for panel in panels[1:]:
        panel.set_yticklabels([])
    return _with_legend(figure, panels[0])


def _rates(results: dict[str, Any]) -> Any:
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    near = [rate for rate in results["rates"] if not rate["network"]["request_milliseconds"]]
    for panel, (accounts, title) in zip(
        panels, ((1, "one hot account"), (1_000, "1,000 accounts")), strict=True
    ):
        for design in COLOURS:
            line = [r for r in near if (r["design"], r["accounts"]) == (design, accounts)]
            # This project is measured at two sizes of a batch.
            for size in sorted({rate["events_per_batch"] for rate in line}):
                _line(panel, [r for r in line if r["events_per_batch"] == size])
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks((1, 2, 4, 8), ("1", "2", "4", "8"))
        panel.set_xlabel("workers")
        panel.set_title(f"events per second, {title}", loc="left")
    return _with_legend(figure, panels[0])


def _line(panel: Any, rates: Sequence[dict[str, Any]]) -> None:
    design, size = rates[0]["design"], rates[0]["events_per_batch"]
    is_ours = design == "agent-credits"
    panel.plot(
        [rate["workers"] for rate in rates],
        [rate["events_per_second"] for rate in rates],
        marker="o",
        linestyle="--" if is_ours and size == 1 else "-",
        color=COLOURS[design],
        label=f"{TITLES[design]}, {size} a batch" if is_ours else TITLES[design],
    )


if __name__ == "__main__":
    draw(json.loads(RESULTS_FILE.read_text()), Path(sys.argv[1]))
