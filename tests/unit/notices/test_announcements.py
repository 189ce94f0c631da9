import base64
import json
from datetime import timedelta
from typing import Any

import pytest

from agent_credits.aws.items import account_from_item, account_item
from agent_credits.billing.directory import Directory
from agent_credits.commit.write_protocol import commit
from agent_credits.intake.debited_batch import Delivery
from agent_credits.intake.debits import Debits
from agent_credits.ledger.accounts import Account
from agent_credits.notices.announcements import AccountRecord, NoticeSettings, notices_of
from agent_credits.notices.notice import Notice
from tests.memory_rows import MemoryRows
from tests.unit.builders import (
    ANA,
    BEN,
    NOW,
    body,
    finished,
    grant_change,
    open_account,
    pause,
    requested,
    run_changes,
    sample_rows,
    usage,
)

SETTINGS = NoticeSettings(problem_type_base_url="")


def poor(credits: str = "1") -> MemoryRows:  # noqa: A002
    rows = sample_rows()
    open_account(rows, grant_change("g-1", credits=credits))
    return rows


def send(rows: MemoryRows, *documents: dict[str, Any]) -> None:
    commit(rows, ANA, run_changes(*documents), now=NOW, pause=pause)


def as_delivered(account: Account | None) -> Account | None:
    """Read the image as it is in a Lambda event, where everything is JSON."""
    if account is None:
        return None
    image = json.dumps(account_item(account), default=lambda b: base64.b64encode(b).decode())
    return account_from_item(json.loads(image))


def announced(rows: MemoryRows) -> list[Notice]:
    """Return every notice of every commit, derived from the images alone."""
    return [
        notice
        for old, new in rows.stream
        for notice in notices_of(
            AccountRecord(as_delivered(old), as_delivered(new) or new),
            SETTINGS,
        )
    ]


def test_a_debited_run_is_not_announced() -> None:
    rows = poor("100")

    send(rows, requested("e1"), usage("e2"), finished("e3"))

    assert announced(rows) == []


def test_a_thousand_events_of_one_failed_run_send_one_notice() -> None:
    rows = poor()
    debits = Debits(rows, Directory(rows), pause)
    events = [usage(f"e{number}", "5") for number in range(1_000)]
    for start in range(0, 1_000, 50):
        text = body(*events[start : start + 50])
        batch = debits.debit([Delivery("m", text)], now=NOW, time_is_left=lambda: True)
        assert batch.failed_message_ids == []

    (notice,) = announced(rows)

    assert notice.data["run_id"] == "run-1"
    assert notice.data["shortfall_credits"] == "4"


def test_fifty_failed_runs_send_fifty_notices() -> None:
    rows = poor()

    send(rows, *[usage(f"e{number}", "5", run=f"run-{number}") for number in range(50)])

    notices = announced(rows)
    assert [n.data["run_id"] for n in notices] == [f"run-{number}" for number in range(50)]
    assert len({n.id for n in notices}) == 50


def test_the_first_commit_of_an_account_is_announced_too() -> None:
    entry_rows = poor()
    send(entry_rows, usage("e1", "5"))
    entry = entry_rows.accounts[ANA].entries[-1]
    new = Account(ANA, version=1, entries=(entry,))

    (notice,) = notices_of(AccountRecord(None, new), SETTINGS)

    assert notice.data["run_id"] == "run-1"


@pytest.mark.parametrize("entries_before", range(10))
def test_a_failure_is_announced_once_at_any_position_on_a_page(entries_before: int) -> None:
    rows = poor()
    for number in range(entries_before):
        send(rows, requested(f"before-{number}", run="run-0"))

    send(rows, usage("e1", "5"))
    for number in range(10):
        send(rows, requested(f"after-{number}", run="run-1"))

    assert [n.data["run_id"] for n in announced(rows)] == ["run-1"]


def test_entries_of_a_full_page_are_not_announced_again_with_the_next_page() -> None:
    rows = poor()
    send(rows, *[usage(f"e{number}", "5", run=f"run-{number}") for number in range(9)])
    old = rows.accounts[ANA]
    send(rows, usage("e9", "5", run="run-9"))
    new = rows.accounts[ANA]
    assert new.page_number == old.page_number + 1

    notices = notices_of(AccountRecord(old, new), SETTINGS)

    assert [n.data["run_id"] for n in notices] == ["run-9"]


def test_a_redelivered_stream_record_gives_the_same_notices() -> None:
    rows = poor()
    send(rows, *[usage(f"e{number}", "5", run=f"run-{number}") for number in range(3)])

    once, again = announced(rows), announced(rows)

    assert again == once
    assert [n.id for n in again] == [n.id for n in once]


def test_the_same_run_on_two_accounts_fails_for_each_of_them() -> None:
    rows = poor()
    open_account(rows, grant_change("g-1", credits="1", principal=BEN))
    send(rows, usage("e1", "5"))
    commit(rows, BEN, run_changes(usage("e2", "5", user="ben")), now=NOW, pause=pause)

    first, second = announced(rows)

    assert first.id != second.id
    assert {first.principal, second.principal} == {ANA, BEN}


def test_a_failure_is_announced_although_the_run_gets_its_draws_back() -> None:
    rows = poor()

    send(rows, usage("e1", "5"), finished("e2", "error"), usage("e3", "5"))

    assert [n.data["run_id"] for n in announced(rows)] == ["run-1"]


def test_expiry_and_refill_are_not_announced() -> None:
    rows = sample_rows()
    open_account(rows, grant_change("g-1", expires_at=NOW))

    commit(rows, ANA, [grant_change("g-2")], now=NOW + timedelta(seconds=1), pause=pause)

    assert [e.outcome for e in rows.accounts[ANA].entries] == ["granted", "expired", "granted"]
    assert announced(rows) == []
