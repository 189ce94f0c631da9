"""Verifying recomputes an account only from its ledger, and finds whatever was tampered with."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from agent_credits.aws.items import page_key, receipt_key
from agent_credits.billing.policy import GRACE_DAYS_DEFAULT
from agent_credits.commit.changes import ReloadDeclined, RunChange
from agent_credits.commit.write_protocol import commit
from agent_credits.ledger.entries import PAGES_MAX, Draw, Entry, Outcome, Page, PoolBalance, Receipt
from agent_credits.ledger.grants import Grant
from agent_credits.ledger.reloads import ReloadTerms
from agent_credits.sweeps.checkpoint import Checkpoint
from agent_credits.sweeps.reconciliation import Drift
from agent_credits.sweeps.verification import Verification, verify_row
from agent_credits.values.principals import Principal
from agent_credits_cli.entries import all_pages
from agent_credits_cli.verification import NOTHING, Verified, verify_account, verify_all
from tests.memory_rows import MemoryRows
from tests.unit.builders import (
    ANA,
    BEN,
    NOW,
    POLICY,
    commit_each,
    finished,
    grant_change,
    open_account,
    pause,
    plan_change,
    requested,
    run_change,
    settle,
    usage,
)

CREDIT = 1_000_000


class LedgerInMemory(MemoryRows):
    """Rows in memory that can be tampered with."""

    def change_account(self, **changes: object) -> None:
        self.accounts[ANA] = replace(self.accounts[ANA], **changes)

    def change_entry(self, event_id: str, change: Callable[[Entry], Entry]) -> None:
        """Change an entry wherever it stands: page, receipt and row then agree with each other."""
        for key, page in self.pages.items():
            self.pages[key] = replace(page, entries=_changed(page.entries, event_id, change))
        for identity, receipt in self.receipts.items():
            if identity.id == event_id:
                self.receipts[identity] = replace(receipt, entry=change(receipt.entry))
        row = self.accounts[ANA]
        self.accounts[ANA] = replace(row, entries=_changed(row.entries, event_id, change))

    def receipt_of(self, event_id: str) -> Receipt:
        return next(r for identity, r in self.receipts.items() if identity.id == event_id)


def _changed(
    entries: tuple[Entry, ...], event_id: str, change: Callable[[Entry], Entry]
) -> tuple[Entry, ...]:
    return tuple(change(entry) if entry.identity.id == event_id else entry for entry in entries)


def verified(rows: LedgerInMemory, principal: Principal = ANA) -> Verified:
    return verify_account(rows, principal, {})


def findings(rows: LedgerInMemory) -> str:
    return "\n".join(str(finding) for finding in verified(rows).findings)


def waiting_for_reload(event: dict[str, Any]) -> RunChange:
    """Return the change of a team that reloads: too little requests one, and the event waits."""
    change = run_change(event)
    terms = ReloadTerms("acme", 1, ("add_on",), CREDIT, 5, timedelta(hours=1))
    return replace(change, billing=replace(change.billing, reload=terms))


def made_for_free(rows: LedgerInMemory) -> Grant:
    """Return the grant `pack`, which was used up, with credits in it again."""
    entries = (entry for page in all_pages(rows, rows.accounts[ANA]) for entry in page.entries)
    pack = next(e.grant for e in entries if e.grant and e.grant.id == "pack")
    return replace(pack, remaining_microcredits=7 * CREDIT)


@pytest.fixture
def rows() -> LedgerInMemory:
    """An account of three full pages and an open one, with every outcome among its entries."""
    rows = LedgerInMemory()
    settle(rows)
    open_account(
        rows,
        plan_change("20"),
        grant_change("pack", credits="10"),
        grant_change("trial", "trial", "6", expires_at=NOW + timedelta(minutes=7)),
        grant_change("soon", credits="5", expires_at=NOW + timedelta(days=9)),
    )
    commit_each(
        rows,
        run_change(requested("asked", run="run-a", credits="3")),
        run_change(usage("spills", "8", run="run-a")),
        run_change(finished("ended", run="run-a")),
        *(run_change(usage(f"small-{n}", "0.5", run="run-b")) for n in range(8)),
        run_change(usage("wasted", "4", run="run-c")),
        run_change(finished("broken", "error", run="run-c")),
        run_change(usage("late", "1", run="run-c")),
        grant_change("gone", "trial", "2", expires_at=NOW + timedelta(minutes=15)),
        *(run_change(requested(f"ask-{n}", run="run-d")) for n in range(4)),
        run_change(usage("large", "30", run="run-e")),
        run_change(usage("more", "2", run="run-e")),
        run_change(requested("empty", run="run-f")),
        waiting_for_reload(usage("waits", "50", run="run-g")),
        ReloadDeclined(ANA, "reload:user:ana:1", "acme", "payment_declined", None, 1),
    )
    return rows


def test_an_untouched_ledger_is_clean_and_has_its_sums(rows: LedgerInMemory) -> None:
    result = verified(rows)

    pages = list(all_pages(rows, rows.accounts[ANA]))
    assert result.findings == ()
    assert [page.number for page in pages] == [1, 2, 3, 4]
    assert result.accounts == 1
    assert result.sums.entries == sum(len(page.entries) for page in pages)
    assert result.sums.granted_microcredits == 43 * CREDIT
    assert result.sums.returned_microcredits == 4 * CREDIT
    assert result.sums.remaining_microcredits == sum(
        grant.remaining_microcredits for grant in rows.accounts[ANA].grants
    )


def test_the_ledger_under_test_has_every_outcome(rows: LedgerInMemory) -> None:
    pages = all_pages(rows, rows.accounts[ANA])

    outcomes = {entry.outcome for page in pages for entry in page.entries}

    # Those of reservations have a ledger of their own.
    assert outcomes == set(Outcome.__args__) - {"extended", "released", "reservations_expired"}


def test_a_full_page_that_the_row_still_holds_counts_once(rows: LedgerInMemory) -> None:
    row = rows.accounts[ANA]
    rows.put_page(row.page)

    pages = list(all_pages(rows, row))

    assert pages[-1] == row.page
    assert len({page.number for page in pages}) == len(pages)
    assert verified(rows).findings == ()


def test_a_changed_balance_is_found(rows: LedgerInMemory) -> None:
    rows.change_account(grants=(*rows.accounts[ANA].grants, made_for_free(rows)))

    assert findings(rows) == "user:ana, row: grant pack holds 7 credits, but its ledger leaves 0"


def test_a_changed_expiry_of_a_grant_is_found() -> None:
    rows = LedgerInMemory()
    settle(rows)
    account = open_account(rows, grant_change("pack", expires_at=NOW + timedelta(days=1)))
    (pack,) = account.grants
    rows.change_account(grants=(replace(pack, expires_at=None),))

    assert "grant pack is not what the ledger says was granted" in findings(rows)


def test_a_dropped_page_is_found(rows: LedgerInMemory) -> None:
    del rows.pages[ANA, 2]

    assert "page 2 is expected here, so the ledger has a gap" in findings(rows)


def test_a_dropped_first_page_is_found(rows: LedgerInMemory) -> None:
    del rows.pages[ANA, 1]

    assert "page 1 is expected here, so the ledger has a gap" in findings(rows)


def test_a_page_beyond_the_open_one_is_found(rows: LedgerInMemory) -> None:
    row = rows.accounts[ANA]
    rows.pages[ANA, 5] = replace(row.page, number=5)

    assert findings(rows) == (
        "user:ana, page 5: is on the ledger, but the row holds another page 4"
    )


def test_a_page_that_differs_from_the_one_on_the_row_is_found(rows: LedgerInMemory) -> None:
    row = rows.accounts[ANA]
    rows.pages[ANA, row.page_number] = replace(row.page, entries=row.entries[:-1])

    assert "is on the ledger, but the row holds another page 4" in findings(rows)


def test_pages_of_a_dropped_row_are_found(rows: LedgerInMemory) -> None:
    del rows.accounts[ANA]

    assert "user:ana, page 1: belongs to no account" in findings(rows)
    assert verified(rows).accounts == 0


def test_a_dropped_receipt_is_found(rows: LedgerInMemory) -> None:
    del rows.receipts[rows.receipt_of("small-3").entry.identity]

    assert findings(rows) == "user:ana, page 2: event small-3 of run run-b has no receipt"


def test_a_receipt_that_disagrees_with_its_page_is_found(rows: LedgerInMemory) -> None:
    receipt = rows.receipt_of("small-3")
    entry = replace(receipt.entry, payload_hash="another")
    rows.receipts[receipt.entry.identity] = replace(receipt, entry=entry)

    assert findings(rows) == (
        "user:ana, page 2: event small-3 of run run-b has a receipt that differs from it"
    )


def test_a_receipt_of_another_account_is_found(rows: LedgerInMemory) -> None:
    receipt = rows.receipt_of("small-3")
    rows.receipts[receipt.entry.identity] = replace(receipt, principal=BEN)

    assert "event small-3 of run run-b has its receipt on another account, user:ben" in findings(
        rows
    )


def test_a_receipt_of_another_page_is_found(rows: LedgerInMemory) -> None:
    receipt = rows.receipt_of("small-3")
    rows.receipts[receipt.entry.identity] = replace(receipt, page_number=1)

    assert "event small-3 of run run-b has a receipt that names page 1" in findings(rows)


def test_a_receipt_that_contradicts_the_open_page_is_found(rows: LedgerInMemory) -> None:
    row = rows.accounts[ANA]
    entry = replace(row.entries[-1], payload_hash="another")
    rows.receipts[entry.identity] = Receipt(ANA, row.page_number, entry)

    assert "has a receipt that differs from it" in findings(rows)


def test_an_entry_that_stands_on_two_pages_is_found(rows: LedgerInMemory) -> None:
    row = rows.accounts[ANA]
    rows.change_account(entries=(*row.entries, rows.receipt_of("small-3").entry))

    assert "event small-3 of run run-b is recorded already, on page 2" in findings(rows)


def test_an_entry_that_stands_on_one_page_twice_is_found(rows: LedgerInMemory) -> None:
    page = rows.pages[ANA, 2]
    rows.pages[ANA, 2] = replace(page, entries=(*page.entries, page.entries[0]))

    assert "is recorded already, on page 2" in findings(rows)


def test_a_missing_policy_is_found(rows: LedgerInMemory) -> None:
    rows.policies.clear()

    assert f"policy {POLICY.version} has no such rule" in findings(rows)


def drawing(pool: str, grant_id: str, microcredits: int) -> Callable[[Entry], Entry]:
    return lambda entry: replace(entry, draws=(Draw(pool, grant_id, microcredits),))


TAMPERED: dict[str, tuple[str, Callable[[Entry], Entry], str]] = {
    "a draw that was flipped to another grant": (
        "small-0",
        drawing("add_on", "pack", CREDIT // 2),
        "drew 0.5 from pack, but the waterfall draws 0.5 from refill:2025-11-01",
    ),
    "a draw that was made smaller": (
        "small-0",
        drawing("plan", "refill:2025-11-01", 1),
        "has draws and a shortfall that do not add up to its amount",
    ),
    "a draw of more than the grant held": (
        "spills",
        drawing("trial", "trial", 8 * CREDIT),
        "drew 8 from grant trial, which held 6",
    ),
    "a draw of a grant that had expired": (
        "large",
        drawing("trial", "gone", 30 * CREDIT),
        "drew 30 from grant gone, which was empty or had expired",
    ),
    "a draw of a grant that nobody granted": (
        "small-0",
        drawing("plan", "invented", CREDIT // 2),
        "drew from grant invented, which was never granted",
    ),
    "a draw that names the wrong pool": (
        "small-0",
        drawing("trial", "refill:2025-11-01", CREDIT // 2),
        "drew from grant refill:2025-11-01 as if it were in pool trial",
    ),
    "usage that hides its shortfall": (
        "large",
        lambda e: replace(
            e, shortfall_microcredits=0, amount_microcredits=e.amount_microcredits - 1
        ),
        "has draws and a shortfall that do not add up to its amount",
    ),
    "an accepted request that asked for more than there was": (
        "asked",
        lambda e: replace(e, amount_microcredits=1_000 * CREDIT),
        "is accepted, which is not what the pools held",
    ),
    "a request that draws": (
        "asked",
        drawing("plan", "refill:2025-11-01", 1),
        "is not usage, but has draws",
    ),
    "other balances than there were": (
        "large",
        lambda e: replace(e, pools_before=(PoolBalance("plan", 1),)),
        "states other balances than the pools had",
    ),
    "a run that fails twice": (
        "more",
        lambda e: replace(e, fails_run=True),
        "is not the one that fails its run",
    ),
    "a run that fails unannounced": (
        "large",
        lambda e: replace(e, fails_run=False),
        "should be the one that fails its run",
    ),
    "a return of more than was drawn": (
        "broken",
        lambda e: replace(e, draws=(replace(e.draws[0], microcredits=5 * CREDIT),)),
        "not what its run drew",
    ),
    "a return to a grant that nobody granted": (
        "broken",
        drawing("plan", "invented", 4 * CREDIT),
        "gives back to invented, which was never granted",
    ),
    "usage waived for a run that did not fail": (
        "small-0",
        lambda e: replace(e, outcome="waived", draws=()),
        "is waived, but its run had no platform error",
    ),
    "an end of a run that draws": (
        "ended",
        drawing("plan", "refill:2025-11-01", 1),
        "is finished, but has draws",
    ),
    "another payer than the policy names": (
        "small-0",
        lambda e: replace(e, run=replace(e.run, payer="owner")),
        f"is billed to the owner for user, but policy {POLICY.version} has no such rule",
    ),
    "an entry of a run without its trigger": (
        "small-0",
        lambda e: replace(e, run=None),
        "is debited, but belongs to no run",
    ),
    "an entry from before the one before it": (
        "small-0",
        lambda e: replace(e, recorded_at=NOW - timedelta(days=1)),
        "is recorded earlier than the entry before it",
    ),
    "a grant of another amount": (
        "pack",
        lambda e: replace(e, amount_microcredits=1),
        "does not say what it granted",
    ),
    "a grant that is made twice": (
        "soon",
        lambda e: replace(e, grant=replace(e.grant, id="pack")),
        "grants pack a second time",
    ),
    "credits that expired and were not there": (
        "expiry:gone@",
        lambda e: replace(e, amount_microcredits=1),
        "expires 0.000001 credits, but the grant held 2",
    ),
    "credits that expired too early": (
        "expiry:gone@",
        lambda e: replace(e, grant=replace(e.grant, expires_at=None)),
        "comes before the grant's expiry",
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_tampering_is_found_even_if_page_receipt_and_row_agree(
    rows: LedgerInMemory, what: str
) -> None:
    beginning, change, expected = TAMPERED[what]
    entries = [entry for page in all_pages(rows, rows.accounts[ANA]) for entry in page.entries]
    ids = [e.identity.id for e in entries if e.identity.id.startswith(beginning)]

    rows.change_entry(ids[0], change)

    assert expected in findings(rows)


def in_stretches(rows: LedgerInMemory) -> list[Verification]:
    """Verify page by page, each time from the checkpoint that was stored before."""
    rows.put_checkpoint(Checkpoint(ANA, began_on=NOW.date()))
    verifications: list[Verification] = []
    for _ in range(rows.accounts[ANA].page_number + 1):
        since = rows.read_checkpoint(ANA)
        assert since is not None
        verifications.append(verify_row(rows, rows.accounts[ANA], {}, since, entries_max=1))
        rows.put_checkpoint(verifications[-1].checkpoint)
        if verifications[-1].is_complete:
            return verifications
    raise AssertionError("each stretch gets a page further")


def test_an_untouched_ledger_is_clean_in_parts_and_their_sums_add_up(
    rows: LedgerInMemory,
) -> None:
    stretches = in_stretches(rows)

    assert [part.checkpoint.page_number for part in stretches] == [1, 2, 3]
    assert [part.findings for part in stretches] == [(), (), ()]
    assert sum((part.sums for part in stretches), NOTHING.sums) == verified(rows).sums


@pytest.mark.parametrize("what", TAMPERED)
def test_tampering_is_found_in_parts_too(rows: LedgerInMemory, what: str) -> None:
    beginning, change, expected = TAMPERED[what]
    entries = [entry for page in all_pages(rows, rows.accounts[ANA]) for entry in page.entries]
    ids = [e.identity.id for e in entries if e.identity.id.startswith(beginning)]

    rows.change_entry(ids[0], change)

    found = [str(finding) for part in in_stretches(rows) for finding in part.findings]
    assert expected in "\n".join(found)


def fillers(name: str) -> list[RunChange]:
    """Enough to fill a page."""
    return [run_change(requested(f"{name}-{n}", run=f"run-{name}")) for n in range(8)]


def test_a_run_is_verified_across_checkpoints() -> None:
    rows = LedgerInMemory()
    settle(rows)
    open_account(rows, grant_change("pack", credits="10"))
    commit_each(
        rows,
        run_change(usage("first", "1", run="run-l")),
        *fillers("a"),
        run_change(usage("second", "2", run="run-l")),
        *fillers("b"),
        run_change(finished("ended", "error", run="run-l")),
        *fillers("c"),
        run_change(usage("late", "1", run="run-l")),
        run_change(usage("too-much", "30", run="run-f")),
        *fillers("d"),
        run_change(usage("still-too-much", "30", run="run-f")),
        *fillers("e"),
    )
    assert rows.accounts[ANA].page_number > 5

    stretches = in_stretches(rows)

    assert [finding for part in stretches for finding in part.findings] == []


def test_a_grant_in_grace_is_verified_across_checkpoints() -> None:
    """After a second return, its expiry depends on how the events were batched."""
    rows = LedgerInMemory()
    settle(rows)
    expires_at = NOW + timedelta(minutes=4)
    open_account(rows, grant_change("gone", "trial", "8", expires_at=expires_at))
    commit_each(
        rows,
        run_change(usage("one", "4", run="run-1")),
        run_change(usage("two", "4", run="run-2")),
    )
    later = [NOW + timedelta(days=day) for day in range(1, 8)]
    ends = run_change(finished("ended-1", "error", run="run-1"))
    commit(rows, ANA, [ends], now=later[0], pause=pause)
    commit(rows, ANA, fillers("a"), now=later[1], pause=pause)
    again = [
        run_change(usage("three", "4", run="run-3")),
        run_change(finished("ended-2", "error", run="run-2")),
    ]
    commit(rows, ANA, fillers("b"), now=later[2], pause=pause)
    commit(rows, ANA, again, now=later[3], pause=pause)
    commit(rows, ANA, fillers("c"), now=later[4], pause=pause)
    commit(rows, ANA, fillers("d"), now=later[5], pause=pause)
    commit(rows, ANA, fillers("e"), now=later[6], pause=pause)
    (grant,) = rows.accounts[ANA].grants
    assert grant.expires_at == expires_at + timedelta(days=GRACE_DAYS_DEFAULT)

    stretches = in_stretches(rows)

    assert [finding for part in stretches for finding in part.findings] == []


def test_a_verified_page_is_not_read_again(rows: LedgerInMemory) -> None:
    *_, last = in_stretches(rows)
    rows.pages.clear()
    rows.receipts.clear()

    again = verify_row(rows, rows.accounts[ANA], {}, last.checkpoint)

    assert again.findings == ()
    assert again.is_complete


def test_a_changed_balance_is_found_after_a_checkpoint(rows: LedgerInMemory) -> None:
    *_, last = in_stretches(rows)
    rows.change_account(grants=(*rows.accounts[ANA].grants, made_for_free(rows)))

    again = verify_row(rows, rows.accounts[ANA], {}, last.checkpoint)

    (finding,) = again.findings
    assert finding.drift == Drift("pack", "add_on", 0, 7 * CREDIT)


def test_every_account_is_verified_and_the_sums_are_added(rows: LedgerInMemory) -> None:
    open_account(rows, grant_change("g-ben", principal=BEN))
    rows.accounts[BEN] = replace(rows.accounts[BEN], grants=())

    everything = verify_all(rows)

    assert everything.accounts == 2
    assert everything.sums == verified(rows).sums + verified(rows, BEN).sums
    assert [finding.principal for finding in everything.findings] == [BEN]
    assert not everything.is_clean


def test_an_empty_table_is_clean() -> None:
    assert verify_all(LedgerInMemory()) == NOTHING


class MovingLedger(LedgerInMemory):
    """An account that is debited between the read of its row and the read of its pages."""

    def __init__(self) -> None:
        super().__init__()
        self.debits_left = 0

    def read_pages(
        self, principal: Principal, first: int = 1, last: int = PAGES_MAX
    ) -> Iterator[Page]:
        if self.debits_left > 0:
            self.debits_left -= 1
            events = [usage(f"{self.debits_left}-{n}", "0.1", run="run-z") for n in range(9)]
            commit_each(self, *map(run_change, events))
        return super().read_pages(principal, first, last)


def test_a_concurrent_debit_is_not_drift() -> None:
    rows = MovingLedger()
    settle(rows)
    open_account(rows)
    commit_each(rows, *(run_change(usage(f"e-{n}", "0.1")) for n in range(7)))
    rows.debits_left = 3

    result = verified(rows)

    assert result.findings == ()
    assert rows.debits_left == 0


def torn(rows: LedgerInMemory) -> list[str]:
    return [str(torn) for torn in verified(rows).torn]


def at_the_row_of(rows: LedgerInMemory, page_number: int, entries: int) -> LedgerInMemory:
    """Return the same ledger with the account's row as it was at an earlier moment."""
    older = LedgerInMemory()
    older.policies, older.pages, older.receipts = rows.policies, rows.pages, rows.receipts
    rows_since = [new for _, new in rows.stream if new.principal == ANA]
    then = next(r for r in rows_since if (r.page_number, len(r.entries)) == (page_number, entries))
    older.accounts = {ANA: then}
    return older


def test_accounts_restored_to_an_earlier_moment_than_their_ledger_are_named(
    rows: LedgerInMemory,
) -> None:
    older = at_the_row_of(rows, page_number=2, entries=3)

    assert torn(older) == [
        (
            "user:ana: AccountsTable is older than LedgerTable by pages 2 to 3 of the ledger:"
            " the events on these pages count as recorded, but the row does not hold what they"
            " drew, and the row would fill the pages again with other entries"
        )
    ]
    assert not verified(older).is_clean


def test_what_makes_a_ledger_as_old_as_its_accounts_is_listed_and_is_enough(
    rows: LedgerInMemory,
) -> None:
    older = at_the_row_of(rows, page_number=2, entries=3)
    (found,) = verified(older).torn

    assert found.to_json()["newer_keys"] == list(found.newer_keys)
    older.pages = {k: p for k, p in rows.pages.items() if page_key(*k) not in found.newer_keys}
    older.receipts = {
        identity: receipt
        for identity, receipt in rows.receipts.items()
        if receipt_key(identity) not in found.newer_keys
    }

    assert verified(older).is_clean
    # Nothing that the row already counts was taken away.
    assert {i for i in rows.receipts if rows.receipts[i].page_number == 1} <= set(older.receipts)
    assert sorted(older.pages) == [(ANA, 1)]


def test_an_account_that_was_opened_after_the_moment_of_its_table_is_named(
    rows: LedgerInMemory,
) -> None:
    del rows.accounts[ANA]

    (found,) = verified(rows).torn

    assert str(found).startswith("user:ana: AccountsTable is older than LedgerTable by pages 1 to ")
    assert len(found.newer_keys) == len(rows.pages) + len(rows.receipts)
    # Nobody lists it but the ledger.
    assert verify_all(rows).torn == ()
    assert verify_all(rows, with_page_owners=True).torn == (found,)


def test_a_ledger_restored_to_an_earlier_moment_than_its_accounts_is_named(
    rows: LedgerInMemory,
) -> None:
    last = rows.accounts[ANA].page_number - 1
    gone = rows.pages.pop((ANA, last))
    for entry in gone.entries:
        del rows.receipts[entry.identity]

    assert torn(rows) == [
        (
            f"user:ana: LedgerTable is older than AccountsTable by page {last} of the ledger: the"
            " events on these pages would count a second time"
        )
    ]


def test_a_page_that_was_flushed_before_a_crash_is_not_torn(rows: LedgerInMemory) -> None:
    full = next(new for _, new in rows.stream if new.page_number == 2 and new.page_is_full)
    older = at_the_row_of(rows, 2, len(full.entries))
    older.pages = {key: page for key, page in rows.pages.items() if key[1] <= 2}
    older.receipts = {i: r for i, r in rows.receipts.items() if r.page_number <= 2}

    assert verified(older).is_clean


def test_a_gap_and_a_contradiction_are_not_called_torn(rows: LedgerInMemory) -> None:
    contradicting = at_the_row_of(rows, page_number=2, entries=3)
    contradicting.pages = {key: page for key, page in rows.pages.items() if key[1] <= 2}
    contradicting.pages[ANA, 2] = replace(rows.pages[ANA, 2], entries=rows.pages[ANA, 1].entries)
    del rows.pages[ANA, 1]

    assert torn(rows) == []
    assert "the ledger has a gap" in findings(rows)
    assert torn(contradicting) == []
    assert "the row holds another page 2" in findings(contradicting)
