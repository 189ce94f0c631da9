"""A team's settings in words, and the differences between two rows of a team."""

from collections.abc import Iterator
from typing import Final

from agent_credits.billing.alerts import Alerts
from agent_credits.billing.spend_cap import PaymentMethod
from agent_credits.billing.teams import AutoReload, Team
from agent_credits.values.display import (
    amount_text,
    count_text,
    credits_text,
    money_text,
    time_text,
)
from agent_credits_cli.limit_settings import limit_differences

NO_CAP: Final = "no cap set: purchases are off"

# The money settings of a team before it is created.
_NO_MONEY: Final = (NO_CAP, "usd", "off", "none")

MEMBERS_NAMED_MAX: Final = 5


def team_differences(before: Team | None, after: Team) -> Iterator[tuple[str, str | None, str]]:
    """Yield what differs, with its value before (None for a new team) and after."""
    new = after.tenures[-1]
    if before is None:
        settings = (
            f"{new.kind}, plan {after.plan}, owner {new.owner}, {_members_text(after.members)}"
        )
        yield "settings", None, f"{settings}, {after.time_zone}, policy {new.policy_version}"
        first = after.tenures[0]
        if first.policy_version != new.policy_version:
            yield "policy", None, f"{first.policy_version} before {time_text(new.since)}"
        yield from _money_differences(None, after)
        if after.alerts != Alerts():
            yield "alerts", None, alerts_text(after.alerts)
        yield from limit_differences((), after.limits)
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
    yield from limit_differences(before.limits, after.limits)
    old = before.tenures[-1]
    starts = "" if new in before.tenures else f", from {time_text(new.since)}"
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
        _cap_text(team),
        team.currency,
        auto_reload_text(team.auto_reload),
        payment_text(team.payment),
    )


def _cap_text(team: Team) -> str:
    if not team.spend_cap_cents:
        return NO_CAP
    return f"{money_text(team.spend_cap_cents, team.currency)} a month"


def auto_reload_text(settings: AutoReload | None) -> str:
    """Return the settings: 400 credits into add_on below 100, at most 5 times in 60 minutes."""
    if settings is None:
        return "off"
    text = (
        f"{credits_text(settings.pack_microcredits)} into {settings.pool} "
        f"below {amount_text(settings.threshold_microcredits)}, "
        f"at most {count_text(settings.reloads_max, 'time')} "
        f"in {count_text(settings.window_minutes, 'minute')}"
    )
    return text if settings.enabled else f"off ({text})"


def alerts_text(alerts: Alerts) -> str:
    """Return the thresholds: low below 30%, 10%."""
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
    return count_text(len(members), "member")
