"""What a run's events do to the account that pays: request, extend, usage, finish, release."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Literal, assert_never

from msgspec.structs import replace

from agent_credits.commit.changes import ReleaseChange, RunChange, Unsure, Waiting
from agent_credits.commit.decision_context import DecisionContext
from agent_credits.commit.limits import count_draws, count_returned, limits_counted, room_of
from agent_credits.commit.reload_requests import reload_standing, wait_for_reload
from agent_credits.commit.reservations import (
    Lacking,
    draw_for_usage,
    extend,
    rejection_of_request,
    reserve,
)
from agent_credits.commit.reversals import draws_to_return, given_back, origin_of
from agent_credits.commit.shared_pools import holds_too_many
from agent_credits.events.agent_runs import (
    ExtendedData,
    LedgerEvent,
    Rejection,
    RequestedData,
    RunExtended,
    RunFinished,
    RunReleased,
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
    available_microcredits,
    pool_balances,
    reserved_microcredits,
    run_hash,
)
from agent_credits.ledger.ends import end_trees
from agent_credits.ledger.entries import (
    NO_RESERVATION,
    Directive,
    Draw,
    Entry,
    ReservationFacts,
    RunContext,
    RunFacts,
    total_of,
)
from agent_credits.ledger.limits import NO_LIMITS, Counted, LimitFacts
from agent_credits.ledger.reloads import DeclineCause, Standing
from agent_credits.ledger.reservations import RESERVATIONS_MAX, line_of, reservation_of
from agent_credits.ledger.shared_pools import is_holding

_RUN_ENDED = Rejection("run_ended", "the run has ended, and its reservation with it")


# What an event does: an entry, or why there is none.
Applied = Entry | Waiting | Unsure | Rejection


def apply_run(
    account: Account, change: RunChange, context: DecisionContext
) -> tuple[Account, Applied]:
    """Return the account after the event and its entry, or why nothing is recorded."""
    match change.event:
        case RunRequested() as event:
            return _apply_request(account, change, event.data, context)
        case RunExtended() as event:
            return _apply_extension(account, change, event.data, context)
        case RunUsage() as event:
            return _apply_usage(account, change, event.data.credits, context)
        case RunFinished() as event:
            return _apply_finish(account, change, event.data.status, context)
        case RunReleased():
            return _apply_release(account, change, context)
        case _:
            assert_never(change.event)


def apply_release_by_hand(
    account: Account, change: ReleaseChange, context: DecisionContext
) -> tuple[Account, Entry | Rejection]:
    """End a run's reservation for an operator."""
    if reservation_of(account.reservations, change.run_id) is None:
        return account, Rejection("no_reservation", "the run holds no reservation")
    if is_holding(change.run_id):
        return account, Rejection("held_for_a_payer", "release the run on the account that pays")
    after, facts = end_trees(account, [change.run_id])
    facts = replace(facts, reason=change.reason)
    entry = Entry.released_by_hand(change.identity, change.payload_hash, facts, context.now)
    return after, entry


def _apply_request(
    account: Account, change: RunChange, data: RequestedData, context: DecisionContext
) -> tuple[Account, Applied]:
    terms = change.billing.reservation
    default = "estimate" if terms.reserves or data.parent_run_id else "none"
    if (data.reserve or default) == "estimate":
        return _reserve(account, change, data, context)
    facts = _facts(change, context)
    estimate = data.credits or 0
    available = available_microcredits(account, change.billing.pools, context.now)
    # Without an estimate the run needs any credits at all: one microcredit.
    needed = max(estimate, 1)
    refusal = room_of(account, change, context).refusal(needed)
    if refusal is not None:
        return _refused(account, change, "agent_run.requested", estimate, refusal, context)
    if available >= needed:
        return account, Entry.accepted(facts, estimate)
    lacking = Lacking(available, is_of_parent=False)
    return _lacks(account, change, "agent_run.requested", estimate, lacking, context)


def _reserve(
    account: Account, change: RunChange, data: RequestedData, context: DecisionContext
) -> tuple[Account, Applied]:
    run_id, parent_run_id = change.event.subject, data.parent_run_id
    terms = change.billing.reservation
    estimate = terms.step_microcredits if data.credits is None else data.credits
    if estimate == 0:
        return account, Rejection(
            "no_estimate", "data.credits must be an estimate of more than zero to be reserved"
        )
    rejection = rejection_of_request(account, run_id, parent_run_id)
    if rejection is not None:
        return account, rejection
    if parent_run_id is None and holds_too_many(account, change.billing, context.beside):
        return account, Rejection(
            "too_many_reservations",
            f"the team's account holds {RESERVATIONS_MAX} reservations, which is the most",
        )
    if _has_ended(context.entries_of_run(account, run_id)):
        return account, _RUN_ENDED
    if parent_run_id and reservation_of(account.reservations, parent_run_id) is None:
        return account, _doubt(account, parent_run_id, context, "unknown_parent")
    ttl = terms.ttl if data.ttl_seconds is None else timedelta(seconds=data.ttl_seconds)
    terms = replace(terms, reserves=True, ttl=ttl)
    refusal = room_of(account, change, context).refusal(estimate, parent_run_id)
    if refusal is not None:
        return _refused(
            account, change, "agent_run.requested", estimate, refusal, context, parent_run_id
        )
    counting, counted = count_draws(account, change.billing, 0, context)
    limits = limits_counted(counting, counted)
    held = reserve(
        counting, run_id, parent_run_id, estimate, terms, change.billing, context.now, limits
    )
    if isinstance(held, Lacking):
        if run_id not in context.past.runs:
            # If the run ended pages ago, nothing is bought for it.
            return account, Unsure(run_id)
        return _lacks(
            account, change, "agent_run.requested", estimate, held, context, parent_run_id
        )
    facts = _facts(change, context)
    return held.account, Entry.accepted(facts, estimate, held.facts, _limit_facts(counted))


def _apply_extension(
    account: Account, change: RunChange, data: ExtendedData, context: DecisionContext
) -> tuple[Account, Applied]:
    run_id, amount = change.event.subject, data.credits or 0
    reservation = reservation_of(account.reservations, run_id)
    if reservation is None:
        return account, _doubt(account, run_id, context, "no_reservation")
    ttl = timedelta(seconds=data.ttl_seconds) if data.ttl_seconds is not None else None
    parent_run_id = reservation.parent_run_id
    refusal = room_of(account, change, context).refusal(amount, parent_run_id)
    if refusal is not None:
        return _refused(
            account, change, "agent_run.extended", amount, refusal, context, parent_run_id
        )
    held = extend(account, reservation, amount, ttl, change.billing, context.now)
    if isinstance(held, Lacking):
        return _lacks(account, change, "agent_run.extended", amount, held, context, parent_run_id)
    return held.account, Entry.extended(_facts(change, context), amount, held.facts)


def _lacks(
    account: Account,
    change: RunChange,
    entry_type: Literal["agent_run.requested", "agent_run.extended"],
    amount: int,
    lacking: Lacking,
    context: DecisionContext,
    parent_run_id: str | None = None,
) -> tuple[Account, Entry | Waiting]:
    """Let a request wait for a reload that may cover it, or else let it fail."""
    billing = change.billing
    standing = reload_standing(account, billing, context.now)
    # A reload fills the pools. It does not add to what the parent holds.
    if not lacking.is_of_parent and (standing == "able" or standing == "waiting"):
        return wait_for_reload(account, billing, max(amount, 1), context)
    return account, Entry.request_insufficient(
        _facts(change, context),
        amount,
        entry_type=entry_type,
        pools_before=pool_balances(account, billing.pools, context.now),
        fails_run=_fails_run(account, change, context),
        decline=None if lacking.is_of_parent else _blocking_decline(standing),
        parent_holds_microcredits=(
            lacking.available_microcredits if lacking.is_of_parent else None
        ),
        reservation=_beside_request(account, change, context, parent_run_id),
    )


def _refused(
    account: Account,
    change: RunChange,
    entry_type: Literal["agent_run.requested", "agent_run.extended"],
    amount: int,
    refusal: LimitFacts,
    context: DecisionContext,
    parent_run_id: str | None = None,
) -> tuple[Account, Entry]:
    """Let a request fail at a limit. A reload would not help, so none is waited for."""
    return account, Entry.request_insufficient(
        _facts(change, context),
        amount,
        entry_type=entry_type,
        pools_before=pool_balances(account, change.billing.pools, context.now),
        fails_run=_fails_run(account, change, context),
        decline=None,
        reservation=_beside_request(account, change, context, parent_run_id),
        limits=refusal,
    )


def _beside_request(
    account: Account, change: RunChange, context: DecisionContext, parent_run_id: str | None
) -> ReservationFacts:
    """Return what a request that fails records of reservations."""
    reserved = reserved_microcredits(account, change.billing.pools, context.now)
    line = line_of(account.reservations, change.event.subject)
    directive: Directive | None = None
    if line:
        may_draw = any(held.left_microcredits for held in line)
        directive = "continue" if may_draw else line[-1].overrun_directive
    return ReservationFacts(
        parent_run_id=parent_run_id, directive=directive, reserved_before_microcredits=reserved
    )


def _apply_usage(
    account: Account, change: RunChange, amount: int, context: DecisionContext
) -> tuple[Account, Entry | Waiting]:
    facts = _facts(change, context)
    if _ended_in_error(account, change.event.subject):
        return account, Entry.waived(facts, amount)
    billing, now = change.billing, context.now
    room = room_of(account, change, context)
    drawn = draw_for_usage(account, change.event.subject, amount, billing, now, room)
    after, counted = count_draws(drawn.account, billing, total_of(drawn.draws), context)
    if drawn.shortfall_microcredits == 0:
        limits = _limit_facts(counted)
        return after, Entry.debited(facts, amount, drawn.draws, drawn.facts, limits)
    standing = reload_standing(account, billing, now)
    if not drawn.is_bound and (standing == "able" or standing == "waiting"):
        return wait_for_reload(account, billing, amount, context)
    reserved = reserved_microcredits(account, billing.pools, now)
    entry = Entry.usage_insufficient(
        facts,
        amount,
        drawn.draws,
        shortfall_microcredits=drawn.shortfall_microcredits,
        pools_before=pool_balances(account, billing.pools, now),
        fails_run=_fails_run(account, change, context),
        decline=None if drawn.is_bound else _blocking_decline(standing),
        reservation=replace(drawn.facts, reserved_before_microcredits=reserved),
        limits=_limit_facts(counted, drawn.refusal),
    )
    return after, entry


def _apply_release(
    account: Account, change: RunChange, context: DecisionContext
) -> tuple[Account, Applied]:
    run_id = change.event.subject
    if reservation_of(account.reservations, run_id) is None:
        return account, _doubt(account, run_id, context, "no_reservation")
    after, facts = end_trees(account, [run_id])
    return after, Entry.released(_facts(change, context), facts)


def _doubt(
    account: Account,
    run_id: str,
    context: DecisionContext,
    nothing_known: Literal["unknown_parent", "no_reservation"],
) -> Unsure | Rejection:
    """Return why a run that was named holds no reservation here, once its past was read."""
    if run_id not in context.past.runs:
        return Unsure(run_id)
    entries = context.entries_of_run(account, run_id)
    if _has_ended(entries):
        return _RUN_ENDED
    if any(move.run_id == run_id for e in entries for move in e.reservation.moves):
        return Rejection("reservation_ended", "the reservation has ended or expired")
    if run_id in context.past.elsewhere and nothing_known == "unknown_parent":
        return Rejection("parent_billed_elsewhere", "the parent is billed to another account")
    if entries:
        return Rejection(nothing_known, "the run was recorded without a reservation")
    return Unsure(run_id)


def _has_ended(entries: Iterable[Entry]) -> bool:
    return any(entry.outcome in ("finished", "returned", "released") for entry in entries)


def _apply_finish(
    account: Account, change: RunChange, status: RunStatus, context: DecisionContext
) -> tuple[Account, Applied]:
    facts, run_id = _facts(change, context), change.event.subject
    reservation = NO_RESERVATION
    if reservation_of(account.reservations, run_id) is not None:
        account, reservation = end_trees(account, [run_id])
    elif change.billing.reservation.reserves:
        # Its reservation may have expired or been closed; or it was settled, and that was all.
        if run_id not in context.past.runs:
            return account, Unsure(run_id)
        if _has_ended(context.entries_of_run(account, run_id)):
            return account, _RUN_ENDED
    if status != "error":
        return account, Entry.finished(facts, reservation)
    draws, grace = list[Draw](), change.billing.grace
    entries = context.entries_of_run(account, run_id)
    for part in draws_to_return(entries):
        origin = origin_of(account, context, part.grant_id)
        moves = tuple(m for m in reservation.moves if m.grant_id == part.grant_id)
        with_part = given_back(account, part, origin, grace, context.now, moves)
        if with_part is None:
            continue
        if len(with_part.entries) > len(account.entries):
            # The entry of what lapsed has them already.
            recorded_here = tuple(m for m in reservation.moves if m not in moves)
            reservation = replace(reservation, moves=recorded_here)
        account = with_part
        draws.append(part)
    ended = ErroredRun(run_hash(run_id), context.now)
    others = tuple(run for run in account.errored_runs if run.run_hash != ended.run_hash)
    account = replace(account, errored_runs=(*others, ended))
    after, counted = count_returned(account, entries, draws, context.now)
    return after, Entry.returned(facts, tuple(draws), reservation, _limit_facts(counted))


def _limit_facts(counted: tuple[Counted, ...], refusal: LimitFacts | None = None) -> LimitFacts:
    standings = refusal.standings if refusal is not None else ()
    return LimitFacts(counted, standings) if counted or standings else NO_LIMITS


def _ended_in_error(account: Account, run_id: str) -> bool:
    """Tell whether usage of the run is waived; no hash is made where no run is remembered."""
    if not account.errored_runs:
        return False
    wanted = run_hash(run_id)
    return any(run.run_hash == wanted for run in account.errored_runs)


def _blocking_decline(standing: Standing) -> DeclineCause | None:
    # Nothing was declined for a team that does not reload; its pools are simply exhausted.
    if standing == "able" or standing == "waiting" or standing == "auto_reload_off":
        return None
    return standing


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
