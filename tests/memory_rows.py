"""The rows in memory: a fake with state that keeps what the port of `rows.py` promises."""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from agent_credits.api.audit import AuditEntry
from agent_credits.aws.items import (
    ACCOUNT_PREFIX,
    LIMIT_PREFIX,
    TEAM_PREFIX,
    Item,
    account_item,
    account_key,
    audit_from_item,
    audit_item,
    burn_count_from_item,
    burn_count_item,
    checkpoint_from_item,
    checkpoint_item,
    limit_key,
    limit_row_from_item,
    limit_row_item,
    observation_from_item,
    observation_item,
    principal_of_key,
    team_from_item,
    team_item,
    team_key,
)
from agent_credits.billing.policy import BillingPolicy
from agent_credits.billing.teams import Team
from agent_credits.commit.rows import LostTogether
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.burn_counts import BurnCount
from agent_credits.ledger.entries import PAGES_MAX, Identity, Page, Receipt
from agent_credits.ledger.limits import LimitKey, LimitRow
from agent_credits.notices.observations import Observation
from agent_credits.sweeps.checkpoint import Checkpoint
from agent_credits.sweeps.rows import Stretch, Unreadable
from agent_credits.values.errors import RowNotUnderstood, RowsUnavailable
from agent_credits.values.principals import Principal

Result = TypeVar("Result")


class MemoryRows:
    """Implements `Rows`, `TeamRows` and `ObservationRows`; one call is one atomic step."""

    def __init__(self) -> None:
        self.accounts: dict[Principal, Account] = {}
        self.pages: dict[tuple[Principal, int], Page] = {}
        self.receipts: dict[Identity, Receipt] = {}
        self.limits: dict[LimitKey, LimitRow] = {}
        self.teams: dict[str, Team] = {}
        self.policies: dict[str, BillingPolicy] = {}
        self.observations: dict[str, Item] = {}
        self.checkpoints: dict[Principal, Item] = {}
        self.burn_counts: dict[Principal, Item] = {}
        # Keys of accounts' rows that this version does not understand.
        self.unreadable: set[str] = set()
        self.checkpoints_not_understood = False
        # Every image an account's row ever had, as the change stream would deliver them.
        self.audit: dict[tuple[str, int], Item] = {}
        self.stream: list[tuple[Account | None, Account]] = []
        # Likewise of the teams' rows.
        self.team_stream: list[tuple[Team | None, Team]] = []
        # Likewise of the limits' rows.
        self.limit_stream: list[tuple[LimitRow | None, LimitRow]] = []
        self.observation_stream: list[Observation] = []

    def read_account(self, principal: Principal) -> Account | None:
        return self.accounts.get(principal)

    def read_team(self, team_id: str) -> Team | None:
        return self.teams.get(team_id)

    def read_policy(self, version: str) -> BillingPolicy | None:
        return self.policies.get(version)

    def read_receipts(self, identities: Collection[Identity]) -> Mapping[Identity, Receipt]:
        return {i: self.receipts[i] for i in identities if i in self.receipts}

    def flush_and_read_receipts(
        self, pages: Collection[Page], identities: Collection[Identity]
    ) -> Mapping[Identity, Receipt]:
        for page in pages:
            self.put_page(page)
        return self.read_receipts(identities)

    def read_pages(
        self, principal: Principal, first: int = 1, last: int = PAGES_MAX
    ) -> Iterator[Page]:
        numbers = (number for owner, number in self.pages if owner == principal)
        for number in sorted(number for number in numbers if first <= number <= last):
            yield self.pages[principal, number]

    def list_accounts(self) -> Iterator[Account]:
        yield from self.accounts.values()

    def list_page_owners(self) -> set[Principal]:
        return {owner for owner, _ in self.pages}

    def read_checkpoint(self, principal: Principal) -> Checkpoint | None:
        item = self.checkpoints.get(principal)
        if self.checkpoints_not_understood:
            raise RowNotUnderstood(f"CHECKPOINT#{principal}: KeyError")
        return checkpoint_from_item(item) if item else None

    def put_checkpoint(self, checkpoint: Checkpoint) -> None:
        self.checkpoints[checkpoint.principal] = checkpoint_item(checkpoint)

    def read_accounts(self, after: str | None, rows_max: int) -> Stretch[Account]:
        return self._read_stretch(self.read_account_at, after, rows_max)

    def read_accounts_and_limits(
        self, after: str | None, rows_max: int
    ) -> Stretch[Account | LimitRow]:
        return self._read_stretch(self.read_account_or_limit_at, after, rows_max)

    def read_account_or_limit_at(self, key: str) -> Account | LimitRow | Unreadable | None:
        if not key.startswith(LIMIT_PREFIX):
            return self.read_account_at(key)
        if key in self.unreadable:
            return Unreadable(key, principal_of_key(key), f"{key}: KeyError")
        there = (row for of, row in self.limits.items() if limit_key(of)["pk"]["S"] == key)
        return next(there, None)

    def list_limits(self) -> Iterator[LimitRow]:
        yield from self.limits.values()

    def read_teams(self, after: str | None, rows_max: int) -> Stretch[Team]:
        return self._read_stretch(self.read_team_at, after, rows_max)

    def _read_stretch(
        self,
        read: Callable[[str], Result | Unreadable | None],
        after: str | None,
        rows_max: int,
    ) -> Stretch[Result]:
        """Read in the order of a hash, as DynamoDB does: a row that comes may stand anywhere."""
        keys = {account_key(principal)["pk"]["S"]: principal for principal in self.accounts}
        keys |= {team_key(team_id)["pk"]["S"]: None for team_id in self.teams}
        keys |= {limit_key(key)["pk"]["S"]: None for key in self.limits}
        ahead = sorted(keys, key=_place)
        if after is not None:
            ahead = [key for key in ahead if _place(key) > _place(after)]
        found = [(key, read(key)) for key in ahead[:rows_max]]
        return Stretch(
            tuple((key, row) for key, row in found if row is not None),
            end=ahead[rows_max - 1] if len(ahead) > rows_max else None,
        )

    def read_account_at(self, key: str) -> Account | Unreadable | None:
        if key in self.unreadable:
            return Unreadable(key, principal_of_key(key), f"{key}: KeyError")
        if not key.startswith(ACCOUNT_PREFIX):
            return None
        return self.accounts.get(principal_of_key(key))

    def read_team_at(self, key: str) -> Team | Unreadable | None:
        if key in self.unreadable:
            return Unreadable(key, principal_of_key(key), f"{key}: KeyError")
        if not key.startswith(TEAM_PREFIX):
            return None
        return self.teams.get(key.removeprefix(TEAM_PREFIX))

    def read_accounts_of(self, principals: Collection[Principal]) -> Mapping[Principal, Account]:
        return {p: self.accounts[p] for p in principals if p in self.accounts}

    def read_burn_counts(self, principals: Collection[Principal]) -> Mapping[Principal, BurnCount]:
        items = {p: self.burn_counts[p] for p in principals if p in self.burn_counts}
        return {principal: burn_count_from_item(item) for principal, item in items.items()}

    def put_burn_count(self, count: BurnCount) -> None:
        self.burn_counts[count.principal] = burn_count_item(count)

    def read_run(self, run_id: str) -> Iterator[Receipt]:
        yield from [
            receipt
            for identity, receipt in self.receipts.items()
            if identity.realm == "RUN" and identity.subject == run_id
        ]

    def compare_and_set(self, account: Account) -> Account | None:
        account_item(account)  # A row past its ceiling is refused here as it is by the real rows.
        there = self.accounts.get(account.principal)
        if there is None and account.version > 1:
            raise RowsUnavailable(f"{account.principal}: the row is gone")
        if (there.version if there else 0) != account.version - 1:
            return there
        self.accounts[account.principal] = account
        self.stream.append((there, account))
        return None

    def read_limits(self, keys: Collection[LimitKey]) -> Mapping[LimitKey, LimitRow]:
        return {key: self.limits[key] for key in keys if key in self.limits}

    def compare_and_set_together(
        self, accounts: Sequence[Account], limits: Sequence[LimitRow]
    ) -> LostTogether | None:
        for account in accounts:
            account_item(account)
        limits = [limit_row_from_item(limit_row_item(row)) for row in limits]
        lost = self.moved_since(accounts, limits)
        if lost is not None:
            return lost
        for account in accounts:
            self.stream.append((self.accounts.get(account.principal), account))
            self.accounts[account.principal] = account
        for row in limits:
            self.limit_stream.append((self.limits.get(row.key), row))
            self.limits[row.key] = row
        return None

    def moved_since(
        self, accounts: Sequence[Account], limits: Sequence[LimitRow]
    ) -> LostTogether | None:
        """Return the stored rows that are not one version older, or None if all are."""
        gone: list[object] = [
            account.principal
            for account in accounts
            if account.version > 1 and account.principal not in self.accounts
        ]
        gone += [row.key for row in limits if row.version > 1 and row.key not in self.limits]
        if gone:
            raise RowsUnavailable(f"{gone[0]}: the row is gone")
        moved_accounts = [
            there
            for account in accounts
            if (there := self.accounts.get(account.principal)) is not None
            and there.version != account.version - 1
        ]
        moved_limits = [
            there
            for row in limits
            if (there := self.limits.get(row.key)) is not None and there.version != row.version - 1
        ]
        if moved_accounts or moved_limits:
            return LostTogether(tuple(moved_accounts), tuple(moved_limits))
        return None

    def compare_and_set_team(self, team: Team) -> Team | None:
        team = team_from_item(team_item(team))  # What the row cannot hold is lost here as well.
        there = self.teams.get(team.team_id)
        if (there.version if there else 0) != team.version - 1:
            return there
        self.teams[team.team_id] = team
        self.team_stream.append((there, team))
        return None

    def compare_and_set_team_audited(self, team: Team, entry: AuditEntry) -> Team | None:
        assert (entry.team_id, entry.number) not in self.audit, "no entry is written again"
        newer = self.compare_and_set_team(team)
        if newer is None:
            self.audit[entry.team_id, entry.number] = audit_item(entry)
        return newer

    def read_audit(self, team_id: str, numbers: Collection[int]) -> list[AuditEntry]:
        found = (self.audit.get((team_id, number)) for number in numbers)
        return [audit_from_item(item) for item in found if item]

    def put_observation(self, observation: Observation, now: datetime) -> bool:
        item = observation_item(observation, now)
        key = item["pk"]["S"]
        if key in self.observations:
            return False
        self.observations[key] = item
        # What is announced is what the item says, not what was meant.
        self.observation_stream.append(observation_from_item(item))
        return True

    def put_page(self, page: Page) -> None:
        self.pages.setdefault((page.principal, page.number), page)
        for entry in page.entries:
            receipt = Receipt(page.principal, page.number, entry)
            self.receipts.setdefault(entry.identity, receipt)


def _place(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
