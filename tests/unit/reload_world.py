"""A small world that reloads: a team with packs to buy, its accounts, queues and payments.

`ReloadWorld` stands for the stack: what is committed is announced from the images of the rows, what
is requested lies in a queue, and time is what the test says it is.
"""

import itertools
import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from agent_credits.billing.directory import Directory
from agent_credits.billing.spend_cap import Spending, with_cap
from agent_credits.billing.teams import Team
from agent_credits.commit.write_protocol import commit
from agent_credits.intake.debited_batch import DebitedBatch, Delivery
from agent_credits.intake.debits import Debits
from agent_credits.ledger.accounts import Account, available_microcredits
from agent_credits.ledger.entries import Entry
from agent_credits.ledger.reloads import Reload, ReloadRequest
from agent_credits.notices.announcements import (
    AccountRecord,
    NoticeSettings,
    TeamRecord,
    notices_of,
    reload_requests,
)
from agent_credits.notices.notice import Notice
from agent_credits.payments.port import InvoicePayments
from agent_credits.payments.reload_saga import ReloadSaga, Resolution
from agent_credits.values.principals import Principal
from tests.dispositions import postponed, rejected, waiting
from tests.memory_rows import MemoryRows
from tests.unit import builders
from tests.unit.builders import (
    ANA,
    NOW,
    POLICY,
    POOLS,
    RELOADING_ACME,
    grant_change,
    history,
    pause,
    usage,
)
from tests.unit.payments.payment_fakes import FakePayments

# An event waits for one reload, or for two where the cap cut the first one short.
DELIVERIES_MAX = 5


@dataclass
class ReloadWorld:
    """The stack in memory. `requests` is ReloadsQueue, `notices` the topic, each as announced."""

    team: Team = RELOADING_ACME
    payments: FakePayments = field(default_factory=FakePayments)
    rows: MemoryRows = field(default_factory=MemoryRows)
    now: datetime = NOW
    requests: list[ReloadRequest] = field(default_factory=list)
    follow_ups: list[ReloadRequest] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows.teams[self.team.team_id] = self.team
        self.rows.policies[POLICY.version] = POLICY
        self.directory = Directory(self.rows)
        self.debits = Debits(self.rows, self.directory, pause)
        self._announced = 0
        self._teams_announced = 0
        self._message_ids = map(str, itertools.count(1))

    @property
    def saga(self) -> ReloadSaga:
        return ReloadSaga(
            self.rows,
            self.rows,
            {"stripe": self.payments, "invoice": InvoicePayments()},
            pause,
        )

    @property
    def spending(self) -> Spending:
        return self.rows.teams[self.team.team_id].spending

    def open_account(self, credits: str = "150", principal: Principal = ANA) -> None:  # noqa: A002
        """Open an account that holds so many add-on credits."""
        builders.open_account(self.rows, grant_change("g-1", credits=credits, principal=principal))

    def account(self, principal: Principal = ANA) -> Account:
        return self.rows.accounts[principal]

    def reload(self, principal: Principal = ANA) -> Reload:
        """Return the reload that stands on the account's row."""
        reload = self.account(principal).reload
        assert reload is not None
        return reload

    def available(self, principal: Principal = ANA) -> int:
        """Return the account's balance in credits; the tests use whole ones."""
        available = available_microcredits(self.account(principal), POOLS, self.now)
        credits_, rest = divmod(available, 1_000_000)
        assert rest == 0
        return credits_

    def deliver(self, *documents: dict[str, Any]) -> DebitedBatch:
        """Deliver one message per event in one batch, then announce what was committed."""
        deliveries = [Delivery(next(self._message_ids), json.dumps(d)) for d in documents]
        batch = self.debits.debit(deliveries, now=self.now, time_is_left=lambda: True)
        assert rejected(batch) == {}
        assert postponed(batch) == {}
        self.announce()
        return batch

    def outcome(self, document: dict[str, Any]) -> str:
        """Deliver one event and return what came of it: its entry's outcome, or `waiting`."""
        batch = self.deliver(document)
        return "waiting" if waiting(batch) else batch.outcomes[0].result.entry.outcome

    def entry(self, document: dict[str, Any]) -> Entry:
        (outcome,) = self.deliver(document).outcomes
        return outcome.result.entry

    def announce(self) -> None:
        """Derive notices and requests from every image since the last time, as `announce` does."""
        settings = NoticeSettings("")
        for old, new in self.rows.stream[self._announced :]:
            change = AccountRecord(old, new)
            self.notices += notices_of(change, settings)
            for request in reload_requests(change):
                (self.follow_ups if request.follows_up else self.requests).append(request)
        self._announced = len(self.rows.stream)
        for before, after in self.rows.team_stream[self._teams_announced :]:
            self.notices += notices_of(TeamRecord(before, after, self.now), settings)
        self._teams_announced = len(self.rows.team_stream)

    def resolve(self, request: ReloadRequest | None = None) -> Resolution:
        """Deliver a request, the newest if none is named, and announce what was committed."""
        resolution = self.saga.resolve(request or self.requests[-1], self.now)
        self.announce()
        return resolution

    def resolve_until_done(self, document: dict[str, Any]) -> Entry:
        """Deliver an event and the newest request in turn until the event is recorded."""
        for _ in range(DELIVERIES_MAX):
            batch = self.deliver(document)
            if not waiting(batch):
                return batch.outcomes[0].result.entry
            self.resolve()
        raise AssertionError(f"the event still waits after {DELIVERIES_MAX} deliveries")

    def apply(self, **settings: Any) -> None:
        """Change the team's settings as `agent-credits apply` does."""
        team = self.rows.teams[self.team.team_id]
        spending = with_cap(team.spending, settings.get("spend_cap_cents", team.spend_cap_cents))
        versions = {
            "version": team.version + 1,
            "settings_version": team.settings_version + 1,
        }
        changed = team.model_copy(update={**settings, **versions, "spending": spending})
        assert self.rows.compare_and_set_team(changed) is None
        self.announce()

    def grant(self, grant_id: str, credits: str, principal: Principal = ANA) -> None:  # noqa: A002
        change = grant_change(grant_id, credits=credits, principal=principal)
        commit(self.rows, principal, [change], now=self.now, pause=pause)
        self.announce()

    def notices_of_type(self, notice_type: str) -> list[Notice]:
        return [notice for notice in self.notices if notice.type == notice_type]

    def history(self, principal: Principal = ANA) -> tuple[Entry, ...]:
        return history(self.rows, principal)

    def later(self, by: timedelta) -> None:
        self.now += by


def short_world(
    available: str = "150", wanted: str = "200", **fields: Any
) -> tuple[ReloadWorld, dict[str, Any]]:
    """Return a world in which ana's event waits for a reload, and that event."""
    world = ReloadWorld(**fields)
    world.open_account(available)
    event = usage("e-short", wanted, run="run-short")
    assert world.outcome(event) == "waiting"
    assert len(world.requests) == 1
    return world, event
