"""Each invariant of the design, broken on purpose: the checks of the simulator must notice."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from agent_credits.billing.spend_cap import CapReservation, PaymentMethod, Spending
from agent_credits.billing.teams import Team, Tenure
from agent_credits.commit.changes import GrantChange
from agent_credits.commit.write_protocol import commit
from agent_credits.intake.debits import DebitedBatch, Debits
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Draw, Entry, Page, Receipt
from agent_credits.ledger.reloads import Reload
from agent_credits.notices.announcements import notice_of
from agent_credits.values.principals import Principal
from tests.conformance.samples import model_provider_error
from tests.memory_rows import MemoryRows
from tests.simulation import history
from tests.simulation.history import Failed, run_history
from tests.simulation.invariants import BILLED_AHEAD, EVERY_WORKER_KNOWS, Invariants, Sender, Sent
from tests.simulation.low_reference import Knowledge
from tests.simulation.outside import StoredRows
from tests.simulation.reference import POOLS
from tests.simulation.violation import Violation
from tests.simulation.workers import pause
from tests.simulation.world import CREDIT, FAR_PAST
from tests.unit.builders import ACME, ANA, MINUTE, NOW, ON, finished, run_changes, usage

BEN = Principal("user", "ben")
CARD = PaymentMethod(provider="stripe", customer="cus-1", payment_method="pm-1")


class Ledger:
    """An account that was opened with two grants, and has paid for one event; all as it should."""

    def __init__(self) -> None:
        self.invariants = Invariants()
        self.rows = StoredRows(self.invariants)
        soon = NOW + timedelta(hours=1)
        gifts = [
            GrantChange(ANA, "soon", "add_on", 5 * CREDIT, soon, "gift"),
            GrantChange(ANA, "later", "add_on", 5 * CREDIT, None, "gift"),
        ]
        commit(self.rows, ANA, gifts, now=NOW, pause=pause, opens_account=True)
        self.debit("e1", "2")

    @property
    def account(self) -> Account:
        return self.rows.accounts[ANA]

    def debit(self, event_id: str, credits_used: str) -> None:
        changes = run_changes(usage(event_id, credits_used, run=f"run-{event_id}"))
        commit(self.rows, ANA, changes, now=NOW, pause=pause)

    def next_row(self, event_id: str, credits_used: str) -> Account:
        """Return the row that the protocol would write for one more event."""
        elsewhere = MemoryRows()
        elsewhere.accounts[ANA] = self.account
        changes = run_changes(usage(event_id, credits_used, run=f"run-{event_id}"))
        return commit(elsewhere, ANA, changes, now=NOW, pause=pause).account

    def write(self, row: Account) -> None:
        assert self.rows.compare_and_set(row) is None


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def with_last_entry(row: Account, change: Callable[[Entry], Entry]) -> Account:
    return replace(row, entries=(*row.entries[:-1], change(row.entries[-1])))


def test_what_is_right_is_not_complained_about(ledger: Ledger) -> None:
    ledger.write(ledger.next_row("e2", "4"))

    assert [g.remaining_microcredits for g in ledger.account.grants] == [4 * CREDIT]


def test_1_a_grant_below_zero(ledger: Ledger) -> None:
    row = ledger.next_row("e2", "1")
    below = tuple(replace(grant, remaining_microcredits=-1) for grant in row.grants)

    with pytest.raises(Violation, match="no grant is below zero"):
        ledger.invariants.account_committed(ledger.account, replace(row, grants=below))


def test_2_a_balance_that_the_ledger_does_not_leave(ledger: Ledger) -> None:
    row = ledger.next_row("e2", "1")
    more = tuple(replace(g, remaining_microcredits=5 * CREDIT) for g in row.grants)

    with pytest.raises(Violation, match="the row holds what the ledger leaves"):
        ledger.write(replace(row, grants=more))


def test_3_an_event_that_counts_twice(ledger: Ledger) -> None:
    row = ledger.next_row("e2", "1")
    again = with_last_entry(row, lambda e: replace(e, identity=ledger.account.entries[-1].identity))

    with pytest.raises(Violation, match="each event id has exactly one outcome"):
        ledger.write(again)


def test_3_an_event_that_counts_on_two_accounts(ledger: Ledger) -> None:
    gift = GrantChange(BEN, "g-1", "add_on", 5 * CREDIT, None, "gift")
    commit(ledger.rows, BEN, [gift], now=NOW, pause=pause, opens_account=True)
    changes = run_changes(usage("e1", "2", run="run-e1"))

    with pytest.raises(Violation, match="each event id has exactly one outcome"):
        commit(ledger.rows, BEN, changes, now=NOW, pause=pause)


def test_4_draws_that_do_not_add_up_to_the_amount(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = ledger.next_row("e2", "3")
    short = with_last_entry(row, lambda e: replace(e, amount_microcredits=3 * CREDIT + 1))
    # The rules would notice it as well; the sum has to be noticed without them.
    monkeypatch.setattr(ledger.invariants, "_expected", lambda *_: None)

    with pytest.raises(Violation, match="draws plus shortfall equal the amount"):
        ledger.invariants.account_committed(ledger.account, short)


def test_5_a_waterfall_out_of_order(ledger: Ledger) -> None:
    row = ledger.next_row("e2", "3")
    later = with_last_entry(row, lambda e: replace(e, draws=(Draw("add_on", "later", 3 * CREDIT),)))

    with pytest.raises(Violation, match="but the rules say"):
        ledger.write(later)


def test_5_a_draw_from_an_expired_grant(ledger: Ledger) -> None:
    row = ledger.next_row("e2", "3")
    late = NOW + timedelta(hours=2)
    expired = with_last_entry(row, lambda e: replace(e, recorded_at=late))

    with pytest.raises(Violation, match="but the rules say"):
        ledger.write(expired)


def test_6_a_version_that_is_skipped(ledger: Ledger) -> None:
    row = ledger.next_row("e2", "1")

    with pytest.raises(Violation, match="version grows by one per commit"):
        ledger.invariants.account_committed(ledger.account, replace(row, version=row.version + 1))


def test_7_an_acknowledgement_without_a_record(ledger: Ledger) -> None:
    (change,) = run_changes(usage("e2", "1"))
    message = Sent(1, "", ((change.identity, change.event.payload_hash),), is_rejected=False)

    with pytest.raises(Violation, match="acknowledged implies recorded"):
        ledger.invariants.acknowledged(message)


def test_7_an_acknowledgement_of_a_message_that_was_rejected(ledger: Ledger) -> None:
    with pytest.raises(Violation, match="what is rejected is not acknowledged"):
        ledger.invariants.acknowledged(Sent(1, "{", (), is_rejected=True))


def test_8_an_entry_that_changes_on_the_row(ledger: Ledger) -> None:
    row = ledger.next_row("e2", "1")
    first = replace(row.entries[0], payload_hash="another")

    with pytest.raises(Violation, match="a recorded entry never changes"):
        ledger.write(replace(row, entries=(first, *row.entries[1:])))


def test_8_a_page_that_changes_in_the_ledger(ledger: Ledger) -> None:
    entries = ledger.account.entries
    ledger.rows.put_item(Page(ANA, 1, entries))

    with pytest.raises(Violation, match="a page never changes once it is written"):
        ledger.rows.put_item(Page(ANA, 1, entries[:-1]))


def test_8_a_receipt_of_what_was_never_committed(ledger: Ledger) -> None:
    entry = replace(ledger.account.entries[-1], amount_microcredits=1)

    with pytest.raises(Violation, match="a receipt tells of what was committed"):
        ledger.rows.put_item(Receipt(ANA, 1, entry))


def test_9_a_failed_run_that_nobody_hears_of(ledger: Ledger) -> None:
    ledger.debit("e2", "100")

    with pytest.raises(Violation, match="every failed run has at least one notice"):
        ledger.invariants.check_at_the_end()


def reservation(purchase: str, principal: str = "user:ana", **fields: object) -> CapReservation:
    return CapReservation.model_validate(
        {
            "purchase_id": purchase,
            "principal": principal,
            "month": "2026-11",
            "packs": 1,
            "pool": "add_on",
            "microcredits": 20 * CREDIT,
            "price_cents": 1_000,
            "currency": "usd",
            "method": CARD,
            "reserved_at": datetime(2026, 11, 21, tzinfo=UTC),
            "deadline": datetime(2026, 11, 22, tzinfo=UTC),
            **fields,
        }
    )


def team(version: int, *reservations: CapReservation, cap_cents: int = 1_500) -> Team:
    tenure = Tenure(since=FAR_PAST, kind="self_serve", owner="ana", policy_version="v1")
    return Team(
        team_id="acme",
        version=version,
        plan="max",
        time_zone="UTC",
        members=frozenset({"ana", "ben"}),
        settings_version=1,
        payment=CARD,
        spend_cap_cents=cap_cents,
        spending=Spending(month="2026-11", reservations=reservations),
        tenures=(tenure,),
    )


def asked_for(*purchases: str) -> Invariants:
    """Return invariants that have seen a run ask for these reloads."""
    invariants = Invariants()
    invariants.may_buy.update(dict.fromkeys(purchases, frozenset(POOLS["v1"]["user"])))
    return invariants


def test_10_reservations_past_the_cap() -> None:
    rows = StoredRows(asked_for("reload:1", "reload:2"))
    rows.compare_and_set_team(team(1, reservation("reload:1")))

    with pytest.raises(Violation, match="spent plus reserved never passes the cap"):
        rows.compare_and_set_team(
            team(2, reservation("reload:1"), reservation("reload:2", "user:ben"))
        )


def test_11_two_live_reloads_of_one_account() -> None:
    rows = StoredRows(asked_for("reload:1", "reload:2"))

    with pytest.raises(Violation, match="one live reload per account"):
        rows.compare_and_set_team(
            team(1, reservation("reload:1"), reservation("reload:2"), cap_cents=9_000)
        )


def test_12_a_replay_that_changes_something(monkeypatch: pytest.MonkeyPatch) -> None:
    class GivesSomethingEachTime(Debits):
        """The worker of the replay at the end, whose commits are right in every other respect."""

        def debit(self, deliveries, *, now, time_is_left) -> DebitedBatch:  # type: ignore[no-untyped-def]
            principal = next(iter(self._rows.read_account.__self__.accounts))
            gift = GrantChange(principal, f"gift-{now}", "add_on", CREDIT, None, "gift")
            commit(self._rows, principal, [gift], now=now, pause=pause)
            return super().debit(deliveries, now=now, time_is_left=time_is_left)

    monkeypatch.setattr(history, "Debits", GivesSomethingEachTime)

    with pytest.raises(Failed, match="replaying the whole queue changes nothing"):
        run_history(3)


def charged_and_open() -> tuple[StoredRows, Invariants]:
    invariants = asked_for("reload:1")
    rows = StoredRows(invariants)
    held = reservation("reload:1", payment_id="pi-1")
    rows.compare_and_set_team(team(1, held))
    invariants.charged_card("reload:1", "pi-1", 1_000, held)
    return rows, invariants


def test_a_purchase_charged_twice() -> None:
    _, invariants = charged_and_open()

    with pytest.raises(Violation, match="a purchase is charged once"):
        invariants.charged_card("reload:1", "pi-1", 1_000, reservation("reload:1"))


def test_a_charge_that_nothing_was_reserved_for() -> None:
    with pytest.raises(Violation, match="nothing is charged that is not reserved"):
        Invariants().charged_card("reload:1", "pi-1", 1_000, None)


def test_a_charge_of_a_payment_that_the_row_does_not_name() -> None:
    with pytest.raises(Violation, match="nothing is charged that the row does not name"):
        Invariants().charged_card("reload:1", "pi-2", 1_000, reservation("reload:1"))


def test_a_reservation_released_although_it_was_charged() -> None:
    rows, _ = charged_and_open()

    with pytest.raises(Violation, match="settled if it was charged, and released if it was not"):
        rows.compare_and_set_team(team(2))


def test_a_decline_that_is_given_up_instead_of_counted() -> None:
    invariants = asked_for("reload:1")
    rows = StoredRows(invariants)
    rows.compare_and_set_team(team(1, reservation("reload:1", payment_id="pi-1")))
    invariants.declined_card("pi-1")

    with pytest.raises(Violation, match="what was declined is not given up"):
        rows.compare_and_set_team(team(2))


def test_credits_that_were_charged_and_never_granted() -> None:
    _, invariants = charged_and_open()
    invariants.spent.clear()

    with pytest.raises(Violation, match="what was charged was granted"):
        invariants.check_at_the_end()


def test_an_acknowledgement_of_a_providers_answer_that_nobody_observed() -> None:
    invariants = Invariants()
    sent = Sent(1, "", (), is_rejected=False, reports=("empty: run-1 e-1",))

    with pytest.raises(Violation, match="acknowledged implies observed"):
        invariants.acknowledged(sent)

    invariants.observation_put(model_provider_error("run-1"))
    invariants.acknowledged(sent)


def test_a_providers_answer_that_is_observed_twice() -> None:
    invariants = Invariants()
    invariants.observation_put(model_provider_error("run-1"))

    with pytest.raises(Violation, match="observed once"):
        invariants.observation_put(model_provider_error("run-1"))


def test_a_providers_answer_that_is_never_announced() -> None:
    invariants = Invariants()
    invariants.observation_put(model_provider_error("run-1"))

    with pytest.raises(Violation, match="what a provider answered is announced"):
        invariants.check_at_the_end()


def test_a_providers_answer_that_is_announced_though_nobody_observed_it() -> None:
    with pytest.raises(Violation, match="only what a provider answered is announced"):
        Invariants().published(notice_of(model_provider_error("run-1")))


# What changes while runs are under way: settings, policies, owners and members.


def test_a_purchase_into_a_pool_that_the_run_which_asked_does_not_draw() -> None:
    rows = StoredRows(asked_for("reload:1"))

    with pytest.raises(Violation, match="a pool that the run which asked draws"):
        rows.compare_and_set_team(team(1, reservation("reload:1", pool="extra")))


def test_a_pack_at_another_price_than_its_policy_says() -> None:
    rows = StoredRows(asked_for("reload:1"))

    with pytest.raises(Violation, match="a pack costs what its policy says"):
        rows.compare_and_set_team(team(1, reservation("reload:1", price_cents=999)))


def test_a_charge_into_a_pool_that_no_rule_draws() -> None:
    held = reservation("purchase:1", pool="contract", payment_id="pi-1")

    with pytest.raises(Violation, match="nothing is charged into a pool that no rule draws"):
        Invariants().charged_card("purchase:1", "pi-1", 1_000, held)


def with_reload(ledger: Ledger, **fields: object) -> Account:
    """Return the row of one more event, with a reload of ours on it."""
    row = ledger.next_row("e2", "1")
    reload = Reload(
        "reload:user:ana:3", "acme", POOLS["v1"]["user"], "requested", 0, 1, NOW, NOW + 5 * MINUTE
    )
    return replace(row, reload=replace(reload, **fields))


def knows(*teams: Team, asking: tuple[str, ...] = POOLS["v1"]["user"]) -> Knowledge:
    return Knowledge((ACME,), NOW, frozenset({asking}), teams)


def test_a_reload_that_no_run_asked_for(ledger: Ledger) -> None:
    ledger.invariants.known = knows(asking=POOLS["v1"]["team"])

    with pytest.raises(Violation, match="a reload is asked for by a run that is there"):
        ledger.write(with_reload(ledger))


def test_a_reload_that_changes_its_pools(ledger: Ledger) -> None:
    ledger.invariants.known = knows()
    ledger.write(with_reload(ledger))
    row = ledger.next_row("e3", "1")
    assert row.reload

    with pytest.raises(Violation, match="keeps the pools of the run that asked"):
        ledger.write(replace(row, reload=replace(row.reload, pools=("contract",))))


@pytest.mark.parametrize("cause", ["auto_reload_off", "payment_method_missing", "suspended"])
def test_a_decline_for_settings_that_do_not_rule_it_out(ledger: Ledger, cause: str) -> None:
    pays = {"auto_reload": ON, "payment": CARD}
    ledger.invariants.known = knows(team(1).model_copy(update=pays))

    with pytest.raises(Violation, match="has settings that rule it out"):
        ledger.write(with_reload(ledger, state="declined", until=None, cause=cause))


def test_a_decline_for_want_of_a_pack_that_is_sold(ledger: Ledger) -> None:
    sold = ON.model_copy(update={"pack_microcredits": 20 * CREDIT})
    ledger.invariants.known = knows(team(1).model_copy(update={"auto_reload": sold}))
    until = NOW + 10 * MINUTE

    with pytest.raises(Violation, match="has settings that rule it out"):
        ledger.write(
            with_reload(ledger, state="declined", until=until, cause="auto_reload_not_applicable")
        )


@pytest.mark.parametrize("cause", ["auto_reload_not_applicable", "payment_unavailable"])
def test_a_decline_without_an_end_that_settings_did_not_cause(ledger: Ledger, cause: str) -> None:
    unsold = ON.model_copy(update={"pack_microcredits": 21 * CREDIT})
    ledger.invariants.known = knows(team(1).model_copy(update={"auto_reload": unsold}))

    with pytest.raises(Violation, match="a decline that settings did not cause has an end"):
        ledger.write(with_reload(ledger, state="declined", until=None, cause=cause))


def test_a_decline_that_holds_for_a_year(ledger: Ledger) -> None:
    ledger.invariants.known = knows(team(1))
    until = NOW + timedelta(days=365)

    with pytest.raises(Violation, match="a decline ends within a month"):
        ledger.write(
            with_reload(ledger, state="declined", until=until, cause="payment_unavailable")
        )


def test_a_whole_run_on_two_accounts(ledger: Ledger) -> None:
    ledger.invariants.whole_runs.add("run-e2")
    ledger.invariants.account_of_run["run-e2"] = BEN

    with pytest.raises(Violation, match="a run that says when it began is on one account"):
        ledger.write(ledger.next_row("e2", "1"))


def test_a_whole_run_that_is_given_back_in_part(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.invariants.whole_runs.add("run-e1")
    ledger.invariants.held_by_run["run-e1"][ANA, "soon"] = 2 * CREDIT
    row = with_last_entry(
        ledger.next_row("e2", "0"),
        lambda e: replace(
            e,
            type="agent_run.finished",
            outcome="returned",
            identity=replace(e.identity, subject="run-e1"),
            draws=(Draw("add_on", "soon", CREDIT),),
        ),
    )
    # The rules would notice it as well; the whole run has to be noticed without them.
    monkeypatch.setattr(ledger.invariants, "_expected", lambda *_: None)

    with pytest.raises(Violation, match="what a run drew is given back whole"):
        ledger.invariants.account_committed(ledger.account, row)


def test_late_usage_of_an_errored_run_that_is_charged(ledger: Ledger) -> None:
    commit(
        ledger.rows, ANA, run_changes(finished("f1", "error", run="run-e2")), now=NOW, pause=pause
    )
    row = ledger.next_row("e2", "1")
    charged = with_last_entry(
        row, lambda e: replace(e, outcome="debited", draws=(Draw("add_on", "soon", CREDIT),))
    )

    with pytest.raises(Violation, match=r"outcome='debited'.*the rules say .*outcome='waived'"):
        ledger.write(charged)


def test_a_grace_that_begins_again(ledger: Ledger) -> None:
    row = ledger.next_row("e2", "1")
    soon, later = row.grants
    renewed = replace(soon, expires_at=NOW + timedelta(days=31))

    with pytest.raises(Violation, match="grace ends once, counted from the grant's own expiry"):
        ledger.write(replace(row, grants=(renewed, later)))


REMOVED_AT = NOW
ENDS_AT = NOW + 2 * EVERY_WORKER_KNOWS
WITHOUT_BEN = team(2).model_copy(
    update={"members": frozenset({"ana"}), "former_members": (("ben", ENDS_AT),)}
)
OF_BEN = run_changes(usage("b1", "1", user="ben"))[0]


def sent_by_ben(at: datetime) -> Sent:
    event = (OF_BEN.identity, OF_BEN.payload_hash)
    return Sent(1, "", (event,), is_rejected=False, senders=(Sender(event[0], "acme", "ben", at),))


def without_ben() -> Invariants:
    invariants = Invariants()
    invariants.team_committed(team(1), WITHOUT_BEN)
    return invariants


def test_a_member_who_is_rejected_by_what_a_worker_read_before_they_joined() -> None:
    steps = iter((3, 7))
    invariants = Invariants()
    invariants.steps = lambda: next(steps)
    invariants.team_committed(team(1), WITHOUT_BEN)
    invariants.team_committed(WITHOUT_BEN, team(3))

    invariants.check_rejected(sent_by_ben(ENDS_AT), began=7)
    with pytest.raises(Violation, match="usage dated before a removal's end is never rejected"):
        invariants.check_rejected(sent_by_ben(ENDS_AT), began=8)


@pytest.mark.parametrize("setting", [{"time_zone": "Asia/Tokyo"}, {"spend_cap_cents": 2_000}])
def test_a_change_of_settings_that_lifts_nothing(setting: dict[str, object]) -> None:
    changed = team(2).model_copy(update=setting)

    with pytest.raises(Violation, match="a change of settings lifts what was declined"):
        Invariants().team_committed(team(1), changed)

    Invariants().team_committed(team(1), changed.model_copy(update={"settings_version": 2}))


def test_usage_dated_before_a_removals_end_that_is_rejected() -> None:
    before = sent_by_ben(ENDS_AT - timedelta(seconds=1))

    with pytest.raises(Violation, match="usage dated before a removal's end is never rejected"):
        without_ben().check_rejected(before, began=1)

    without_ben().check_rejected(sent_by_ben(ENDS_AT), began=1)


def test_a_recorded_event_that_is_not_recognised_when_it_comes_again(ledger: Ledger) -> None:
    gift = GrantChange(BEN, "g-1", "add_on", 5 * CREDIT, None, "gift")
    commit(ledger.rows, BEN, [gift], now=NOW, pause=pause, opens_account=True)
    commit(ledger.rows, BEN, [OF_BEN], now=NOW, pause=pause)
    ledger.invariants.team_committed(team(1), WITHOUT_BEN)

    with pytest.raises(Violation, match="a recorded event is recognised when it comes again"):
        ledger.invariants.check_rejected(sent_by_ben(ENDS_AT), began=1)


@pytest.mark.parametrize(
    ("changes", "violation"),
    [
        ({"former_members": ()}, "a removal ends after a notice"),
        ({"former_members": (("ben", NOW),)}, "a removal ends after a notice"),
    ],
)
def test_a_removal_that_no_worker_can_know_of_in_time(
    changes: dict[str, object], violation: str
) -> None:
    rows = rows_at_noon()

    with pytest.raises(Violation, match=violation):
        rows.compare_and_set_team(WITHOUT_BEN.model_copy(update=changes))


@pytest.mark.parametrize(
    ("former", "violation"),
    [((), "a removal's end stays"), ((("ben", NOW),), "a removal's end stays")],
)
def test_a_removal_that_changes_afterwards(former: tuple[object, ...], violation: str) -> None:
    rows = rows_at_noon()
    rows.compare_and_set_team(WITHOUT_BEN)

    with pytest.raises(Violation, match=violation):
        rows.compare_and_set_team(
            WITHOUT_BEN.model_copy(update={"version": 3, "former_members": former})
        )


def test_a_tenure_without_a_notice() -> None:
    rows = rows_at_noon()
    first = team(1).tenures[0]
    at_once = (first, first.model_copy(update={"since": NOW, "owner": "ben"}))

    with pytest.raises(Violation, match="a new tenure starts after a notice"):
        rows.compare_and_set_team(team(2).model_copy(update={"tenures": at_once}))


@pytest.mark.parametrize("begins_in", [timedelta(0), BILLED_AHEAD])
def test_a_tenure_that_is_dropped_though_it_may_have_billed(begins_in: timedelta) -> None:
    invariants = Invariants()
    rows = rows_at_noon(invariants)
    first = team(1).tenures[0]
    another = (first, first.model_copy(update={"since": NOW + 2 * EVERY_WORKER_KNOWS}))
    rows.compare_and_set_team(team(2).model_copy(update={"tenures": another}))
    invariants.now = lambda: NOW + 2 * EVERY_WORKER_KNOWS - begins_in

    with pytest.raises(Violation, match="a tenure that may have billed never changes"):
        rows.compare_and_set_team(team(3))


def test_a_tenure_that_changes_after_it_began() -> None:
    rows = rows_at_noon()
    another = (team(1).tenures[0].model_copy(update={"owner": "ben"}),)

    with pytest.raises(Violation, match="a tenure that may have billed never changes"):
        rows.compare_and_set_team(team(2).model_copy(update={"tenures": another}))


def rows_at_noon(invariants: Invariants | None = None) -> StoredRows:
    invariants = invariants or Invariants()
    invariants.now = lambda: NOW
    rows = StoredRows(invariants)
    rows.compare_and_set_team(team(1))
    return rows
