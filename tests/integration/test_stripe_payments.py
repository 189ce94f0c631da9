"""The adapter to Stripe against a stand-in for Stripe, over a connection that fails on demand.

The stand-in ignores idempotency keys, so nothing that holds here depends on them.
"""

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

import pytest

from agent_credits.billing.spend_cap import PaymentMethod
from agent_credits.payments import stripe_payments
from agent_credits.payments.port import (
    Canceled,
    Charge,
    Declined,
    Paid,
    PaymentUnavailable,
    Unresolved,
)
from agent_credits.payments.stripe_payments import StripePayments, _canceled
from agent_credits_local.checkout import this_checkout
from agent_credits_local.emulator import HOST, free_port
from agent_credits_local.payment_stand_in import (
    CARD_THAT_DECLINES,
    CARD_THAT_PAYS,
    STAND_IN_KEY,
    CardOnFile,
    PaymentStandIn,
)

# Stripe's number for a card whose bank asks its holder to confirm each payment.
CARD_THAT_ASKS_ITS_HOLDER = "4000002760003184"

# Lost there, a request never reaches Stripe; lost back, Stripe has carried it out.
Fault = Literal[
    "lost there", "lost back", "500 before", "500 after", "silent before", "silent after"
]
FAULTS: tuple[Fault, ...] = (
    "lost there",
    "lost back",
    "500 before",
    "500 after",
    "silent before",
    "silent after",
)
CARRIED_OUT: frozenset[Fault] = frozenset({"lost back", "500 after", "silent after"})


class Line(ThreadingHTTPServer):
    """Passes requests on to the stand-in. Each fault occurs once, at the next such request."""

    daemon_threads = True

    def __init__(self, stand_in: PaymentStandIn) -> None:
        super().__init__((HOST, 0), Passage)
        self.stand_in_port = stand_in.port
        self.faults: dict[str, Fault] = {}
        self.idempotency_keys: list[str | None] = []
        self.is_closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_port}"

    def strike(self, action: Literal["create", "retrieve", "confirm"], fault: Fault) -> None:
        self.faults[action] = fault


class Passage(BaseHTTPRequestHandler):
    server: Line

    def do_GET(self) -> None:
        self._pass_on("retrieve")

    def do_POST(self) -> None:
        self.server.idempotency_keys.append(self.headers["Idempotency-Key"])
        action = self.path.rsplit("/", 1)[-1]
        self._pass_on("create" if action == "payment_intents" else action)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there.
        """Log nothing: the tests show what happened."""

    def _pass_on(self, action: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.faults.pop(action, None)
        status, answer = 500, b'{"error": {"type": "api_error"}}'
        if fault is None or fault in CARRIED_OUT:
            real_status, real_answer = self._ask_stand_in(body)
            if fault is None:
                status, answer = real_status, real_answer
        if fault in ("silent before", "silent after"):
            self.server.is_closing.wait()
        if fault in (None, "500 before", "500 after"):
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
        self.close_connection = True

    def _ask_stand_in(self, body: bytes) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(HOST, self.server.stand_in_port, timeout=5)
        with contextlib.closing(connection):
            connection.request(self.command, self.path, body, dict(self.headers))
            response = connection.getresponse()
            return response.status, response.read()


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stripe_payments, "READ_TIMEOUT_SECONDS", 0.5)
    # A proxy on the developer's machine would answer instead of the stand-in.
    monkeypatch.setenv("NO_PROXY", HOST)


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PaymentStandIn]:
    checkout, folder = this_checkout(), tmp_path_factory.mktemp("localstripe")
    log, saved = folder / "localstripe.log", folder / "saved"
    stand_in = PaymentStandIn.start_localstripe(
        checkout.localstripe_python, checkout.localstripe_program, free_port(), log, saved
    )
    try:
        stand_in.wait_until_healthy(log)
        yield stand_in
    finally:
        stand_in.stop()


@pytest.fixture
def line(stand_in: PaymentStandIn) -> Iterator[Line]:
    with Line(stand_in) as line:
        thread = threading.Thread(target=line.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield line
        line.is_closing.set()
        line.shutdown()
        thread.join()


@pytest.fixture
def payments(line: Line) -> StripePayments:
    return StripePayments(lambda: STAND_IN_KEY, line.url)


@pytest.fixture
def card(stand_in: PaymentStandIn) -> CardOnFile:
    return stand_in.put_card_on_file(CARD_THAT_PAYS)


@pytest.fixture
def declining_card(stand_in: PaymentStandIn) -> CardOnFile:
    return stand_in.put_card_on_file(CARD_THAT_DECLINES)


def charge_to(card: CardOnFile) -> Charge:
    method = PaymentMethod(
        provider="stripe", customer=card.customer, payment_method=card.payment_method
    )
    return Charge("reload:user:ana:7", 4_000, "usd", method, "2 x add-on credits for user:ana")


def charged(stand_in: PaymentStandIn, card: CardOnFile) -> list[str]:
    return [p.id for p in stand_in.payments(card.customer) if p.status == "succeeded"]


def test_a_payment_is_charged_when_it_is_confirmed_and_not_before(stand_in, payments, card):
    payment_id = payments.create(charge_to(card))
    assert charged(stand_in, card) == []

    assert payments.confirm(payment_id) == Paid(payment_id)

    (payment,) = stand_in.payments(card.customer)
    assert (payment.id, payment.status) == (payment_id, "succeeded")
    assert (payment.amount, payment.currency) == (4_000, "usd")
    assert payment.metadata == {"purchase_id": "reload:user:ana:7"}


def test_a_payment_confirmed_again_is_charged_once(stand_in, payments, card):
    payment_id = payments.create(charge_to(card))

    states = [payments.confirm(payment_id) for _ in range(3)]

    assert states == [Paid(payment_id)] * 3
    assert charged(stand_in, card) == [payment_id]


def test_of_a_payment_created_twice_only_the_confirmed_one_is_charged(stand_in, payments, card):
    first, second = payments.create(charge_to(card)), payments.create(charge_to(card))

    assert payments.confirm(second) == Paid(second)

    assert first != second
    assert charged(stand_in, card) == [second]


def test_a_declined_payment_stays_declined_however_often_it_is_confirmed(
    stand_in, payments, declining_card
):
    payment_id = payments.create(charge_to(declining_card))

    states = [payments.confirm(payment_id) for _ in range(3)]

    assert states == [Declined(payment_id, "card_declined")] * 3
    assert charged(stand_in, declining_card) == []


def test_a_card_that_needs_its_holder_to_confirm_is_declined(stand_in, payments):
    card = stand_in.put_card_on_file(CARD_THAT_ASKS_ITS_HOLDER)
    payment_id = payments.create(charge_to(card))

    assert payments.confirm(payment_id) == Declined(payment_id, "requires_action")

    # The holder could still confirm what is only waiting for them, and be charged for nothing.
    assert [p.status for p in stand_in.payments(card.customer)] == ["canceled"]
    assert payments.confirm(payment_id) == Canceled(payment_id)
    assert charged(stand_in, card) == []


def test_a_decline_that_cannot_be_confirmed_leaves_the_outcome_open(payments, card):
    """Stripe answers an attempt to cancel what has just succeeded with an invalid request."""
    payment_id = payments.create(charge_to(card))
    assert payments.confirm(payment_id) == Paid(payment_id)
    intents = payments._intents()

    assert _canceled(intents, payment_id, "card_declined") == Unresolved(payment_id)
    assert payments.confirm(payment_id) == Paid(payment_id)


def test_a_card_that_was_removed_before_it_is_charged_is_declined_for_good(
    stand_in, payments, card
):
    payment_id = payments.create(charge_to(card))
    stand_in.forget_card(card)

    assert payments.confirm(payment_id) == Declined(payment_id, "invalid_request")

    assert [p.status for p in stand_in.payments(card.customer)] == ["canceled"]
    assert payments.confirm(payment_id) == Canceled(payment_id)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_payment_whose_creation_got_no_answer_is_created_again(
    stand_in, line, payments, card, fault
):
    line.strike("create", fault)

    with pytest.raises(PaymentUnavailable):
        payments.create(charge_to(card))
    payment_id = payments.create(charge_to(card))

    assert payments.confirm(payment_id) == Paid(payment_id)
    assert charged(stand_in, card) == [payment_id]
    assert len(stand_in.payments(card.customer)) == (2 if fault in CARRIED_OUT else 1)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("action", ["retrieve", "confirm"])
def test_a_payment_whose_confirmation_got_no_answer_is_charged_once(
    stand_in, line, payments, card, action, fault
):
    payment_id = payments.create(charge_to(card))
    line.strike(action, fault)

    with pytest.raises(PaymentUnavailable):
        payments.confirm(payment_id)
    was_charged = charged(stand_in, card)
    assert payments.confirm(payment_id) == Paid(payment_id)

    assert was_charged == (
        [payment_id] if (action, fault in CARRIED_OUT) == ("confirm", True) else []
    )
    assert charged(stand_in, card) == [payment_id]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_decline_whose_answer_was_lost_is_a_decline_when_confirmed_again(
    stand_in, line, payments, declining_card, fault
):
    payment_id = payments.create(charge_to(declining_card))
    line.strike("confirm", fault)

    with pytest.raises(PaymentUnavailable):
        payments.confirm(payment_id)

    assert payments.confirm(payment_id) == Declined(payment_id, "card_declined")
    assert charged(stand_in, declining_card) == []


def test_two_workers_at_once_charge_once(stand_in, payments, card):
    payment_id = payments.create(charge_to(card))
    together = threading.Barrier(2)
    states: list[object] = []

    def confirm() -> None:
        together.wait()
        try:
            states.append(payments.confirm(payment_id))
        except PaymentUnavailable:
            states.append(Unresolved(payment_id))

    workers = [threading.Thread(target=confirm) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert Paid(payment_id) in states
    assert Declined not in {type(state) for state in states}
    assert charged(stand_in, card) == [payment_id]


def test_a_refused_connection_leaves_the_outcome_unknown(card):
    payments = StripePayments(lambda: STAND_IN_KEY, f"http://{HOST}:{free_port()}")

    with pytest.raises(PaymentUnavailable):
        payments.create(charge_to(card))
    with pytest.raises(PaymentUnavailable):
        payments.confirm("pi_any")


def test_a_connection_that_is_never_accepted_ends_within_the_timeout_of_a_call(card):
    with socket.socket() as deaf:
        deaf.bind((HOST, 0))
        deaf.listen(1)
        payments = StripePayments(lambda: STAND_IN_KEY, f"http://{HOST}:{deaf.getsockname()[1]}")

        with pytest.raises(PaymentUnavailable):
            payments.create(charge_to(card))


def test_an_invalid_key_leaves_the_outcome_unknown(line, card):
    payments = StripePayments(lambda: "rotated", line.url)

    with pytest.raises(PaymentUnavailable, match="AuthenticationError"):
        payments.create(charge_to(card))


def test_each_call_that_changes_something_has_a_short_key_of_its_own(line, payments, card):
    for _ in range(2):
        payments.confirm(payments.create(charge_to(card)))

    keys = line.idempotency_keys
    assert len(keys) == len(set(keys)) == 4
    # Stripe takes at most 255 characters.
    assert all(key and len(key) <= 255 for key in keys)


def test_the_secret_key_is_read_again_for_each_payment(line, card):
    keys = iter([STAND_IN_KEY, "sk_test_rotated"])
    payments = StripePayments(lambda: next(keys), line.url)

    payment_id = payments.create(charge_to(card))

    assert payments.confirm(payment_id) == Paid(payment_id)
    assert next(keys, None) is None


def test_a_stand_in_holds_nothing_of_another(stand_in, tmp_path: Path):
    stand_in.put_card_on_file(CARD_THAT_PAYS)
    checkout, log, saved = this_checkout(), tmp_path / "localstripe.log", tmp_path / "saved"
    another = PaymentStandIn.start_localstripe(
        checkout.localstripe_python, checkout.localstripe_program, free_port(), log, saved
    )
    try:
        another.wait_until_healthy(log)
        assert another.payments() == []
    finally:
        assert another.stop()
    assert not another.is_running()
    assert stand_in.is_healthy()


def test_a_canceled_payment_is_never_charged(stand_in, payments, card):
    payment_id = payments.create(charge_to(card))

    assert payments.cancel(payment_id) == Canceled(payment_id)

    assert payments.cancel(payment_id) == Canceled(payment_id)
    assert payments.confirm(payment_id) == Canceled(payment_id)
    assert [p.status for p in stand_in.payments(card.customer)] == ["canceled"]


def test_a_charged_payment_cannot_be_canceled(payments, card):
    payment_id = payments.create(charge_to(card))
    payments.confirm(payment_id)

    assert payments.cancel(payment_id) == Paid(payment_id)
