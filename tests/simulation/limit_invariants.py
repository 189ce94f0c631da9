"""Invariants 17 and 18, by the entries of all accounts alone: what is drawn under each limit.

17  a limit that stops is never passed: no event draws under it past what it is at that time
18  a limit's row is the sum of its accounts, in each period; it holds what their reservations hold,
    and at most for five minutes longer
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from agent_credits.ledger.entries import Entry
from agent_credits.ledger.limits import LimitKey
from agent_credits.values.principals import Principal
from tests.simulation.limit_reference import BUCKET, NEVER, InForce, Key, Limits, SharedLimit
from tests.simulation.violation import check

if TYPE_CHECKING:
    from tests.simulation.reference import Reference

# Of more combinations of states in which a worker may have read rows, the others are not tried.
LOOKS_MAX = 2_000


def key_of(key: LimitKey) -> Key:
    return key.team_id, key.scope, key.id, key.period


class LimitInvariants:
    def __init__(self) -> None:
        # Every row of a limit as it stands, and since which step it stood in each of its states.
        self.shared: dict[Key, SharedLimit] = {}
        self._states: dict[Key, list[tuple[int, SharedLimit]]] = defaultdict(list)
        self._since = 0
        self._moved: frozenset[Key] = frozenset()
        # By what entries say: what was drawn under a limit in the period that ends then.
        self._drawn: Counter[tuple[Principal, Key, datetime]] = Counter()
        self._drawn_by_runs: Counter[tuple[Principal, str]] = Counter()
        # The latest time of any commit; workers' clocks differ.
        self._latest = NEVER
        self.came_to: Counter[str] = Counter()

    def begin(self, since: int, moved: Collection[Key] = ()) -> None:
        """Begin a commit that moves these rows, by a worker that read none before that step."""
        self._since, self._moved = since, frozenset(moved)

    def end_together(self, rows: Mapping[Key, SharedLimit], step: int, accounts: int) -> None:
        for key, row in rows.items():
            before = self._states[key][-1][1] if self._states[key] else None
            self.came_to["another period of a shared limit"] += (
                before is not None and before.ends_at != row.ends_at
            )
            self._states[key].append((step, row))
        self.came_to["several accounts in one transaction"] += accounts > 1
        self.came_to["several limits in one transaction"] += len(rows) > 1

    def as_read(self, keys: set[Key]) -> Iterator[dict[Key, SharedLimit]]:
        """Yield all rows, with those of these limits as the commit may have read them.

        The rows that it moves are as it read them, or it would have lost the race.
        """
        as_read = (keys & self._states.keys()) - self._moved
        states = {key: [*self._read_since(key)] for key in as_read}
        together = itertools.product(*states.values())
        for found in itertools.islice(together, LOOKS_MAX):
            read = dict(zip(states, found, strict=True))
            rows = {**self.shared, **read}
            yield {key: row for key, row in rows.items() if row is not None}

    def _read_since(self, key: Key) -> Iterator[SharedLimit | None]:
        """Yield the newest state first."""
        for step, row in reversed(self._states[key]):
            yield row
            if step < self._since:
                return
        yield None

    def follow(
        self, principal: Principal, entry: Entry, limits: tuple[InForce, ...], account: "Reference"
    ) -> None:
        """Add up what an entry says, and check that no limit of its run is passed."""
        sign = -1 if entry.outcome == "returned" else 1
        run = (principal, entry.identity.subject)
        self._drawn_by_runs[run] += sign * entry.drawn_microcredits
        counted = {key_of(found.key): found for found in entry.limits.counted}
        for key, found in counted.items():
            self._drawn[principal, key, found.ends_at] += found.microcredits
        if sign < 0:
            self.came_to["room given back"] += bool(counted)
            return
        self._report(entry)
        for limit in limits if entry.draws else ():
            if not limit.stops(entry.recorded_at):
                continue
            if limit.key[3] == "run":
                drawn = self._drawn_by_runs[run]
            else:
                check(limit.key in counted, "nothing is drawn under a limit that is not counted")
                count = account.limits.counts[limit.key]
                drawn = self._drawn_under(
                    limit.key, counted[limit.key].ends_at, None if count.spans else principal
                )
            check(drawn <= limit.credits, f"a limit is never passed: {limit}, {drawn} drawn")

    def _drawn_under(self, key: Key, ends_at: datetime, alone: Principal | None) -> int:
        """Return what one account drew, or all the accounts of users did that share the limit."""
        return sum(
            drawn
            for (principal, of_key, end), drawn in self._drawn.items()
            if (of_key, end) == (key, ends_at)
            and (principal == alone if alone else principal.kind == "user")
        )

    def check_shared(self, accounts: Mapping[Principal, Limits], now: datetime) -> None:
        self._latest = max(self._latest, now)
        for key, row in self.shared.items():
            drawn = self._drawn_under(key, row.ends_at, None)
            check(row.drawn == drawn, f"a limit's row is the sum of its accounts: {key}, {drawn}")
            held: Counter[datetime] = Counter()
            for principal, account in accounts.items():
                if principal.kind == "user":
                    held.update(account.held_under(key))
            for until in {*held, *row.held}:
                on_row = row.held.get(until, 0)
                if until > self._latest:
                    check(on_row >= held[until], f"a limit's row holds what is reserved: {key}")
                if until > self._latest + BUCKET:
                    check(on_row == held[until], f"a limit's row holds no more: {key}")

    def _report(self, entry: Entry) -> None:
        refused = entry.limits.refused_by
        if refused is None:
            self.came_to["counted"] += bool(entry.limits.counted)
            return
        shares = (refused.key, refused.resets_at) if refused.key.period != "run" else None
        self.came_to["drawn up to a limit" if entry.draws else "refused by a limit"] += 1
        self.came_to["refused by a shared limit"] += (
            shares is not None and key_of(refused.key) in self.shared
        )
        self.came_to[f"refused: {entry.type.removeprefix('agent_run.')}"] += 1
