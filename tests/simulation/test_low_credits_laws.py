"""Whatever happens to an account, in whichever order: it is told what the second writing says."""

from datetime import datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agent_credits.billing.alerts import Alerts
from agent_credits.billing.directory import Directory
from agent_credits.billing.spend_cap import Spending
from agent_credits.billing.teams import Billing, Team, Tenure
from agent_credits.commit.changes import (
    Change,
    GrantChange,
    PlanChange,
    ReloadDeclined,
    ReloadGranted,
    RunChange,
)
from agent_credits.commit.write_protocol import commit
from agent_credits.ledger.accounts import Account, available_microcredits
from agent_credits.ledger.reloads import Reload
from agent_credits.notices.announcements import NoticeSettings, notices_of
from tests.simulation.invariants import Invariants
from tests.simulation.low_reference import Knowledge
from tests.simulation.outside import StoredRows
from tests.simulation.reference import POOLS
from tests.simulation.workers import pause
from tests.simulation.world import CREDIT, POLICY
from tests.unit.builders import ACME, ANA, CARD, FAR_PAST, NOW, ON, finished, parsed, usage

PACK = POLICY.packs[0]
TEAM = ACME.model_copy(
    update={
        "settings_version": 1,
        "auto_reload": ON.model_copy(
            update={"threshold_microcredits": 15 * CREDIT, "pack_microcredits": PACK.microcredits}
        ),
        "payment": CARD,
        "spend_cap_cents": 1_000_000,
        "tenures": (
            Tenure(since=FAR_PAST, kind="self_serve", owner="olga", policy_version=POLICY.version),
        ),
    }
)

POOLS_OF_RUNS = POOLS[POLICY.version]["user"]

thresholds = st.lists(
    st.sampled_from(["90%", "60%", "30%", "10%", "25", "7"]), min_size=1, max_size=4, unique=True
)


class LowCreditsLaws(RuleBasedStateMachine):
    """One account of a team that may do anything to it; nothing fails, and nothing is late."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = Invariants()
        self.rows = StoredRows(self.kept)
        self.rows.policies[POLICY.version] = POLICY
        self.team: Team = TEAM
        self.now: datetime = NOW
        self.events = 0
        self.published = 0
        self.runs: list[str] = []

    @property
    def account(self) -> Account:
        return self.rows.accounts[ANA]

    @property
    def requested(self) -> Reload | None:
        reload = self.account.reload
        return reload if reload and reload.state == "requested" else None

    def commit(self, *changes: Change) -> None:
        # Only users pay here, so a reload of any commit is asked for by the run of one.
        self.kept.known = Knowledge((self.team,), self.now, frozenset({POOLS_OF_RUNS}))
        commit(self.rows, ANA, changes, now=self.now, pause=pause, opens_account=True)

    def billed(self, document: dict[str, object]) -> RunChange:
        event = parsed(document)
        self.rows.teams[self.team.team_id] = self.team
        billing = Directory(self.rows).bill(event, self.now)
        assert isinstance(billing, Billing)
        return RunChange(event, billing)

    def next_event(self) -> str:
        self.events += 1
        return f"e-{self.events}"

    @initialize(
        plan=st.sampled_from([0, 100, 40]),
        gift=st.sampled_from([3, 50]),
        low=thresholds,
        reloads=st.booleans(),
    )
    def open(self, plan: int, gift: int, low: list[str], *, reloads: bool) -> None:
        self.declare(low)
        if not reloads:
            self.team = self.team.model_copy(update={"auto_reload": None})
        anchor = (NOW - timedelta(days=20)).date()
        changes: list[Change] = [
            GrantChange(ANA, "first", "add_on", gift * CREDIT, None, "gift"),
            GrantChange(ANA, "trial", "trial", 5 * CREDIT, NOW + timedelta(hours=2), "gift"),
        ]
        if plan:
            subscription = PlanChange(ANA, "plan:1", "max", "plan", plan * CREDIT, anchor)
            self.kept.plans[subscription.identity] = (plan * CREDIT, anchor)
            changes.append(subscription)
        self.commit(*changes)

    @rule(low=thresholds | st.just([]))
    def declare(self, low: list[str]) -> None:
        self.team = self.team.model_copy(update={"alerts": Alerts.model_validate({"low": low})})

    @rule(amounts=st.lists(st.sampled_from([4, 1, 11, 30]), min_size=1, max_size=3))
    def use(self, amounts: list[int]) -> None:
        changes: list[Change] = []
        for amount in amounts:
            event_id = self.next_event()
            self.runs.append(f"run-{event_id}")
            document = usage(event_id, str(amount), run=f"run-{event_id}", time=FAR_PAST)
            changes.append(self.billed(document))
        self.commit(*changes)

    @rule(left=st.sampled_from([29, 31, 9, 12, 59, 0]))
    def fall_to(self, left: int) -> None:
        """Use what is more than this, so that a balance comes to stand around a threshold."""
        used = available_microcredits(self.account, POOLS_OF_RUNS, self.now) - left * CREDIT
        if used > 0 and self.requested is None:
            self.use([used // CREDIT or 1])

    @rule(back=st.integers(1, 2))
    def give_back(self, back: int) -> None:
        changes = [
            self.billed(finished(self.next_event(), "error", run=run, time=FAR_PAST))
            for run in self.runs[-back:]
        ]
        del self.runs[-back:]
        if changes:
            self.commit(*changes)

    @rule(amount=st.sampled_from([1, 6, 60]))
    def grant(self, amount: int) -> None:
        name = f"gift-{self.next_event()}"
        self.commit(GrantChange(ANA, name, "add_on", amount * CREDIT, None, "gift"))

    @rule()
    def reload(self) -> None:
        if (reload := self.requested) is not None:
            self.kept.charged[reload.id] = PACK.price_cents
            pack, cents = PACK.microcredits, PACK.price_cents
            self.commit(ReloadGranted(ANA, reload.id, "acme", "add_on", pack, 1, cents, "usd"))

    @rule()
    def decline(self) -> None:
        if (reload := self.requested) is not None:
            until = self.now + timedelta(minutes=10)
            version = self.team.settings_version
            self.commit(ReloadDeclined(ANA, reload.id, "acme", "payment_declined", until, version))

    @rule(enabled=st.booleans(), cap=st.sampled_from([0, 1_000_000]), suspended=st.booleans())
    def change_settings(self, *, enabled: bool, cap: int, suspended: bool) -> None:
        settings_of_money = {
            "settings_version": self.team.settings_version + 1,
            "auto_reload": ON.model_copy(
                update={
                    "enabled": enabled,
                    "threshold_microcredits": 15 * CREDIT,
                    "pack_microcredits": PACK.microcredits,
                }
            ),
            "spend_cap_cents": cap,
            "spending": Spending(suspended_payment_method=CARD.name if suspended else None),
        }
        self.team = self.team.model_copy(update=settings_of_money)

    @rule(minutes=st.sampled_from([6, 11, 60 * 24 * 16]))
    def wait(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    @invariant()
    def what_is_due_is_published(self) -> None:
        for change in self.rows.changes[self.published :]:
            for notice in notices_of(change, NoticeSettings("")):
                self.kept.published(notice)
        self.published = len(self.rows.changes)
        for notice_type, must in (
            ("credits_low", self.kept.must_be_told),
            ("credits_restored", self.kept.must_be_restored),
        ):
            of_type = [n for n in self.kept.notices.values() if n.type == notice_type]
            assert must == {(notice.principal, notice.key) for notice in of_type}


TestLowCreditsLaws = LowCreditsLaws.TestCase
TestLowCreditsLaws.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)
