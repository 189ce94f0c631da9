"""Every interleaving of two workers that carry out reloads: the real saga, call by call.

Explored breadth first. Each request is delivered several times, to any worker, in time or after its
deadline; a worker may crash before and after each call; the provider may pay, decline or take its
time, its answers may be lost, and it ignores idempotency keys. All that a saga knows is what it was
answered so far, so a worker's state is that sequence of answers, and its next call is found by
running the saga on it again.

A model begins with accounts that ask for a reload each, or with one account that asks again while
its earlier reload, long declined, is still open at the provider. Between any two calls the operator
may apply another file, once: the team becomes an enterprise, a policy with other packs begins, or
the spend cap falls below what is reserved.
"""

from collections.abc import Hashable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

from agent_credits.billing.policy import BillingPolicy
from agent_credits.billing.spend_cap import CapReservation, PaymentMethod, Spending, with_cap
from agent_credits.billing.teams import TENURE_NOTICE, AutoReload, Team, Tenure
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.reloads import RELOAD_DEADLINE, Reload, ReloadRequest
from agent_credits.payments.port import (
    Canceled,
    Declined,
    Paid,
    PaymentState,
    PaymentUnavailable,
    Unresolved,
)
from agent_credits.payments.reload_saga import Open, ReloadSaga, Resolution
from agent_credits.values.errors import AgentCreditsError, InvariantViolated
from agent_credits.values.principals import Principal
from tests.simulation.exploration import explored
from tests.simulation.workers import pause
from tests.simulation.world import CREDIT, FAR_PAST, POLICIES, POLICY

NOW = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
IN_TIME, TOO_LATE = 0, 1
CLOCKS = (NOW + timedelta(seconds=5), NOW + RELOAD_DEADLINE + timedelta(seconds=5))
PRICE_CENTS = 1_000
STATES_MAX = 2_000_000
# Of the policy that is applied meanwhile; it sells no pack of the first one.
NEXT_POLICY = POLICIES["v2"]
PACKS_ON_SALE = {(p.microcredits, p.price_cents) for p in (*POLICY.packs, *NEXT_POLICY.packs)}
ROW_OF_TEAM = -1
# What the runs draw that asked for the reloads.
POOLS_OF_RUNS = ("plan", "add_on")
CARD = PaymentMethod(provider="stripe", customer="cus-1", payment_method="pm-1")

# Each account asks for its first reload; or one asks again, and at the provider the payment of its
# earlier reload is as far as that.
Begins = Literal["each account asks", "made", "processing", "paid"]
# What the operator applies meanwhile.
Applies = Literal["nothing", "another kind", "another policy", "a lower cap"]


class Asked(BaseException):
    """Stops a saga at the first call that has no answer yet."""

    def __init__(self, name: str, argument: Any) -> None:
        self.name = name
        self.argument = argument


class Answered:
    """Rows and provider in one, that answer from a recorded sequence and stop where it ends."""

    def __init__(self, answers: list[Any]) -> None:
        self._answers = iter(answers)

    def _next(self, name: str, argument: Any) -> Any:
        for answer in self._answers:
            if isinstance(answer, Unavailable):
                raise PaymentUnavailable(name)
            return answer
        raise Asked(name, argument)

    def read_team(self, team_id: str) -> Any:
        return self._next("read_team", team_id)

    def read_policy(self, version: str) -> BillingPolicy:
        return POLICIES[version]  # A policy never changes, so that reading it is no step.

    def read_account(self, principal: Principal) -> Any:
        return self._next("read_account", principal)

    def read_receipts(self, _: Any) -> Any:
        return {}  # No page is ever full here, so there are none.

    def read_run(self, run_id: str) -> Any:
        raise AssertionError(f"a reload asked for {run_id}")

    def put_page(self, page: Any) -> None:
        raise AssertionError(f"page {page.number} was full already")

    def flush_and_read_receipts(self, pages: Any, _: Any) -> Any:
        raise AssertionError(f"{pages} were full already")

    def compare_and_set(self, account: Account) -> Any:
        return self._next("compare_and_set", account)

    def compare_and_set_team(self, team: Team) -> Any:
        return self._next("compare_and_set_team", team)

    def create(self, charge: Any) -> Any:
        return self._next("create", charge.purchase_id)

    def confirm(self, payment_id: str) -> Any:
        return self._next("confirm", payment_id)

    def cancel(self, payment_id: str) -> Any:
        return self._next("cancel", payment_id)


class Unavailable(NamedTuple):
    """The provider's answer did not come; what was asked may have been done."""


class Worker(NamedTuple):
    request: int = -1
    clock: int = 0
    answers: tuple[int, ...] = ()


class State(NamedTuple):
    """Rows by number of their interned value; payments as (purchase, state)."""

    team: int
    accounts: tuple[int, ...]
    payments: tuple[tuple[str, str], ...]
    deliveries: tuple[int, ...]
    done: frozenset[int]
    workers: tuple[Worker, ...]
    is_applied: bool = False


class Model:
    def __init__(
        self,
        saga: type[ReloadSaga],
        *,
        deliveries: tuple[int, ...],
        clocks: tuple[int, ...],
        endings: tuple[str, ...],
        cap_cents: int = PRICE_CENTS,
        begins: Begins = "each account asks",
        applies: Applies = "nothing",
        checks_version: bool = True,
    ) -> None:
        self._saga = saga
        self._deliveries_max = deliveries
        self._clocks = clocks
        self._endings = endings
        self._applies = applies
        self._checks_version = checks_version
        self._values: list[Any] = []
        self._numbers: dict[Hashable, int] = {}
        self._steps: dict[Worker, Asked | Resolution | AgentCreditsError] = {}
        first = _first_of(begins, len(deliveries), cap_cents)
        self._requests = first.requests
        self._accounts = {account.principal: n for n, account in enumerate(first.accounts)}
        self._first = State(
            team=self._intern(first.team),
            accounts=tuple(self._intern(account) for account in first.accounts),
            payments=first.payments,
            deliveries=(0,) * len(deliveries),
            done=frozenset(),
            workers=(Worker(), Worker()),
        )

    def explore(self) -> int:
        """Return how many states there are; raises AssertionError at the first that is wrong."""
        return explored(self._first, self._successors, self._check, STATES_MAX)

    def _successors(self, state: State) -> Iterator[State]:
        if self._applies != "nothing" and not state.is_applied:
            team = _applied(self._values[state.team], self._applies)
            yield state._replace(team=self._intern(team), is_applied=True)
        for number, worker in enumerate(state.workers):
            if worker.request < 0:
                yield from self._deliveries_to(state, number)
                continue
            yield self._with(state, number, Worker())  # It crashes.
            step = self._next_step(worker)
            if not isinstance(step, Asked):
                rests = self._with(state, number, Worker())
                yield rests  # Its message stays, or the word that it is done is lost.
                if not isinstance(step, Open | AgentCreditsError):
                    yield rests._replace(done=state.done | {worker.request})
                continue
            if step.name == "confirm" and self._applies == "a lower cap":
                self._check_confirmed_within_the_cap(worker)
            for changed, answer in self._answers(state, step):
                answers = (*worker.answers, self._intern(answer))
                yield self._with(changed, number, worker._replace(answers=answers))

    def _deliveries_to(self, state: State, number: int) -> Iterator[State]:
        for request, count in enumerate(state.deliveries):
            if count < self._deliveries_max[request]:
                counts = tuple(c + (r == request) for r, c in enumerate(state.deliveries))
                for clock in self._clocks:
                    worker = Worker(request, clock)
                    yield self._with(state, number, worker)._replace(deliveries=counts)

    def _answers(self, state: State, step: Asked) -> Iterator[tuple[State, Any]]:
        match step.name:
            case "read_team":
                yield state, self._values[state.team]
            case "read_account":
                yield state, self._values[state.accounts[self._account_of(step.argument)]]
            case "compare_and_set_team":
                yield self._compare_and_set(state, ROW_OF_TEAM, step.argument)
            case "compare_and_set":
                row = self._account_of(step.argument.principal)
                yield self._compare_and_set(state, row, step.argument)
            case "create":
                made = state._replace(payments=(*state.payments, (step.argument, "made")))
                yield made, f"pi-{len(state.payments)}"
                yield made, Unavailable()
                if "declined" in self._endings:
                    # The card is gone at the provider, perhaps since another worker's payment.
                    yield state, Declined("", "resource_missing")
            case "confirm":
                yield state, Unavailable()
                yield from self._confirm(state, step.argument)
            case "cancel":
                yield state, Unavailable()
                yield from self._cancel(state, step.argument)

    def _cancel(self, state: State, payment_id: str) -> Iterator[tuple[State, Any]]:
        _, before = state.payments[int(payment_id.removeprefix("pi-"))]
        # What is being processed can no longer be canceled, and may end at this moment.
        afters = self._endings if before == "processing" else (before,)
        for after in ("canceled",) if before == "made" else afters:
            changed = self._ended(state, payment_id, after)
            yield changed, _answer(payment_id, after)
            yield changed, Unavailable()

    def _confirm(self, state: State, payment_id: str) -> Iterator[tuple[State, Any]]:
        _, before = state.payments[int(payment_id.removeprefix("pi-"))]
        for ending in self._endings if before in ("made", "processing") else (before,):
            changed = self._ended(state, payment_id, ending)
            yield changed, _answer(payment_id, ending)
            yield changed, Unavailable()

    def _ended(self, state: State, payment_id: str, ending: str) -> State:
        number = int(payment_id.removeprefix("pi-"))
        purchase, before = state.payments[number]
        if ending == "paid" != before:
            held = self._values[state.team].spending.reservation(purchase)
            assert held, "nothing is charged that is not reserved"
            assert held.payment_id == payment_id, "nothing is charged that the row does not name"
        payments = (*state.payments[:number], (purchase, ending), *state.payments[number + 1 :])
        return state._replace(payments=payments)

    def _compare_and_set(self, state: State, row: int, new: Any) -> tuple[State, Any]:
        there = self._values[state.team if row == ROW_OF_TEAM else state.accounts[row]]
        if self._checks_version and there.version != new.version - 1:
            return state, there
        number = self._intern(new)
        if row == ROW_OF_TEAM:
            return state._replace(team=number), None
        accounts = (*state.accounts[:row], number, *state.accounts[row + 1 :])
        return state._replace(accounts=accounts), None

    def _next_step(self, worker: Worker) -> Asked | Resolution | AgentCreditsError:
        if worker not in self._steps:
            ports: Any = Answered([self._values[number] for number in worker.answers])
            saga = self._saga(ports, ports, {"stripe": ports}, pause)
            try:
                step: Asked | Resolution | AgentCreditsError = saga.resolve(
                    self._requests[worker.request], CLOCKS[worker.clock]
                )
            except Asked as asked:
                step = asked
            except InvariantViolated as violated:
                raise AssertionError(f"the code's own invariants hold: {violated}") from violated
            except AgentCreditsError as error:
                step = error
            self._steps[worker] = step
        return self._steps[worker]

    def _check(self, state: State) -> None:
        team: Team = self._values[state.team]
        spending = team.spending
        settled = [p.purchase_id for p in spending.recent if p.outcome == "settled"]
        held = {reservation.purchase_id for reservation in spending.reservations}
        paid = [purchase for purchase, ending in state.payments if ending == "paid"]
        committed = sum(p.price_cents for p in spending.recent if p.outcome == "settled")
        committed += sum(reservation.price_cents for reservation in spending.reservations)
        if self._applies != "a lower cap":
            assert committed <= team.spend_cap_cents, "spent plus reserved never passes the cap"
        assert len(paid) == len(set(paid)), "a purchase is charged once"
        assert len(settled) == len(set(settled)), "a purchase is settled once"
        assert set(settled) <= set(paid), "what is settled was charged"
        assert set(paid) <= held | set(settled), "what is charged is on the row"
        reloads = [r.principal for r in spending.reservations]
        assert len(reloads) == len(set(reloads)), "one live reload per account"
        for reservation in spending.reservations:
            assert reservation.pool in POOLS_OF_RUNS, "bought into a pool that the run draws"
            packs = reservation.packs
            pack = (reservation.microcredits // packs, reservation.price_cents // packs)
            assert pack in PACKS_ON_SALE, "bought at the price of its policy"
        for number, request in enumerate(self._requests):
            account: Account = self._values[state.accounts[self._account_of(request.principal)]]
            has_credits = any(grant.id == request.reload_id for grant in account.grants)
            assert not has_credits or request.reload_id in paid, "no credits unpaid"
            assert request.reload_id not in settled or has_credits, "no credits are owed"
            self._check_decline(account, is_applied=state.is_applied)
            if number in state.done and all(w.request != number for w in state.workers):
                assert request.reload_id not in held, "what nobody asks about any more has ended"

    def _check_confirmed_within_the_cap(self, worker: Worker) -> None:
        """A cap may fall after the payment was reserved, and is looked at once more."""
        last_read = self._values[worker.answers[-1]]
        assert isinstance(last_read, Team), "the cap is looked at right before a card is charged"
        # Without a reservation, another worker has ended the payment, and confirming is in vain.
        held = last_read.spending.reservation(self._requests[worker.request].reload_id)
        assert held is None or last_read.spend_cap_cents > 0, "a lowered cap charges no card"

    def _check_decline(self, account: Account, *, is_applied: bool) -> None:
        """Neither file rules reloads out, except that one buys what the run does not draw."""
        reload = account.reload
        if reload is None or reload.state != "declined":
            return
        assert reload.until, "a decline that settings did not cause has an end"
        if reload.cause == "auto_reload_not_applicable":
            is_enterprise = is_applied and self._applies == "another kind"
            assert is_enterprise, "a pack that is sold is not declined for want of it"

    def _account_of(self, principal: Principal) -> int:
        return self._accounts[principal]

    def _with(self, state: State, number: int, worker: Worker) -> State:
        # Made field by field, as `_replace` takes several times as long.
        team, accounts, payments, deliveries, done, (first, second), is_applied = state
        workers = (first, worker) if number else (worker, second)
        return State(team, accounts, payments, deliveries, done, workers, is_applied)

    def _intern(self, value: Hashable) -> int:
        number = self._numbers.get(value)
        if number is None:
            number = self._numbers[value] = len(self._values)
            self._values.append(value)
        return number


def _applied(team: Team, applies: Applies) -> Team:
    """Return the team as the operator's file leaves it; a tenure begins twelve minutes later."""
    newest, settings = team.tenures[-1], team.auto_reload
    assert settings
    if applies == "a lower cap":
        lowered = {
            "version": team.version + 1,
            "settings_version": team.settings_version + 1,
            "spend_cap_cents": 0,
            "spending": with_cap(team.spending, 0),
        }
        return team.model_copy(update=lowered)
    since = NOW + TENURE_NOTICE
    if applies == "another kind":
        tenure = newest.model_copy(update={"since": since, "kind": "enterprise"})
        settings = settings.model_copy(update={"pool": "contract"})
    else:
        tenure = newest.model_copy(update={"since": since, "policy_version": NEXT_POLICY.version})
        pack = NEXT_POLICY.packs[0].microcredits
        settings = settings.model_copy(update={"pack_microcredits": pack})
    changed = {
        "version": team.version + 1,
        "settings_version": team.settings_version + 1,
        "auto_reload": settings,
        "tenures": (*team.tenures, tenure),
    }
    return team.model_copy(update=changed)


def _answer(payment_id: str, ending: str) -> PaymentState:
    match ending:
        case "paid":
            return Paid(payment_id)
        case "declined":
            return Declined(payment_id, "card_declined")
        case "canceled":
            return Canceled(payment_id)
        case _:
            return Unresolved(payment_id)


class First(NamedTuple):
    """What there is before the first request is delivered."""

    team: Team
    accounts: list[Account]
    requests: list[ReloadRequest]
    payments: tuple[tuple[str, str], ...] = ()


def _first_of(begins: Begins, requests: int, cap_cents: int) -> First:
    if begins == "each account asks":
        accounts = [_asking(Principal("user", f"user-{n}"), version=2) for n in range(requests)]
        return First(_team(cap_cents, Spending()), accounts, [_request_of(a) for a in accounts])
    return _with_one_open(cap_cents, begins)


def _with_one_open(cap_cents: int, state: str) -> First:
    """Return an account that asks again, and its reload of an hour ago, declined but still open."""
    ana = Principal("user", "user-0")
    then = NOW - timedelta(hours=1)
    earlier = CapReservation(
        purchase_id=f"reload:{ana}:2",
        principal=str(ana),
        month="2026-11",
        packs=1,
        pool="add_on",
        microcredits=20 * CREDIT,
        price_cents=PRICE_CENTS,
        currency="usd",
        method=CARD,
        reserved_at=then,
        deadline=then + RELOAD_DEADLINE,
        payment_id="pi-0",
    )
    spending = Spending(month="2026-11", reservations=(earlier,))
    account = _asking(ana, version=5)
    requests = [ReloadRequest(earlier.purchase_id, "acme", ana), _request_of(account)]
    return First(_team(cap_cents, spending), [account], requests, ((earlier.purchase_id, state),))


def _asking(principal: Principal, version: int) -> Account:
    reload = Reload(
        id=f"reload:{principal}:{version}",
        team_id="acme",
        pools=("plan", "add_on"),
        state="requested",
        wanted_microcredits=CREDIT,
        settings_version=1,
        since=NOW,
        until=NOW + RELOAD_DEADLINE,
    )
    return Account(principal, version=version, reload=reload)


def _request_of(account: Account) -> ReloadRequest:
    assert account.reload
    return ReloadRequest(account.reload.id, "acme", account.principal)


def _team(cap_cents: int, spending: Spending) -> Team:
    return Team(
        team_id="acme",
        version=1,
        plan="max",
        time_zone="Europe/Berlin",
        members=frozenset({"user-0", "user-1"}),
        settings_version=1,
        auto_reload=AutoReload(
            enabled=True, threshold_microcredits=CREDIT, pack_microcredits=20 * CREDIT
        ),
        payment=CARD,
        spend_cap_cents=cap_cents,
        spending=spending,
        tenures=(
            Tenure(
                since=FAR_PAST, kind="self_serve", owner="user-0", policy_version=POLICY.version
            ),
        ),
    )
