"""PostgreSQL does the same work as the other designs, where it is installed."""

import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.benchmarks.postgres_server import postgres_server, why_unavailable
from tests.benchmarks.references.postgres import LOCK_PER_BATCH, LOCK_PER_EVENT, RowLocks
from tests.benchmarks.stores import connect
from tests.benchmarks.test_designs import asked_for
from tests.benchmarks.workloads import in_groups

if TYPE_CHECKING:
    import psycopg

pytestmark = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))

HELD = "SELECT sum(trial + plan + add_on) FROM accounts"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with postgres_server() as address:
        yield address


def held(store: "psycopg.Connection[Any]") -> int:
    row = store.execute(HELD).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("design", [LOCK_PER_EVENT, LOCK_PER_BATCH], ids=lambda design: design.name)
def test_each_event_is_debited_once_and_stands_in_the_ledger(
    design: RowLocks, address: str
) -> None:
    workload = in_groups(4, 3, groups_per_batch=4, group=5, warm_up=0)
    suffix = uuid.uuid4().hex
    with connect(address) as store, connect(address) as another:
        design.create(store, suffix, workload)
        before = held(store)
        workers = [design.worker(each, suffix, workload) for each in (store, another)]

        debited = [workers[0].debit(batch).events for batch in workload.batches]
        again = [worker.debit(batch).events for batch in workload.batches for worker in workers]

        assert debited == [20, 20, 20]
        assert set(again) == {0}
        assert held(store) == before - asked_for(workload)
        assert store.execute("SELECT count(*) FROM entries").fetchone() == (60,)
        design.drop(store, suffix)


def test_a_commit_has_answered_only_when_it_is_on_disk(address: str) -> None:
    with connect(address) as store:
        settings = [
            store.execute(f"SHOW {name}").fetchone() for name in ("fsync", "synchronous_commit")
        ]

    assert settings == [("on",), ("on",)]
