"""The row that a declared team becomes."""

from datetime import datetime
from typing import Final

from agent_credits.billing.spend_cap import PaymentMethod, Spending, month_of, with_cap
from agent_credits.billing.teams import (
    EVERYONE,
    FORMER_MEMBERS_MAX,
    TENURE_NOTICE,
    TENURES_MAX,
    AutoReload,
    Team,
    Tenure,
)
from agent_credits.values.display import money_text
from agent_credits.values.principals import Principal
from agent_credits_cli.errors import CommandError
from agent_credits_cli.world import DeclaredTeam, World

# A tenure that starts within this time may already have billed an event: workers accept events from
# slightly ahead of their clock and cache the settings, which takes half of the notice, and the rest
# allows for clocks that differ. Such a tenure stays, or a repeat would find another payer.
TENURE_BINDS_WITHIN: Final = TENURE_NOTICE * 3 / 4


def team_after(before: Team | None, declared: DeclaredTeam, world: World, now: datetime) -> Team:
    """Return the team as declared, with the version of the row that it replaces.

    Members join at once. Who pays, and who is no longer a member, changes after a notice. What is
    spent and reserved is not declared: it is kept from the row that is read for this change.
    """
    if before is not None:
        _check_currency(before, declared, now)
    has_changed = before is None or _money_settings(before) != _money_settings(declared)
    settings_version = before.settings_version if before else 0
    return Team(
        team_id=declared.team_id,
        version=before.version if before else 0,
        plan=declared.plan,
        time_zone=declared.time_zone,
        members=declared.member_set,
        former_members=_former_members(before, declared, now) if before else (),
        alerts=declared.alerts,
        limits=declared.limits,
        settings_version=settings_version + 1 if has_changed else settings_version,
        auto_reload=declared.auto_reload,
        payment=declared.payment,
        spend_cap_cents=declared.spend_cap_cents,
        currency=declared.currency,
        spending=_spending_after(before, declared) if before else Spending(),
        tenures=_tenures_after(before, declared, world, now),
    )


def payers_until_changed(
    world: World, team: DeclaredTeam, before: Team | None, since: datetime | None = None
) -> list[Principal]:
    """Return who also pays from `since` on, until the declared kind of team begins.

    A user who joins in the same file already runs agents by then. Without an account, what they use
    would be rejected, at once and whenever it comes again.
    """
    if before is None or team.takes_everyone:
        return []
    tenures = before.tenures
    if since is not None:
        tenures = (before.tenure_at(since), *(t for t in tenures if t.since > since))
    others = sorted({tenure.kind for tenure in tenures} - {team.kind})
    as_others = [team.model_copy(update={"kind": kind}) for kind in others]
    return [principal for other in as_others for principal in world.payers_of(other)]


def leaving_members(before: Team | None, declared: DeclaredTeam) -> list[Principal]:
    """Return the users who are listed as members and are no longer declared."""
    members = declared.member_set
    if before is None or isinstance(before.members, str) or isinstance(members, str):
        return []
    return [Principal("user", member) for member in sorted(before.members - members)]


def _check_currency(before: Team, declared: DeclaredTeam, now: datetime) -> None:
    """Raise `CommandError` if this month's cap would add up money of two currencies."""
    if before.currency == declared.currency:
        return
    month = month_of(now, before.time_zone)
    counted = before.spending.counted_in(month)
    if counted:
        raise CommandError(
            f"team {before.team_id} has spent or reserved {money_text(counted, before.currency)} "
            f"in {month} ({before.time_zone}), and one cap cannot add up two currencies; change "
            "the currency when that month has ended"
        )


def _former_members(
    before: Team, declared: DeclaredTeam, now: datetime
) -> tuple[tuple[str, datetime], ...]:
    """Return those who left and until when their events count: newest last, oldest forgotten."""
    members = declared.member_set
    if isinstance(members, str):
        return before.former_members
    # As for a tenure: by then every worker has read the new members.
    until = now.replace(microsecond=0) + TENURE_NOTICE
    leaving = [principal.id for principal in leaving_members(before, declared)]
    who_left = [EVERYONE] if isinstance(before.members, str) else leaving
    left = ((who, until) for who in who_left)
    kept = ((who, at) for who, at in before.former_members if who not in members)
    return (*kept, *left)[-FORMER_MEMBERS_MAX:]


def _money_settings(
    team: Team | DeclaredTeam,
) -> tuple[AutoReload | None, PaymentMethod | None, int, str, str]:
    # The time zone is one of them because the cap's month is in the team's zone.
    return (
        team.auto_reload,
        team.payment,
        team.spend_cap_cents,
        team.currency,
        team.time_zone,
    )


def _spending_after(before: Team, declared: DeclaredTeam) -> Spending:
    spending = before.spending
    if before.spend_cap_cents != declared.spend_cap_cents:
        spending = with_cap(spending, declared.spend_cap_cents)
    if before.payment != declared.payment:
        # A suspended payment method stays suspended by its name; another one starts afresh.
        spending = spending.model_copy(
            update={"declines_in_a_row": 0, "declined_payment_method": None}
        )
    return spending


def _tenures_after(
    before: Team | None, declared: DeclaredTeam, world: World, now: datetime
) -> tuple[Tenure, ...]:
    now = now.replace(microsecond=0)
    wanted = Tenure(
        since=now,
        kind=declared.kind,
        owner=declared.owner,
        policy_version=world.policy_of(declared).version,
    )
    until_then = wanted.model_copy(update={"policy_version": world.policy.version})
    begins = declared.policy_from
    if before is None and begins is None:
        # The first tenure covers all earlier times, whenever it starts.
        return (wanted,)
    if before is None:
        first = until_then.model_copy(update={"since": min(now, begins or now)})
        return (first, wanted.model_copy(update={"since": begins}))
    if begins is None or begins <= now + TENURE_NOTICE:
        return _with_tenure(before, before.tenures, wanted, now)
    # The policy is still to come; all else that the file declares begins before it.
    then = wanted.model_copy(update={"since": begins})
    is_planned = before.tenures[-1] == then and len(before.tenures) > 1
    tenures = _with_tenure(
        before, before.tenures[:-1] if is_planned else before.tenures, until_then, now
    )
    _check_room(before, tenures)
    return (*tenures, then)


def _with_tenure(
    before: Team, tenures: tuple[Tenure, ...], wanted: Tenure, now: datetime
) -> tuple[Tenure, ...]:
    """Return these tenures, with the wanted one after a notice unless it is the last of them."""
    first, *later = tenures
    kept = (first, *(tenure for tenure in later if tenure.since <= now + TENURE_BINDS_WITHIN))
    for found in (tenures, kept):
        if _bills_alike(found[-1], wanted):
            return found
    _check_room(before, kept)
    return (*kept, wanted.model_copy(update={"since": wanted.since + TENURE_NOTICE}))


def _check_room(before: Team, tenures: tuple[Tenure, ...]) -> None:
    if len(tenures) >= TENURES_MAX:
        raise CommandError(
            f"team {before.team_id} has changed owner, kind or policy {TENURES_MAX} times, which "
            "is the maximum; declare it under a new team_id"
        )


def _bills_alike(one: Tenure, other: Tenure) -> bool:
    return one.model_copy(update={"since": other.since}) == other
