"""Verifying an account: its row is compared with its ledger, which is replayed.

The comparison uses one state: the row as it was read, its open page, and the pages before it. Those
were full and flushed, with their receipts, before the row could reach its open page, and they never
change. So concurrent commits never look like drift, and nothing is locked or read twice. Nothing is
written.
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
from agent_credits.sweeps.shared_draws import SharedDraws, shared_draws


class Verification(Struct, frozen=True):
    """`sums` and `findings` cover the pages that were replayed.

    `checkpoint`: where the next verification may start. `is_complete`: the replay reached the row
    and compared it; otherwise continue at the checkpoint.
    `shared`: what was replayed of shared draws, which the ledger of another account must show too.
    """

    sums: Sums
    findings: tuple[Finding, ...]
    checkpoint: Checkpoint
    is_complete: bool
    shared: SharedDraws


class _EarlierPages:
    """The pages up to a checkpoint, read through their receipts."""

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
        # The run may also have billed other accounts. Later entries are replayed anyway.
        is_here = receipt.principal == self._end.principal
        return is_here and receipt.page_number <= self._end.page_number


def verify_row(
    rows: LedgerRows,
    row: Account,
    policies: dict[str, BillingPolicy],
    since: Checkpoint,
    entries_max: int | None = None,
) -> Verification:
    """Replay the pages before the row's open page, then the open page, and compare the row.

    `policies` caches policies for the next account. With `entries_max`, the replay stops after the
    page that reaches it, unless that is the last one.
    """
    earlier = _EarlierPages(rows, since) if since.page_number else None
    reconciliation = Reconciliation(row.principal, since, earlier)
    of_receipts: list[Finding] = []
    shared = SharedDraws()

    def verification(checkpoint: Checkpoint, *, is_complete: bool) -> Verification:
        findings = (*reconciliation.findings, *of_receipts)
        return Verification(reconciliation.sums, findings, checkpoint, is_complete, shared)

    for page in rows.read_pages(row.principal, since.page_number + 1, row.page_number - 1):
        of_receipts += _replay(rows, page, reconciliation, policies, is_flushed=True)
        shared.update(shared_draws(row.principal, page.entries))
        is_last = page.number == row.page_number - 1
        if entries_max is not None and reconciliation.sums.entries >= entries_max and not is_last:
            return verification(reconciliation.checkpoint(since.began_on), is_complete=False)
    checkpoint = reconciliation.checkpoint(since.began_on)
    of_receipts += _replay(rows, row.page, reconciliation, policies, is_flushed=False)
    shared.update(shared_draws(row.principal, row.page.entries))
    reconciliation.compare_with(row)
    return verification(checkpoint, is_complete=True)


def read_policy(rows: LedgerRows, version: str, policies: dict[str, BillingPolicy]) -> None:
    """Read a policy version into `policies`, unless it is cached or does not exist."""
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
