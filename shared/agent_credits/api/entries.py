"""An entry of the ledger as the API answers it."""

from typing import Literal

from agent_credits.api.fields import Answer, Credits, TimeOut
from agent_credits.api.limits import (
    CountedAnswer,
    StandingAnswer,
    counted_answer,
    standing_answer,
)
from agent_credits.ledger.entries import Directive, Entry, EntryType, Outcome, payers_commit
from agent_credits.ledger.reloads import DeclineCause
from agent_credits.values.principals import Payer


class DrawAnswer(Answer):
    pool: str
    grant_id: str
    credits: Credits


class PoolBefore(Answer):
    pool: str
    available_credits: Credits


class TriggerAnswer(Answer):
    kind: Literal["user", "team_api_key", "schedule"]
    id: str


class MoveAnswer(Answer):
    """Credits of a grant that went into a run's reservation, or out of it if negative.

    What a team's pools hold for a run is of the payer and the run, with a space between them.
    """

    run_id: str
    grant_id: str
    credits: Credits


class EndedAnswer(Answer):
    run_id: str
    parent_run_id: str | None
    reserved_credits: Credits
    drawn_credits: Credits
    overdrawn_credits: Credits


class EntryAnswer(Answer):
    """What one event did to an account, for ever; what does not apply is null or empty.

    `credits`: what usage asked for, a request estimated, a grant added or lost. `pools_before`: of
    insufficient entries, what each pool held. `decline`: why no reload helped. `payer_principal`,
    `payer_version`: of what a team's pools gave, whose commit it is of. `limits_counted`: what
    counts under which limits. `limit_standings`: of an event that a limit refused, where the limits
    stood before it, the one that refused first.
    """

    principal: str
    page: int
    type: EntryType
    outcome: Outcome
    id: str
    source: str
    subject: str
    recorded_at: TimeOut
    credits: Credits
    draws: list[DrawAnswer]
    shortfall_credits: Credits
    fails_run: bool
    team_id: str | None
    trigger: TriggerAnswer | None
    project_id: str | None
    time: TimeOut | None
    payer: Payer | None
    policy_version: str | None
    pools_before: list[PoolBefore]
    decline: DeclineCause | None
    grant_id: str | None
    pool: str | None
    reload_id: str | None
    price_cents: int | None
    currency: str | None
    plan: str | None
    parent_run_id: str | None
    moves: list[MoveAnswer]
    ended: list[EndedAnswer]
    overdrawn_credits: Credits
    directive: Directive | None
    reason: str | None
    payer_principal: str | None
    payer_version: int | None
    limits_counted: list[CountedAnswer]
    limit_standings: list[StandingAnswer]


def entry_answer(entry: Entry, principal: str, page_number: int) -> EntryAnswer:
    run, reload, facts = entry.run, entry.reload, entry.reservation
    given = payers_commit(entry) if entry.type in ("pool.drawn", "pool.returned") else None
    is_bought = entry.type == "reload.granted" and reload is not None
    return EntryAnswer(
        principal=principal,
        page=page_number,
        type=entry.type,
        outcome=entry.outcome,
        id=entry.identity.id,
        source=entry.identity.source,
        subject=entry.identity.subject,
        recorded_at=entry.recorded_at,
        credits=entry.amount_microcredits,
        draws=[
            DrawAnswer(pool=d.pool, grant_id=d.grant_id, credits=d.microcredits)
            for d in entry.draws
        ],
        shortfall_credits=entry.shortfall_microcredits,
        fails_run=entry.fails_run,
        team_id=run.team_id if run else reload.team_id if reload else None,
        trigger=TriggerAnswer(kind=run.trigger_kind, id=run.trigger_id) if run else None,
        project_id=run.project_id if run else None,
        time=run.event_time if run else None,
        payer=run.payer if run else None,
        policy_version=run.policy_version if run else None,
        pools_before=[
            PoolBefore(pool=p.pool, available_credits=p.available_microcredits)
            for p in entry.pools_before
        ],
        decline=entry.decline,
        grant_id=entry.grant.id if entry.grant else None,
        pool=entry.grant.pool if entry.grant else None,
        reload_id=reload.reload_id if reload else None,
        price_cents=reload.price_cents if reload and is_bought else None,
        currency=reload.currency if reload and is_bought else None,
        plan=entry.plan_name,
        parent_run_id=facts.parent_run_id,
        moves=[
            MoveAnswer(run_id=m.run_id, grant_id=m.grant_id, credits=m.microcredits)
            for m in facts.moves
        ],
        ended=[
            EndedAnswer(
                run_id=e.run_id,
                parent_run_id=e.parent_run_id,
                reserved_credits=e.reserved_microcredits,
                drawn_credits=e.drawn_microcredits,
                overdrawn_credits=e.overdrawn_microcredits,
            )
            for e in facts.ended
        ],
        overdrawn_credits=facts.overdrawn_microcredits,
        directive=facts.directive,
        reason=facts.reason,
        payer_principal=str(given[0]) if given else None,
        payer_version=given[1] if given else None,
        limits_counted=[counted_answer(counted) for counted in entry.limits.counted],
        limit_standings=[standing_answer(standing) for standing in entry.limits.standings],
    )
