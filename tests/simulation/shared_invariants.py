"""Invariant 19, where teams share pools: what one account gave, others received, commit by commit.

Nobody plays the reference here. What is followed are the entries of all accounts: each account's
row holds what its own ledger leaves, and in each transaction what a team's entries gave of a grant
is what the payers' entries took of it, drawn and reserved. After each commit, what the team's row
holds for a payer is what the payer's row holds of the team, tree by tree, for as long as it lasts.

What expired reservations held goes back on each row by itself, when it is next written.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Entry, Identity
from agent_credits.ledger.limits import LimitRow
from tests.simulation.invariants import Invariants, Sent
from tests.simulation.limit_reference import NEVER
from tests.simulation.reservation_invariants import ReservationInvariants, came_to
from tests.simulation.violation import check

if TYPE_CHECKING:
    from agent_credits.values.principals import Principal

OF_POOLS = ("pool.drawn", "pool.returned")


class Taken(NamedTuple):
    """What one commit of a payer took of a team's grant: drawn, or put into its reservations."""

    payer: str
    version: int
    team: str
    grant: str
    kind: str


class LenderInvariants(ReservationInvariants):
    """Of an account that may lend: what is held for a payer's runs begins with a pool's entry."""

    def _follow(self, entry: Entry) -> None:
        if entry.type not in OF_POOLS:
            super()._follow(entry)
            return
        for move in entry.reservation.moves:
            if move.run_id not in self.parents:
                check(move.microcredits > 0, "what is held for a payer begins with credits")
                self.parents[move.run_id] = None
        self.held.add(entry)
        self._end(entry)


class SharedInvariants(Invariants):
    def __init__(self) -> None:
        super().__init__()
        self.reservations = defaultdict(LenderInvariants)
        self.accounts: dict[Principal, Account] = {}
        # Events that a worker found to contradict what their accounts hold.
        self._contradicted: set[Identity] = set()
        # The latest time of any commit; workers' clocks differ.
        self._latest = NEVER

    def account_committed(self, old: Account | None, new: Account) -> None:
        entries = self._follow(old, new)
        # What a child leaves to its parent stays where it is.
        taken = _left_of(taken_in(new, entries))
        check(not taken, f"what is shared moves with the row of the team: {taken}")
        self._check_held()

    def together_committed(
        self,
        accounts: Sequence[tuple[Account | None, Account]],
        limits: Sequence[tuple[LimitRow | None, LimitRow]],
    ) -> None:
        check(not limits, "no limit holds in these histories")
        found: list[tuple[Taken, int]] = []
        payers, lenders = 0, 0
        for old, new in accounts:
            self.known = self.known_of.get(new.principal, self.known)
            entries = self._follow(old, new)
            found += taken_in(new, entries)
            lends = any(entry.type in OF_POOLS for entry in entries)
            payers, lenders = payers + (not lends), lenders + lends
        differing = _left_of(found)
        check(not differing, f"what one account gave, another received: {differing}")
        check(payers and lenders, "a payer and a team are written together")
        self.shared["several payers in one transaction"] += payers > 1
        self.shared["several teams in one transaction"] += lenders > 1
        self._check_held()

    def _follow(self, old: Account | None, new: Account) -> tuple[Entry, ...]:
        check(new.version == (old.version if old else 0) + 1, "version grows by one per commit")
        entries, past = self._new_entries(old, new), self.entries[new.principal]
        check(entries, "a commit records something")
        # A team that lends to several payers in one transaction has the time of each.
        lends, now = any(entry.type in OF_POOLS for entry in entries), entries[-1].recorded_at
        check(lends or entries[0].recorded_at == now, "a commit has one time")
        for entry in entries:
            check(entry.identity not in self.recorded, "each event id has exactly one outcome")
            is_later = not past or past[-1].recorded_at <= entry.recorded_at
            check(is_later, "time never runs backwards on an account")
            self.recorded[entry.identity] = (new.principal, entry)
            self.recorded_at_step[entry.identity] = self.steps()
            past.append(entry)
            self._follow_entry(new, entry)
        lowest = min((grant.remaining_microcredits for grant in new.grants), default=0)
        check(lowest >= 0, "no grant is below zero")
        check(not any(is_of_team(grant.id) for grant in new.grants), "a grant stands on one row")
        self.reservations[new.principal].commit(new, entries)
        self._check_reload(_with_pools_named(old), _with_pools_named(new), now)
        self._take_word_of(old, new, entries)
        self.accounts[new.principal] = new
        self._latest = max(self._latest, now)
        return entries

    def _follow_entry(self, account: Account, entry: Entry) -> None:
        if entry.type == "agent_run.usage" and entry.outcome != "waived":
            total = entry.drawn_microcredits + entry.shortfall_microcredits
            check(total == entry.amount_microcredits, "draws plus shortfall equal the amount")
        if entry.outcome == "insufficient":
            self.failed_runs.add((account.principal, entry.identity.subject))
        if entry.reload and entry.type in ("reload.granted", "reload.declined"):
            self.reload_resolved_at.setdefault(entry.reload.reload_id, self.steps())
        if entry.reservation.overruns:
            run = f"{entry.identity.subject}:{account.version}"
            self.must_be_overdrawn.add((account.principal, run))
        self.reserved.update(came_to(entry) if entry.type not in OF_POOLS else ())
        self.shared.update(became_of(entry))

    def _take_word_of(self, old: Account | None, new: Account, entries: Sequence[Entry]) -> None:
        """What is low is checked where no pool is shared; here, that it is announced."""
        version = (new.principal, str(new.version))
        if new.low and new.low.notified_at_version == new.version:
            self.must_be_told.add(version)
        was_told = bool(old and old.low and old.low.notified)
        is_over = was_told and new.low is None and any(e.brings_credits for e in entries)
        if is_over or (old and old.is_exhausted and not new.is_exhausted):
            self.must_be_restored.add(version)

    def _check_held(self) -> None:
        """Check that both rows hold the same, but for what has expired by some worker's clock."""
        by_payers: Counter[tuple[str, str, datetime, str]] = Counter()
        by_teams: Counter[tuple[str, str, datetime, str]] = Counter()
        for principal, account in self.accounts.items():
            above = {held.run_id: held.parent_run_id for held in account.reservations}
            ends = {held.run_id: held.expires_at for held in account.reservations}
            for held in account.reservations:
                if " " in held.run_id:
                    for part in held.parts:
                        name = f"{principal.id}/{part.grant_id}"
                        key = (str(principal), held.run_id, held.expires_at, name)
                        by_teams[key] += part.microcredits
                    continue
                root = held.run_id
                while (parent := above[root]) is not None:
                    root = parent
                for part in held.parts:
                    if is_of_team(part.grant_id):
                        team, grant = _named(part.grant_id)
                        key = (team, f"{principal} {root}", ends[root], f"{team[5:]}/{grant}")
                        by_payers[key] += part.microcredits
        lasting = {
            key: (by_payers[key], by_teams[key])
            for key in {*by_payers, *by_teams}
            if key[2] > self._latest and by_payers[key] != by_teams[key]
        }
        check(not lasting, f"a team's row holds what its payers' rows do: {lasting}")

    # Without a reference, a worker is believed that an event contradicts its account; at the end
    # none may be left that would be recorded if it came again.

    def check_contradicted(self, message: Sent, code: str, _: int, __: datetime) -> None:
        if code != "out of order":
            self._believe(message)

    def check_rejected(self, message: Sent, began: int) -> None:
        # The code of a message may be that of another of its events.
        super().check_rejected(message, began)
        self._believe(message)

    def _believe(self, message: Sent) -> None:
        self._contradicted.update(i for i, _ in message.events if i not in self.recorded)

    def is_contradicted_for_good(self, identity: Identity) -> bool:
        return identity in self._contradicted


def taken_in(account: Account, entries: Iterable[Entry]) -> Iterator[tuple[Taken, int]]:
    """Yield what payers took by these entries: what a payer's say counts up, a team's down."""
    for entry in entries:
        if entry.type == "reservations.expired":
            continue
        for kind, grant_id, microcredits in _parts(entry):
            if entry.type in OF_POOLS:
                _, _, of = entry.identity.id.partition(":")
                payer, version, _ = of.rsplit(":", 2)
                team = str(account.principal)
                yield Taken(payer, int(version), team, grant_id, kind), -microcredits
            elif is_of_team(grant_id):
                team, grant = _named(grant_id)
                payer = str(account.principal)
                yield Taken(payer, account.version, team, grant, kind), microcredits


def _left_of(found: Iterable[tuple[Taken, int]]) -> dict[Taken, int]:
    sums: Counter[Taken] = Counter()
    for taken, microcredits in found:
        sums[taken] += microcredits
    return {taken: left for taken, left in sums.items() if left}


def became_of(entry: Entry) -> Iterator[str]:
    """Yield what became of shared pools by this entry, for a report to count."""
    if entry.type == "pool.returned":
        yield "given back"
    if entry.type == "pool.drawn":
        if entry.draws:
            yield "drawn"
        if any(move.microcredits > 0 for move in entry.reservation.moves):
            yield "reserved"
        if entry.reservation.ended:
            yield "a payer's reservation ended"
    if entry.type == "reservations.expired":
        if any(" " in end.run_id for end in entry.reservation.ended):
            yield "expired on the team's row"
        if any(is_of_team(move.grant_id) for move in entry.reservation.moves):
            yield "expired on the payer's row"


def is_of_team(grant_id: str) -> bool:
    return grant_id.startswith("shared:")


def _named(shared_id: str) -> tuple[str, str]:
    """Return the team and the id that it knows its grant by; no team here has a slash in it."""
    team, _, grant = shared_id.removeprefix("shared:").partition("/")
    return f"team:{team}", grant


def _parts(entry: Entry) -> Iterator[tuple[str, str, int]]:
    sign = -1 if entry.outcome == "returned" else 1
    for part in entry.draws:
        yield "drawn", part.grant_id, sign * part.microcredits
    for move in entry.reservation.moves:
        yield "reserved", move.grant_id, move.microcredits


def _with_pools_named(account: Account | None) -> Account | None:
    """Return the account with the pools of its reload as policies name them."""
    if account is None or account.reload is None:
        return account
    named = tuple(
        f"team:{pool.rpartition('/')[2]}" if pool.startswith("team:") else pool
        for pool in account.reload.pools
    )
    return replace(account, reload=replace(account.reload, pools=named))
