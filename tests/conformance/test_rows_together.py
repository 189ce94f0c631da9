"""What the port guarantees of rows that are written together, tested on every engine."""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ReadTimeoutError
from botocore.httpsession import URLLib3Session
from msgspec.structs import replace

from agent_credits.commit.rows import LostTogether
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.limits import LimitKey, LimitRow
from agent_credits.values.errors import AccountTooLarge
from agent_credits.values.principals import Principal
from tests.conformance.engines import AllRows, Engine
from tests.conformance.samples import NOW, full_account, grant

WRITERS = 8
# DynamoDB's bound on the rows of a transaction.
ROWS_MAX = 100


@pytest.fixture
def name() -> str:
    return uuid.uuid4().hex[:12]


@pytest.fixture
def ana(name: str) -> Principal:
    return Principal("user", f"ana-{name}")


@pytest.fixture
def ben(name: str) -> Principal:
    return Principal("user", f"ben-{name}")


def limit_row(name: str, version: int = 1, *, drawn: int = 7) -> LimitRow:
    """Return a row of the team's limit in which nothing is left at its default."""
    return LimitRow(
        LimitKey(name, "team", name, "month"),
        NOW + timedelta(days=9),
        version=version,
        moved_at=NOW - timedelta(seconds=1),
        drawn_microcredits=drawn,
        held=((NOW + timedelta(minutes=5), 3), (NOW + timedelta(minutes=10), 4)),
        limit_microcredits=100,
        notified_percent=70,
    )


def test_rows_that_nobody_wrote_before_are_written_together(
    rows: AllRows, ana: Principal, ben: Principal, name: str
) -> None:
    of_ana, of_ben, of_team = full_account(ana), full_account(ben), limit_row(name)

    assert rows.compare_and_set_together([of_ana, of_ben], [of_team]) is None

    assert rows.read_accounts_of([ana, ben]) == {ana: of_ana, ben: of_ben}
    assert rows.read_limits([of_team.key]) == {of_team.key: of_team}


def test_rows_are_written_together_one_version_at_a_time(
    rows: AllRows, ana: Principal, name: str
) -> None:
    for version in (1, 2, 3):
        together = [full_account(ana, version)], [limit_row(name, version)]
        assert rows.compare_and_set_together(*together) is None

    assert rows.read_account(ana) == full_account(ana, 3)
    row = limit_row(name, 3)
    assert rows.read_limits([row.key]) == {row.key: row}


def test_a_limit_without_a_row_is_not_returned(rows: AllRows, ana: Principal, name: str) -> None:
    row = limit_row(name)
    daily = replace(row.key, period="day")
    rows.compare_and_set_together([full_account(ana)], [row])

    assert rows.read_limits([row.key, daily]) == {row.key: row}
    assert rows.read_limits([]) == {}


def test_nothing_is_written_if_the_limits_row_has_moved(
    rows: AllRows, ana: Principal, ben: Principal, name: str
) -> None:
    rows.compare_and_set_together([full_account(ana)], [limit_row(name)])

    lost = rows.compare_and_set_together([full_account(ben)], [limit_row(name, drawn=8)])

    assert lost == LostTogether(limits=(limit_row(name),))
    assert rows.read_account(ben) is None
    assert rows.read_limits([limit_row(name).key]) == {limit_row(name).key: limit_row(name)}


def test_nothing_is_written_if_one_of_the_accounts_has_moved(
    rows: AllRows, ana: Principal, ben: Principal, name: str
) -> None:
    rows.compare_and_set(full_account(ana))
    rows.compare_and_set(full_account(ana, 2))

    lost = rows.compare_and_set_together(
        [full_account(ben), full_account(ana, 2)], [limit_row(name)]
    )

    assert lost == LostTogether(accounts=(full_account(ana, 2),))
    assert rows.read_account(ben) is None
    assert rows.read_limits([limit_row(name).key]) == {}


def test_all_rows_that_have_moved_are_returned(
    rows: AllRows, ana: Principal, ben: Principal, name: str
) -> None:
    rows.compare_and_set_together([full_account(ana), full_account(ben)], [limit_row(name)])

    lost = rows.compare_and_set_together(
        [full_account(ben), full_account(ana)], [limit_row(name, drawn=8)]
    )

    assert lost == LostTogether((full_account(ben), full_account(ana)), (limit_row(name),))


def test_a_row_past_its_ceiling_is_rejected_before_any_is_written(
    rows: AllRows, ana: Principal, ben: Principal, name: str
) -> None:
    # Hexadecimal digits of no pattern, so that compression does not save them.
    grants = tuple(grant(uuid.uuid4().hex * 4) for _ in range(600))
    too_large = Account(ana, version=1, grants=grants)

    with pytest.raises(AccountTooLarge):
        rows.compare_and_set_together([full_account(ben), too_large], [limit_row(name)])

    assert rows.read_accounts_of([ana, ben]) == {}
    assert rows.read_limits([limit_row(name).key]) == {}


def test_as_many_rows_as_a_transaction_takes_are_written_together(rows: AllRows, name: str) -> None:
    members = [Principal("user", f"{number}-{name}") for number in range(ROWS_MAX - 1)]
    accounts = {member: full_account(member) for member in members}

    assert rows.compare_and_set_together([*accounts.values()], [limit_row(name)]) is None

    assert rows.read_accounts_of(members) == accounts


def test_only_one_of_several_writers_that_move_the_same_limit_wins(
    engine: Engine, name: str
) -> None:
    if not engine.is_concurrent:
        pytest.skip("these rows are one thread's alone")
    writes = [
        (full_account(Principal("user", f"{n}-{name}")), limit_row(name, drawn=n))
        for n in range(WRITERS)
    ]

    with ThreadPoolExecutor(WRITERS) as pool:
        answers = list(
            pool.map(lambda w: engine.rows.compare_and_set_together([w[0]], [w[1]]), writes)
        )

    ((account, row),) = [w for w, lost in zip(writes, answers, strict=True) if lost is None]
    members = [written.principal for written, _ in writes]
    assert engine.rows.read_accounts_of(members) == {account.principal: account}
    assert engine.rows.read_limits([row.key]) == {row.key: row}
    # A transaction that meets another one on its way is not told where the row stands.
    lost = LostTogether(limits=(row,)), LostTogether(conflicts=True)
    assert all(answer is None or answer in lost for answer in answers)


@contextmanager
def losing_the_next_answer(client: Any) -> Iterator[list[bytes]]:
    """Let the next transaction be carried out, and its answer never arrive; yield all bodies."""
    bodies: list[bytes] = []

    def send(request: Any, **_: Any) -> None:
        bodies.append(request.body)
        if len(bodies) == 1:
            URLLib3Session().send(request)
            raise ReadTimeoutError(endpoint_url=request.url)

    events, event = client.meta.events, "before-send.dynamodb.TransactWriteItems"
    events.register(event, send)
    try:
        yield bodies
    finally:
        events.unregister(event, send)


def test_a_transaction_whose_answer_was_lost_is_repeated_and_counts_once(
    engine: Engine, ana: Principal, name: str
) -> None:
    if engine.name in ("memory", "moto"):
        pytest.skip("it knows no token by which a repeated transaction is recognised")
    rows: Any = engine.rows

    with losing_the_next_answer(rows._client) as bodies:
        assert rows.compare_and_set_together([full_account(ana)], [limit_row(name)]) is None

    first, repeated = bodies
    assert first == repeated
    assert rows.read_account(ana) == full_account(ana)
