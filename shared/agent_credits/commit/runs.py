"""What a run's events do to the account that pays: request, use, finish."""

from datetime import datetime
from typing import assert_never

from msgspec.structs import replace

from agent_credits.commit.changes import RunChange, Waiting
from agent_credits.commit.decision_context import DecisionContext
from agent_credits.commit.reload_requests import reload_standing, wait_for_reload
from agent_credits.commit.reversals import draws_to_return, given_back, origin_of
from agent_credits.events.agent_runs import (
    LedgerEvent,
    RunFinished,
    RunRequested,
    RunStatus,
    RunUsage,
    ScheduleTrigger,
    TeamApiKeyTrigger,
    UserTrigger,
)
from agent_credits.ledger.accounts import Account, ErroredRun, available_microcredits, pool_balances
from agent_credits.ledger.entries import Entry, RunContext
from agent_credits.ledger.reloads import DeclineCause, Standing
from agent_credits.ledger.waterfall import draw


def apply_run(
    account: Account, change: RunChange, context: DecisionContext
) -> tuple[Account, Entry | Waiting]:
    """Return the account after the event with its entry; or that the event waits for a reload."""
    match change.event:
        case RunRequested() as event:
            return _request(account, change, event.data.credits or 0, context)
        case RunUsage() as event:
            return _debit_usage(account, change, event.data.credits, context)
        case RunFinished() as event:
            return _finish(account, change, event.data.status, context)
        case _:
            assert_never(change.event)


def _request(
    account: Account, change: RunChange, estimate: int, context: DecisionContext
) -> tuple[Account, Entry | Waiting]:
    available = available_microcredits(account, change.billing.pools, context.now)
    entry = _run_entry(change, context.now, estimate)
    # Without an estimate the run needs any credits at all: one microcredit.
    if available >= max(estimate, 1):
        return account, replace(entry, outcome="accepted")
    reload_now = reload_standing(account, change.billing, context.now)
    if reload_now in ("able", "waiting"):
        return wait_for_reload(account, change.billing, max(estimate, 1), context)
    short = replace(
        entry,
        shortfall_microcredits=max(estimate - available, 0),
        decline=_blocking_decline(reload_now),
    )
    return account, _insufficient(account, short, change, context)


def _debit_usage(
    account: Account, change: RunChange, amount: int, context: DecisionContext
) -> tuple[Account, Entry | Waiting]:
    entry = _run_entry(change, context.now, amount)
    if any(run.run_id == change.event.subject for run in account.errored_runs):
        return account, replace(entry, outcome="waived")
    drawn = draw(account.grants, change.billing.pools, amount, context.now)
    reload_now = reload_standing(account, change.billing, context.now)
    if drawn.shortfall_microcredits > 0 and reload_now in ("able", "waiting"):
        return wait_for_reload(account, change.billing, amount, context)
    entry = replace(
        entry,
        outcome="debited",
        draws=drawn.draws,
        shortfall_microcredits=drawn.shortfall_microcredits,
    )
    if entry.shortfall_microcredits > 0:
        entry = replace(entry, decline=_blocking_decline(reload_now))
        entry = _insufficient(account, entry, change, context)
    return replace(account, grants=drawn.grants), entry


def _blocking_decline(reload_now: Standing) -> DeclineCause | None:
    match reload_now:
        case "able" | "waiting":
            raise TypeError("an event that can wait for a reload does not fail")
        case "auto_reload_off":
            # A team that does not reload is not declined anything; its pools are simply exhausted.
            return None
        case _:
            return reload_now


def _insufficient(
    account: Account, entry: Entry, change: RunChange, context: DecisionContext
) -> Entry:
    run = context.entries_of_run(account, change.event.subject)
    return replace(
        entry,
        outcome="insufficient",
        pools_before=pool_balances(account, change.billing.pools, context.now),
        fails_run=not any(earlier.outcome == "insufficient" for earlier in run),
    )


def _finish(
    account: Account, change: RunChange, status: RunStatus, context: DecisionContext
) -> tuple[Account, Entry]:
    entry = _run_entry(change, context.now, 0)
    run_id = change.event.subject
    if status != "error":
        return account, replace(entry, outcome="finished")
    returns = draws_to_return(context.entries_of_run(account, run_id))
    grants = account.grants
    for part in returns:
        origin = origin_of(account, context, part.grant_id)
        grants = given_back(grants, part, origin, change.billing.grace, context.now)
    entry = replace(
        entry,
        outcome="returned",
        amount_microcredits=sum(part.microcredits for part in returns),
        draws=returns,
    )
    runs = tuple(run for run in account.errored_runs if run.run_id != run_id)
    errored = (*runs, ErroredRun(run_id, context.now))
    return replace(account, grants=grants, errored_runs=errored), entry


def _run_entry(change: RunChange, now: datetime, amount_microcredits: int) -> Entry:
    event, billing = change.event, change.billing
    return Entry(
        identity=event.identity,
        payload_hash=event.payload_hash,
        type=event.type,
        outcome="finished",
        recorded_at=now,
        amount_microcredits=amount_microcredits,
        run=RunContext(
            team_id=event.data.team_id,
            trigger_kind=event.data.trigger.kind,
            trigger_id=_trigger_id(event),
            project_id=event.data.project_id,
            event_time=event.time,
            payer=billing.payer,
            policy_version=billing.policy_version,
            traceparent=event.traceparent,
        ),
    )


def _trigger_id(event: LedgerEvent) -> str:
    trigger = event.data.trigger
    match trigger:
        case UserTrigger():
            return trigger.user_id
        case TeamApiKeyTrigger():
            return trigger.key_id
        case ScheduleTrigger():
            return trigger.schedule_id
        case _:
            assert_never(trigger)
