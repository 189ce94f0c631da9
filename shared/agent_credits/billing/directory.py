"""A worker's view of teams and policies: cached for a minute, read again before a rejection."""

import itertools
import threading
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from agent_credits.billing.policy import BillingPolicy
from agent_credits.billing.reload_offers import decline_foreseen
from agent_credits.billing.teams import CLOCK_SKEW_MAX, SETTINGS_TTL, Billing, Team, bill
from agent_credits.events.agent_runs import AgentRunEvent, Rejection, UserTrigger, billed_at
from agent_credits.values.errors import AgentCreditsError, PolicyMissing
from agent_credits.values.side_by_side import SideBySide

TEAMS_CACHED_MAX = 1_000
# So many rows are read at the same time. Each is read by one thread at a time, and which lock keeps
# it does not matter: two rows that share one are read one after the other.
LOCKS: Final = 64


class SettingsRows(Protocol):
    """The rows of teams and policies. Each method raises `RowsUnavailable` on a fault."""

    def read_team(self, team_id: str) -> Team | None: ...

    def read_policy(self, version: str) -> BillingPolicy | None: ...


class _Cached(Struct, frozen=True):
    """A team's row, when it was read, and which read of this worker that was, in their order."""

    team: Team
    read_at: datetime
    began: int


class Directory:
    """Returns who is billed for an event. Policies never change, so they are cached forever.

    Threads may share one. Those that need the same row at the same time share one read of it.
    """

    def __init__(self, rows: SettingsRows) -> None:
        self._rows = rows
        self._order = itertools.count()
        self._reading = tuple(threading.Lock() for _ in range(LOCKS))
        self._changing = threading.Lock()
        self._teams: dict[str, _Cached] = {}
        self._policies: dict[str, BillingPolicy] = {}

    def bill(self, event: AgentRunEvent, now: datetime) -> Billing | Rejection:
        """Return the event's billing, or why the event is rejected."""
        if event.time > now + CLOCK_SKEW_MAX:
            # The event's own time decides who pays. The settings of that time are not known yet.
            return Rejection("from_the_future", "time is more than five minutes in the future")
        team = self.team(event.data.team_id, now)
        if team is None:
            return Rejection("unknown_team", "data.team_id names a team that does not exist")
        trigger = event.data.trigger
        moment = billed_at(event)
        if isinstance(trigger, UserTrigger) and not team.has_member_at(trigger.user_id, moment):
            team = self._read_team(team.team_id, now) or team
            if not team.has_member_at(trigger.user_id, moment):
                return Rejection("unknown_user", "data.trigger.user_id is not a member of the team")
        policy = self.policy(team.tenure_at(moment).policy_version)
        billing = bill(event, team, policy)
        if billing.reload is None:
            return billing
        decline = decline_foreseen(team, self.policy(team.settings_policy_version), now)
        return replace(billing, decline_foreseen=decline) if decline else billing

    def read_ahead(
        self, events: Collection[AgentRunEvent], now: datetime, side_by_side: SideBySide
    ) -> None:
        """Read all that billing these events needs and is not cached: teams, then their policies.

        A row that cannot be read is left to `bill`, which raises it for the events that need it.
        """
        teams = dict.fromkeys(event.data.team_id for event in events)
        missing = [team_id for team_id in teams if self._cached(team_id, now) is None]
        side_by_side([_unless_it_fails(partial(self._read_team, t, now)) for t in missing])
        versions = dict.fromkeys(
            version
            for event in events
            if (team := self._cached(event.data.team_id, now))
            for version in _policies_needed(team, billed_at(event))
        )
        unread = [version for version in versions if version not in self._policies]
        side_by_side([_unless_it_fails(partial(self.policy, version)) for version in unread])

    def read_again(self, team_ids: Iterable[str], now: datetime) -> None:
        """Read these teams, so that what `bill` returns next is not older than this call."""
        for team_id in dict.fromkeys(team_ids):
            self._read_team(team_id, now)

    def team(self, team_id: str, now: datetime) -> Team | None:
        """Return the team, which may be up to `SETTINGS_TTL` old, or None if there is none."""
        return self._cached(team_id, now) or self._read_team(team_id, now)

    def _cached(self, team_id: str, now: datetime) -> Team | None:
        cached = self._teams.get(team_id)
        if cached is not None and now < cached.read_at + SETTINGS_TTL:
            return cached.team
        return None

    def _read_team(self, team_id: str, now: datetime) -> Team | None:
        asked = next(self._order)
        with self._lock_of(team_id):
            cached = self._teams.get(team_id)
            # While this thread waited, another one read the row. A read that began before this
            # thread asked would not do: its settings may be older than the question.
            if cached is not None and cached.began > asked:
                return cached.team
            began = next(self._order)
            team = self._rows.read_team(team_id)
            self._keep(team_id, _Cached(team, now, began) if team else None)
            return team

    def _keep(self, team_id: str, read: _Cached | None) -> None:
        with self._changing:
            self._teams.pop(team_id, None)
            if read is None:
                return
            if len(self._teams) >= TEAMS_CACHED_MAX:
                self._teams.pop(next(iter(self._teams)))
            self._teams[team_id] = read

    def policy(self, version: str) -> BillingPolicy:
        """Return the policy of this version. Raises `PolicyMissing`."""
        known = self._policies.get(version)
        if known is not None:
            return known
        with self._lock_of(version):
            if version not in self._policies:
                policy = self._rows.read_policy(version)
                if policy is None:
                    raise PolicyMissing(f"policy {version!r} is not applied")
                self._policies[version] = policy
            return self._policies[version]

    def _lock_of(self, key: str) -> threading.Lock:
        return self._reading[hash(key) % LOCKS]


def _policies_needed(team: Team, moment: datetime) -> tuple[str, ...]:
    paying = team.tenure_at(moment).policy_version
    return (paying, team.settings_policy_version) if team.auto_reload else (paying,)


def _unless_it_fails(read: Callable[[], object]) -> Callable[[], None]:
    def attempt() -> None:
        with suppress(AgentCreditsError):
            read()

    return attempt
