"""Every interleaving of two workers that carry out one reload, crashes at every call included.

Explored breadth first, like the model of the write protocol: the message is delivered a bounded
number of times, to either worker, before or after its deadline; a worker may crash before and after
each of its calls. The provider may take the money or decline, answer or not. Between any two calls
a file may be applied that makes the team an enterprise. A worker is the sequence of answers it has
had; its next step is found by replaying the real saga over them.

Checked in every state: the card is charged once at most, the credits are granted once at most, and
what is spent and reserved is within the cap; nothing is bought that the run which asked does not
draw. Checked of every state: if the message is delivered
once more, and then all goes well, nothing stays open, and who was charged has the credits. Where
one worker acknowledged the message while the other crashed, it never comes again, and the account's
next reload does as much.
"""

from collections.abc import Collection, Hashable, Iterator
from datetime import datetime
from typing import Any, Literal, NamedTuple

import pytest

from agent_credits.billing.teams import TENURE_NOTICE, Team
from agent_credits.commit.write_protocol import commit
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Identity
from agent_credits.notices.announcements import AccountRecord, reload_requests
from agent_credits.payments.port import Charge, PaymentUnavailable
from agent_credits.payments.reload_saga import Open, ReloadSaga
from agent_credits.values.errors import Contended
from tests.memory_rows import MemoryRows
from tests.simulation.exploration import explored
from tests.simulation.mutants import BuysWhatTheSettingsSay
from tests.unit.builders import (
    ANA,
    MINUTE,
    NOW,
    PACK_CENTS,
    POLICY,
    POOLS,
    RELOADING_ACME,
    pause,
    run_change,
    usage,
)
from tests.unit.payments.payment_fakes import FakePayments, OfConfirm, Payment
from tests.unit.reload_world import ReloadWorld, short_world

STATES_MAX = 500_000
# All goes well in them: the provider answers, and no worker crashes.
REDELIVERIES_MAX = 3
IN_TIME = NOW
LATE = NOW + 6 * MINUTE
MUCH_LATER = NOW + 60 * MINUTE


class Asked(BaseException):
    """Stops a replay at the first call that has no answer yet."""

    def __init__(self, name: str, arguments: tuple[Any, ...]) -> None:
        self.name = name
        self.arguments = arguments


class Unavailable(NamedTuple):
    """The answer of a provider that did not answer."""


class Answered:
    """Every port at once, answering from a recorded sequence."""

    def __init__(self, answers: tuple[Any, ...]) -> None:
        self._answers = iter(answers)

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            for answer in self._answers:
                if isinstance(answer, Unavailable):
                    raise PaymentUnavailable("no answer")
                return answer
            raise Asked(name, arguments)

        return call

    def read_receipts(self, identities: Collection[Identity]) -> Any:
        """Look nothing up where nothing is asked, which is no step of its own."""
        if not identities:
            return {}
        receipts = self.__getattr__("read_receipts")(tuple(identities))
        return {receipt.entry.identity: receipt for receipt in receipts}


class World(NamedTuple):
    """All that outlives a worker. The reload's page is never full, so that no receipt is made."""

    team: Team
    account: Account
    # Of each payment its status and what it costs; its number is its id.
    payments: tuple[tuple[str, Charge], ...]


class Worker(NamedTuple):
    """Numbers stand for interned values, so that a state is small and quick to compare."""

    now: int = -1
    answers: int = -1


class State(NamedTuple):
    world: int
    workers: tuple[Worker, ...]
    deliveries_left: int
    # The message was acknowledged, so it never comes again.
    is_acknowledged: bool = False
    # The operator has applied the file that changes the team.
    is_applied: bool = False


Outcome = Literal["takes the money", "declines"]


def rows_of(world: World) -> MemoryRows:
    rows = MemoryRows()
    rows.teams[world.team.team_id] = world.team
    rows.policies[POLICY.version] = POLICY
    rows.accounts[ANA] = world.account
    return rows


def payments_of(world: World, confirms: tuple[OfConfirm, ...] = ("success",)) -> FakePayments:
    fake = FakePayments(confirms)
    for number, (status, charge) in enumerate(world.payments, 1):
        fake.payments[f"pay_{number}"] = Payment(f"pay_{number}", charge, status)  # type: ignore[arg-type]
    return fake


def world_after(rows: MemoryRows, fake: FakePayments) -> World:
    payments = tuple((p.status, p.charge) for p in fake.payments.values())
    return World(rows.teams[RELOADING_ACME.team_id], rows.accounts[ANA], payments)


def saga_over(port: Any, payments: Any) -> ReloadSaga:
    return ReloadSaga(port, port, {"stripe": payments, "invoice": payments}, pause)


class Model:
    def __init__(
        self,
        outcome: Outcome,
        nows: tuple[datetime, ...],
        deliveries_max: int,
        first: ReloadWorld,
        *,
        becomes_enterprise: bool = False,
    ) -> None:
        self._confirm: OfConfirm = "success" if outcome == "takes the money" else "decline"
        self._nows = nows
        self._becomes_enterprise = becomes_enterprise
        self._request = first.requests[0]
        self._values: list[Any] = []
        self._numbers: dict[Hashable, int] = {}
        self._next_calls: dict[Worker, Asked | bool] = {}
        self._steps_taken: dict[tuple[int, Worker], list[tuple[int, int]]] = {}
        # Many states share a world, and it says the same in each.
        self._checked: set[int] = set()
        world = self._intern(world_after(first.rows, first.payments))
        self._first = State(world, (Worker(), Worker()), deliveries_max)

    def explore(self) -> int:
        """Return how many states there are; raises AssertionError at one that is wrong."""
        return explored(self._first, self._successors, self._check, STATES_MAX)

    def _successors(self, state: State) -> Iterator[State]:
        if self._becomes_enterprise and not state.is_applied:
            world: World = self._values[state.world]
            changed = world._replace(team=as_enterprise(world.team))
            yield state._replace(world=self._intern(changed), is_applied=True)
        for number, worker in enumerate(state.workers):
            others = tuple(w for n, w in enumerate(state.workers) if n != number)
            if worker != Worker():
                # A crash before the next call; one after it is a crash before the call after that.
                yield state._replace(workers=(*others, Worker()))
                yield from self._steps(state, worker, others)
            elif state.deliveries_left and not state.is_acknowledged:
                for now in range(len(self._nows)):
                    yield state._replace(
                        workers=(*others, Worker(now)), deliveries_left=state.deliveries_left - 1
                    )

    def _steps(self, state: State, worker: Worker, others: tuple[Worker, ...]) -> Iterator[State]:
        call = self._next_call(worker)
        if isinstance(call, bool):
            acknowledged = state.is_acknowledged or call
            yield state._replace(workers=(*others, Worker()), is_acknowledged=acknowledged)
            return
        key = (state.world, worker)
        if key not in self._steps_taken:
            self._steps_taken[key] = [
                (self._intern(world), self._intern((worker.answers, answer)))
                for world, answer in self._answers(self._values[state.world], call)
            ]
        for world, answers in self._steps_taken[key]:
            told = worker._replace(answers=answers)
            yield state._replace(world=world, workers=(*others, told))

    def _next_call(self, worker: Worker) -> Asked | bool:
        """Return what the worker asks for next; at its end, whether it acknowledges the message."""
        if worker not in self._next_calls:
            port = Answered(self._told(worker))
            try:
                resolution = saga_over(port, port).resolve(self._request, self._nows[worker.now])
            except Asked as asked:
                self._next_calls[worker] = asked
            except Contended:
                self._next_calls[worker] = False
            else:
                self._next_calls[worker] = not isinstance(resolution, Open)
        return self._next_calls[worker]

    def _told(self, worker: Worker) -> tuple[Any, ...]:
        told: list[Any] = []
        answers = worker.answers
        while answers != -1:
            answers, answer = self._values[answers]
            told.append(answer)
        return tuple(reversed(told))

    def _answers(self, world: World, asked: Asked) -> Iterator[tuple[World, Any]]:
        """Yield what the call may do to the world, and what the worker is told of it."""
        if asked.name == "read_receipts":
            yield world, ()
            return
        of_payments = asked.name in ("create", "confirm", "cancel")
        rows, fake = rows_of(world), payments_of(world, (self._confirm,))
        answer = getattr(fake if of_payments else rows, asked.name)(*asked.arguments)
        after = world_after(rows, fake)
        yield after, answer
        if of_payments:
            yield world, Unavailable()
            yield after, Unavailable()

    def _check(self, state: State) -> None:
        world: World = self._values[state.world]
        if state.world not in self._checked:
            self._checked.add(state.world)
            check(world)
            self._check_another_delivery_ends_it(world)
        if state.is_acknowledged and all(w == Worker() for w in state.workers):
            self._check_next_reload_ends_it(world)

    def _check_another_delivery_ends_it(self, world: World) -> None:
        """Deliver the message until it is done, as the queue would, and look at the end."""
        rows, fake = rows_of(world), payments_of(world, (self._confirm,))
        for _ in range(REDELIVERIES_MAX):
            resolution = saga_over(rows, fake).resolve(self._request, self._nows[-1])
            if not isinstance(resolution, Open):
                break
        end = world_after(rows, fake)
        check(end)
        check_nothing_is_open(end)

    def _check_next_reload_ends_it(self, world: World) -> None:
        """Let the account ask for its next reload: what a crash left open must not stand in it."""
        rows, fake = rows_of(world), payments_of(world, (self._confirm,))
        event = usage("e-next", "1000", run="run-next")
        commit(rows, ANA, [run_change(event, RELOADING_ACME)], now=MUCH_LATER, pause=pause)
        (request,) = (
            r
            for record in rows.stream
            for r in reload_requests(AccountRecord(*record))
            if not r.follows_up
        )
        saga_over(rows, fake).resolve(request, MUCH_LATER)
        check_nothing_is_open(world_after(rows, fake))

    def _intern(self, value: Hashable) -> int:
        number = self._numbers.setdefault(value, len(self._values))
        if number == len(self._values):
            self._values.append(value)
        return number


def charges(world: World) -> int:
    return sum(status == "paid" for status, _ in world.payments)


def grants(world: World) -> int:
    return sum(entry.type == "reload.granted" for entry in world.account.entries)


def as_enterprise(team: Team) -> Team:
    """Return the team as a file leaves it whose tenure begins after the notice."""
    assert team.auto_reload
    newest = team.tenures[-1]
    enterprise = newest.model_copy(update={"since": NOW + TENURE_NOTICE, "kind": "enterprise"})
    changed = {
        "version": team.version + 1,
        "settings_version": team.settings_version + 1,
        "auto_reload": team.auto_reload.model_copy(update={"pool": "contract"}),
        "tenures": (*team.tenures, enterprise),
    }
    return team.model_copy(update=changed)


def check(world: World) -> None:
    assert charges(world) <= 1, "the card was charged twice"
    assert grants(world) <= 1, "the credits were granted twice"
    spending = world.team.spending
    held = spending.spent_in("2025-11") + spending.reserved_in("2025-11")
    assert held <= world.team.spend_cap_cents, "the cap was passed"
    assert spending.declines_in_a_row <= 1, "one decline was counted twice"
    bought = [reservation.pool for reservation in spending.reservations]
    bought += [grant.pool for grant in world.account.grants if grant.cause == "reload"]
    assert set(bought) <= set(POOLS), "credits were bought that the run cannot draw"


def check_nothing_is_open(world: World) -> None:
    assert world.team.spending.reservations == (), "the reservation is stuck"
    assert charges(world) == grants(world), "who was charged has not the credits, or has them free"
    paid = sum(charge.price_cents for status, charge in world.payments if status == "paid")
    assert world.team.spending.spent_cents == paid
    reload = world.account.reload
    assert reload is None or reload.state == "declined", "the reload is stuck"


@pytest.mark.parametrize("outcome", ["takes the money", "declines"])
@pytest.mark.parametrize(
    ("nows", "deliveries_max", "cap_cents"),
    [
        pytest.param((IN_TIME,), 3, PACK_CENTS, id="in time, three deliveries, at the cap"),
        pytest.param((IN_TIME,), 3, 10 * PACK_CENTS, id="in time, three deliveries"),
        pytest.param((IN_TIME, LATE), 2, 10 * PACK_CENTS, id="in time or late, two deliveries"),
    ],
)
def test_two_workers_that_crash_anywhere_charge_grant_and_settle_once(
    outcome: Outcome, nows: tuple[datetime, ...], deliveries_max: int, cap_cents: int
) -> None:
    world, _ = short_world(team=RELOADING_ACME.model_copy(update={"spend_cap_cents": cap_cents}))

    states = Model(outcome, nows, deliveries_max, world).explore()

    assert states > 300


@pytest.mark.parametrize("outcome", ["takes the money", "declines"])
def test_a_team_that_becomes_an_enterprise_meanwhile_is_charged_for_nothing_it_cannot_draw(
    outcome: Outcome,
) -> None:
    world, _ = short_world(team=RELOADING_ACME)

    model = Model(outcome, (IN_TIME, LATE), 2, world, becomes_enterprise=True)

    assert model.explore() > 300


def test_a_saga_that_buys_what_the_settings_say_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(__name__ + ".ReloadSaga", BuysWhatTheSettingsSay)
    world, _ = short_world(team=RELOADING_ACME)

    with pytest.raises(AssertionError, match="credits were bought that the run cannot draw"):
        Model("takes the money", (IN_TIME,), 2, world, becomes_enterprise=True).explore()
