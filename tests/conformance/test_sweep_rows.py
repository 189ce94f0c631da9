"""What the port promises to sweeps: stretches of a table, parts of a ledger, and checkpoints."""

import uuid
from datetime import date

import pytest

from agent_credits.aws.items import limit_key
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.burn import BurnByDay
from agent_credits.ledger.burn_counts import BurnCount
from agent_credits.ledger.entries import Page
from agent_credits.ledger.limits import LimitCount
from agent_credits.sweeps.checkpoint import Checkpoint, ReservedByLedger
from agent_credits.sweeps.rows import Unreadable
from agent_credits.values.principals import Principal
from tests.conformance.engines import AllRows
from tests.conformance.samples import NOW, entry, full_account, grant, limit_row, team


@pytest.fixture
def ana() -> Principal:
    return Principal("user", uuid.uuid4().hex[:12])


def swept(rows: AllRows, rows_max: int) -> list[tuple[str, Account | Unreadable]]:
    """Return all accounts, read in stretches. Rows of other tests are among them."""
    found, after = [], None
    for _ in range(10_000):
        stretch = rows.read_accounts(after, rows_max)
        assert len(stretch.rows) <= rows_max
        found += stretch.rows
        after = stretch.end
        if after is None:
            return found
    raise AssertionError("stretches come to an end")


@pytest.mark.parametrize("rows_max", [1, 3, 500])
def test_each_account_is_in_one_stretch_as_it_was_written(
    rows: AllRows, ana: Principal, rows_max: int
) -> None:
    written = [full_account(Principal("user", f"{ana.id}-{n}")) for n in range(7)]
    for number, account in enumerate(written):
        rows.compare_and_set(account)
        rows.compare_and_set_team(team(f"{ana.id}-{number}"))

    found = swept(rows, rows_max)

    mine = [(key, row) for key, row in found if ana.id in key]
    assert sorted(mine, key=str) == sorted(
        ((f"ACCOUNT#{account.principal}", account) for account in written), key=str
    )


def test_each_limit_is_in_one_stretch_with_the_accounts(rows: AllRows, ana: Principal) -> None:
    account, row = full_account(ana), limit_row(ana.id)
    assert rows.compare_and_set_together([account], [row]) is None
    rows.compare_and_set_team(team(ana.id))

    found, after = {}, None
    for _ in range(10_000):
        stretch = rows.read_accounts_and_limits(after, 1)
        found |= dict(stretch.rows)
        if (after := stretch.end) is None:
            break

    of_limit = limit_key(row.key)["pk"]["S"]
    assert {key: there for key, there in found.items() if ana.id in key} == {
        f"ACCOUNT#{ana}": account,
        of_limit: row,
    }
    assert rows.read_account_or_limit_at(of_limit) == row
    assert rows.read_account_or_limit_at(f"ACCOUNT#{ana}") == account
    assert rows.read_account_or_limit_at(f"{of_limit}-nobody") is None


def test_a_stretch_begins_after_a_key_even_if_that_row_is_missing(
    rows: AllRows, ana: Principal
) -> None:
    for number in range(5):
        rows.compare_and_set(full_account(Principal("user", f"{ana.id}-{number}")))
    keys = [key for key, _ in swept(rows, 500)]
    middle = keys[len(keys) // 2]

    behind = rows.read_accounts(middle, 500)
    behind_nobody = rows.read_accounts(f"ACCOUNT#user:{ana.id}-nobody", 500)

    assert [key for key, _ in behind.rows] == keys[len(keys) // 2 + 1 :]
    assert [key for key, _ in behind_nobody.rows] == keys[len(keys) - len(behind_nobody.rows) :]


def test_a_row_is_read_by_the_key_that_a_stretch_gave(rows: AllRows, ana: Principal) -> None:
    written = full_account(ana)
    rows.compare_and_set(written)

    assert rows.read_account_at(f"ACCOUNT#{ana}") == written
    assert rows.read_account_at(f"ACCOUNT#{ana}-nobody") is None


def test_a_part_of_a_ledger_is_read_in_order(rows: AllRows, ana: Principal) -> None:
    pages = [Page(ana, number, (entry(ana.id, f"e-{number}"),)) for number in (1, 2, 9, 10, 11)]
    for page in pages:
        rows.put_page(page)

    assert list(rows.read_pages(ana)) == pages
    assert list(rows.read_pages(ana, 2, 10)) == pages[1:4]
    assert list(rows.read_pages(ana, 11)) == pages[4:]
    assert list(rows.read_pages(ana, 12)) == []
    assert list(rows.read_pages(ana, 3, 2)) == []


def test_a_checkpoint_is_read_as_it_was_put_last(rows: AllRows, ana: Principal) -> None:
    empty = Checkpoint(ana, began_on=date(2026, 11, 30))
    full = Checkpoint(
        ana,
        began_on=date(2028, 2, 29),
        page_number=123,
        recorded_at=NOW,
        grants=(grant("g-1"), grant("g-2")),
        unsettled_grant_ids=frozenset({"g-2"}),
        reservations=(
            ReservedByLedger("run-1", None, (("g-1", 3),), (limit_row("acme").key,)),
            ReservedByLedger("run-2", "run-1", (("g-1", 2), ("g-2", 1))),
        ),
        limit_counts=(LimitCount(limit_row("acme").key, NOW, 7),),
    )

    assert rows.read_checkpoint(ana) is None
    for checkpoint in (empty, full):
        rows.put_checkpoint(checkpoint)
        assert rows.read_checkpoint(ana) == checkpoint


def test_a_teams_accounts_are_read_together_and_the_missing_are_left_out(
    rows: AllRows, ana: Principal
) -> None:
    # More than one batched call takes.
    there = [full_account(Principal("user", f"{ana.id}-{n}")) for n in range(130)]
    for account in there:
        rows.compare_and_set(account)

    found = rows.read_accounts_of([*(a.principal for a in there), ana])

    assert found == {account.principal: account for account in there}
    assert rows.read_accounts_of([]) == {}


def test_a_burn_count_is_read_as_it_was_put_last(rows: AllRows, ana: Principal) -> None:
    day = date(2026, 11, 22)
    first = BurnCount(ana, 3, BurnByDay({day: 7, date(2026, 11, 21): -2}))
    second = BurnCount(ana, 4, BurnByDay({day: 9}))

    assert rows.read_burn_counts([ana]) == {}
    rows.put_burn_count(first)
    assert rows.read_burn_counts([ana]) == {ana: first}
    rows.put_burn_count(second)
    assert rows.read_burn_counts([ana]) == {ana: second}


def test_each_team_is_in_one_stretch_as_it_was_written(rows: AllRows, ana: Principal) -> None:
    written = {f"TEAM#{ana.id}-{n}": team(f"{ana.id}-{n}") for n in range(3)}
    for one in written.values():
        rows.compare_and_set_team(one)

    found, after = {}, None
    for _ in range(10_000):
        stretch = rows.read_teams(after, 500)
        found |= dict(stretch.rows)
        if (after := stretch.end) is None:
            break

    assert {key: row for key, row in found.items() if ana.id in key} == written
    assert all(key.startswith("TEAM#") for key in found)
    assert rows.read_team_at(f"TEAM#{ana.id}-0") == written[f"TEAM#{ana.id}-0"]
    assert rows.read_team_at(f"TEAM#{ana.id}") is None
