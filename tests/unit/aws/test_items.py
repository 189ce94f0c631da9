import base64
import json
import uuid
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from agent_credits.aws import items
from agent_credits.commit.write_protocol import commit
from agent_credits.ledger.accounts import Account, ErroredRun, run_hash
from agent_credits.ledger.entries import Identity, Page, Receipt
from agent_credits.values.errors import AccountTooLarge
from agent_credits.values.principals import Principal
from tests.memory_rows import MemoryRows
from tests.unit.builders import (
    ACME,
    ANA,
    BIGCORP_TEAM,
    NOW,
    POLICY,
    grant,
    grant_change,
    open_account,
    pause,
    plan_change,
    requested,
    run_changes,
    usage,
)

WRITE_UNIT_BYTES = 1_024
SORT_KEY_BYTES_MAX = 1_024
PARTITION_KEY_BYTES_MAX = 2_048

# What one part could be taken for when another is escaped carelessly.
awkward = st.lists(st.sampled_from(["#", "%", "%23", "%25"]), min_size=1, max_size=2).map("".join)
identities = st.builds(
    Identity, realm=st.just("RUN"), subject=st.just("run-1"), source=awkward, id=awkward
)


def committed(documents: list[dict[str, Any]], *, batch: int) -> MemoryRows:
    """Commit the events to a quiet account: a plan, a pack of add-on credits, a few at a time."""
    rows = MemoryRows()
    open_account(rows, plan_change("1000"), grant_change(str(uuid.uuid4()), credits="1000"))
    for start in range(0, len(documents), batch):
        changes = run_changes(*documents[start : start + batch])
        commit(rows, ANA, changes, now=NOW + timedelta(seconds=start), pause=pause)
    return rows


def sizes(rows: MemoryRows) -> tuple[int, int, int]:
    """Return the largest row, page and receipt, in bytes.

    The first page is left out: once in an account's life, it also records how the account began.
    """
    pages = [page for page in rows.pages.values() if page.number > 1]
    receipts = [item for page in pages for item in items.receipt_items(page)]
    later = [new for _, new in rows.stream if new.page_number > 1]
    return (
        max(items.item_bytes(items.account_item(account)) for account in later),
        max(items.item_bytes(items.page_item(page)) for page in pages),
        max(items.item_bytes(receipt) for receipt in receipts),
    )


@settings(max_examples=500)
@given(identities, identities)
def test_two_identities_never_share_a_key(one: Identity, other: Identity) -> None:
    assert (items.receipt_key(one) == items.receipt_key(other)) == (one == other)


@pytest.mark.parametrize("character", ["x", "#", "%"])
def test_the_longest_identity_still_fits_into_a_key(character: str) -> None:
    identity = Identity("RUN", character * 128, character * 200, character * 128)

    key = items.receipt_key(identity)

    assert len(key["pk"]["S"]) <= PARTITION_KEY_BYTES_MAX
    assert len(key["sk"]["S"]) <= SORT_KEY_BYTES_MAX


def test_the_keys_are_the_documented_ones() -> None:
    assert items.account_key(ANA) == {"pk": {"S": "ACCOUNT#user:ana"}}
    assert items.team_key("acme") == {"pk": {"S": "TEAM#acme"}}
    assert items.policy_key("2025-11") == {"pk": {"S": "POLICY#2025-11"}}
    assert items.page_key(ANA, 7) == {
        "pk": {"S": "ACCOUNT#user:ana"},
        "sk": {"S": "PAGE#0000000007"},
    }
    assert items.receipt_key(Identity("RUN", "run-1", "/a#b", "100%")) == {
        "pk": {"S": "RUN#run-1"},
        "sk": {"S": "EVENT#/a%23b#100%25"},
    }


def test_pages_sort_by_their_number() -> None:
    keys = [items.page_key(ANA, number)["sk"]["S"] for number in (1, 9, 10, 99, 100, 12_345)]

    assert keys == sorted(keys)


@pytest.mark.parametrize("count", [0, 3, 60], ids=["new", "readable", "compressed"])
def test_a_row_is_read_back_as_it_was_written(count: int) -> None:
    rows = committed([usage(f"e{n}") for n in range(count)], batch=60)
    account = replace(rows.accounts[ANA], errored_runs=(ErroredRun(run_hash("run-9"), NOW),))

    item = items.account_item(account)

    assert items.account_from_item(item) == account
    assert items.account_item(items.account_from_item(item)) == item


def test_an_image_of_the_change_stream_is_read_like_the_row() -> None:
    account = committed([usage(f"e{n}") for n in range(60)], batch=60).accounts[ANA]
    item = items.account_item(account)
    assert "B" in item["entries"]

    # In a Lambda event everything is JSON, and binary is base64.
    image = json.loads(json.dumps(item, default=lambda b: base64.b64encode(b).decode()))

    assert items.account_from_item(image) == account


@pytest.mark.parametrize("count", [3, 60], ids=["readable", "compressed"])
def test_pages_and_receipts_are_read_back_as_they_were_written(count: int) -> None:
    account = committed([usage(f"e{n}") for n in range(count)], batch=60).accounts[ANA]
    page = Page(ANA, 12, account.entries)

    assert items.page_from_item(items.page_item(page)) == page
    read = [items.receipt_from_item(item) for item in items.receipt_items(page)]
    assert read == [Receipt(ANA, 12, entry) for entry in page.entries]


@pytest.mark.parametrize("team", [ACME, BIGCORP_TEAM], ids=["listed members", "everybody"])
def test_a_team_is_read_back_as_it_was_written(team: Any) -> None:
    team = team.model_copy(update={"version": 7})

    assert items.team_from_item(items.team_item(team)) == team


def test_a_policy_is_read_back_as_it_was_written() -> None:
    assert items.policy_from_item(items.policy_item(POLICY)) == POLICY


@pytest.mark.parametrize("event", [usage, requested])
def test_what_a_quiet_account_writes_costs_one_unit_each(event: Any) -> None:
    documents = [
        event(
            str(uuid.uuid4()),
            credits="1.234567",
            run=str(uuid.uuid4()),
            project_id="checkout-service",
        )
        for _ in range(40)
    ]

    row, page, receipt = sizes(committed(documents, batch=1))

    assert max(row, page, receipt) <= WRITE_UNIT_BYTES


def test_a_hundred_events_cost_their_row_and_page_a_few_units_each() -> None:
    documents = [
        usage(str(uuid.uuid4()), "1.234567", run=str(uuid.UUID(int=n // 10))) for n in range(400)
    ]

    row, page, receipt = sizes(committed(documents, batch=100))

    assert row <= 5 * WRITE_UNIT_BYTES
    assert page <= 5 * WRITE_UNIT_BYTES
    assert receipt <= WRITE_UNIT_BYTES


def test_the_size_of_an_item_is_counted_as_it_is_billed() -> None:
    item = {"pk": {"S": "x" * 10}, "version": {"N": "1234"}, "entries": {"B": b"y" * 20}}

    assert items.item_bytes(item) == (2 + 10) + (7 + 4) + (7 + 20)


def test_a_row_past_its_ceiling_is_rejected_by_name_and_size() -> None:
    grants = tuple(grant(f"{n}-{uuid.uuid4()}" * 3, credits="999999.999999") for n in range(700))
    account = Account(Principal("team", "hoarder"), 1, grants=grants)

    with pytest.raises(
        AccountTooLarge, match=r"^team:hoarder: a row of [\d,]+ bytes exceeds 65,536$"
    ):
        items.account_item(account)
