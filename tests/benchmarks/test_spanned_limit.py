"""Members under one limit, in virtual time: the same each time, and nothing lost or passed."""

from functools import partial

import pytest
from msgspec.structs import replace

from agent_credits.commit.rows import LostTogether
from tests.benchmarks import spanned_limit
from tests.benchmarks.spanned_limit import DistantRows, spanned_rate
from tests.benchmarks.stores import Network
from tests.benchmarks.workloads import uniform
from tests.virtual_time import VirtualTime

FAR = Network(request_milliseconds=5, transaction_requests=2)


def test_the_figures_are_the_same_each_time() -> None:
    assert spanned_rate(3, 5, FAR, 0.5) == spanned_rate(3, 5, FAR, 0.5)


def test_one_worker_loses_no_race_and_takes_as_long_as_its_requests() -> None:
    rate = spanned_rate(1, 1, FAR, 1.0)

    assert (rate.lost, rate.came_back) == (0, 0)
    assert rate.events == rate.commits == rate.transactions
    # Accounts, receipts, the limit, and a transaction that takes as long as two requests.
    seconds = 5 * 0.005 + spanned_limit.COMPUTING_SECONDS
    assert rate.seconds / rate.events == pytest.approx(seconds, rel=0.05)


def test_workers_lose_races_and_no_event() -> None:
    rate = spanned_rate(4, 10, FAR, 1.0)

    assert 0 < rate.lost < rate.transactions
    assert 0 < rate.share_lost < 1
    assert rate.events > 100


def test_a_transaction_that_meets_another_on_its_way_is_not_told_where_the_row_stands() -> None:
    clock = VirtualTime()
    rows = DistantRows(uniform(0, warm_up=0, accounts=1), clock, FAR, until=1)
    (account,) = rows.accounts.values()
    newer = replace(account, version=account.version + 1)
    answers: list[LostTogether | None] = []

    def write(after: float) -> None:
        clock.sleep(after)
        answers.append(rows.compare_and_set_together([newer], []))

    clock.run([partial(write, after) for after in (0, 0.002, 0.1)])

    assert answers == [LostTogether(conflicts=True), None, LostTogether((newer,))]
