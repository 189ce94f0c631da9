"""A team's settings in words, and what differs between two rows of a team."""

from collections.abc import Iterator
from typing import Final

from agent_credits.billing.alerts import Alerts
from agent_credits.billing.spend_cap import PaymentMethod
from agent_credits.billing.teams import AutoReload, Team
from agent_credits.notices.notice import iso
from agent_credits.values.credits import format_credits

# What a team that is not there yet shows of its money.
_NO_MONEY: Final = ("0 cents a month", "usd", "off", "none")

MEMBERS_NAMED_MAX: Final = 5


def team_differences(before: Team | None, after: Team) -> Iterator[tuple[str, str | None, str]]:
    """Yield what differs, as it was, None where there was no team, and as it becomes."""
    new = after.tenures[-1]
    if before is None:
        settings = (
            f"{new.kind}, plan {after.plan}, owner {new.owner}, {_members_text(after.members)}"
        )
        yield "settings", None, f"{settings}, {after.time_zone}, policy {new.policy_version}"
        yield from _money_differences(None, after)
        if after.alerts != Alerts():
            yield "alerts", None, alerts_text(after.alerts)
        return
    if before.plan != after.plan:
        yield "plan", before.plan, after.plan
    if before.time_zone != after.time_zone:
        yield "time zone", before.time_zone, after.time_zone
    if before.members != after.members:
        yield "members", _members_text(before.members), _changed_members(before, after)
    yield from _money_differences(before, after)
    if before.alerts != after.alerts:
        yield "alerts", alerts_text(before.alerts), alerts_text(after.alerts)
    old = before.tenures[-1]
    starts = "" if new in before.tenures else f", from {iso(new.since)}"
    for what, was, becomes in (
        ("kind", old.kind, new.kind),
        ("owner", old.owner, new.owner),
        ("policy", old.policy_version, new.policy_version),
    ):
        if was != becomes:
            yield what, was, becomes + starts


def _money_differences(before: Team | None, after: Team) -> Iterator[tuple[str, str | None, str]]:
    for what, was, becomes in zip(
        ("spend cap", "currency", "auto-reload", "payment"),
        _money_texts(before) if before else _NO_MONEY,
        _money_texts(after),
        strict=True,
    ):
        if was != becomes:
            yield what, was if before else None, becomes


def _money_texts(team: Team) -> tuple[str, str, str, str]:
    return (
        f"{team.spend_cap_cents} cents a month",
        team.currency,
        auto_reload_text(team.auto_reload),
        payment_text(team.payment),
    )


def auto_reload_text(settings: AutoReload | None) -> str:
    """Return the settings in a phrase: 400 add_on below 100, at most 5 in 60 minutes."""
    if settings is None:
        return "off"
    text = (
        f"{format_credits(settings.pack_microcredits)} {settings.pool} "
        f"below {format_credits(settings.threshold_microcredits)}, "
        f"at most {settings.reloads_max} in {settings.window_minutes} minutes"
    )
    return text if settings.enabled else f"off ({text})"


def alerts_text(alerts: Alerts) -> str:
    """Return the thresholds in a phrase: low below 30%, 10%."""
    return f"low below {', '.join(map(str, alerts.low))}" if alerts.low else "off"


def payment_text(method: PaymentMethod | None) -> str:
    if method is None:
        return "none"
    if method.provider == "invoice":
        return "invoice"
    return f"{method.provider} {method.name} of {method.customer}"


def _changed_members(before: Team, after: Team) -> str:
    if isinstance(before.members, str) or isinstance(after.members, str):
        return _members_text(after.members)
    changes = [f"+{member}" for member in sorted(after.members - before.members)]
    changes += [f"-{member}" for member in sorted(before.members - after.members)]
    named = " ".join(changes[:MEMBERS_NAMED_MAX])
    more = " ..." if len(changes) > MEMBERS_NAMED_MAX else ""
    return f"{_members_text(after.members)} ({named}{more})"


def _members_text(members: frozenset[str] | str) -> str:
    if isinstance(members, str):
        return "everyone"
    return "1 member" if len(members) == 1 else f"{len(members)} members"
