"""The saga with one fault at a time: a crash, another worker, a bad answer, a late message."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from agent_credits.billing.policy import Pack
from agent_credits.billing.spend_cap import RESERVATIONS_MAX
from agent_credits.billing.teams import TENURE_NOTICE
from agent_credits.ledger.reloads import (
    DECLINE_HOLD,
    RELOAD_DEADLINE,
    ReloadRequest,
    ask_again_seconds,
)
from agent_credits.payments.port import InvoicePayments
from agent_credits.payments.reload_saga import (
    Granted,
    NotGranted,
    Open,
    ReloadSaga,
    Resolution,
    Stale,
)
from agent_credits.values.errors import Contended
from agent_credits.values.principals import Principal
from tests.unit.builders import (
    ANA,
    BEN,
    CARD,
    INVOICE,
    ON,
    OTHER_CARD,
    PACK_CENTS,
    POLICY,
    RELOADING_ACME,
    SECOND,
    pause,
    reservation,
    run_change,
    usage,
)
from tests.unit.payments.payment_fakes import FakePayments, OfConfirm
from tests.unit.reload_world import ReloadWorld, short_world

CALLS_MAX = 60
DELIVERIES = 10


class Crash(BaseException):
    """The worker is gone; none of our code may catch this."""


class Steps:
    """Lets something happen before or after the saga's nth call of any port."""

    def __init__(self, at: int, happens: Callable[[], None], *, before: bool) -> None:
        self.made = 0
        self._at = at
        self._happens = happens
        self._before = before

    @property
    def were_reached(self) -> bool:
        return self.made >= self._at

    def over(self, port: Any) -> Any:
        return _Stepped(port, self)

    def take(self, call: Callable[[], Any]) -> Any:
        self.made += 1
        is_the_one = self.made == self._at
        if is_the_one and self._before:
            self._happens()
        answer = call()
        if is_the_one and not self._before:
            self._happens()
        return answer


class _Stepped:
    def __init__(self, port: Any, steps: Steps) -> None:
        self._port = port
        self._steps = steps

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self._port, name)
        return lambda *arguments: self._steps.take(lambda: call(*arguments))


def stepped_saga(world: ReloadWorld, steps: Steps) -> ReloadSaga:
    rows = steps.over(world.rows)
    payments = {"stripe": steps.over(world.payments), "invoice": InvoicePayments()}
    return ReloadSaga(rows, rows, payments, pause)


def crash() -> None:
    raise Crash


def deliver_until_done(world: ReloadWorld, deliveries: int = DELIVERIES) -> list[Resolution]:
    resolutions = [world.resolve() for _ in range(deliveries)]
    assert not isinstance(resolutions[-1], Open)
    return resolutions


def assert_paid_once(world: ReloadWorld, request: ReloadRequest) -> None:
    """Check that there is one charge, one grant and one settlement, and nothing left open."""
    assert [charge.purchase_id for charge in world.payments.charges] == [request.reload_id]
    granted = [e for e in world.history() if e.type == "reload.granted"]
    assert [e.identity.id for e in granted] == [request.reload_id]
    settled = [p for p in world.spending.recent if p.outcome == "settled"]
    assert [p.purchase_id for p in settled] == [request.reload_id]
    assert world.spending.spent_cents == world.payments.charges[0].price_cents
    assert world.spending.reservations == ()
    assert world.account().reload is None


def assert_not_charged(world: ReloadWorld) -> None:
    """Check that nothing was charged, and that no head-room is reserved."""
    assert world.payments.charges == []
    assert world.spending.reservations == ()
    assert world.spending.spent_cents == 0
    assert world.reload().state == "declined"


def test_a_reload_reserves_charges_grants_and_settles() -> None:
    world, _ = short_world()

    resolution = world.resolve()

    assert isinstance(resolution, Granted)
    assert_paid_once(world, world.requests[0])
    assert world.available() == 550


def test_head_room_is_reserved_and_the_payment_stored_before_a_card_is_touched() -> None:
    world, _ = short_world()
    held_at_confirm = []
    confirm = world.payments.confirm

    def watched(payment_id: str) -> Any:
        held_at_confirm.append(world.spending.reservations)
        return confirm(payment_id)

    world.payments.confirm = watched  # type: ignore[method-assign]
    world.resolve()

    ((held,),) = held_at_confirm
    assert held.price_cents == PACK_CENTS
    assert held.payment_id == "pay_1"


@pytest.mark.parametrize("before", [True, False], ids=["before the call", "after the call"])
@pytest.mark.parametrize("confirm", ["success", "decline"])
def test_a_crash_at_any_call_and_ten_more_deliveries_charge_grant_and_settle_once(
    confirm: OfConfirm, *, before: bool
) -> None:
    for at in range(1, CALLS_MAX):
        world, _ = short_world(payments=FakePayments([confirm]))
        steps = Steps(at, crash, before=before)

        try:
            stepped_saga(world, steps).resolve(world.requests[0], world.now)
        except Crash:
            deliver_until_done(world)
        else:
            world.announce()
        if confirm == "success":
            assert_paid_once(world, world.requests[0])
        else:
            assert_not_charged(world)
            assert world.spending.declines_in_a_row == 1
        if not steps.were_reached:
            return
    pytest.fail("the saga never ended")


@pytest.mark.parametrize("confirm", ["success", "decline"])
def test_a_second_worker_that_runs_at_any_call_of_the_first_changes_nothing(
    confirm: OfConfirm,
) -> None:
    for at in range(1, CALLS_MAX):
        world, _ = short_world(payments=FakePayments([confirm]))
        steps = Steps(at, lambda world=world: world.resolve(), before=True)  # type: ignore[misc]

        try:
            stepped_saga(world, steps).resolve(world.requests[0], world.now)
        except Contended:
            world.resolve()
        world.announce()
        if confirm == "success":
            assert_paid_once(world, world.requests[0])
            assert world.notices_of_type("auto_reload.declined") == [], f"call {at}"
        else:
            assert_not_charged(world)
            assert world.spending.declines_in_a_row == 1, f"call {at}"
        if not steps.were_reached:
            return
    pytest.fail("the saga never ended")


def test_two_workers_at_the_cap_do_not_decline_the_reload_that_one_of_them_reserved() -> None:
    team = RELOADING_ACME.model_copy(update={"spend_cap_cents": PACK_CENTS})
    for at in range(1, CALLS_MAX):
        world, _ = short_world(team=team)
        steps = Steps(at, lambda world=world: world.resolve(), before=True)  # type: ignore[misc]

        try:
            stepped_saga(world, steps).resolve(world.requests[0], world.now)
        except Contended:
            world.resolve()
        world.announce()
        assert_paid_once(world, world.requests[0])
        assert world.notices_of_type("auto_reload.declined") == [], f"call {at}"
        if not steps.were_reached:
            return
    pytest.fail("the saga never ended")


def test_a_reservation_is_kept_and_paid_if_the_answer_to_its_write_was_lost() -> None:
    """The client repeats a write whose response was lost; the repeat then loses to the first."""
    team = RELOADING_ACME.model_copy(update={"spend_cap_cents": PACK_CENTS})
    world, _ = short_world(team=team)
    write = world.rows.compare_and_set_team
    world.rows.compare_and_set_team = lambda team: write(team) or write(team)  # type: ignore[method-assign]

    assert isinstance(world.resolve(), Granted)

    assert_paid_once(world, world.requests[0])
    assert world.notices_of_type("auto_reload.declined") == []


def test_a_message_delivered_ten_times_is_carried_out_once() -> None:
    world, _ = short_world()

    resolutions = deliver_until_done(world)

    assert [type(r) for r in resolutions] == [Granted] + [Stale] * 9
    assert_paid_once(world, world.requests[0])
    assert len(world.notices_of_type("auto_reload.succeeded")) == 1


@pytest.mark.parametrize(
    ("confirms", "is_paid"),
    [
        pytest.param(["500", "success"], True, id="500 before it was applied"),
        pytest.param(["500", "500", "500", "success"], True, id="500 again and again"),
        pytest.param(["timeout after success"], True, id="timed out after it succeeded"),
        pytest.param(["timeout after decline"], False, id="timed out after it failed"),
        pytest.param(["500", "timeout after decline"], False, id="500, then timed out and failed"),
    ],
)
def test_an_unknown_outcome_is_resolved_by_asking_about_the_same_payment(
    confirms: list[OfConfirm], *, is_paid: bool
) -> None:
    world, _ = short_world(payments=FakePayments(confirms))

    first = world.resolve()
    reserved = world.spending.reserved_in("2025-11")
    deliver_until_done(world)

    assert isinstance(first, Open)
    assert reserved == PACK_CENTS
    assert len(world.payments.payments) == 1
    if is_paid:
        assert_paid_once(world, world.requests[0])
    else:
        assert_not_charged(world)


@pytest.mark.parametrize("create", ["500", "response lost"])
def test_a_payment_whose_creation_failed_or_got_no_answer_is_created_again_uncharged(
    create: Any,
) -> None:
    world, _ = short_world(payments=FakePayments(creates=[create, "made"]))

    assert isinstance(world.resolve(), Open)
    deliver_until_done(world)

    assert_paid_once(world, world.requests[0])


@pytest.mark.parametrize("succeeds", [True, False])
def test_a_payment_in_processing_keeps_its_reservation_until_it_ends(*, succeeds: bool) -> None:
    world, event = short_world(payments=FakePayments(["processing"]))
    for _ in range(5):
        assert isinstance(world.resolve(), Open)
        assert world.outcome(event) == "waiting"
        world.later(15 * SECOND)

    world.payments.finish(succeeds=succeeds)
    deliver_until_done(world)

    if succeeds:
        assert_paid_once(world, world.requests[0])
        assert world.outcome(event) == "debited"
    else:
        assert_not_charged(world)
        assert world.entry(event).decline == "payment_declined"


def test_a_payment_that_succeeds_after_the_deadline_still_becomes_credits() -> None:
    world, event = short_world(payments=FakePayments(["processing"]))
    world.resolve()
    world.later(RELOAD_DEADLINE)
    assert isinstance(world.resolve(), Open)
    assert world.reload().cause == "payment_unavailable"
    assert world.outcome(event) == "insufficient"
    assert world.spending.reserved_in("2025-11") == PACK_CENTS

    world.payments.finish(succeeds=True)
    world.later(timedelta(days=1))
    deliver_until_done(world)

    assert_paid_once(world, world.requests[0])
    assert world.available() == 400
    assert [n.type for n in world.notices] == [
        "auto_reload.declined",
        "insufficient_credits",
        "auto_reload.succeeded",
        "credits_restored",
    ]


def test_a_payment_that_is_declined_after_the_deadline_releases_the_reservation() -> None:
    world, _ = short_world(payments=FakePayments(["processing"]))
    world.resolve()
    world.later(RELOAD_DEADLINE)
    world.resolve()

    world.payments.finish(succeeds=False)
    deliver_until_done(world)

    assert_not_charged(world)
    assert len(world.notices_of_type("auto_reload.declined")) == 1


@pytest.mark.parametrize("later", [timedelta(0), timedelta(days=31)])
def test_a_message_that_comes_again_after_success_charges_nothing(later: timedelta) -> None:
    world, event = short_world()
    world.resolve()
    world.deliver(event)
    world.later(later)

    assert deliver_until_done(world) == [Stale()] * DELIVERIES
    assert_paid_once(world, world.requests[0])


@pytest.mark.parametrize("later", [timedelta(0), timedelta(days=31)])
def test_a_message_that_comes_again_after_a_decline_charges_nothing(later: timedelta) -> None:
    world, _ = short_world(payments=FakePayments(["decline", "success"]))
    assert world.resolve() == NotGranted("payment_declined")
    world.later(later)

    assert deliver_until_done(world) == [Stale()] * DELIVERIES
    assert_not_charged(world)


@pytest.mark.parametrize("later", [RELOAD_DEADLINE, timedelta(days=31)])
def test_a_message_that_first_comes_after_the_deadline_charges_nothing(later: timedelta) -> None:
    world, _ = short_world()
    world.later(later)

    assert world.resolve() == NotGranted("payment_unavailable")
    deliver_until_done(world)

    assert_not_charged(world)
    assert world.payments.payments == {}
    # It does not even hold head-room for a while, which another reload may need.
    assert not any(team.spending.reservations for _, team in world.rows.team_stream)


def test_settings_of_another_kind_of_team_buy_nothing_for_a_run_that_cannot_draw_it() -> None:
    """Settings count at once; the kind of team that they belong to only after its notice."""
    world, event = short_world()
    contract = ON.model_copy(update={"pool": "contract"})

    world.apply(auto_reload=contract)

    assert world.resolve() == NotGranted("auto_reload_not_applicable")
    assert_not_charged(world)
    assert world.entry(event).outcome == "insufficient"
    assert [n.data["cause"] for n in world.notices_of_type("auto_reload.declined")] == [
        "auto_reload_not_applicable"
    ]


def test_a_pack_of_a_policy_that_is_to_come_is_bought_at_once() -> None:
    world, event = short_world()
    pack = Pack(microcredits=500_000_000, price_cents=2_500, currency="usd")
    tomorrow = POLICY.model_copy(update={"version": "2026-12", "packs": (pack,)})
    world.rows.policies[tomorrow.version] = tomorrow
    (tenure,) = world.team.tenures
    to_come = {"since": world.now + TENURE_NOTICE, "policy_version": tomorrow.version}

    world.apply(
        auto_reload=ON.model_copy(update={"pack_microcredits": pack.microcredits}),
        tenures=(tenure, tenure.model_copy(update=to_come)),
    )

    resolution = world.resolve()
    assert isinstance(resolution, Granted)
    assert resolution.reservation.microcredits == pack.microcredits
    assert world.entry(event).outcome == "debited"


def test_a_decline_that_settings_did_not_cause_does_not_hold_for_ever() -> None:
    world, event = short_world()
    world.apply(auto_reload=ON.model_copy(update={"pack_microcredits": 1}))
    assert world.resolve() == NotGranted("auto_reload_not_applicable")
    assert world.entry(event).outcome == "insufficient"
    pack = Pack(microcredits=1, price_cents=2_500, currency="usd")
    # Another version under the same name stands for a policy that comes into force later.
    world.rows.policies[POLICY.version] = POLICY.model_copy(update={"packs": (pack,)})

    world.later(DECLINE_HOLD)

    assert world.reload().until is not None
    assert world.outcome(usage("e2", "1000", run="run-2")) == "waiting"


@pytest.mark.parametrize("later", [RELOAD_DEADLINE, timedelta(days=31)])
def test_after_the_deadline_no_payment_is_created(later: timedelta) -> None:
    """Nothing can be charged any more: the reservation is released, the reload declined."""
    world, _ = short_world(payments=FakePayments(creates=["500", "made"]))
    assert isinstance(world.resolve(), Open)
    world.later(later)

    deliver_until_done(world)

    assert_not_charged(world)
    assert world.spending.declines_in_a_row == 0


@pytest.mark.parametrize("later", [RELOAD_DEADLINE, timedelta(days=31)])
def test_after_the_deadline_a_payment_that_was_created_is_not_charged(
    later: timedelta,
) -> None:
    """The events that waited have failed by now; nobody expects a charge any more."""
    world, _ = short_world(payments=FakePayments(["500", "success"]))
    assert isinstance(world.resolve(), Open)
    world.later(later)

    deliver_until_done(world)

    assert_not_charged(world)
    assert world.spending.declines_in_a_row == 0


def test_a_message_for_a_reload_that_the_account_no_longer_asks_for_is_stale() -> None:
    world, event = short_world()
    old = world.requests[0]
    world.later(RELOAD_DEADLINE + DECLINE_HOLD)
    assert world.outcome(event) == "waiting"
    assert world.requests[-1] != old

    assert world.resolve(old) == Stale()
    assert world.payments.payments == {}


def test_a_message_for_a_missing_account_is_stale() -> None:
    world = ReloadWorld()
    request = ReloadRequest("reload:user:nobody:1", "acme", Principal("user", "nobody"))

    assert world.resolve(request) == Stale()


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"auto_reload": None}, "auto_reload_off"),
        ({"auto_reload": ON.model_copy(update={"enabled": False})}, "auto_reload_off"),
        (
            {"auto_reload": ON.model_copy(update={"pack_microcredits": 1})},
            "auto_reload_not_applicable",
        ),
        ({"payment": None}, "payment_method_missing"),
        ({"spend_cap_cents": PACK_CENTS - 1}, "spend_cap_reached"),
        ({"spend_cap_cents": 0}, "spend_cap_reached"),
    ],
)
def test_each_obstacle_declines_with_its_own_cause_before_a_payment_is_created(
    settings: dict[str, Any], cause: Any
) -> None:
    world, _ = short_world()
    world.apply(**settings)

    assert world.resolve() == NotGranted(cause)
    assert world.reload().cause == cause
    assert world.payments.payments == {}
    assert world.spending.reservations == ()
    (notice,) = world.notices_of_type("auto_reload.declined")
    assert notice.data["cause"] == cause


def test_a_reload_by_invoice_is_settled_without_a_card() -> None:
    world, _ = short_world(team=RELOADING_ACME.model_copy(update={"payment": INVOICE}))

    assert isinstance(world.resolve(), Granted)

    assert world.payments.payments == {}
    assert world.spending.spent_cents == PACK_CENTS
    assert world.available() == 550


def test_the_whole_shortfall_is_closed_in_one_charge_of_whole_packs() -> None:
    world, event = short_world(available="150", wanted="2000")

    world.resolve()

    (charge,) = world.payments.charges
    assert charge.price_cents == 5 * PACK_CENTS
    assert world.outcome(event) == "debited"
    assert world.available() == 150
    assert len(world.requests) == 1


def test_a_reload_larger_than_the_cap_buys_as_many_packs_as_fit() -> None:
    team = RELOADING_ACME.model_copy(update={"spend_cap_cents": 3 * PACK_CENTS + 1})
    world, _ = short_world(available="150", wanted="2000", team=team)

    world.resolve()

    (charge,) = world.payments.charges
    assert charge.price_cents == 3 * PACK_CENTS


def test_an_event_that_a_capped_reload_does_not_cover_fails_with_the_cap_as_its_cause() -> None:
    team = RELOADING_ACME.model_copy(update={"spend_cap_cents": 3 * PACK_CENTS})
    world, event = short_world(available="150", wanted="2000", team=team)
    world.resolve()
    assert world.outcome(event) == "waiting"

    assert world.resolve() == NotGranted("spend_cap_reached")
    entry = world.entry(event)

    assert entry.decline == "spend_cap_reached"
    assert entry.drawn_microcredits == 1_350_000_000
    assert len(world.payments.charges) == 1


def test_a_raised_cap_lifts_a_decline_at_once() -> None:
    world, _ = short_world(team=RELOADING_ACME.model_copy(update={"spend_cap_cents": 0}))
    world.resolve()
    assert world.outcome(usage("e2", "200", run="run-2")) == "insufficient"

    world.apply(spend_cap_cents=PACK_CENTS)
    event = usage("e3", "200", run="run-3")
    assert world.outcome(event) == "waiting"
    assert isinstance(world.resolve(), Granted)

    assert world.outcome(event) == "debited"


def test_a_cap_raised_while_a_decline_is_written_lifts_it_too() -> None:
    for at in range(1, CALLS_MAX):
        world, _ = short_world(team=RELOADING_ACME.model_copy(update={"spend_cap_cents": 0}))
        raised = lambda world=world: world.apply(spend_cap_cents=PACK_CENTS)  # noqa: E731
        steps = Steps(at, raised, before=True)
        world.directory.read_again(["acme"], world.now)

        stepped_saga(world, steps).resolve(world.requests[0], world.now)
        world.announce()
        if not steps.were_reached:
            return
        event = usage("e3", "200", run="run-3")
        if world.account().reload is not None:
            assert world.outcome(event) == "waiting", f"raised before call {at}"
            world.resolve()
        assert world.outcome(event) == "debited", f"raised before call {at}"
    pytest.fail("the saga never ended")


def test_a_cap_lowered_below_what_was_spent_declines_the_next_reload() -> None:
    world, event = short_world()
    world.resolve()
    world.deliver(event)

    world.apply(spend_cap_cents=PACK_CENTS // 2)
    again = usage("e2", "1000")
    assert world.outcome(again) == "waiting"

    assert world.resolve() == NotGranted("spend_cap_reached")
    assert world.entry(again).decline == "spend_cap_reached"
    assert world.spending.spent_cents == PACK_CENTS


def test_a_cap_lowered_before_the_card_was_asked_stops_the_charge() -> None:
    world, _ = short_world(payments=FakePayments(["500", "success"]))
    world.resolve()

    world.apply(spend_cap_cents=PACK_CENTS - 1)

    assert world.resolve() == NotGranted("spend_cap_reached")
    assert_not_charged(world)
    assert [payment.status for payment in world.payments.payments.values()] == ["canceled"]


def test_a_cap_lowered_after_the_card_was_asked_comes_too_late() -> None:
    """What was charged is granted: the exception from the cap that nothing can prevent."""
    world, _ = short_world(payments=FakePayments(["timeout after success"]))
    world.resolve()

    world.apply(spend_cap_cents=0)
    deliver_until_done(world)

    assert_paid_once(world, world.requests[0])


def test_a_cap_lowered_while_the_bank_processes_a_payment_leaves_it_open() -> None:
    world, _ = short_world(payments=FakePayments(["processing"]))
    world.resolve()

    world.apply(spend_cap_cents=0)

    assert isinstance(world.resolve(), Open)
    assert len(world.spending.reservations) == 1
    world.payments.finish(succeeds=True)
    deliver_until_done(world)
    assert_paid_once(world, world.requests[0])


def test_an_open_payment_past_its_deadline_is_followed_up_apart_from_the_other_reloads() -> None:
    world, _ = short_world(payments=FakePayments(["processing", "success"]))
    in_time = world.resolve()
    world.later(RELOAD_DEADLINE)

    late = world.resolve()

    (follow_up,) = world.follow_ups
    assert isinstance(in_time, Open)
    assert isinstance(late, Open)
    assert (in_time.is_followed_up, late.is_followed_up) == (False, True)
    assert (follow_up.reload_id, follow_up.follows_up) == (world.requests[0].reload_id, True)
    assert len(world.spending.reservations) == 1
    world.payments.finish(succeeds=True)
    assert isinstance(world.resolve(follow_up), Granted)
    assert_paid_once(world, world.requests[0])


@pytest.mark.parametrize("confirm", ["decline", "success"])
def test_a_follow_up_of_a_reload_that_has_ended_changes_nothing(confirm: OfConfirm) -> None:
    world, _ = short_world(payments=FakePayments([confirm]))
    first = world.resolve()
    before = (world.account(), world.spending.reservations, world.spending.recent)

    again = world.resolve(replace(world.requests[0], follows_up=True))

    assert again == Stale()
    assert isinstance(first, Granted if confirm == "success" else NotGranted)
    assert (world.account(), world.spending.reservations, world.spending.recent) == before
    assert len(world.payments.payments) == 1


@pytest.mark.parametrize(("receives", "seconds"), [(1, 30), (3, 120), (6, 900), (1_000, 900)])
def test_a_follow_up_asks_less_and_less_often(receives: int, seconds: int) -> None:
    request = ReloadRequest("reload:user:ana:2", "acme", Principal("user", "ana"))

    assert ask_again_seconds(request, receives) == 15
    assert ask_again_seconds(replace(request, follows_up=True), receives) == seconds


def test_three_declines_in_a_row_suspend_the_card_and_there_is_no_fourth_attempt() -> None:
    world = world_declined(3)

    assert [n.data["cause"] for n in world.notices_of_type("auto_reload.suspended")] == [
        "suspended"
    ]
    world.later(DECLINE_HOLD)
    event = usage("e-4", "200", run="run-4")
    assert world.outcome(event) == "waiting"
    assert world.resolve() == NotGranted("suspended")
    assert world.entry(event).decline == "suspended"
    world.later(timedelta(days=40))
    assert world.entry(usage("e-5", "200", run="run-5")).decline == "suspended"
    assert len(world.payments.attempts) == 3
    assert len(world.notices_of_type("auto_reload.suspended")) == 1


def test_a_new_payment_method_lifts_a_suspension() -> None:
    world = world_declined(3)
    world.later(DECLINE_HOLD)
    world.deliver(usage("e-4", "200", run="run-4"))
    world.resolve()

    world.apply(payment=OTHER_CARD)
    event = usage("e-5", "200", run="run-5")
    assert world.outcome(event) == "waiting"
    assert isinstance(world.resolve(), Granted)

    assert world.outcome(event) == "debited"
    assert len(world.payments.attempts) == 4


def test_another_change_of_the_settings_does_not_lift_a_suspension() -> None:
    world = world_declined(3)

    world.apply(spend_cap_cents=99 * PACK_CENTS)
    assert world.outcome(usage("e-4", "200", run="run-4")) == "waiting"

    assert world.resolve() == NotGranted("suspended")
    assert len(world.payments.attempts) == 3


def test_a_success_between_declines_resets_their_count() -> None:
    world = world_declined(2)
    world.payments.declining.clear()
    decline_next(world, 3)
    assert world.spending.declines_in_a_row == 0

    world.payments.declining.add(CARD.name)
    world.grant("drain-me", "1")
    decline_next(world, 4, wanted="1000")
    decline_next(world, 5, wanted="1000")

    assert world.spending.declines_in_a_row == 2
    assert world.notices_of_type("auto_reload.suspended") == []


def test_a_new_card_has_three_attempts_of_its_own() -> None:
    world = world_declined(2)

    world.apply(payment=OTHER_CARD)
    world.payments.declining.add(OTHER_CARD.name)
    decline_next(world, 3)

    assert world.notices_of_type("auto_reload.suspended") == []


def world_declined(times: int) -> ReloadWorld:
    """Return a world in which ana's card was declined this often, each time for another run."""
    world = ReloadWorld()
    world.open_account("150")
    world.payments.declining.add(CARD.name)
    for number in range(times):
        decline_next(world, number)
    return world


def decline_next(world: ReloadWorld, number: int, wanted: str = "200") -> None:
    world.later(DECLINE_HOLD)
    event = usage(f"e-{number}", wanted, run=f"run-{number}")
    assert world.outcome(event) == "waiting"
    world.resolve()
    world.deliver(event)


def test_an_open_payment_of_one_account_blocks_no_other_account() -> None:
    world, _ = short_world(payments=FakePayments(["500", "500", "success"]))
    world.open_account("150", BEN)
    world.resolve()

    world.deliver(usage("e-ben", "200", run="run-ben", user="ben"))
    world.resolve()
    deliver_until_done(world)

    assert world.available(BEN) == 550


def test_one_account_has_one_live_reload() -> None:
    world, event = short_world(payments=FakePayments(["processing"]))
    world.resolve()
    world.later(RELOAD_DEADLINE + DECLINE_HOLD)
    assert world.outcome(event) == "waiting"

    world.resolve()

    assert len([r for r in world.spending.reservations if r.principal == str(ANA)]) == 1
    assert len(world.payments.attempts) == 1


@pytest.mark.parametrize("succeeds", [True, False])
def test_a_reload_whose_message_was_lost_does_not_block_its_account_forever(
    *, succeeds: bool
) -> None:
    """Its message went to the dead-letter queue while the payment provider was down."""
    world, event = short_world(payments=FakePayments(["processing"]))
    lost = world.requests[0]
    world.resolve()
    world.payments.finish(succeeds=succeeds)
    world.payments.confirms.clear()
    world.payments.confirms.append("success")
    world.later(RELOAD_DEADLINE + DECLINE_HOLD)

    for number in range(5):
        event = usage(f"e-{number}", "200", run=f"run-{number}")
        if world.outcome(event) == "waiting":
            world.resolve()
            world.deliver(event)
        world.later(DECLINE_HOLD)

    assert world.spending.reservation(lost.reload_id) is None
    assert world.outcome(usage("e-last", "1", run="run-last")) == "debited"


def test_a_reload_is_declined_if_the_teams_row_holds_no_more_reservations() -> None:
    held = tuple(reservation(f"reload:user:u{n}:1", principal=f"user:u{n}", price_cents=0)
                 for n in range(RESERVATIONS_MAX))  # fmt: skip
    spending = RELOADING_ACME.spending.model_copy(update={"reservations": held})
    world, _ = short_world(team=RELOADING_ACME.model_copy(update={"spending": spending}))

    assert world.resolve() == NotGranted("payment_unavailable")


def test_a_reload_is_settled_in_the_month_it_was_reserved_in() -> None:
    world, _ = short_world(payments=FakePayments(["processing"]))
    world.resolve()

    world.payments.finish(succeeds=True)
    world.later(timedelta(days=20))
    world.resolve()

    assert world.spending.spent_in("2025-11") == PACK_CENTS
    assert world.spending.head_room(PACK_CENTS, "2025-12") == PACK_CENTS


def test_a_worker_whose_clock_is_behind_at_the_turn_of_the_month_cannot_pass_the_cap() -> None:
    team = RELOADING_ACME.model_copy(update={"spend_cap_cents": PACK_CENTS, "time_zone": "UTC"})
    world = ReloadWorld(team=team)
    new_month = world.now.replace(month=12, day=1, hour=0)
    for user in ("ana", "ben", "cleo"):
        world.open_account("150", Principal("user", user))
    world.now = new_month - SECOND
    for user in ("ana", "ben", "cleo"):
        world.deliver(usage(f"e-{user}", "200", run=f"run-{user}", user=user))
    of_ana, of_ben, of_cleo = world.requests

    world.resolve(of_ana)
    world.now = new_month
    world.resolve(of_ben)
    world.now = new_month - SECOND
    world.resolve(of_cleo)

    # One pack in November and one in December; the third fits in neither.
    assert len(world.payments.charges) == 2


def test_a_time_zone_that_moves_west_opens_no_second_cap_for_a_month_that_is_over() -> None:
    team = RELOADING_ACME.model_copy(
        update={"spend_cap_cents": PACK_CENTS, "time_zone": "Pacific/Kiritimati"}
    )
    world = ReloadWorld(team=team)
    world.now = world.now.replace(month=11, day=29, hour=12)
    for number in range(3):
        user = f"u{number}"
        world.open_account("150", Principal("user", user))
        if number == 1:
            world.now = world.now.replace(month=11, day=30, hour=12)
        if number == 2:
            world.apply(time_zone="America/New_York")
        world.deliver(usage(f"e-{user}", "200", run=f"run-{user}", user=user))
        world.resolve()

    # One in Kiritimati's November, one in its December; in New York it is still November.
    assert len(world.payments.charges) == 2


def test_a_reload_buys_only_what_is_still_lacking_when_it_is_reserved() -> None:
    world, event = short_world(available="150", wanted="2000")
    world.grant("by-hand", "1900")

    world.resolve()

    (charge,) = world.payments.charges
    assert charge.price_cents == PACK_CENTS
    assert world.outcome(event) == "debited"


def test_a_reload_grants_into_the_pool_that_runs_draw_from() -> None:
    world, _ = short_world()
    world.resolve()

    (grant,) = [g for g in world.account().grants if g.cause == "reload"]
    assert grant.pool == ON.pool
    assert grant.id == world.requests[0].reload_id
    billing = run_change(usage("e"), RELOADING_ACME).billing
    assert billing.reload is not None
    assert grant.pool in billing.pools
