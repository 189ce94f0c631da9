"""What a run's events do to the account that pays: request, usage, finish."""

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
from agent_credits.ledger.accounts import (
    Account,
    ErroredRun,
    pool_balances,
    run_hash,
    total_microcredits,
)
from agent_credits.ledger.entries import Draw, Entry, RunContext, RunFacts
from agent_credits.ledger.reloads import DeclineCause
from agent_credits.ledger.waterfall import draw


def apply_run(
    account: Account, change: RunChange, context: DecisionContext
) -> tuple[Account, Entry | Waiting]:
    """Return the account after the event and the event's entry, or that it waits for a reload."""
    match change.event:
        case RunRequested() as event:
            return _apply_request(account, change, event.data.credits or 0, context)
        case RunUsage() as event:
            return _apply_usage(account, change, event.data.credits, context)
        case RunFinished() as event:
            return _apply_finish(account, change, event.data.status, context)
        case _:
            assert_never(change.event)


def _apply_request(
    account: Account, change: RunChange, estimate: int, context: DecisionContext
) -> tuple[Account, Entry | Waiting]:
    facts = _facts(change, context)
    pools = pool_balances(account, change.billing.pools, context.now)
    # Without an estimate the run needs any credits at all: one microcredit.
    needed = max(estimate, 1)
    if total_microcredits(pools) >= needed:
        return account, Entry.accepted(facts, estimate)
    standing = reload_standing(account, change.billing, context.now)
    if standing == "able" or standing == "waiting":
        return wait_for_reload(account, change.billing, needed, context)
    return account, Entry.request_insufficient(
        facts,
        estimate,
        pools_before=pools,
        fails_run=_fails_run(account, change, context),
        decline=_blocking_decline(standing),
    )


def _apply_usage(
    account: Account, change: RunChange, amount: int, context: DecisionContext
) -> tuple[Account, Entry | Waiting]:
    facts = _facts(change, context)
    if _ended_in_error(account, change.event.subject):
        return account, Entry.waived(facts, amount)
    drawn = draw(account.grants, change.billing.pools, amount, context.now)
    if drawn.shortfall_microcredits == 0:
        entry = Entry.debited(facts, amount, drawn.draws)
    else:
        standing = reload_standing(account, change.billing, context.now)
        if standing == "able" or standing == "waiting":
            return wait_for_reload(account, change.billing, amount, context)
        entry = Entry.usage_insufficient(
            facts,
            amount,
            drawn.draws,
            shortfall_microcredits=drawn.shortfall_microcredits,
            pools_before=pool_balances(account, change.billing.pools, context.now),
            fails_run=_fails_run(account, change, context),
            decline=_blocking_decline(standing),
        )
    return replace(account, grants=drawn.grants), entry


def _apply_finish(
    account: Account, change: RunChange, status: RunStatus, context: DecisionContext
) -> tuple[Account, Entry]:
    facts = _facts(change, context)
    if status != "error":
        return account, Entry.finished(facts)
    run_id = change.event.subject
    grants, draws = account.grants, list[Draw]()
    for part in draws_to_return(context.entries_of_run(account, run_id)):
        origin = origin_of(account, context, part.grant_id)
        with_part = given_back(grants, part, origin, change.billing.grace, context.now)
        if with_part is not None:
            grants = with_part
            draws.append(part)
    ended = ErroredRun(run_hash(run_id), context.now)
    others = tuple(run for run in account.errored_runs if run.run_hash != ended.run_hash)
    errored_runs = (*others, ended)
    after = replace(account, grants=grants, errored_runs=errored_runs)
    return after, Entry.returned(facts, tuple(draws))


def _ended_in_error(account: Account, run_id: str) -> bool:
    """Tell whether usage of the run is waived; no hash is made where no run is remembered."""
    if not account.errored_runs:
        return False
    wanted = run_hash(run_id)
    return any(run.run_hash == wanted for run in account.errored_runs)


def _blocking_decline(cause: DeclineCause) -> DeclineCause | None:
    # Nothing was declined for a team that does not reload; its pools are simply exhausted.
    return None if cause == "auto_reload_off" else cause


def _fails_run(account: Account, change: RunChange, context: DecisionContext) -> bool:
    earlier = context.entries_of_run(account, change.event.subject)
    return not any(entry.outcome == "insufficient" for entry in earlier)


def _facts(change: RunChange, context: DecisionContext) -> RunFacts:
    event, billing = change.event, change.billing
    run = RunContext(
        team_id=event.data.team_id,
        trigger_kind=event.data.trigger.kind,
        trigger_id=_trigger_id(event),
        project_id=event.data.project_id,
        event_time=event.time,
        payer=billing.payer,
        policy_version=billing.policy_version,
        traceparent=event.traceparent,
    )
    return RunFacts(event.identity, event.payload_hash, run, context.now)


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
