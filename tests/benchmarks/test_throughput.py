"""Workers in processes of their own: each does its part, and what goes wrong there is told."""

from dataclasses import dataclass
from typing import Any
from unittest.mock import Mock

import pytest

from tests.benchmarks import stores
from tests.benchmarks.design import Done
from tests.benchmarks.stores import NEAR, Network, connect
from tests.benchmarks.tables import advantage_table
from tests.benchmarks.throughput import Rate, best_rate, crew

# A store that is never asked for anything: the client is only made.
NOWHERE = "http://127.0.0.1:9"


class Idle:
    def learn_settings(self) -> None: ...

    def debit(self, bodies: list[str]) -> Done:
        return Done(len(bodies), races_lost=1)


@dataclass
class Effortless:
    name: str = "effortless"
    title: str = "does nothing"
    fails: bool = False

    def create(self, *_: Any) -> None: ...

    def drop(self, *_: Any) -> None: ...

    def worker(self, *_: Any) -> Idle:
        if self.fails:
            raise ValueError("no worker today")
        return Idle()


def test_the_events_of_all_workers_are_added_up() -> None:
    with crew(2) as workers:
        rate = workers.rate(
            Effortless(), "nowhere", NOWHERE, accounts=1, events_per_batch=1_000, workers=2
        )

    assert rate.events == 2 * 12_000
    assert rate.races_lost == 2 * 12
    assert rate.events_per_second > 0


def test_a_worker_that_fails_says_why() -> None:
    with crew(1) as workers, pytest.raises(RuntimeError, match="no worker today"):
        workers.rate(
            Effortless(fails=True), "nowhere", NOWHERE, accounts=1, events_per_batch=100, workers=1
        )


def test_the_best_rate_is_that_of_the_same_place_and_load() -> None:
    far = Network(5, 2)

    def rate(design: str, accounts: int, events: int, network: Network = NEAR) -> Rate:
        return Rate(design, "store", accounts, 100, 1, network, events, 1.0, 0, 1.0)

    rates = [
        rate("a", 1, 5),
        rate("a", 1, 7),
        rate("b", 1, 9),
        rate("a", 2, 11),
        rate("a", 1, 13, far),
    ]

    assert best_rate(rates, "a", NEAR) == rates[1]
    assert best_rate(rates, "a", far) == rates[4]


def test_how_far_ahead_one_account_is_is_shown_for_each_network() -> None:
    far = Network(5, 2)

    def rate(design: str, workers: int, events: int, network: Network) -> Rate:
        return Rate(design, "store", 1, 100, workers, network, events, 1.0, 0, 1.0)

    listing = advantage_table(
        [
            rate("agent-credits", 1, 800, NEAR),
            rate("transaction-1", 1, 200, NEAR),
            rate("transaction-1", 2, 400, NEAR),
            rate("agent-credits", 1, 1_880, far),
            rate("transaction-1", 1, 100, far),
        ]
    )

    assert [*listing.columns[0].cells] == ["none", "5 ms a request, 10 ms a transaction"]
    assert [*listing.columns[-1].cells] == ["2.0", "18.8"]


def test_a_transaction_takes_as_long_as_the_requests_it_stands_for() -> None:
    network = Network(request_milliseconds=5, transaction_requests=2)

    assert network.seconds("PutItem") == 0.005
    assert network.seconds("TransactWriteItems") == 0.01
    assert NEAR.seconds("TransactWriteItems") == 0


def test_every_request_waits_for_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(stores.time, "sleep", waits.append)
    network = Network(request_milliseconds=30, transaction_requests=2)
    client = connect(NOWHERE, network)
    monkeypatch.setattr(client._endpoint, "make_request", lambda *_: (Mock(status_code=200), {}))

    client.list_tables()
    put: Any = {"TableName": "accounts", "Item": {"pk": {"S": "ACCOUNT#user:ana"}}}
    client.transact_write_items(TransactItems=[{"Put": put}])

    assert waits == [0.03, 0.06]
