"""A worker's view of teams and policies: cached for a minute, read again before a rejection."""

from collections.abc import Iterable
from datetime import datetime
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from agent_credits.billing.policy import BillingPolicy
from agent_credits.billing.reload_offers import decline_foreseen
from agent_credits.billing.teams import CLOCK_SKEW_MAX, SETTINGS_TTL, Billing, Team, bill
from agent_credits.events.agent_runs import AgentRunEvent, Rejection, UserTrigger, billed_at
from agent_credits.values.errors import PolicyMissing

TEAMS_CACHED_MAX = 1_000


class SettingsRows(Protocol):
    """The rows of teams and policies. Each method raises `RowsUnavailable` on a fault."""

    def read_team(self, team_id: str) -> Team | None: ...

    def read_policy(self, version: str) -> BillingPolicy | None: ...


class _Cached(Struct, frozen=True):
    team: Team
    read_at: datetime


class Directory:
    """Returns who is billed for an event. Policies never change, so they are cached forever."""

    def __init__(self, rows: SettingsRows) -> None:
        self._rows = rows
        self._teams: dict[str, _Cached] = {}
        self._policies: dict[str, BillingPolicy] = {}

    def bill(self, event: AgentRunEvent, now: datetime) -> Billing | Rejection:
        """Return the event's billing, or why the event is rejected."""
        if event.time > now + CLOCK_SKEW_MAX:
            # The event's own time decides who pays. The settings of that time are not known yet.
            return Rejection("from_the_future", "time is more than five minutes in the future")
        team = self._team(event.data.team_id, now)
        if team is None:
            return Rejection("unknown_team", "data.team_id names a team that does not exist")
        trigger = event.data.trigger
        moment = billed_at(event)
        if isinstance(trigger, UserTrigger) and not team.has_member_at(trigger.user_id, moment):
            team = self._read_team(team.team_id, now) or team
            if not team.has_member_at(trigger.user_id, moment):
                return Rejection("unknown_user", "data.trigger.user_id is not a member of the team")
        policy = self._policy(team.tenure_at(moment).policy_version)
        billing = bill(event, team, policy)
        if billing.reload is None:
            return billing
        decline = decline_foreseen(team, self._policy(team.settings_policy_version), now)
        return replace(billing, decline_foreseen=decline) if decline else billing

    def forget(self, team_ids: Iterable[str]) -> None:
        """Drop these teams from the cache, so that they are read again on their next use."""
        for team_id in team_ids:
            self._teams.pop(team_id, None)

    def _team(self, team_id: str, now: datetime) -> Team | None:
        cached = self._teams.get(team_id)
        if cached is not None and now < cached.read_at + SETTINGS_TTL:
            return cached.team
        return self._read_team(team_id, now)

    def _read_team(self, team_id: str, now: datetime) -> Team | None:
        team = self._rows.read_team(team_id)
        self._teams.pop(team_id, None)
        if team is None:
            return None
        if len(self._teams) >= TEAMS_CACHED_MAX:
            self._teams.pop(next(iter(self._teams)))
        self._teams[team_id] = _Cached(team, now)
        return team

    def _policy(self, version: str) -> BillingPolicy:
        if version not in self._policies:
            policy = self._rows.read_policy(version)
            if policy is None:
                raise PolicyMissing(f"policy {version!r} is not applied")
            self._policies[version] = policy
        return self._policies[version]
