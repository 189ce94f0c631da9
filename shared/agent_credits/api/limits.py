"""Limits as the API takes and answers them: as a team declares them, and where they stand."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, Literal

from pydantic import Field, ValidationError

from agent_credits.api.fields import Answer, Credits, EstimateIn, TimeIn, TimeOut
from agent_credits.api.problems import invalid
from agent_credits.billing.limit_standings import CurrentLimit
from agent_credits.billing.limits import TeamLimit, check_limits, in_order
from agent_credits.billing.teams import Team
from agent_credits.commit.limits import UNBOUNDED
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.limits import (
    WARN_AT_DEFAULT,
    Counted,
    LimitPeriod,
    LimitScope,
    LimitStanding,
    count_of,
)
from agent_credits.values.identifiers import Identifier
from agent_credits.values.strict import Strict

# An answer stays far below the 6 MB of Lambda. Of more, those that are used least are left out.
STANDINGS_SHOWN_MAX: Final = 500

LimitAction = Literal["stop", "warn"]


class LimitBody(Strict):
    """A limit to declare. Without `id` it holds for each project or each member by itself."""

    scope: LimitScope
    id: Identifier | None = None
    period: LimitPeriod
    credits: EstimateIn
    action: LimitAction = "stop"
    warn_at: list[int] = Field(default=list(WARN_AT_DEFAULT))
    raise_until: TimeIn | None = None


class DeclaredLimitAnswer(Answer):
    """A limit as the team declares it; `PATCH` takes it in the same form."""

    scope: LimitScope
    id: str | None
    period: LimitPeriod
    credits: Credits
    action: LimitAction
    warn_at: list[int]
    raise_until: TimeOut | None


class StandingAnswer(Answer):
    """Where a limit stands. `left_credits`: what may still be drawn or reserved.

    `resets_at` is null for a limit of each run.
    """

    scope: LimitScope
    id: str
    period: LimitPeriod
    action: LimitAction
    limit_credits: Credits
    used_credits: Credits
    used_percent: int
    reserved_credits: Credits
    left_credits: Credits
    resets_at: TimeOut | None


class CurrentLimitAnswer(Answer):
    """A limit that a team declares, and where it stands now.

    Without `id`, each project, member or run has a standing of its own, and amounts are null.
    """

    scope: LimitScope
    id: str | None
    period: LimitPeriod
    action: LimitAction
    limit_credits: Credits
    used_credits: Credits | None
    used_percent: int | None
    reserved_credits: Credits | None
    left_credits: Credits | None
    resets_at: TimeOut | None
    warn_at: list[int]
    raise_until: TimeOut | None


class AccountLimitAnswer(CurrentLimitAnswer):
    """A limit that runs of the account count under. Where others pay for runs under it as well,
    `used_by_account_credits` is the account's own part of what is used.
    """

    team_id: str
    used_by_account_credits: Credits | None


class CountedAnswer(Answer):
    """What an event added to what is used of a limit, or gave back if negative."""

    scope: LimitScope
    id: str
    period: LimitPeriod
    credits: Credits
    ends_at: TimeOut


def declared_answer(limit: TeamLimit) -> DeclaredLimitAnswer:
    return DeclaredLimitAnswer(
        scope=limit.scope,
        id=limit.id,
        period=limit.period,
        credits=limit.microcredits,
        action=limit.action,
        warn_at=list(limit.warn_at),
        raise_until=limit.raise_until,
    )


def standing_answer(standing: LimitStanding) -> StandingAnswer:
    return StandingAnswer(
        scope=standing.key.scope,
        id=standing.key.id,
        period=standing.key.period,
        action="stop" if standing.stops else "warn",
        limit_credits=standing.limit_microcredits,
        used_credits=standing.drawn_microcredits,
        used_percent=standing.used_percent,
        reserved_credits=standing.held_microcredits,
        left_credits=standing.room_microcredits,
        resets_at=standing.resets_at,
    )


def current_answer(limit: CurrentLimit) -> CurrentLimitAnswer:
    return CurrentLimitAnswer(**_current(limit))


def account_limit_answer(
    limit: CurrentLimit, team_id: str, account: Account, now: datetime
) -> AccountLimitAnswer:
    used_here: int | None = None
    if limit.standing is not None and limit.standing.resets_at is not None:
        count = count_of(account.limit_counts, limit.standing.key)
        used_here = count.drawn_microcredits if count and count.is_current(now) else 0
    return AccountLimitAnswer(**_current(limit), team_id=team_id, used_by_account_credits=used_here)


def _current(limit: CurrentLimit) -> dict[str, Any]:
    declared, standing = limit.declared, limit.standing
    return {
        "scope": declared.scope,
        "id": limit.id,
        "period": declared.period,
        "action": declared.action,
        "limit_credits": declared.microcredits,
        "used_credits": standing.drawn_microcredits if standing else None,
        "used_percent": standing.used_percent if standing else None,
        "reserved_credits": standing.held_microcredits if standing else None,
        "left_credits": standing.room_microcredits if standing else None,
        "resets_at": standing.resets_at if standing else None,
        "warn_at": list(declared.warn_at),
        "raise_until": declared.raise_until,
    }


def counted_answer(counted: Counted) -> CountedAnswer:
    return CountedAnswer(
        scope=counted.key.scope,
        id=counted.key.id,
        period=counted.key.period,
        credits=counted.microcredits,
        ends_at=counted.ends_at,
    )


def shown(limits: Sequence[CurrentLimit]) -> tuple[list[CurrentLimit], int]:
    """Return the limits that an answer shows, in their order, and how many it leaves out."""
    # Those that hold for each have no standing, and are as few as are declared.
    used = [limit.standing.used_percent if limit.standing else UNBOUNDED for limit in limits]
    places = sorted(range(len(limits)), key=lambda place: -used[place])[:STANDINGS_SHOWN_MAX]
    return [limits[place] for place in sorted(places)], len(limits) - len(places)


def limits_declared(
    bodies: Sequence[LimitBody], team: Team, now: datetime
) -> tuple[TeamLimit, ...]:
    """Return the limits that a request declares for the team. Raises `Refused`."""
    limits = [_limit_declared(body, f"limits.{number}") for number, body in enumerate(bodies)]
    # A limit of a member who has left since it was declared may stay.
    places = {limit.place for limit in team.limits}
    for number, limit in enumerate(limits):
        who = limit.id if limit.scope == "member" and limit.place not in places else None
        if who is not None and not team.has_member_at(who, now):
            raise invalid(f"limits.{number}.id", "is not a member of the team")
    try:
        check_limits(tuple(limits))
    except ValueError as error:
        raise invalid("limits", str(error)) from None
    return in_order(limits)


def _limit_declared(body: LimitBody, place: str) -> TeamLimit:
    document = {**body.model_dump(exclude={"credits"}), "microcredits": body.credits}
    try:
        return TeamLimit.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field_name = ".".join([place, *(str(part) for part in first["loc"][:1])])
        raise invalid(field_name, first["msg"].removeprefix("Value error, ")) from None
