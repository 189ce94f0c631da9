"""Who calls, and what they may do: one table of roles and operations, and whose data each sees.

Whoever may not know that something exists gets the answer that they would get if it did not.
"""

from collections.abc import Mapping
from typing import Final, Literal, get_args

from msgspec import Struct

from agent_credits.api.problems import Refused
from agent_credits.events.agent_runs import (
    ScheduleTrigger,
    TeamApiKeyTrigger,
    Trigger,
    UserTrigger,
)

# `platform`: whoever IAM lets in. The others are what a token says. `run`: a token of one run.
Role = Literal["platform", "operator", "billing_admin", "member", "run"]
TokenRole = Literal["operator", "billing_admin", "member"]

Operation = Literal[
    "record_events",
    "decide",
    "reserve",
    "change_reservation",
    "read_reservation",
    "read_account",
    "read_ledger",
    "list_reservations",
    "read_run",
    "read_team",
    "read_report",
    "change_settings",
    "buy",
]

_ALL: Final = frozenset(get_args(Role))
# Meters report what credits were used for; a person's browser is none.
_METERS: Final = frozenset[Role]({"platform", "operator", "run"})
_READERS: Final = _ALL - {"run"}
_ADMINS: Final = frozenset[Role]({"platform", "operator", "billing_admin"})

MAY: Final[Mapping[Operation, frozenset[Role]]] = {
    "record_events": _METERS,
    "decide": _ALL,
    "reserve": _METERS,
    "change_reservation": _METERS,
    "read_reservation": _ALL,
    "read_account": _READERS,
    "read_ledger": _READERS,
    "list_reservations": _READERS,
    "read_run": _ALL,
    "read_team": _ADMINS,
    "read_report": _ADMINS,
    "change_settings": _ADMINS,
    "buy": _ADMINS,
}


class Caller(Struct, frozen=True):
    """`name`: who the audit says it was. `trigger`: the one of a run's token."""

    role: Role
    name: str
    user_id: str | None = None
    teams: frozenset[str] = frozenset()
    run_id: str | None = None
    trigger: Trigger | None = None

    @property
    def sees_all(self) -> bool:
        return self.role in ("platform", "operator")

    def require(self, operation: Operation) -> None:
        """Raise `Refused` unless the caller's role may do this to anything at all."""
        if self.role not in MAY[operation]:
            words = operation.replace("_", " ")
            raise Refused("forbidden", f"the role {self.role} may not {words}")

    def require_team(self, team_id: str) -> None:
        """Raise what a team that does not exist raises, unless it is one of the caller's."""
        if not self.knows_team(team_id):
            raise no_team()

    def knows_team(self, team_id: str) -> bool:
        """Return whether the caller may know that the team exists."""
        return self.sees_all or team_id in self.teams

    def require_run(self, team_id: str, trigger: Trigger, run_id: str | None) -> None:
        """Raise `Refused` unless the caller may act for this run of the team."""
        if self.sees_all:
            return
        if self.role == "run" and run_id != self.run_id:
            raise no_run()
        self.require_team(team_id)
        if self.role == "billing_admin":
            return
        allowed = self.trigger
        if allowed is None and self.user_id is not None:
            allowed = UserTrigger(kind="user", user_id=self.user_id)
        if trigger != allowed:
            raise Refused("forbidden", "trigger is not the one that the token is for")


def no_team() -> Refused:
    return Refused("team_not_found", "there is no team of this ID that the caller may see")


def no_run() -> Refused:
    return Refused(
        "run_not_found",
        "nothing is recorded of a run of this ID that the caller may see; if the run is new, name "
        "the principal that pays for it",
    )


def no_account() -> Refused:
    return Refused("account_not_found", "there is no account of this ID that the caller may see")


def trigger_of(kind: str, trigger_id: str) -> Trigger:
    """Return the trigger of a recorded run."""
    match kind:
        case "user":
            return UserTrigger(kind="user", user_id=trigger_id)
        case "team_api_key":
            return TeamApiKeyTrigger(kind="team_api_key", key_id=trigger_id)
        case _:
            return ScheduleTrigger(kind="schedule", schedule_id=trigger_id)
