"""A purchase is paid once under its key, never past the cap, and by the saga that pays reloads."""

from typing import Any

import pytest

from agent_credits.api.purchases import purchase_id_of
from agent_credits.billing.spend_cap import Spending
from agent_credits.ledger.accounts import available_microcredits
from agent_credits.payments.port import InvoicePayments
from agent_credits.payments.reload_saga import ReloadSaga
from agent_credits.values.credits import format_credits
from tests.api_world import ApiWorld, Got, token, world_with
from tests.unit.builders import (
    ACME,
    ANA,
    BIGCORP_TEAM,
    INVOICE,
    POOLS,
    RELOADING_ACME,
    pause,
    reservation,
    usage,
)
from tests.unit.payments.payment_fakes import FakePayments

PATH = "/v1/teams/acme/purchases"
ADMIN: dict[str, Any] = {"door": "people", "bearer": token("olga", role="billing_admin")}
ONE_PACK = {"principal": "user:ana", "pack_credits": "400"}


class Shop:
    """The API, and the saga that carries out what it asks for."""

    def __init__(self, **team: Any) -> None:
        self.world: ApiWorld = world_with("10")
        self.set_team(**team)
        self.payments = FakePayments()
        providers = {"stripe": self.payments, "invoice": InvoicePayments()}
        rows = self.world.rows
        self.saga = ReloadSaga(rows, rows, providers, pause)

    def set_team(self, **team: Any) -> None:
        self.world.rows.teams["acme"] = RELOADING_ACME.model_copy(
            update={"members": ACME.members, **team}
        )

    @property
    def spending(self) -> Spending:
        return self.world.rows.teams["acme"].spending

    def buy(self, body: dict[str, Any] = ONE_PACK, key: str = "k1") -> Got:
        return self.world.call("POST", PATH, body, headers={"idempotency-key": key}, **ADMIN)

    def pay(self) -> None:
        """Carry out each request, as the queue would deliver it."""
        while self.world.asked:
            self.saga.resolve(self.world.asked.pop(), self.world.now)

    def found(self, key: str = "k1") -> Got:
        return self.world.call("GET", f"{PATH}/{key}", query={"principal": "user:ana"}, **ADMIN)

    @property
    def available(self) -> str:
        account = self.world.rows.accounts[ANA]
        return format_credits(available_microcredits(account, POOLS, self.world.now))


def test_a_purchase_reserves_head_room_is_paid_and_granted_once() -> None:
    shop = Shop()
    pending = shop.buy({**ONE_PACK, "packs": 2})

    assert (pending.status, pending.json["state"]) == (202, "pending")
    assert (pending.json["credits"], pending.json["price_cents"]) == ("800", 4_000)
    assert shop.spending.reserved_in("2025-11") == 4_000
    assert shop.payments.charges == []
    shop.pay()
    again = shop.buy({**ONE_PACK, "packs": 2})
    shop.pay()

    assert (again.status, again.json["state"]) == (200, "granted")
    assert [charge.price_cents for charge in shop.payments.charges] == [4_000]
    assert (shop.available, shop.spending.spent_cents) == ("810", 4_000)
    assert shop.found().json == again.json


def test_a_repeat_before_the_payment_asks_again_and_reserves_nothing_more() -> None:
    shop = Shop()
    shop.buy()

    again = shop.buy()
    shop.pay()

    assert again.status == 202
    assert (len(shop.payments.charges), shop.available) == (1, "410")


def test_who_bought_what_is_recorded_with_the_reservation() -> None:
    shop = Shop()
    shop.buy()
    shop.buy()

    team = shop.world.call("GET", "/v1/teams/acme", **ADMIN).json

    (entry,) = team["audit"]
    assert (entry["who"], entry["action"]) == ("user:olga", "purchase.made")
    assert entry["changes"][0]["after"] == {
        "purchase_id": purchase_id_of("acme", "k1"),
        "principal": "user:ana",
        "pool": "add_on",
        "packs": 1,
        "credits": "400",
        "price_cents": 2_000,
        "currency": "usd",
        "payment": "pm_good",
    }
    assert team["purchases"][0]["state"] == "pending"


def test_another_purchase_under_the_same_key_is_a_conflict() -> None:
    shop = Shop()
    shop.buy()
    pending = shop.buy({**ONE_PACK, "packs": 2})
    shop.pay()

    ended = shop.buy({**ONE_PACK, "packs": 2})

    assert (pending.status, ended.status) == (409, 409)
    assert len(shop.payments.charges) == 1


def test_the_cap_is_never_passed() -> None:
    shop = Shop(spend_cap_cents=5_000)

    too_much = shop.buy({**ONE_PACK, "packs": 3})
    shop.buy(key="k2")
    shop.pay()
    shop.buy(key="k3")
    shop.pay()
    last = shop.buy(key="k4")

    assert (too_much.status, too_much.json["error"]) == (403, "spend_cap_reached")
    assert too_much.json["head_room_cents"] == 5_000
    assert (last.status, shop.spending.spent_cents) == (403, 4_000)


def test_a_declined_card_gives_the_head_room_back_and_says_so() -> None:
    shop = Shop()
    shop.payments.declining.add("pm_good")
    shop.buy()
    shop.pay()

    got = shop.found()

    assert (got.json["state"], got.json["cause"]) == ("declined", "payment_declined")
    assert (shop.available, shop.spending.reserved_in("2025-11")) == ("10", 0)
    # What a key decided stays decided; another one tries again.
    assert shop.buy().json["state"] == "declined"
    assert shop.buy(key="k2").status == 202


def test_one_payment_at_a_time_for_an_account() -> None:
    shop = Shop(spending=Spending(month="2025-11", reservations=(reservation(),)))

    got = shop.buy()

    assert (got.status, got.json["error"], got.json["retryable"]) == (
        409,
        "purchase_under_way",
        True,
    )


def test_an_invoice_is_paid_without_a_card() -> None:
    shop = Shop(payment=INVOICE)
    shop.buy()
    shop.pay()

    assert shop.found().json["state"] == "granted"
    assert shop.payments.attempts == []


def test_what_was_bought_can_be_drawn_and_given_back() -> None:
    shop = Shop()
    shop.buy()
    shop.pay()
    event = "application/cloudevents+json"
    shop.world.call("POST", "/v1/events", usage("e1", "300"), content_type=event)

    body = {"status": "error", "principal": "user:ana"}
    got = shop.world.call("POST", "/v1/reservations/run-1/settle", body)

    assert (got.json["outcome"], shop.available) == ("returned", "410")


@pytest.mark.parametrize(
    ("team", "body", "status", "error"),
    [
        ({"payment": None}, ONE_PACK, 403, "purchase_declined"),
        (
            {"spending": Spending(suspended_payment_method="pm_good")},
            ONE_PACK,
            403,
            "purchase_declined",
        ),
        ({}, {**ONE_PACK, "pack_credits": "7"}, 422, "invalid_request"),
        ({}, {**ONE_PACK, "packs": 0}, 422, "invalid_request"),
        ({}, {**ONE_PACK, "principal": "user:zoe"}, 422, "invalid_request"),
        ({}, {**ONE_PACK, "principal": "team:acme"}, 422, "invalid_request"),
        ({}, {**ONE_PACK, "pool": "contract"}, 422, "invalid_request"),
        ({}, {**ONE_PACK, "price_cents": 1}, 409, "settings_changed"),
        ({"currency": "eur"}, ONE_PACK, 422, "invalid_request"),
    ],
)
def test_what_cannot_be_bought_is_refused_and_holds_nothing(
    team: dict[str, Any], body: dict[str, Any], status: int, error: str
) -> None:
    shop = Shop(**team)

    got = shop.buy(body)

    assert (got.status, got.json["error"]) == (status, error)
    assert (shop.world.asked, shop.spending.reservations) == ([], ())
    assert shop.world.rows.audit == {}


def test_the_admin_of_a_team_that_takes_everyone_buys_for_no_user() -> None:
    shop = Shop()
    shop.world.rows.teams["bigcorp"] = BIGCORP_TEAM.model_copy(
        update={"payment": INVOICE, "spend_cap_cents": 10_000}
    )
    admin = {"door": "people", "bearer": token("boss", role="billing_admin", teams=("bigcorp",))}

    got = shop.world.call(
        "POST",
        "/v1/teams/bigcorp/purchases",
        ONE_PACK,
        headers={"idempotency-key": "k1"},
        **admin,
    )

    assert (got.status, got.json["errors"][0]["field"]) == (422, "principal")


def test_a_purchase_that_was_never_made_is_404() -> None:
    assert Shop().found("k9").json["error"] == "purchase_not_found"
