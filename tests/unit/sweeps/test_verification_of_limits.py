"""Verifying recomputes what was drawn under limits, and finds what was tampered with."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from msgspec.structs import replace

from agent_credits.aws.items import checkpoint_from_item, checkpoint_item
from agent_credits.ledger.entries import Entry
from agent_credits.ledger.limits import Counted, LimitCount, LimitKey, LimitStanding
from agent_credits.sweeps.checkpoint import Checkpoint
from agent_credits.sweeps.verification import verify_row
from tests.unit.builders import ANA, NOW, finished, history, requested, usage
from tests.unit.limit_world import LimitWorld, limit
from tests.unit.sweeps.test_verification import LedgerInMemory

CREDIT = 1_000_000
DAY = timedelta(days=1)
OF_ANA = LimitKey("acme", "member", "ana", "day")
OF_BEN = LimitKey("acme", "member", "ben", "day")
OF_TEAM = LimitKey("acme", "team", "acme", "month")


@pytest.fixture
def rows() -> LedgerInMemory:
    """An account that drew, reserved, was refused and gave back under limits, on two days."""
    rows = LedgerInMemory()
    world = LimitWorld(
        limit("member", "20", "day"), limit("team", "100"), limit("run", "8", "run"), rows=rows
    )
    world.send(usage("drawn", "5", run="run-1"), usage("other", "2", user="ben", run="run-b"))
    world.send(requested("held", run="run-2", credits="6", reserve="estimate"))
    world.send(requested("refused", run="run-3", credits="30"))
    world.send(usage("short", "12", run="run-4"))
    world.send(usage("broken", "1", run="run-5"), finished("back", "error", run="run-5"))
    world.send(usage("later", "3", run="run-6"), now=NOW + DAY)
    world.send(requested("live", run="run-7", credits="2", reserve="estimate"), now=NOW + DAY)
    world.send(usage("last", "1", run="run-8"), now=NOW + DAY)
    outcomes = [entry.outcome for entry in history(rows, ANA)[1:]]
    assert outcomes == [
        *("debited", "accepted", "insufficient", "insufficient", "debited", "returned"),
        *("reservations_expired", "debited", "accepted", "debited"),
    ]
    return rows


def findings(rows: LedgerInMemory) -> str:
    verification = verify_row(rows, rows.accounts[ANA], {}, Checkpoint(ANA, NOW.date()))
    return "\n".join(str(finding) for finding in verification.findings)


def counting(of: LimitKey, **changes: object) -> Callable[[Entry], Entry]:
    """Return the change of what an entry counts under one of its limits."""

    def change(entry: Entry) -> Entry:
        counted = tuple(replace(c, **changes) if c.key == of else c for c in entry.limits.counted)
        assert counted != entry.limits.counted
        return replace(entry, limits=replace(entry.limits, counted=counted))

    return change


def counting_also(*more: Counted) -> Callable[[Entry], Entry]:
    def change(entry: Entry) -> Entry:
        counted = (*entry.limits.counted, *more)
        return replace(entry, limits=replace(entry.limits, counted=counted))

    return change


def standing(key: LimitKey, **changes: object) -> Callable[[Entry], Entry]:
    """Return the change of what a refused entry states of one of its limits."""

    def change(entry: Entry) -> Entry:
        before = entry.limits.standings
        standings = tuple(replace(s, **changes) if s.key == key else s for s in before)
        assert standings != before
        return replace(entry, limits=replace(entry.limits, standings=standings))

    return change


def naming(key: LimitKey) -> Callable[[Entry], Entry]:
    """Return the change by which an entry names another limit that refused it."""

    def change(entry: Entry) -> Entry:
        more = LimitStanding(key, 0, stops=True, drawn_microcredits=0, held_microcredits=0)
        standings = (*entry.limits.standings, more)
        return replace(entry, limits=replace(entry.limits, standings=standings))

    return change


OF_RUN_4 = LimitKey("acme", "run", "run-4", "run")

TAMPERED: dict[str, tuple[str, Callable[[Entry], Entry], str]] = {
    "less counted than was drawn": (
        "drawn",
        counting(OF_ANA, microcredits=CREDIT),
        "counts 1 under the limit of member ana per day, but drew 5",
    ),
    "a count by a request": (
        "held",
        counting(OF_TEAM, microcredits=CREDIT),
        "counts 1 under the limit of team acme per month, but drew 0",
    ),
    "a count under the limit of another member": (
        "drawn",
        counting(OF_ANA, key=OF_BEN),
        "counts under the limit of member ben per day, which is not one of its run",
    ),
    "a count in a period that was over": (
        "later",
        counting(OF_ANA, ends_at=NOW),
        "counts under the limit of member ana per day in a period that was over",
    ),
    "a count in a period of its own": (
        "broken",
        counting(OF_ANA, ends_at=NOW + 2 * DAY),
        "counts under the limit of member ana per day in another period than the account",
    ),
    "a count twice": (
        "drawn",
        counting_also(Counted(OF_TEAM, NOW + DAY, 5 * CREDIT)),
        "names a limit twice",
    ),
    "a count by a request that failed": (
        "refused",
        counting_also(Counted(OF_TEAM, NOW + DAY, 0)),
        "counts under a limit, but is insufficient",
    ),
    "more room given back than was drawn": (
        "back",
        counting(OF_ANA, microcredits=-2 * CREDIT),
        ("takes 2 from the count of the limit of member ana per day, of which its run gave back 1"),
    ),
    "room given back in another period": (
        "back",
        counting(OF_TEAM, ends_at=NOW + 2 * DAY),
        (
            "takes 1 from the count of the limit of team acme per month, of which its run gave"
            " back 0"
        ),
    ),
    "a refusal of what was drawn in full": (
        "drawn",
        naming(OF_ANA),
        "names a limit that refused it, but is debited",
    ),
    "a refusal by the limit of another member": (
        "refused",
        naming(OF_BEN),
        "names the limit of member ben per day, which is not one of its run",
    ),
    "another count before a refusal": (
        "refused",
        standing(OF_ANA, drawn_microcredits=4 * CREDIT),
        (
            "states 4 drawn and 6 reserved under the limit of member ana per day, but its account"
            " had drawn 5 and reserved 6"
        ),
    ),
    "another reserved sum before a refusal": (
        "refused",
        standing(OF_ANA, held_microcredits=7 * CREDIT),
        "states 5 drawn and 7 reserved under the limit of member ana per day",
    ),
    "less drawn by all accounts than by this one": (
        "refused",
        standing(OF_TEAM, drawn_microcredits=4 * CREDIT),
        "states 4 drawn and 6 reserved under the limit of team acme per month",
    ),
    "more drawn by the run before a refusal": (
        "short",
        standing(OF_RUN_4, drawn_microcredits=CREDIT),
        "states 1 drawn and 0 reserved under the limit of run run-4",
    ),
    "another period before a refusal": (
        "refused",
        standing(OF_ANA, resets_at=NOW + 2 * DAY),
        "states another period of the limit of member ana per day than the account counted in",
    ),
    "a refusal by a limit that warns": (
        "refused",
        standing(OF_ANA, stops=False),
        "is refused by the limit of member ana per day, which only warns",
    ),
    "a draw past its limit": (
        "short",
        standing(OF_ANA, limit_microcredits=12 * CREDIT),
        "draws 8 under the limit of member ana per day, which left 7",
    ),
    "a draw of less than its limits left": (
        "short",
        standing(OF_RUN_4, limit_microcredits=9 * CREDIT),
        "draws 8, which none of its limits left",
    ),
    "a refusal of what the limit left room for": (
        "refused",
        standing(OF_ANA, limit_microcredits=41 * CREDIT),
        "is insufficient, which is not what the limit of member ana per day left",
    ),
    "another shortfall at a limit": (
        "refused",
        lambda e: replace(e, shortfall_microcredits=CREDIT),
        "is insufficient, which is not what the limit of member ana per day left",
    ),
    "a limit of no run": (
        "g-ana",
        counting_also(Counted(OF_ANA, NOW + DAY, 0)),
        "names a limit, but belongs to no run",
    ),
}


def test_an_untouched_ledger_is_clean(rows: LedgerInMemory) -> None:
    assert findings(rows) == ""


@pytest.mark.parametrize("what", TAMPERED)
def test_tampering_is_found_even_if_page_receipt_and_row_agree(
    rows: LedgerInMemory, what: str
) -> None:
    event_id, change, expected = TAMPERED[what]

    rows.change_entry(event_id, change)

    assert expected in findings(rows)


def change_count(rows: LedgerInMemory, key: LimitKey, **changes: object) -> None:
    counts = rows.accounts[ANA].limit_counts
    changed = tuple(replace(c, **changes) if c.key == key else c for c in counts)
    assert changed != counts
    rows.change_account(limit_counts=changed)


def test_a_count_that_is_changed_on_the_row_is_found(rows: LedgerInMemory) -> None:
    change_count(rows, OF_ANA, drawn_microcredits=CREDIT)

    assert findings(rows) == (
        "user:ana, row: the limit of member ana per day is counted as 1 credit drawn, but its"
        " ledger counts 4"
    )


def test_a_period_that_is_changed_on_the_row_is_found(rows: LedgerInMemory) -> None:
    change_count(rows, OF_ANA, ends_at=NOW + 3 * DAY)

    assert findings(rows) == (
        "user:ana, row: the limit of member ana per day is counted until 2025-11-24 10:00 UTC, but"
        " by its ledger until 2025-11-22 23:00 UTC"
    )


def test_a_count_that_is_only_on_the_row_or_only_on_the_ledger_is_found(
    rows: LedgerInMemory,
) -> None:
    counts = tuple(c for c in rows.accounts[ANA].limit_counts if c.key != OF_TEAM)
    rows.change_account(limit_counts=(*counts, LimitCount(OF_BEN, NOW + 2 * DAY)))

    assert "the limit of member ben per day is counted on the row alone" in findings(rows)
    assert "the limit of team acme per month is counted on its ledger alone" in findings(rows)


def test_a_count_whose_period_was_over_may_be_on_the_row(rows: LedgerInMemory) -> None:
    counts = rows.accounts[ANA].limit_counts
    rows.change_account(limit_counts=(*counts, LimitCount(OF_BEN, NOW + DAY, CREDIT)))

    assert findings(rows) == ""


def test_a_reservation_that_counts_under_other_limits_is_found(rows: LedgerInMemory) -> None:
    (held,) = rows.accounts[ANA].reservations
    rows.change_account(reservations=(replace(held, limits=(OF_TEAM,)),))

    assert findings(rows) == (
        "user:ana, row: the reservation of run run-7 counts under other limits than its ledger says"
    )


def test_what_a_child_holds_counts_under_the_limits_of_its_parent() -> None:
    world = LimitWorld(limit("member", "10"))
    world.send(requested("r-1", run="parent", credits="6", reserve="estimate"))
    world.set_limits()
    world.send(requested("r-2", run="child", credits="4", parent_run_id="parent"))
    world.set_limits(limit("member", "10"))

    # The world verifies the account, and so what the refusal states.
    entry = world.entry(requested("r-3", run="other", credits="5"))

    assert entry.limits.standings[0].held_microcredits == 6 * CREDIT


def test_limits_are_verified_across_checkpoints(rows: LedgerInMemory) -> None:
    row = rows.accounts[ANA]
    rows.put_checkpoint(Checkpoint(ANA, NOW.date()))
    for _ in range(row.page_number + 1):
        since = rows.read_checkpoint(ANA)
        assert since is not None
        verification = verify_row(rows, row, {}, since, entries_max=1)
        assert verification.findings == ()
        rows.put_checkpoint(verification.checkpoint)

    assert verification.is_complete
    assert verification.checkpoint.page_number == 1
    change_count(rows, OF_TEAM, drawn_microcredits=CREDIT)
    again = verify_row(rows, rows.accounts[ANA], {}, verification.checkpoint)
    (finding,) = again.findings
    assert finding.text.endswith("is counted as 1 credit drawn, but its ledger counts 17")


def test_a_checkpoint_holds_what_reservations_and_accounts_count(rows: LedgerInMemory) -> None:
    # The page with the reservation is flushed, and is not read again.
    world = LimitWorld(limit("member", "20", "day"), payers=(), rows=rows)
    world.policy = rows.policies["2025-11"]
    for number in range(12):
        world.send(usage(f"more-{number}", "0.5", run="run-9"), now=NOW + DAY)
    verification = verify_row(rows, rows.accounts[ANA], {}, Checkpoint(ANA, NOW.date()))
    checkpoint = verification.checkpoint

    assert verification.findings == ()
    (reserved,) = checkpoint.reservations
    assert reserved.limits == (OF_ANA, OF_TEAM)
    assert {count.key for count in checkpoint.limit_counts} == {OF_ANA, OF_TEAM}
    assert checkpoint_from_item(checkpoint_item(checkpoint)) == checkpoint
    world.send(usage("refused", "30", run="run-10"), now=NOW + DAY)
    assert verify_row(rows, rows.accounts[ANA], {}, checkpoint).findings == ()


def test_a_checkpoint_of_before_limits_is_read_as_it_was_put() -> None:
    item = {
        "pk": {"S": "CHECKPOINT#user:ana"},
        "began_on": {"S": "2025-11-21"},
        "page_number": {"N": "3"},
        "grants": {"S": "[]"},
        "unsettled": {"S": "[]"},
        "reservations": {"S": '[["run-1",null,[["g-1",5]]]]'},
    }

    checkpoint = checkpoint_from_item(item)

    assert checkpoint.limit_counts == ()
    assert [held.limits for held in checkpoint.reservations] == [()]
    assert checkpoint_item(checkpoint) == item
