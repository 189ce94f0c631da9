"""Verifying an account: its row is held against its ledger, which is replayed from the rows.

What is compared is one state: the row as it was read, its own open page, and the pages before that
one. Those were full and flushed, with their receipts, before the row could come to its page, and
never change again; so commits that go on meanwhile cannot be taken for drift, and nothing is locked
or read twice. Nothing is written.
"""

from collections.abc import Iterator

from msgspec import Struct

from agent_credits.billing.policy import BillingPolicy
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Entry, Page, Receipt, origin_identity
from agent_credits.ledger.grants import Grant
from agent_credits.sweeps.checkpoint import Checkpoint
from agent_credits.sweeps.reconciliation import Finding, Reconciliation, Sums, check_receipts
from agent_credits.sweeps.rows import LedgerRows


class Verification(Struct, frozen=True):
    """`sums` and `findings` are of the pages that were replayed.

    `checkpoint` is where the next verification may begin. `is_complete`: the replay came up to the
    row, and the row was compared; otherwise go on at the checkpoint.
    """

    sums: Sums
    findings: tuple[Finding, ...]
    checkpoint: Checkpoint
    is_complete: bool


class _EarlierPages:
    """The pages up to a checkpoint, asked through their receipts."""

    def __init__(self, rows: LedgerRows, end: Checkpoint) -> None:
        self._rows = rows
        self._end = end

    def entries_of_run(self, run_id: str) -> Iterator[Entry]:
        for receipt in self._rows.read_run(run_id):
            if self._is_earlier(receipt):
                yield receipt.entry

    def grant(self, grant_id: str) -> Grant | None:
        identity = origin_identity(self._end.principal, grant_id)
        receipt = self._rows.read_receipts([identity]).get(identity)
        return receipt.entry.grant if receipt and self._is_earlier(receipt) else None

    def _is_earlier(self, receipt: Receipt) -> bool:
        # The run may have billed other accounts too, and what comes later is replayed.
        is_here = receipt.principal == self._end.principal
        return is_here and receipt.page_number <= self._end.page_number


def verify_row(
    rows: LedgerRows,
    row: Account,
    policies: dict[str, BillingPolicy],
    since: Checkpoint,
    entries_max: int | None = None,
) -> Verification:
    """Replay the pages before the row's own, then its own, and compare what is left with it.

    `policies` keeps what was read of them, for the next account. With `entries_max`, the replay
    stops behind the page that reaches it, unless that is the last one.
    """
    earlier = _EarlierPages(rows, since) if since.page_number else None
    reconciliation = Reconciliation(row.principal, since, earlier)
    of_receipts: list[Finding] = []

    def verification(checkpoint: Checkpoint, *, is_complete: bool) -> Verification:
        findings = (*reconciliation.findings, *of_receipts)
        return Verification(reconciliation.sums, findings, checkpoint, is_complete)

    for page in rows.read_pages(row.principal, since.page_number + 1, row.page_number - 1):
        of_receipts += _replay(rows, page, reconciliation, policies, is_flushed=True)
        is_last = page.number == row.page_number - 1
        if entries_max is not None and reconciliation.sums.entries >= entries_max and not is_last:
            return verification(reconciliation.checkpoint(since.began_on), is_complete=False)
    checkpoint = reconciliation.checkpoint(since.began_on)
    of_receipts += _replay(rows, row.page, reconciliation, policies, is_flushed=False)
    reconciliation.compare_with(row)
    return verification(checkpoint, is_complete=True)


def read_policy(rows: LedgerRows, version: str, policies: dict[str, BillingPolicy]) -> None:
    """Read a policy version into `policies`, unless it is there or there is none."""
    if version not in policies:
        policy = rows.read_policy(version)
        if policy is not None:
            policies[version] = policy


def _replay(
    rows: LedgerRows,
    page: Page,
    reconciliation: Reconciliation,
    policies: dict[str, BillingPolicy],
    *,
    is_flushed: bool,
) -> list[Finding]:
    for entry in page.entries:
        if entry.run is not None:
            read_policy(rows, entry.run.policy_version, policies)
    reconciliation.add_page(page, policies)
    receipts = rows.read_receipts([entry.identity for entry in page.entries])
    return list(check_receipts(page, receipts, is_flushed=is_flushed))
