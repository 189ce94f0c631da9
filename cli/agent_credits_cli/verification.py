"""Verifying accounts: every balance is recomputed from the ledger and compared with its row.


Then each limit that spans accounts is compared with what these count under it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from agent_credits.billing.policy import BillingPolicy
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.limits import LimitKey, LimitRow
from agent_credits.sweeps.checkpoint import Checkpoint
from agent_credits.sweeps.limit_rows import LimitRows, spanning_limits, verify_limit
from agent_credits.sweeps.reconciliation import Finding, Sums
from agent_credits.sweeps.rows import LedgerRows
from agent_credits.sweeps.shared_draws import SharedDraws, contradictions, shared_draws
from agent_credits.sweeps.verification import verify_row
from agent_credits.values.credits import format_credits
from agent_credits.values.display import amount_text, count_text, credits_text
from agent_credits.values.principals import Principal
from agent_credits_cli.tables import err, progress
from agent_credits_cli.torn_tables import Torn, torn_from, torn_without_row

# How many accounts are read concurrently.
ACCOUNTS_AT_ONCE: Final = 8
# An account that is being debited may change between the reads of its row and its pages.
ATTEMPTS_MAX: Final = 5


class VerifiedRows(LedgerRows, LimitRows, Protocol):
    """The rows that verification reads; the tests implement them in memory."""

    def read_account(self, principal: Principal) -> Account | None: ...

    def list_accounts(self) -> Iterator[Account]: ...

    def list_limits(self) -> Iterator[LimitRow]: ...

    def list_page_owners(self) -> set[Principal]: ...


@dataclass(frozen=True, slots=True)
class Verified:
    """`limits`: those that were compared. `limits_moving`: those that moved during each read."""

    accounts: int
    sums: Sums
    findings: tuple[Finding, ...]
    torn: tuple[Torn, ...] = ()
    # What each account's ledger shows of shared draws, of accounts that have any.
    shared: tuple[SharedDraws, ...] = ()
    limits: int = 0
    limits_moving: tuple[LimitKey, ...] = ()

    def __add__(self, other: "Verified") -> "Verified":
        return Verified(
            self.accounts + other.accounts,
            self.sums + other.sums,
            self.findings + other.findings,
            self.torn + other.torn,
            self.shared + other.shared,
            self.limits + other.limits,
            self.limits_moving + other.limits_moving,
        )

    @property
    def is_clean(self) -> bool:
        return not (self.findings or self.torn)

    def to_json(self) -> dict[str, Any]:
        return {
            "accounts": self.accounts,
            "limits": self.limits,
            "limits_not_compared": [str(key) for key in self.limits_moving],
            "entries": self.sums.entries,
            "granted_credits": format_credits(self.sums.granted_microcredits),
            "returned_credits": format_credits(self.sums.returned_microcredits),
            "drawn_credits": format_credits(self.sums.drawn_microcredits),
            "expired_credits": format_credits(self.sums.expired_microcredits),
            "remaining_credits": format_credits(self.sums.remaining_microcredits),
            "reserved_credits": format_credits(self.sums.reserved_microcredits),
            "findings": [
                {"principal": str(f.principal), "place": f.place, "text": f.text}
                for f in self.findings
            ],
            "torn": [torn.to_json() for torn in self.torn],
        }

    def __str__(self) -> str:
        sums = self.sums
        verdict = "zero drift" if self.is_clean else count_text(len(self.findings), "finding")
        reserved = sums.reserved_microcredits
        of_these = f", of which {amount_text(reserved)} reserved" if reserved else ""
        entries = f"{sums.entries:,} {'entry' if sums.entries == 1 else 'entries'}"
        limits = f", {count_text(self.limits, 'limit')} of several accounts" if self.limits else ""
        return (
            f"{verdict}: {count_text(self.accounts, 'account')}, {entries}{limits};"
            f" granted {amount_text(sums.granted_microcredits)}"
            f" + returned {amount_text(sums.returned_microcredits)}"
            f" - drawn {amount_text(sums.drawn_microcredits)}"
            f" - expired {amount_text(sums.expired_microcredits)}"
            f" = {credits_text(sums.remaining_microcredits)} remaining"
            f"{of_these}"
            f"{''.join(f'; {_not_compared(key)}' for key in self.limits_moving)}"
        )


def _not_compared(key: LimitKey) -> str:
    return f"the limit of {key} changed too often to be compared, so verify again"


NOTHING: Final = Verified(0, Sums(), ())


def _now() -> datetime:
    return datetime.now(UTC)


def verify_all(
    rows: VerifiedRows, *, with_page_owners: bool = False, clock: Callable[[], datetime] = _now
) -> Verified:
    """Verify every account, several at a time; findings are in the order of accounts.

    `with_page_owners` adds accounts that only the ledger knows, and reads all of it to find them.
    """
    with err().status("listing accounts"):
        counting = _counting(rows)
        found = counting.accounts | (rows.list_page_owners() if with_page_owners else set())
        principals = sorted(found)
    parts: dict[Principal, Verified] = {}
    policies: dict[str, BillingPolicy] = {}
    with progress() as bar, ThreadPoolExecutor(ACCOUNTS_AT_ONCE) as pool:
        task = bar.add_task("verifying accounts", total=len(principals))
        verifying = {pool.submit(verify_account, rows, p, policies): p for p in principals}
        for done in as_completed(verifying):
            parts[verifying[done]] = done.result()
            bar.advance(task)
    verified = sum((parts[principal] for principal in principals), NOTHING)
    of_shared = tuple(_contradictions_of_shared(rows, verified.shared))
    verified = replace(verified, findings=verified.findings + of_shared)
    with err().status("verifying limits"):
        return verified + _verify_limits(rows, counting, clock)


@dataclass(frozen=True, slots=True)
class _Counting:
    """All accounts, and those that count under each limit that spans accounts."""

    accounts: set[Principal]
    under: Mapping[LimitKey, set[Principal]]

    def under_limit(self, key: LimitKey) -> set[Principal]:
        return self.under.get(key, set())


def _counting(rows: VerifiedRows) -> _Counting:
    accounts = set[Principal]()
    under = defaultdict[LimitKey, set[Principal]](set)
    for account in rows.list_accounts():
        accounts.add(account.principal)
        for key in spanning_limits(account):
            under[key].add(account.principal)
    return _Counting(accounts, under)


def _verify_limits(
    rows: VerifiedRows, counting: _Counting, clock: Callable[[], datetime]
) -> Verified:
    """Compare each limit with its accounts.

    What contradicts is compared once more with all accounts as they are listed then: an account
    may have counted for the first time since the others were listed.
    """
    keys = {row.key for row in rows.list_limits()} | counting.under.keys()
    found = {k: verify_limit(rows, k, clock(), counting.under_limit(k)) for k in sorted(keys)}
    suspect = [key for key, findings in found.items() if findings]
    if suspect:
        counting = _counting(rows)
        found |= {k: verify_limit(rows, k, clock(), counting.under_limit(k)) for k in suspect}
    compared = {key: findings for key, findings in found.items() if findings is not None}
    return Verified(
        accounts=0,
        sums=Sums(),
        findings=tuple(finding for findings in compared.values() for finding in findings),
        limits=len(compared),
        limits_moving=tuple(key for key in found if key not in compared),
    )


def verify_account(
    rows: VerifiedRows, principal: Principal, policies: dict[str, BillingPolicy]
) -> Verified:
    """Verify one account; `policies` caches policies for the next account.

    An account that was debited meanwhile is read again: its pages may be newer than its row.
    """
    verified = NOTHING
    for _ in range(ATTEMPTS_MAX):
        row = rows.read_account(principal)
        verified = _verify_row(rows, row, policies) if row else _verify_no_row(rows, principal)
        if verified.is_clean or rows.read_account(principal) == row:
            break
    return verified


def _verify_row(rows: VerifiedRows, row: Account, policies: dict[str, BillingPolicy]) -> Verified:
    beginning = Checkpoint(row.principal, began_on=datetime.now(UTC).date())
    verification = verify_row(rows, row, policies, beginning)
    pages_from_open = list(rows.read_pages(row.principal, row.page_number))
    beyond = tuple(
        Finding(
            row.principal,
            f"page {page.number}",
            f"is on the ledger, but the row holds another page {row.page_number}",
        )
        for page in pages_from_open
        # The row may still hold a page that is already flushed; then the two are equal.
        if page != row.page
    )
    torn = torn_from(row, verification.checkpoint.page_number, pages_from_open)
    findings = (*verification.findings, *beyond)
    shared = (verification.shared,) if verification.shared else ()
    return Verified(1, verification.sums, findings, (torn,) if torn else (), shared)


def _contradictions_of_shared(
    rows: VerifiedRows, shared: Sequence[SharedDraws]
) -> Iterator[Finding]:
    """Yield where the ledger of a payer and that of its team differ in what was drawn of the team.

    The accounts were read at different times. So where two seem to differ, they are read again.
    """
    both = SharedDraws()
    for of_account in shared:
        both.update(of_account)
    differing = sorted({(key.payer, key.lender) for key, left in both.items() if left})
    for payer, lender in differing:
        yield from contradictions(_shared_by(rows, payer, lender))


def _shared_by(rows: VerifiedRows, payer: Principal, lender: Principal) -> SharedDraws:
    """Return what the ledgers of these two show of what they share, as of one time."""
    of_payer, of_lender = rows.read_account(payer), rows.read_account(lender)
    for _ in range(ATTEMPTS_MAX):
        before, of_payer = of_payer, rows.read_account(payer)
        # A commit moves both rows. Where the payer's has not moved, both are of one moment.
        if of_payer == before:
            break
        of_lender = rows.read_account(lender)
    both = SharedDraws()
    for row in (of_payer, of_lender):
        if row is not None:
            for page in (*rows.read_pages(row.principal, 1, row.page_number - 1), row.page):
                both.update(shared_draws(row.principal, page.entries))
    return SharedDraws({k: n for k, n in both.items() if (k.payer, k.lender) == (payer, lender)})


def _verify_no_row(rows: VerifiedRows, principal: Principal) -> Verified:
    pages = list(rows.read_pages(principal))
    orphans = (Finding(principal, f"page {page.number}", "belongs to no account") for page in pages)
    torn = torn_without_row(principal, pages)
    return Verified(0, Sums(), tuple(orphans), (torn,) if torn else ())
