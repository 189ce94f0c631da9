"""Comparing the row of a limit that spans accounts with what these accounts count under it.

A commit moves both in one transaction. So while the limit's row stays at a version, the accounts
count what it says, whatever else they commit: the row is read before and after its accounts, and
compared if it is the same. Whoever had counted by the first read was a payer of the team by then.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Protocol

from agent_credits.billing.teams import (
    CLOCK_SKEW_MAX,
    EVERYONE,
    FORMER_MEMBERS_MAX,
    Team,
)
from agent_credits.ledger.accounts import Account, held_on_limit_row
from agent_credits.ledger.limits import HELD_BUCKET, LimitKey, LimitRow, count_of
from agent_credits.sweeps.reconciliation import Finding
from agent_credits.values.display import amount_text, credits_text
from agent_credits.values.principals import Principal

# A row that moves during so many reads is left to the next verification.
READS_MAX = 10


class LimitRows(Protocol):
    """The rows that a limit is compared with. Each method raises `RowsUnavailable` on a fault."""

    def read_limits(self, keys: Collection[LimitKey]) -> Mapping[LimitKey, LimitRow]: ...

    def read_team(self, team_id: str) -> Team | None: ...

    def read_accounts_of(
        self, principals: Collection[Principal]
    ) -> Mapping[Principal, Account]: ...


def verify_limit(
    rows: LimitRows, key: LimitKey, now: datetime, known: Collection[Principal] | None = None
) -> tuple[Finding, ...] | None:
    """Compare a limit's row with its accounts, or return None if they could not be compared.

    `known`: the accounts that count under it, if all were read. Without them, those of a team that
    does not name its members cannot be compared.
    """
    for _ in range(READS_MAX):
        row = rows.read_limits([key]).get(key)
        team = rows.read_team(key.team_id)
        named = _ever_payers(team) if team is not None else None
        if named is None and known is None:
            return None
        accounts = rows.read_accounts_of(sorted({*(known or ()), *(named or ())}))
        if rows.read_limits([key]).get(key) == row:
            texts = contradictions(key, row, accounts.values(), now)
            place = f"limit of {key}"
            return tuple(Finding(Principal("team", key.team_id), place, text) for text in texts)
    return None


def spanning_limits(account: Account) -> list[LimitKey]:
    """Return the limits that span accounts and that this one counts under."""
    return [count.key for count in account.limit_counts if count.spans_accounts]


def without_row(rows: LimitRows, account: Account) -> Iterator[Finding]:
    """Yield the limits that the account counts under and whose row, once written, is gone."""
    keys = spanning_limits(account)
    found = rows.read_limits(keys) if keys else {}
    for key in keys:
        count = count_of(account.limit_counts, key)
        counts = count is not None and count.drawn_microcredits > 0
        if key not in found and (counts or held_on_limit_row(account, key)):
            text = f"counts under the limit of {key}, which has no row"
            yield Finding(account.principal, "row", text)


def contradictions(
    key: LimitKey, row: LimitRow | None, accounts: Iterable[Account], now: datetime
) -> Iterator[str]:
    """Yield where a limit's row contradicts its accounts, all of which are of one moment."""
    drawn = 0
    held = Counter[datetime]()
    # This clock may be behind those of workers, and the rows were read later than it was.
    newest = now + CLOCK_SKEW_MAX if row is None else max(now + CLOCK_SKEW_MAX, row.moved_at)
    for account in accounts:
        newest = max([newest, *(entry.recorded_at for entry in account.entries[-1:])])
        count = count_of(account.limit_counts, key)
        if count is None or not count.spans_accounts:
            continue
        held.update(held_on_limit_row(account, key))
        if row is not None and count.ends_at == row.ends_at:
            drawn += count.drawn_microcredits
        elif count.drawn_microcredits and (row is None or row.ends_at < count.ends_at):
            yield (
                f"{account.principal} counts {credits_text(count.drawn_microcredits)} drawn in a"
                " period that the limit's row does not count"
            )
    counted = row.drawn_microcredits if row is not None else 0
    # An account drops its count when the period is over. The row keeps the sum.
    goes_on = row is not None and newest < row.ends_at
    if drawn > counted or (goes_on and drawn != counted):
        yield (
            f"the limit's row counts {credits_text(counted)} drawn, but its accounts count"
            f" {amount_text(drawn)}"
        )
    # What expires is left on the row until its time is over.
    settled = newest + HELD_BUCKET
    on_row = dict(row.held) if row is not None else {}
    if any(on_row.get(until, 0) != held[until] for until in {*on_row, *held} if settled < until):
        yield (
            f"the limit's row counts {credits_text(_after(settled, on_row))} reserved, but its"
            f" accounts hold {amount_text(_after(settled, held))}, or until other times"
        )


def _after(settled: datetime, held: Mapping[datetime, int]) -> int:
    return sum(microcredits for until, microcredits in held.items() if settled < until)


def _ever_payers(team: Team) -> set[Principal] | None:
    """Return everyone who may have paid for a run of the team, or None if it does not name all."""
    left = [user_id for user_id, _ in team.former_members]
    if team.members == EVERYONE or EVERYONE in left or len(left) >= FORMER_MEMBERS_MAX:
        return None
    users = {*team.members, *left, *(tenure.owner for tenure in team.tenures)}
    return {Principal("team", team.team_id), *(Principal("user", user) for user in users)}
