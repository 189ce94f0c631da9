"""Code of before reservations, beside code that knows them: what each can read of a row.

Code of before takes a row's grants from `grants`, ignores attributes that it does not know, and
writes the row without them. What it cannot read, it gives back to the queue.
"""

from typing import Any

import pytest

from agent_credits.aws.items import Item, account_from_item, account_item
from agent_credits.commit.write_protocol import commit
from agent_credits.ledger.accounts import PAGE_ENTRIES_FULL
from tests.unit.builders import (
    ANA,
    NOW,
    finished,
    grant_change,
    pause,
    requested,
    run_changes,
    usage,
)
from tests.unit.reservation_world import HOUR, ReservingWorld, released, requests

ATTRIBUTES_OF_BEFORE = {
    *("pk", "version", "page_number", "grants", "entries", "plan", "errored_runs", "reload"),
    *("reloaded_at", "is_exhausted", "low", "page_is_full"),
}


def read_by_code_of_before(item: Item) -> Item:
    """Return what that code knows of the row; raises KeyError for a row that it cannot read."""
    needed = {name: item[name] for name in ("pk", "version", "page_number", "grants", "entries")}
    return needed | {name: item[name] for name in item.keys() & ATTRIBUTES_OF_BEFORE}


def test_a_row_without_reservations_is_written_as_before() -> None:
    world = ReservingWorld()
    commit(world.rows, ANA, run_changes(usage("u-1", "1")), now=NOW, pause=pause)

    item = account_item(world.account)

    assert item.keys() <= ATTRIBUTES_OF_BEFORE
    assert account_from_item(read_by_code_of_before(item)) == world.account


@pytest.mark.parametrize(
    "afterwards", [[], [usage("u-1", "5")], [finished("f-1")], [released("x-1")]]
)
def test_code_of_before_cannot_read_a_row_that_reserves_or_tells_of_it(
    afterwards: list[dict[str, Any]],
) -> None:
    world = ReservingWorld()
    world.send(*requests(1), *afterwards)

    with pytest.raises(KeyError, match="grants"):
        read_by_code_of_before(account_item(world.account))


def test_a_request_that_only_found_reserved_credits_is_kept_from_code_of_before_too() -> None:
    world = ReservingWorld()
    world.send(*requests(7))
    world.send(*(finished(f"f-{n}", run=f"run-{n}") for n in range(1, 7)), now=NOW + HOUR)
    world.send(requested("r-9", run="run-9", reserve="none", credits="501"), now=NOW + 2 * HOUR)

    assert world.account.reservations == ()
    with pytest.raises(KeyError, match="grants"):
        read_by_code_of_before(account_item(world.account))


def test_a_row_can_be_read_by_code_of_before_again_once_nothing_on_it_tells_of_reservations() -> (
    None
):
    world = ReservingWorld()
    world.send(*requests(1), finished("f-1"))
    for number in range(PAGE_ENTRIES_FULL + 1):
        gift = grant_change(f"g-{number + 2}")
        commit(world.rows, ANA, [gift], now=NOW, pause=pause)

    item = account_item(world.account)

    assert account_from_item(read_by_code_of_before(item)) == world.account
