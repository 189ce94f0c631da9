"""Reconciliation: what an account must hold, recomputed only from its ledger.

The ledger is replayed entry by entry with the same waterfall and balances that decided it. Whatever
contradicts the replay in an entry, a receipt or the row is a finding. Nothing is repaired: a ledger
that was corrected later would not be a record.

Pages never change, so a replay may stop after any of them and continue there on another day. Its
state is then a `Checkpoint`, whose size does not grow with the ledger.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Protocol

from msgspec import Struct, field
from msgspec.structs import replace

from agent_credits.billing.policy import GRACE_DAYS_DEFAULT, BillingPolicy
from agent_credits.ledger.accounts import (
    Account,
    available_microcredits,
    pool_balances,
    total_microcredits,
)
from agent_credits.ledger.entries import (
    Draw,
    Entry,
    Identity,
    Page,
    Receipt,
    RunContext,
    total_of,
)
from agent_credits.ledger.grants import Grant
from agent_credits.ledger.limits import NO_LIMITS, LimitKey
from agent_credits.ledger.shared_pools import is_shared_grant, is_shared_pool
from agent_credits.ledger.waterfall import draw
from agent_credits.sweeps.checkpoint import Checkpoint
from agent_credits.sweeps.counted_replay import CountedReplay
from agent_credits.sweeps.reserved_replay import ReservedReplay
from agent_credits.values.display import amount_text, credits_text, time_text
from agent_credits.values.principals import Principal

Policies = Mapping[str, BillingPolicy]

# The time of a ledger without entries.
_BEFORE_ALL = datetime(1970, 1, 1, tzinfo=UTC)


class Drift(Struct, frozen=True):
    """A grant on the row that does not hold what the ledger says."""

    grant_id: str
    pool: str
    expected_microcredits: int
    found_microcredits: int


class Finding(Struct, frozen=True):
    """One contradiction and its place: a page of the ledger, or the account's row."""

    principal: Principal
    place: str
    text: str
    drift: Drift | None = None

    def __str__(self) -> str:
        return f"{self.principal}, {self.place}: {self.text}"


class Sums(Struct, frozen=True):
    """Sums of what was replayed. What remains is granted plus returned less drawn and expired.

    `reserved_microcredits`: the part of what remains that reservations hold.
    """

    entries: int = 0
    granted_microcredits: int = 0
    returned_microcredits: int = 0
    drawn_microcredits: int = 0
    expired_microcredits: int = 0
    reserved_microcredits: int = 0

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(
            self.entries + other.entries,
            self.granted_microcredits + other.granted_microcredits,
            self.returned_microcredits + other.returned_microcredits,
            self.drawn_microcredits + other.drawn_microcredits,
            self.expired_microcredits + other.expired_microcredits,
            self.reserved_microcredits + other.reserved_microcredits,
        )

    @property
    def remaining_microcredits(self) -> int:
        return (
            self.granted_microcredits
            + self.returned_microcredits
            - self.drawn_microcredits
            - self.expired_microcredits
        )


class EarlierPages(Protocol):
    """What a replay may ask of this account's pages before its checkpoint."""

    def entries_of_run(self, run_id: str) -> Iterable[Entry]: ...

    def grant(self, grant_id: str) -> Grant | None:
        """Return the grant as it was granted."""
        ...


class NoEarlierPages:
    """There are no pages before the first one."""

    def entries_of_run(self, _: str) -> Iterable[Entry]:
        return ()

    def grant(self, _: str) -> Grant | None:
        return None


class _Run(Struct):
    """What a run drew and was not given back, by pool and grant, and whether it failed.

    `is_whole`: its entries before the checkpoint are included.
    """

    drawn: dict[tuple[str, str], int] = field(default_factory=dict)
    # By limit, and the end of the period that it was counted in.
    counted: dict[tuple[LimitKey, datetime], int] = field(default_factory=dict)
    failed: bool = False
    gave_back: bool = False
    is_whole: bool = False

    def add(self, entry: Entry) -> None:
        sign = -1 if entry.outcome == "returned" else 1
        for part in entry.draws:
            key = (part.pool, part.grant_id)
            left = self.drawn.pop(key, 0) + sign * part.microcredits
            if left:
                self.drawn[key] = left
        for counted in entry.limits.counted:
            period = (counted.key, counted.ends_at)
            self.counted[period] = self.counted.get(period, 0) + counted.microcredits
        self.failed |= entry.outcome == "insufficient"
        self.gave_back |= entry.outcome == "returned"


class Reconciliation:
    """Replays one account's ledger page by page, up to its open page.

    The `policies` of its methods hold every policy version that the entries name; a missing version
    is a finding. A replay that starts at a checkpoint asks `earlier` for what it needs of the pages
    before it, and its `sums` cover only what it replayed.
    """

    def __init__(
        self,
        principal: Principal,
        since: Checkpoint | None = None,
        earlier: EarlierPages | None = None,
    ) -> None:
        self.principal = principal
        self.sums = Sums()
        self.findings: list[Finding] = []
        self._earlier = earlier or NoEarlierPages()
        self._pages = since.page_number if since else 0
        self._place = f"page {self._pages + 1}"
        self._page_of: dict[Identity, int] = {}
        self._recorded_at = since.recorded_at if since else None
        self._granted: dict[str, Grant] = {}
        self._held = {grant.id: grant for grant in since.grants} if since else {}
        self._runs: dict[str, _Run] = {}
        self._reserved = ReservedReplay(since.reservations if since else ())
        self._counted = CountedReplay(self._reserved, since.limit_counts if since else ())
        self._in_grace: set[str] = set()
        # When credits are returned to a grant that was used up in its grace period, the period may
        # continue or start again. That depends on how events were batched, which the ledger does
        # not show.
        self._of_unsettled_expiry = set(since.unsettled_grant_ids if since else ())

    def checkpoint(self, began_on: date) -> Checkpoint:
        """Return the state after the page that was added last."""
        return Checkpoint(
            principal=self.principal,
            began_on=began_on,
            page_number=self._pages,
            recorded_at=self._recorded_at,
            grants=tuple(self._held.values()),
            unsettled_grant_ids=frozenset(self._of_unsettled_expiry & self._held.keys()),
            reservations=self._reserved.state(),
            limit_counts=self._counted.state(self._recorded_at or _BEFORE_ALL),
        )

    @property
    def account(self) -> Account:
        """The account's balances after what was replayed."""
        return Account(self.principal, grants=tuple(self._held.values()))

    def add_page(self, page: Page, policies: Policies) -> None:
        self._place = f"page {page.number}"
        if page.number != self._pages + 1:
            self._find(f"page {self._pages + 1} is expected here, so the ledger has a gap")
        self._pages = page.number
        for entry in page.entries:
            earlier = self._page_of.get(entry.identity)
            if earlier is not None:
                self._find(f"{_name(entry)} is recorded already, on page {earlier}")
            self._page_of[entry.identity] = page.number
            self.add_entry(entry, policies)

    def add_entry(self, entry: Entry, policies: Policies) -> None:
        """Check the next entry against what the account held before it, then apply it."""
        self.sums += Sums(entries=1)
        if self._recorded_at is not None and entry.recorded_at < self._recorded_at:
            self._find(f"{_name(entry)} is recorded earlier than the entry before it")
        self._recorded_at = entry.recorded_at
        if entry.outcome in ("granted", "refilled"):
            self._grant(entry)
        elif entry.outcome == "expired":
            self._expire(entry)
        elif entry.run is not None:
            self._apply_run(entry, entry.run, policies)
        elif entry.type in ("pool.drawn", "pool.returned"):
            self._apply_pool(entry)
        elif entry.outcome in ("released", "reservations_expired"):
            self._end_reservations(entry)
        elif entry.outcome not in ("changed", "reload_requested", "reload_declined"):
            self._find(f"{_name(entry)} is {entry.outcome}, but belongs to no run")
        if entry.run is None and entry.limits != NO_LIMITS:
            self._find(f"{_name(entry)} names a limit, but belongs to no run")

    def compare_with(self, row: Account) -> None:
        """Compare what the account holds by its ledger with what its row holds."""
        self._place = "row"
        on_row = {grant.id: grant for grant in row.grants}
        for grant_id in sorted(on_row.keys() | self._held.keys()):
            expected, found = self._held.get(grant_id), on_row.get(grant_id)
            left, holds = (g.remaining_microcredits if g else 0 for g in (expected, found))
            if left != holds:
                pool = next((grant.pool for grant in (found, expected) if grant), "")
                self._find(
                    f"grant {grant_id} holds {credits_text(holds)},"
                    f" but its ledger leaves {amount_text(left)}",
                    Drift(grant_id, pool, expected_microcredits=left, found_microcredits=holds),
                )
            elif expected and found and self._settled(expected) != self._settled(found):
                self._find(f"grant {grant_id} is not what the ledger says was granted")
        self._compare_reservations(row)
        self._compare_limit_counts(row)

    def _compare_reservations(self, row: Account) -> None:
        on_row = {
            r.run_id: {part.grant_id: part.microcredits for part in r.parts}
            for r in row.reservations
        }
        limits = {r.run_id: frozenset(r.limits) for r in row.reservations}
        by_ledger = self._reserved.by_run
        for run_id in sorted(on_row.keys() | by_ledger.keys()):
            found, expected = on_row.get(run_id), by_ledger.get(run_id)
            if found is None or expected is None:
                where = "its ledger" if found is None else "the row"
                self._find(f"the reservation of run {run_id} is live on {where} alone")
            elif found != expected.by_grant:
                self._find(
                    f"the reservation of run {run_id} holds {credits_text(sum(found.values()))},"
                    f" but its ledger leaves {amount_text(expected.left_microcredits)},"
                    " or holds other grants"
                )
            elif limits[run_id] != expected.limits:
                self._find(
                    f"the reservation of run {run_id} counts under other limits than its ledger"
                    " says"
                )

    def _compare_limit_counts(self, row: Account) -> None:
        """Compare the counts whose period goes on. Others may stay on the row, for nothing."""
        now = self._recorded_at or _BEFORE_ALL
        on_row = {count.key: count for count in row.limit_counts if count.is_current(now)}
        by_ledger = {count.key: count for count in self._counted.state(now)}
        for key in sorted(on_row.keys() | by_ledger.keys()):
            found, expected = on_row.get(key), by_ledger.get(key)
            if found is None or expected is None:
                where = "its ledger" if found is None else "the row"
                self._find(f"the limit of {key} is counted on {where} alone")
            elif found.ends_at != expected.ends_at:
                self._find(
                    f"the limit of {key} is counted until {time_text(found.ends_at)},"
                    f" but by its ledger until {time_text(expected.ends_at)}"
                )
            elif found.drawn_microcredits != expected.drawn_microcredits:
                self._find(
                    f"the limit of {key} is counted as {credits_text(found.drawn_microcredits)}"
                    f" drawn, but its ledger counts {amount_text(expected.drawn_microcredits)}"
                )

    def _find(self, text: str, drift: Drift | None = None) -> None:
        self.findings.append(Finding(self.principal, self._place, text, drift))

    def _settled(self, grant: Grant) -> Grant:
        return replace(grant, expires_at=None) if grant.id in self._of_unsettled_expiry else grant

    def _grant(self, entry: Entry) -> None:
        grant = entry.grant
        if grant is None or grant.amount_microcredits != entry.amount_microcredits:
            self._find(f"{_name(entry)} does not say what it granted")
            return
        if grant.id in self._granted or grant.id in self._held:
            self._find(f"{_name(entry)} grants {grant.id} a second time")
        made = replace(grant, remaining_microcredits=grant.amount_microcredits)
        self._granted[grant.id] = self._held[grant.id] = made
        self.sums += Sums(granted_microcredits=grant.amount_microcredits)

    def _expire(self, entry: Entry) -> None:
        self._end_reservations(entry)
        expired = entry.grant
        held = self._held.pop(expired.id, None) if expired else None
        left = held.remaining_microcredits if held else 0
        if left != entry.amount_microcredits:
            self._find(
                f"{_name(entry)} expires {credits_text(entry.amount_microcredits)},"
                f" but the grant held {amount_text(left)}"
            )
        if expired is None or expired.is_live(entry.recorded_at):
            self._find(f"{_name(entry)} comes before the grant's expiry")
        self.sums += Sums(expired_microcredits=entry.amount_microcredits)

    def _apply_run(self, entry: Entry, run: RunContext, policies: Policies) -> None:
        self._check_limits(entry, run)
        self._counted.apply(entry)
        match entry.outcome:
            case "accepted" | "extended" | "debited" | "insufficient":
                self._check_decision(entry, run, policies)
                self._draw(entry)
            case "finished" | "released":
                self._run_of(entry)
                self._end_reservations(entry)
            case "returned":
                # What its reservation still held goes back before what it drew.
                self._end_reservations(entry)
                policy = policies.get(run.policy_version)
                days = policy.grace_days if policy else GRACE_DAYS_DEFAULT
                self._give_back(entry, timedelta(days=days))
            case "waived" if not self._whole_run_of(entry).gave_back:
                self._find(f"{_name(entry)} is waived, but its run had no platform error")
        if entry.outcome in ("waived", "finished", "released") and entry.draws:
            self._find(f"{_name(entry)} is {entry.outcome}, but has draws")

    def _apply_pool(self, entry: Entry) -> None:
        """Apply what a payer's commit drew and reserved of this account's pools, or gave back.

        It is the net of a commit, so only the payer's ledger shows in which order it was drawn.
        """
        if entry.type == "pool.returned":
            for part in entry.draws:
                self._put_back(entry, part, None)
            self.sums += Sums(returned_microcredits=entry.drawn_microcredits)
            return
        taken = self._taken_of_none(entry)
        pool_of = {part.grant_id: part.pool for part in entry.draws}
        for grant_id, microcredits in taken.items():
            made = self._made(grant_id)
            pool = pool_of.get(grant_id, made.pool if made else "")
            if microcredits > 0:
                for text in self._impossibility(entry, Draw(pool, grant_id, microcredits)):
                    self._find(f"{_name(entry)} {text}")
        self._apply(entry, taken)
        self.sums += Sums(drawn_microcredits=entry.drawn_microcredits)

    def _check_limits(self, entry: Entry, run: RunContext) -> None:
        if entry.limits == NO_LIMITS:
            return
        before = _Run()
        if entry.limits.standings or entry.outcome == "returned":
            before = self._whole_run_of(entry)
        drawn = sum(before.drawn.values())
        for text in self._counted.contradictions(entry, run, drawn, before.counted):
            self._find(f"{_name(entry)} {text}")

    def _check_decision(self, entry: Entry, run: RunContext, policies: Policies) -> None:
        orders = self._orders(entry, run, policies)
        is_usage = entry.type == "agent_run.usage"
        if entry.draws and not is_usage:
            self._find(f"{_name(entry)} is not usage, but has draws")
        elif entry.reservation.moves or entry.reservation.directive:
            self._check_waterfall(entry, orders)
        elif is_usage:
            self._check_usage(entry, orders)
        if is_usage:
            self._check_sum(entry)
        elif orders and not any(self._answers_request(entry, order) for order in orders):
            refused_by = entry.limits.refused_by
            found = f"the limit of {refused_by.key} left" if refused_by else "the pools held"
            self._find(f"{_name(entry)} is {entry.outcome}, which is not what {found}")
        if entry.outcome == "insufficient" and orders:
            self._check_balances(entry, orders)
        self._check_shared(entry, orders)
        fails_run = entry.outcome == "insufficient" and not self._whole_run_of(entry).failed
        if entry.fails_run != fails_run:
            should = "should be" if fails_run else "is not"
            self._find(f"{_name(entry)} {should} the one that fails its run")

    def _check_balances(self, entry: Entry, orders: Iterable[tuple[str, ...]]) -> None:
        if not any(self._states_balances(entry, order) for order in orders):
            self._find(f"{_name(entry)} states other balances than the pools had")

    def _states_balances(self, entry: Entry, order: tuple[str, ...]) -> bool:
        """Return whether an entry states what the pools held; shared ones only the team knows."""
        balances = pool_balances(self.account, order, entry.recorded_at)
        stated = entry.pools_before
        agrees = [p.pool for p in stated] == [*order] and all(
            found == expected or is_shared_pool(found.pool)
            for found, expected in zip(stated, balances, strict=True)
        )
        reserved = self._reserved_of(order)
        # Moves do not name the pool, so of shared ones what is reserved is at most this.
        more = self._reserved_of_shared() if is_shared_pool(order[-1]) else 0
        return agrees and 0 <= entry.reservation.reserved_before_microcredits - reserved <= more

    def _reserved_of(self, pools: tuple[str, ...]) -> int:
        made = {g: self._made(g) for r in self._reserved.by_run.values() for g in r.by_grant}
        ids = {grant_id for grant_id, grant in made.items() if grant and grant.pool in pools}
        return self._reserved.reserved_microcredits(ids)

    def _reserved_of_shared(self) -> int:
        held = {grant_id for r in self._reserved.by_run.values() for grant_id in r.by_grant}
        return self._reserved.reserved_microcredits({g for g in held if is_shared_grant(g)})

    def _check_shared(self, entry: Entry, orders: Iterable[tuple[str, ...]]) -> None:
        """Check that an entry drew only those of the team's pools that its rule names.

        What a reservation holds may be drawn under whatever rule bills the run by now.
        """
        named = {pool for order in orders for pool in order}
        moves = entry.reservation.moves
        left = {
            m.grant_id: sum(o.microcredits for o in moves if o.grant_id == m.grant_id)
            for m in moves
        }
        shared = {
            part.pool
            for part in entry.draws
            if is_shared_pool(part.pool) and part.microcredits + left.get(part.grant_id, 0) > 0
        }
        for pool in sorted(shared - named) if orders else ():
            self._find(f"{_name(entry)} drew from pool {pool}, which its rule does not name")

    def _check_sum(self, entry: Entry) -> None:
        if entry.drawn_microcredits + entry.shortfall_microcredits != entry.amount_microcredits:
            self._find(f"{_name(entry)} has draws and a shortfall that do not add up to its amount")

    def _check_waterfall(self, entry: Entry, orders: Iterable[tuple[str, ...]]) -> None:
        """Check what an entry with moves took of credits that nobody held."""
        taken = self._taken_of_none(entry)
        amount, now = sum(taken.values()), entry.recorded_at
        # What shared pools gave was drawn after all that the account's own pools held.
        taken = {g: microcredits for g, microcredits in taken.items() if not is_shared_grant(g)}
        parts = tuple(
            Draw(made.pool if made else "", grant_id, microcredits)
            for grant_id, microcredits in taken.items()
            for made in [self._made(grant_id)]
        )
        impossible = [text for part in parts for text in self._impossibility(entry, part)]
        for text in impossible:
            self._find(f"{_name(entry)} {text}")
        held = self.account.grants
        expected = [
            {part.grant_id: part.microcredits for part in draw(held, order, amount, now).draws}
            for order in orders
        ]
        if expected and taken not in expected and not impossible:
            self._find(
                f"{_name(entry)} took {_drawn(parts)}, which is not what the waterfall takes"
            )
        if entry.reservation.overdrawn_microcredits > amount:
            self._find(f"{_name(entry)} overdrew more than it took of what nobody held")

    def _taken_of_none(self, entry: Entry) -> dict[str, int]:
        """Return what an entry took of each grant's available credits."""
        taken = {part.grant_id: part.microcredits for part in entry.draws}
        for move in entry.reservation.moves:
            taken[move.grant_id] = taken.get(move.grant_id, 0) + move.microcredits
        return {grant_id: left for grant_id, left in taken.items() if left}

    def _orders(self, entry: Entry, run: RunContext, policies: Policies) -> list[tuple[str, ...]]:
        """Return the orders of pools that may have decided the entry, usually only one.

        The entry names its payer and trigger but not the kind of team, and the rules of both kinds
        may fit.
        """
        policy = policies.get(run.policy_version)
        rules = policy.rules if policy else ()
        orders = [
            r.pools_in(run.team_id)
            for r in rules
            if r.payer == run.payer and run.trigger_kind in r.triggers
        ]
        if not orders:
            self._find(
                f"{_name(entry)} is billed to the {run.payer} for {run.trigger_kind},"
                f" but policy {run.policy_version} has no such rule"
            )
        unsettled = self._of_unsettled_expiry & self._held.keys()
        return [] if unsettled else orders

    def _check_usage(self, entry: Entry, orders: Iterable[tuple[str, ...]]) -> None:
        # Past what is left, a reservation may have been extended by exactly what was drawn.
        run_id = entry.identity.subject
        if 0 < entry.amount_microcredits <= self._reserved.left_of_line(run_id):
            self._find(f"{_name(entry)} draws past the reservation of its run")
        drawn = _own(entry.draws)
        impossible = [text for part in drawn for text in self._impossibility(entry, part)]
        for text in impossible:
            self._find(f"{_name(entry)} {text}")
        held, amount, now = self.account.grants, entry.amount_microcredits, entry.recorded_at
        if entry.limits.refused_by is not None:
            # The limits decided how much it drew, and the waterfall from which grants.
            amount = entry.drawn_microcredits
        expected = [draw(held, order, amount, now).draws for order in orders]
        # Such an extension is drawn after what was left, whatever the order of their grants.
        in_any_order = run_id in self._reserved.by_run
        as_drawn = frozenset if in_any_order else tuple[Draw, ...]
        if expected and as_drawn(drawn) not in map(as_drawn, expected) and not impossible:
            self._find(
                f"{_name(entry)} drew {_drawn(drawn)},"
                f" but the waterfall draws {_drawn(expected[0])}"
            )

    def _impossibility(self, entry: Entry, part: Draw) -> Iterator[str]:
        held = self._held.get(part.grant_id)
        credits_drawn = amount_text(part.microcredits)
        if held is None and self._made(part.grant_id) is None:
            yield f"drew from grant {part.grant_id}, which was never granted"
        elif held is None:
            yield f"drew {credits_drawn} from grant {part.grant_id}, which was empty or had expired"
        elif not held.is_live(entry.recorded_at):
            yield f"drew {credits_drawn} from grant {part.grant_id}, which had expired"
        elif part.microcredits > held.remaining_microcredits:
            left = amount_text(held.remaining_microcredits)
            yield f"drew {credits_drawn} from grant {part.grant_id}, which held {left}"
        elif part.pool != held.pool:
            yield f"drew from grant {part.grant_id} as if it were in pool {part.pool}"

    def _answers_request(self, entry: Entry, order: tuple[str, ...]) -> bool:
        if entry.type == "agent_run.extended" and entry.amount_microcredits == 0:
            return entry.outcome == "extended"
        estimate = entry.amount_microcredits
        available = self._reservable(entry, order)
        if entry.limits.refused_by is not None:
            # Whatever the pools held, it asked for more than the limit left.
            available = entry.limits.refused_by.room_microcredits
        accepted = available >= max(estimate, 1)
        shortfall = 0 if accepted else max(estimate - available, 0)
        return (accepted, shortfall) == (
            entry.outcome in ("accepted", "extended"),
            entry.shortfall_microcredits,
        )

    def _reservable(self, entry: Entry, order: tuple[str, ...]) -> int:
        """Return what a request found: what its parent held, or what nobody held."""
        own = self._reserved.by_run.get(entry.identity.subject)
        parent_id = entry.reservation.parent_run_id
        # A request of a run that holds a reservation reserves nothing: the pools answer it.
        if own is not None and entry.type == "agent_run.extended":
            parent_id = own.parent_run_id
        if parent_id is not None:
            parent = self._reserved.by_run.get(parent_id)
            return parent.left_microcredits if parent else 0
        of_own = available_microcredits(self.account, order, entry.recorded_at)
        return of_own + self._found_in_shared(entry, order)

    def _found_in_shared(self, entry: Entry, order: tuple[str, ...]) -> int:
        """Return what a request found in the team's pools, as far as this ledger shows it."""
        if entry.outcome == "insufficient":
            shared = (pool for pool in entry.pools_before if is_shared_pool(pool.pool))
            return total_microcredits(shared)
        return max(entry.amount_microcredits, 1) if is_shared_pool(order[-1]) else 0

    def _draw(self, entry: Entry) -> None:
        self._run_of(entry).add(entry)
        self._apply(entry, self._taken_of_none(entry))
        self.sums += Sums(drawn_microcredits=total_of(_own(entry.draws)))

    def _end_reservations(self, entry: Entry) -> None:
        """Give back to the grants what ended reservations held."""
        back: dict[str, int] = {}
        for move in entry.reservation.moves:
            back[move.grant_id] = back.get(move.grant_id, 0) + move.microcredits
        self._apply(entry, back)

    def _apply(self, entry: Entry, taken: dict[str, int]) -> None:
        """Apply an entry's moves, and take from what the grants hold for everyone.

        A negative amount goes back. A grant that holds nothing is forgotten, unless a reservation
        holds a part of it.
        """
        for text in self._reserved.apply(entry):
            self._find(f"{_name(entry)} {text}")
        # The ledger of the team replays what is reserved of shared pools.
        moves = [move for move in entry.reservation.moves if not is_shared_grant(move.grant_id)]
        self.sums += Sums(reserved_microcredits=sum(move.microcredits for move in moves))
        for grant_id, microcredits in taken.items():
            held = self._held.get(grant_id)
            left = (held.remaining_microcredits if held else 0) - microcredits
            if held is None and left > 0:
                held = self._made(grant_id)
            if held is not None:
                self._held[grant_id] = replace(held, remaining_microcredits=max(left, 0))
        for grant_id in (*taken, *(move.grant_id for move in moves)):
            held = self._held.get(grant_id)
            if held and not held.remaining_microcredits and not self._reserved.holds(grant_id):
                del self._held[grant_id]

    def _give_back(self, entry: Entry, grace: timedelta) -> None:
        run = self._whole_run_of(entry)
        given_back = {(part.pool, part.grant_id): part.microcredits for part in entry.draws}
        # What came from a grant whose grace is over does not come back.
        due = {
            key: microcredits
            for key, microcredits in run.drawn.items()
            if key in given_back or not self._may_be_past_grace(key[1], grace, entry.recorded_at)
        }
        if given_back != due:
            self._find(f"{_name(entry)} gives back {_drawn(entry.draws)}, not what its run drew")
        own = _own(entry.draws)
        for part in own:
            self._put_back(entry, part, grace)
        run.add(entry)
        self.sums += Sums(returned_microcredits=total_of(own))

    def _put_back(self, entry: Entry, part: Draw, grace: timedelta | None) -> None:
        """Put a part back into its grant; `grace` is None where only the payer's ledger has it."""
        made = self._made(part.grant_id)
        if made is None:
            self._find(f"{_name(entry)} gives back to {part.grant_id}, which was never granted")
            return
        held = self._held.get(made.id)
        if held is None or (
            not held.remaining_microcredits and not held.is_live(entry.recorded_at)
        ):
            held = replace(made, remaining_microcredits=0)
            if made.expires_at is not None and not made.is_live(entry.recorded_at):
                held = replace(held, expires_at=made.expires_at + grace if grace else None)
                # A grant of an earlier page may have had a grace period before the checkpoint.
                is_known = made.id in self._granted and grace is not None
                if made.id in self._in_grace or not is_known:
                    self._of_unsettled_expiry.add(made.id)
                self._in_grace.add(made.id)
        left = held.remaining_microcredits + part.microcredits
        self._held[made.id] = replace(held, remaining_microcredits=left)

    def _may_be_past_grace(self, grant_id: str, grace: timedelta, now: datetime) -> bool:
        if is_shared_grant(grant_id):
            # Only the team's ledger knows when it expires.
            return True
        made = self._made(grant_id)
        return made is not None and made.expires_at is not None and made.expires_at + grace <= now

    def _made(self, grant_id: str) -> Grant | None:
        """Return a grant of this account as it was made."""
        if is_shared_grant(grant_id):
            return None
        return self._granted.get(grant_id) or self._earlier.grant(grant_id)

    def _run_of(self, entry: Entry) -> _Run:
        return self._runs.setdefault(entry.identity.subject, _Run())

    def _whole_run_of(self, entry: Entry) -> _Run:
        """Return the entry's run, including what it did before the checkpoint."""
        run = self._run_of(entry)
        if not run.is_whole:
            for before in self._earlier.entries_of_run(entry.identity.subject):
                run.add(before)
            run.is_whole = True
        return run


def check_receipts(
    page: Page, receipts: Mapping[Identity, Receipt], *, is_flushed: bool
) -> Iterator[Finding]:
    """Yield where the receipts of a page's entries contradict the page.

    Each entry of a flushed page has a receipt. Entries of the open page may already have one, if a
    writer flushed the page and then did not commit.
    """
    for entry in page.entries:
        receipt = receipts.get(entry.identity)
        text = None
        if receipt is None:
            text = "has no receipt" if is_flushed else None
        elif receipt.principal != page.principal:
            text = f"has its receipt on another account, {receipt.principal}"
        elif receipt.page_number != page.number:
            text = f"has a receipt that names page {receipt.page_number}"
        elif receipt.entry != entry:
            text = "has a receipt that differs from it"
        if text is not None:
            yield Finding(page.principal, f"page {page.number}", f"{_name(entry)} {text}")


def _name(entry: Entry) -> str:
    identity = entry.identity
    if identity.realm == "RUN":
        return f"event {identity.id} of run {identity.subject}"
    return f"{entry.type} {identity.id}"


def _own(draws: tuple[Draw, ...]) -> tuple[Draw, ...]:
    """Return the draws of the account's own grants."""
    return tuple(part for part in draws if not is_shared_pool(part.pool))


def _drawn(draws: tuple[Draw, ...]) -> str:
    if not draws:
        return "nothing"
    return " and ".join(f"{amount_text(d.microcredits)} from {d.grant_id}" for d in draws)
