"""`agent-credits explain`: what each event of a run did and why, from trigger to outcome."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Final, assert_never

import typer

from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.billing.policy import BillingPolicy, TriggerKind
from agent_credits.ledger.accounts import Account, pool_balances
from agent_credits.ledger.entries import Entry, Identity, RunContext
from agent_credits.ledger.reservations import Reservation, reservation_of
from agent_credits.notices.reload_declines import decline_in_words
from agent_credits.sweeps.reconciliation import Reconciliation
from agent_credits.sweeps.verification import read_policy
from agent_credits.values.credits import format_credits
from agent_credits.values.display import amount_text, credits_text, time_text
from agent_credits.values.principals import Payer, Principal
from agent_credits_cli.accounts import principal_from
from agent_credits_cli.entries import all_pages, draws_text, entry_to_json
from agent_credits_cli.errors import CommandError
from agent_credits_cli.limits import lines_about_limits
from agent_credits_cli.recorded_runs import Recorded, find_run
from agent_credits_cli.reservations import (
    lines_about,
    reservation_to_json,
    state_text,
)
from agent_credits_cli.shared_draws import shared_texts, with_shared_draws
from agent_credits_cli.tables import AsJson, err, out, print_json
from agent_credits_cli.target import connect, rows_of

TRIGGERS: Final[Mapping[TriggerKind, str]] = {
    "user": "user",
    "team_api_key": "team API key",
    "schedule": "schedule",
}
PAYERS: Final[Mapping[Payer, str]] = {
    "user": "the user who started the run pays",
    "owner": "the team's owner pays for unattended runs",
    "team": "the team itself pays",
}


def explain(
    context: typer.Context,
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="The run's id, which is the subject of its events.")
    ],
    event: Annotated[
        str | None, typer.Option(metavar="ID", help="Explain only the event with this id.")
    ] = None,
    principal: Annotated[
        str | None,
        typer.Option(help="Read the open page of this account, and of no other account."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Explain each event of a run: its trigger, who pays, which pools it tried, its outcome."""
    rows = rows_of(connect(context))
    found = find_run(rows, run, principal_from(principal) if principal else None)
    chosen = [recorded for recorded in found if event in (None, recorded.entry.identity.id)]
    if not chosen:
        what = f"event {event} of run {run}" if event else f"an event of run {run}"
        raise CommandError(
            f"no account has recorded {what}; if it was sent, it is still in the queue or was"
            " rejected: see `agent-credits dead-letters`"
        )
    explained = in_order_with_held(rows, chosen, run if event is None else None)
    held = reservation_now(rows, run, {recorded.principal for recorded in found})
    if as_json:
        print_json(
            {
                "run_id": run,
                "events": [_to_json(recorded) for recorded in explained],
                "reservation": reservation_to_json(held) if held else None,
            }
        )
        return
    for recorded in explained:
        out().print(_text(recorded, run), soft_wrap=True)
    if held is not None:
        out().print(state_text(held, datetime.now(UTC)), soft_wrap=True)


def reservation_now(
    rows: DynamoDBRows, run_id: str, principals: Collection[Principal]
) -> Reservation | None:
    """Return the run's reservation as it is on the row of one of these accounts."""
    accounts = filter(None, map(rows.read_account, sorted(principals)))
    held = (reservation_of(account.reservations, run_id) for account in accounts)
    return next(filter(None, held), None)


def in_order_with_held(
    rows: DynamoDBRows, found: Collection[Recorded], run_id: str | None = None
) -> list[Recorded]:
    """Return a run's events in the order they were recorded, with what the pools held before each.

    Receipts hold neither, so the ledgers of the accounts are replayed up to the last event. With
    `run_id`, an entry of another event that ended the run's reservation is included.
    """
    policies: dict[str, BillingPolicy] = {}
    explained: dict[Identity, Recorded] = {}
    for principal in sorted({recorded.principal for recorded in found}):
        wanted = {r.entry.identity: r for r in found if r.principal == principal}
        with err().status(f"replaying the ledger of {principal}"):
            explained |= _replay(rows, principal, wanted, policies, run_id)
    place = {identity: number for number, identity in enumerate(explained)}
    complete = with_shared_draws(rows, explained.values())
    return sorted(complete, key=lambda r: (r.entry.recorded_at, place[r.entry.identity]))


def _replay(
    rows: DynamoDBRows,
    principal: Principal,
    wanted: Mapping[Identity, Recorded],
    policies: dict[str, BillingPolicy],
    run_id: str | None,
) -> dict[Identity, Recorded]:
    explained: dict[Identity, Recorded] = {}
    row = rows.read_account(principal)
    reconciliation = Reconciliation(principal)
    awaits_end = run_id is not None and _ended_by_another_event(row, wanted.values(), run_id)
    for page in all_pages(rows, row) if row else ():
        for entry in page.entries:
            if entry.run is not None:
                read_policy(rows, entry.run.policy_version, policies)
            recorded = wanted.get(entry.identity)
            if awaits_end and any(ended.run_id == run_id for ended in entry.reservation.ended):
                is_open = row is not None and page.number == row.page_number
                recorded = Recorded(principal, page.number, is_open, entry)
                awaits_end = False
            if recorded is not None:
                pools = _pools(policies, entry.run) if entry.run else ()
                before = reconciliation.account
                explained[entry.identity] = replace(
                    recorded,
                    held=pool_balances(before, pools, entry.recorded_at),
                    grant_pools={grant.id: grant.pool for grant in before.grants},
                )
            reconciliation.add_entry(entry, policies)
        if explained.keys() >= wanted.keys() and not awaits_end:
            break
    return explained


def _ended_by_another_event(row: Account | None, found: Collection[Recorded], run_id: str) -> bool:
    """Return whether the run's reservation expired, or was closed with that of its parent."""
    facts = [recorded.entry.reservation for recorded in found]
    has_reserved = any(move.run_id == run_id for one in facts for move in one.moves)
    has_ended = any(ended.run_id == run_id for one in facts for ended in one.ended)
    is_held = row is not None and reservation_of(row.reservations, run_id) is not None
    return has_reserved and not has_ended and not is_held


def _pools(policies: Mapping[str, BillingPolicy], run: RunContext) -> tuple[str, ...]:
    policy = policies.get(run.policy_version)
    for rule in policy.rules if policy else ():
        if rule.payer == run.payer and run.trigger_kind in rule.triggers:
            return rule.pools_in(run.team_id)
    return ()


def _text(recorded: Recorded, run_id: str) -> str:
    entry = recorded.entry
    page = f"page {recorded.page_number}" + (" (open)" if recorded.is_on_open_page else "")
    amount = f", {credits_text(entry.amount_microcredits)}"
    lines = [
        f"{entry.identity.id}: {entry.type}{amount if entry.amount_microcredits else ''}",
        *(_labelled(*line) for line in _decided_by(recorded)),
        _labelled("outcome", outcome_text(entry)),
        *(_labelled(*line) for line in lines_about_limits(entry)),
        *(_labelled(*line) for line in lines_about(entry, run_id, recorded.grant_pools)),
        *(_labelled("shared", text) for text in shared_texts(recorded)),
        _labelled("recorded", f"{time_text(entry.recorded_at)} on {page} of {recorded.principal}"),
    ]
    return "\n".join(lines) + "\n"


def _labelled(label: str, text: str) -> str:
    return f"  {label:<10} {text}"


def _decided_by(recorded: Recorded) -> Iterator[tuple[str, str]]:
    """Yield who or what caused the entry, and what it had to draw from."""
    entry, run = recorded.entry, recorded.entry.run
    if run is not None:
        project = f", project {run.project_id}" if run.project_id else ""
        trigger = f"{TRIGGERS[run.trigger_kind]} {run.trigger_id} of team {run.team_id}{project}"
        yield "trigger", trigger
        payer = f"{recorded.principal}: {PAYERS[run.payer]} (policy {run.policy_version})"
        yield "billed", payer
        yield "pools", _pools_text(recorded)
    elif entry.outcome == "released":
        yield "trigger", "an operator, by `agent-credits release`"
    else:
        yield "trigger", "time alone"


def _pools_text(recorded: Recorded) -> str:
    """Return, for each pool in drawing order, what was available in it and what was taken of that.

    What usage draws of a reservation was taken from its pool before.
    """
    entry = recorded.entry
    if entry.outcome in ("finished", "waived", "returned", "released"):
        return "none drawn: this event takes no credits"
    parts: list[str] = []
    is_request = entry.type in ("agent_run.requested", "agent_run.extended")
    names = (*(pool.pool for pool in recorded.held), *recorded.unrecorded)
    taken_of = {pool: recorded.taken_from(pool) for pool in names}
    uncovered = entry.amount_microcredits - entry.drawn_microcredits + sum(taken_of.values())
    for pool in recorded.held:
        taken = taken_of[pool.pool]
        text = f"{pool.pool} held {amount_text(pool.available_microcredits)}"
        if taken:
            text += f", {'reserved' if is_request else 'drew'} {amount_text(taken)}"
        elif uncovered <= 0 and not is_request:
            text += ", not needed"
        uncovered -= taken
        parts.append(text)
    for name in recorded.unrecorded:
        verb = "reserved" if is_request else "drew"
        alone = "not asked" if is_request else "not needed"
        parts.append(
            f"{name} {verb} {amount_text(taken_of[name])}" if taken_of[name] else f"{name} {alone}"
        )
    return "; ".join(parts) or "unknown: the policy is missing"


def outcome_text(entry: Entry) -> str:
    """Return an entry's outcome in words, with what follows from it for the run."""
    amount = credits_text(entry.amount_microcredits)
    match entry.outcome:
        case "accepted" if entry.reservation.moves:
            return f"accepted: {amount} reserved"
        case "accepted":
            return "accepted: the pools cover it; a request takes no credits"
        case "extended":
            if entry.amount_microcredits == 0:
                return "extended: the reservation got more time"
            return f"extended: {amount} more reserved"
        case "released":
            return f"released: {amount} went back"
        case "reservations_expired":
            return f"expired: the time of these reservations was over, and {amount} went back"
        case "debited":
            return f"debited {draws_text(entry.draws)}"
        case "insufficient":
            return f"insufficient{_shortfall_text(entry)}"
        case "waived":
            return f"waived {amount}: the run had ended with a platform error"
        case "finished":
            return "finished: the run ended"
        case "returned":
            back = draws_text(entry.draws) or "nothing, because nothing was drawn"
            return f"returned {back}: the run ended with a platform error"
        case "granted" | "refilled" | "expired" | "changed":
            return f"{entry.outcome} {amount}"
        case "reload_requested":
            return f"reload requested: events wait for {amount}"
        case "reload_declined":
            return f"reload declined: {_decline_text(entry)}"
        case _:
            assert_never(entry.outcome)


def _shortfall_text(entry: Entry) -> str:
    drew = f", drew {draws_text(entry.draws)}" if entry.draws else ""
    short = credits_text(entry.shortfall_microcredits)
    fails = "this failed the run" if entry.fails_run else "the run had failed already"
    if entry.reservation.directive in ("continue", "pause"):
        fails = "this did not fail the run"
    if entry.decline is not None:
        fails += f"; no reload: {_decline_text(entry)}"
    return f"{drew}: short by {short}; {fails}" if entry.shortfall_microcredits else f": {fails}"


def _decline_text(entry: Entry) -> str:
    return decline_in_words(entry.decline) if entry.decline else "unknown"


def _to_json(recorded: Recorded) -> dict[str, Any]:
    return {
        "principal": str(recorded.principal),
        "page": recorded.page_number,
        "is_on_open_page": recorded.is_on_open_page,
        **entry_to_json(recorded.entry),
        "pools": [
            {
                "pool": pool.pool,
                "held_credits": format_credits(pool.available_microcredits),
                "drawn_credits": format_credits(recorded.drawn_from(pool.pool)),
            }
            for pool in recorded.held
        ],
        "shared": [
            {
                "principal": str(given.principal),
                "page": given.page_number,
                "is_on_open_page": given.is_on_open_page,
                **entry_to_json(given.entry),
            }
            for given in recorded.given
        ],
    }
