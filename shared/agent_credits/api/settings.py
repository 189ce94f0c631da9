"""`PATCH /v1/teams/{team_id}/settings`: the settings that a team's own admins may change.

Who pays, and by which policy, is the operator's to declare. What is not named stays as it is, and a
change of nothing writes nothing, not even an audit entry.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from pydantic import Field, ValidationError

from agent_credits.api.audit import AuditChange, AuditEntry, Auditor
from agent_credits.api.fields import CreditsIn
from agent_credits.api.limits import LimitBody, declared_answer, limits_declared
from agent_credits.api.problems import Refused, invalid
from agent_credits.api.rows import AuditRows
from agent_credits.api.teams import auto_reload_answer
from agent_credits.billing.alerts import THRESHOLDS_MAX, Alerts
from agent_credits.billing.limits import TEAM_LIMITS_MAX
from agent_credits.billing.policy import BillingPolicy
from agent_credits.billing.spend_cap import with_cap
from agent_credits.billing.teams import AutoReload, Team
from agent_credits.commit.team_changes import change_team
from agent_credits.commit.write_protocol import Pause
from agent_credits.values.identifiers import PoolName
from agent_credits.values.strict import Strict

# A cap of a billion in minor units is a mistake in the unit.
SPEND_CAP_CENTS_MAX = 100_000_000_000


class AutoReloadPatch(Strict):
    """What of auto-reload changes. To turn it on for the first time, name threshold and pack."""

    enabled: bool | None = None
    pool: PoolName | None = None
    threshold_credits: CreditsIn | None = None
    pack_credits: CreditsIn | None = None
    reloads_max: int | None = None
    window_minutes: int | None = None


class SettingsPatch(Strict):
    """What changes; all other settings stay. `alerts_low`: thresholds such as "30%" and "100".

    `limits` replaces all limits of the team, so send those that are to stay as well.
    """

    spend_cap_cents: int | None = Field(default=None, ge=0, le=SPEND_CAP_CENTS_MAX)
    auto_reload: AutoReloadPatch | None = None
    alerts_low: list[str] | None = Field(default=None, max_length=THRESHOLDS_MAX)
    limits: list[LimitBody] | None = Field(default=None, max_length=TEAM_LIMITS_MAX)


def change_settings(
    rows: AuditRows,
    team_id: str,
    patch: SettingsPatch,
    auditor: Auditor,
    expected_version: int | None,
    pause: Pause,
) -> Team:
    """Return the team after the change, which is recorded with who made it. Raises `Refused`."""
    audited = AuditedTeams(
        rows,
        lambda before, after: auditor.entry(
            team_id, after.audits, "settings.changed", tuple(_changes(before, after))
        ),
    )

    def changed(team: Team) -> Team:
        if expected_version is not None and team.settings_version != expected_version:
            raise Refused(
                "settings_changed",
                f"settings_version is {team.settings_version}; read the team again",
            )
        policy = rows.read_policy(team.settings_policy_version)
        return _patched(team, patch, policy, auditor.now)

    return change_team(audited, team_id, changed, pause)


class AuditedTeams:
    """Implements `TeamRows`: each write of a team also writes the entry of what it changed.

    `entry_of` gets the row before and after; the one before is what was read last.
    """

    def __init__(
        self, rows: AuditRows, entry_of: Callable[[Team, Team], AuditEntry | None]
    ) -> None:
        self._rows = rows
        self._entry_of = entry_of
        self._before: Team | None = None

    def read_team(self, team_id: str) -> Team | None:
        self._before = self._rows.read_team(team_id)
        return self._before

    def read_policy(self, version: str) -> BillingPolicy | None:
        return self._rows.read_policy(version)

    def compare_and_set_team(self, team: Team) -> Team | None:
        before = self._before
        if before is None or before.version != team.version - 1:
            raise TypeError("a team is written on top of the row that was read")
        counted = team.model_copy(update={"audits": before.audits + 1})
        entry = self._entry_of(before, counted)
        newer = (
            self._rows.compare_and_set_team_audited(counted, entry)
            if entry is not None
            else self._rows.compare_and_set_team(team)
        )
        if newer is not None:
            self._before = newer
        return newer


def _patched(team: Team, patch: SettingsPatch, policy: BillingPolicy | None, now: datetime) -> Team:
    update: dict[str, Any] = {}
    if patch.spend_cap_cents is not None and patch.spend_cap_cents != team.spend_cap_cents:
        update["spend_cap_cents"] = patch.spend_cap_cents
        update["spending"] = with_cap(team.spending, patch.spend_cap_cents)
    if patch.auto_reload is not None:
        reload = _reload_after(team.auto_reload, patch.auto_reload)
        if reload != team.auto_reload:
            _check_reload(reload, team, policy)
            update["auto_reload"] = reload
    if update:
        update["settings_version"] = team.settings_version + 1
    if patch.alerts_low is not None:
        try:
            alerts = Alerts.model_validate({"low": tuple(patch.alerts_low)})
        except ValidationError as error:
            raise invalid("alerts_low", _said(error)) from None
        if alerts != team.alerts:
            update["alerts"] = alerts
    if patch.limits is not None:
        limits = limits_declared(patch.limits, team, now)
        if limits != team.limits:
            update["limits"] = limits
    return team.model_copy(update=update)


def _reload_after(before: AutoReload | None, patch: AutoReloadPatch) -> AutoReload:
    named = {
        "enabled": patch.enabled,
        "pool": patch.pool,
        "threshold_microcredits": patch.threshold_credits,
        "pack_microcredits": patch.pack_credits,
        "reloads_max": patch.reloads_max,
        "window_minutes": patch.window_minutes,
    }
    kept = before.model_dump() if before else {}
    try:
        return AutoReload.model_validate(
            {**kept, **{name: value for name, value in named.items() if value is not None}}
        )
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = str(first["loc"][0]).replace("_microcredits", "_credits")
        complaint = "is missing" if first["type"] == "missing" else first["msg"]
        raise invalid(f"auto_reload.{name}", complaint) from None


def _check_reload(reload: AutoReload, team: Team, policy: BillingPolicy | None) -> None:
    if reload.enabled and (
        policy is None or policy.pack_of(reload.pack_microcredits, team.currency) is None
    ):
        raise invalid("auto_reload.pack_credits", "is no pack that is for sale")


def _changes(before: Team, after: Team) -> list[AuditChange]:
    pairs = {
        "spend_cap_cents": (before.spend_cap_cents, after.spend_cap_cents),
        "auto_reload": (_shown(before.auto_reload), _shown(after.auto_reload)),
        "alerts_low": (
            [str(threshold) for threshold in before.alerts.low],
            [str(threshold) for threshold in after.alerts.low],
        ),
    }
    # One change for each limit, so that whoever reads it sees which one is another.
    limits_before, limits_after = _limits_shown(before), _limits_shown(after)
    places = dict.fromkeys((*limits_before, *limits_after))
    changed = [
        *((name, was, becomes) for name, (was, becomes) in pairs.items()),
        *(("limits", limits_before.get(place), limits_after.get(place)) for place in places),
    ]
    return [
        AuditChange(field=name, before=was, after=becomes)
        for name, was, becomes in changed
        if was != becomes
    ]


def _shown(settings: AutoReload | None) -> dict[str, Any] | None:
    answer = auto_reload_answer(settings)
    return answer.model_dump(mode="json") if answer else None


def _limits_shown(team: Team) -> dict[object, dict[str, Any]]:
    """Return the declared limits as they are shown, by what they limit."""
    return {x.place: declared_answer(x).model_dump(mode="json") for x in team.limits}


def _said(error: ValidationError) -> str:
    message = error.errors(include_input=False, include_url=False)[0]["msg"]
    return message.removeprefix("Value error, ")
