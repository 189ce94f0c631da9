"""A world in which runs reserve: an account with 500 credits, and the events that reach it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from agent_credits.aws.items import account_from_item, account_item
from agent_credits.billing.policy import BillingPolicy, BillingRule
from agent_credits.billing.teams import bill
from agent_credits.commit.changes import Result, RunChange, Unsure, Waiting
from agent_credits.commit.write_protocol import commit
from agent_credits.events.agent_runs import Rejection
from agent_credits.ledger.accounts import (
    Account,
    available_microcredits,
    reserved_microcredits,
)
from agent_credits.ledger.reservations import reservation_of
from agent_credits.notices.announcements import AccountRecord, NoticeSettings, notices_of
from agent_credits.notices.notice import Notice
from agent_credits.sweeps.checkpoint import Checkpoint
from agent_credits.sweeps.verification import verify_row
from agent_credits.values.credits import format_credits, parse_credits
from tests.ledger_of_reservations import check_row
from tests.memory_rows import MemoryRows
from tests.unit.builders import (
    ACME,
    ANA,
    MINUTE,
    NOW,
    POLICY,
    POOLS,
    cloudevent,
    grant_change,
    history,
    open_account,
    parsed,
    pause,
    requested,
)

HOUR = 60 * MINUTE


def extended(event_id: str, **fields: Any) -> dict[str, Any]:
    return cloudevent(event_id, type="agent_run.extended", **fields)


def released(event_id: str, **fields: Any) -> dict[str, Any]:
    return cloudevent(event_id, type="agent_run.released", **fields)


def policy(estimate: str = "75", **terms: Any) -> BillingPolicy:
    """Return the policy with reservations: every run of a user puts its estimate aside."""
    rule = BillingRule.model_validate(
        {
            "team": "self_serve",
            "triggers": ("user",),
            "payer": "user",
            "pools": POOLS,
            "reserve": "estimate",
            "default_estimate_microcredits": parse_credits(estimate),
            **terms,
        }
    )
    return POLICY.model_copy(update={"rules": (rule, *POLICY.rules[1:])})


RESERVING = policy()
# Only what an event asks for is reserved, and it is not extended by itself.
NO_STEP = {"reserve": "none", "default_estimate_microcredits": 0}


class ReservingWorld:
    """An account with 500 credits, and the events that reach it."""

    def __init__(
        self,
        policy: BillingPolicy = RESERVING,
        credits: str = "500",  # noqa: A002
        rows: MemoryRows | None = None,
    ) -> None:
        self.rows = rows or MemoryRows()
        self.policy = policy
        self.team = ACME
        if credits != "0":
            open_account(self.rows, grant_change("g-1", credits=credits))

    def send(self, *documents: dict[str, Any], now: datetime = NOW) -> Sequence[Result]:
        changes = [RunChange(e, bill(e, self.team, self.policy)) for e in map(parsed, documents)]
        results = commit(self.rows, ANA, changes, now=now, pause=pause).results
        self.check()
        return results

    def outcomes(self, *documents: dict[str, Any], now: datetime = NOW) -> list[str]:
        return [_name(result) for result in self.send(*documents, now=now)]

    def check(self) -> None:
        check_row(self.account, history(self.rows, ANA))
        self.rows.policies[self.policy.version] = self.policy
        verification = verify_row(self.rows, self.account, {}, Checkpoint(ANA, NOW.date()))
        assert verification.findings == ()
        assert account_from_item(account_item(self.account)) == self.account

    @property
    def account(self) -> Account:
        return self.rows.accounts[ANA]

    def available(self, now: datetime = NOW) -> str:
        return format_credits(available_microcredits(self.account, POOLS, now))

    def reserved(self, now: datetime = NOW) -> str:
        return format_credits(reserved_microcredits(self.account, POOLS, now))

    def left(self, run: str) -> str:
        held = reservation_of(self.account.reservations, run)
        return format_credits(held.left_microcredits) if held else "none"

    def directive(self, run: str) -> str:
        held = reservation_of(self.account.reservations, run)
        return held.directive if held else "none"

    def notices(self, notice_type: str) -> list[Notice]:
        """Return what was published of the last commit."""
        old, new = self.rows.stream[-1]
        found = notices_of(AccountRecord(old, new), NoticeSettings(problem_type_base_url=""))
        return [notice for notice in found if notice.type == notice_type]


def _name(result: Result) -> str:
    match result:
        case Rejection(code, _):
            return code
        case Waiting():
            return "waiting"
        case Unsure():
            return "unsure"
        case _:
            return result.entry.outcome


def requests(count: int, credits: str = "75", first: int = 1) -> list[dict[str, Any]]:  # noqa: A002
    return [
        requested(f"r-{number}", run=f"run-{number}", credits=credits)
        for number in range(first, first + count)
    ]
