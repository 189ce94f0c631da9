"""The invariants of the design, checked at each step on what was written, by nobody's word for it.

Each account's ledger is kept a second time, by the sequential reference, in the order of the
commits; each team's spending is added up a second time, purchase by purchase. Nothing that is
checked here is taken from the code that is checked.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from agent_credits.billing.spend_cap import CapReservation
from agent_credits.billing.teams import Team
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Entry, Identity, Page, Receipt
from agent_credits.ledger.limits import LimitRow
from agent_credits.ledger.reloads import Reload
from agent_credits.notices.notice import Notice
from agent_credits.notices.observations import ModelProviderError, Observation
from agent_credits.values.principals import Principal
from tests.simulation.limit_invariants import LimitInvariants, key_of
from tests.simulation.limit_reference import (
    Count,
    InForce,
    Key,
    LimitsSaid,
    SharedLimit,
    Standing,
    limits_in_force,
)
from tests.simulation.low_reference import BaseOf, Knowledge, LowReference, base_of
from tests.simulation.reference import (
    FOR_EVER,
    PACKS,
    POOLS,
    Asked,
    Expected,
    Facts,
    Passing,
    Reference,
    Rejected,
)
from tests.simulation.reservation_invariants import ReservationInvariants, came_to
from tests.simulation.violation import Violation, check

if TYPE_CHECKING:
    from datetime import date


CREDIT = 1_000_000
# What time does, by the outcomes of its entries.
BY_TIME = ("expired", "refilled", "reservations_expired")
EVERYONE = "*"
# Workers cache settings for a minute and take events from five minutes ahead of their clock.
EVERY_WORKER_KNOWS = timedelta(minutes=6)
LIFTED_ONLY_BY_SETTINGS = ("auto_reload_off", "payment_method_missing", "suspended")
BY_SETTINGS = (*LIFTED_ONLY_BY_SETTINGS, "auto_reload_not_applicable")
# A worker may have billed an event from so far ahead of its clock: the five minutes that it takes,
# less what the write of another tenure may be late by.
BILLED_AHEAD = timedelta(minutes=3)
# For so long an event is given back that names a run of which nothing is known.
ORDER_MIXED_UP = timedelta(minutes=1)
NOTHING_KNOWN = ("no_reservation", "unknown_parent")
# What an event is rejected for that contradicts the reservations of its account.
CONTRADICTIONS = (
    *("no_estimate", "already_reserved", "no_reservation", "reservation_ended", "run_ended"),
    *("unknown_parent", "parent_billed_elsewhere", "circular_parents", "tree_too_deep"),
    *("too_many_children", "too_many_reservations"),
)
# No other decline holds for longer: the cap's ends with the month.
A_DECLINE_ENDS_WITHIN = timedelta(days=32)


class Sender(NamedTuple):
    """The user who triggered an event (or a report, by its name), and the moment that counts."""

    of: Identity | str
    team_id: str
    user_id: str
    at: datetime

    def is_absent(self, team: Team) -> bool:
        """Tell whether the user is no member, and was removed before the moment."""
        if team.members == EVERYONE or self.user_id in team.members:
            return False
        ends = [end for who, end in team.former_members if who in (self.user_id, EVERYONE)]
        return all(end <= self.at for end in ends)


@dataclass(frozen=True)
class Sent:
    """A message as it was sent: the events that must be recorded, unless it is rejected.

    `reports`: what providers answered, each under the name that it must be announced under once.
    `billed`: who pays for its events, and under which policy.
    """

    number: int
    body: str
    events: tuple[tuple[Identity, str], ...]
    is_rejected: bool
    reports: tuple[str, ...] = ()
    billed: frozenset[tuple[Principal, str]] = frozenset()
    senders: tuple[Sender, ...] = ()


class Basis(NamedTuple):
    """What a worker decides by, where limits hold.

    `billed_by`: the settings that it billed each event by, the newest first. `since`: the step at
    which it began, so that it read no limit's row before.
    """

    billed_by: Mapping[Identity, tuple[Team, ...]] = {}
    since: int = 0


@dataclass
class Spent:
    """What one team reserved, settled and was declined, by purchase and by month."""

    reserved: dict[str, CapReservation] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)
    settled_cents: Counter[str] = field(default_factory=Counter)


class Invariants:
    def __init__(self) -> None:
        self.references: dict[Principal, Reference] = {}
        self.reservations: dict[Principal, ReservationInvariants] = defaultdict(
            ReservationInvariants
        )
        # What reservations came to, for the report.
        self.reserved: Counter[str] = Counter()
        # What each event asks for, as it was sent, and who pays for it, by which policy.
        self.asked: dict[Identity, Asked] = {}
        self.billed: dict[Identity, tuple[Principal, str, str]] = {}
        # Each account after each of its entries: since which step and time it stood so. Kept where
        # runs reserve, because only that can be contradicted.
        self.keeps_views = False
        # What the next decision about an account sees on its row.
        self.on_page: dict[Principal, list[Entry]] = defaultdict(list)
        self.views: dict[Principal, list[tuple[int, datetime, Reference]]] = defaultdict(list)
        self.entries: dict[Principal, list[Entry]] = defaultdict(list)
        self.recorded: dict[Identity, tuple[Principal, Entry]] = {}
        self.spent: dict[str, Spent] = defaultdict(Spent)
        self.charged: dict[str, int] = {}
        # Payments by the provider's id, and purchases for which it made none.
        self.declined_payments: set[str] = set()
        self.never_made: set[str] = set()
        self.notices: dict[str, Notice] = {}
        # A plan's entry does not say how much it refills, so whoever changes a plan tells.
        self.plans: dict[Identity, tuple[int, date]] = {}
        self.reload_resolved_at: dict[str, int] = {}
        self.steps: Callable[[], int] = lambda: 0
        self.now: Callable[[], datetime] = lambda: datetime.min.replace(tzinfo=UTC)
        # When a user became a member of a team that they were not in before.
        self.joined: dict[tuple[str, str], datetime] = {}
        # Every row that a team ever had, and at which step it was written.
        self.team_rows: dict[str, list[tuple[int, Team]]] = defaultdict(list)
        self.recorded_at_step: dict[Identity, int] = {}
        # By reload, the pools that its purchase may go to.
        self.may_buy: dict[str, frozenset[str]] = {}
        # Runs whose events say when it began: where they are, and what they hold of which grant.
        self.whole_runs: set[str] = set()
        self.account_of_run: dict[str, Principal] = {}
        self.held_by_run: dict[str, Counter[tuple[Principal, str]]] = defaultdict(Counter)
        self.low: dict[Principal, LowReference] = defaultdict(LowReference)
        # Of whoever makes the next commit; a commit that bills nothing knows nothing.
        self.known = Knowledge()
        # Likewise, of each account of a transaction; and what limits are decided by.
        self.known_of: Mapping[Principal, Knowledge] = {}
        self.basis = Basis()
        self.limits = LimitInvariants()
        self.limited = self.limits.came_to
        # What shared pools came to, where there are any.
        self.shared: Counter[str] = Counter()
        self.must_be_told: set[tuple[Principal, str]] = set()
        self.must_be_restored: set[tuple[Principal, str]] = set()
        self.must_be_overdrawn: set[tuple[Principal, str]] = set()
        self.failed_runs: set[tuple[Principal, str]] = set()
        self.announced_runs: set[tuple[Principal, str]] = set()
        # By the name of a provider's answer: what was observed, and the notices of it.
        self.observed: set[str] = set()
        self.announced_reports: dict[str, str] = {}

    # Accounts and their ledger

    def account_committed(self, old: Account | None, new: Account) -> None:
        self.limits.begin(self.basis.since)
        self._commit(old, new)
        moved = self._moved_by(new)
        check(not moved, f"a limit's row moves with the accounts that share it: {moved}")
        self._check_limits(new.entries[-1].recorded_at)

    def together_committed(
        self,
        accounts: Sequence[tuple[Account | None, Account]],
        limits: Sequence[tuple[LimitRow | None, LimitRow]],
    ) -> None:
        """Follow accounts that move limits' rows, in the order in which they were decided."""
        rows = {key_of(row.key): shared_on(row) for _, row in limits}
        self.limits.begin(self.basis.since, rows)
        expected: dict[Key, SharedLimit] = {}
        for old, new in accounts:
            self.known = self.known_of.get(new.principal, Knowledge())
            self._commit(old, new)
            moved = self._moved_by(new)
            check(moved, "an account that moves no limit's row is written alone")
            self.limits.shared |= moved
            expected |= moved
        check(rows == expected, f"limits' rows became {rows}, but the rules say {expected}")
        for before, after in limits:
            version = before.version if before else 0
            check(after.version == version + 1, "a limit's version grows by one per commit")
        self.limits.end_together(rows, self.steps(), len(accounts))
        self._check_limits(accounts[-1][1].entries[-1].recorded_at)

    def _moved_by(self, account: Account) -> dict[Key, SharedLimit]:
        reference = self.references[account.principal]
        return reference.limits.moved(account.entries[-1].recorded_at)

    def _check_limits(self, now: datetime) -> None:
        accounts = {p: reference.limits for p, reference in self.references.items()}
        self.limits.check_shared(accounts, now)

    def _commit(self, old: Account | None, new: Account) -> None:
        check(new.version == (old.version if old else 0) + 1, "version grows by one per commit")
        entries = self._new_entries(old, new)
        check(entries, "a commit records something")
        now = entries[0].recorded_at
        past = self.entries[new.principal]
        check(not past or past[-1].recorded_at <= now, "time never runs backwards on an account")
        reference = self.references.setdefault(new.principal, Reference(new.principal.kind))
        reference.limits.see(self.limits.shared)
        due = Counter(reference.pass_time(now))
        lapsing = Counter[Passing]()
        self._view(new.principal, reference, now)
        changes_are_over = False
        for entry in entries:
            check(entry.identity not in self.recorded, "each event id has exactly one outcome")
            check(entry.recorded_at == now, "a commit has one time")
            self.recorded[entry.identity] = (new.principal, entry)
            self.recorded_at_step[entry.identity] = self.steps()
            past.append(entry)
            self.on_page[new.principal].append(entry)
            if entry.outcome in BY_TIME:
                passed = passed_in(entry)
                if not due[passed] and not changes_are_over and self._lapses(entries, entry):
                    lapsing[passed] += 1
                    continue
                if not due[passed] and not changes_are_over:
                    changes_are_over = True
                    due += Counter(reference.pass_time(now))
                check(due[passed], f"credits expire and refill when they should: {passed}")
                due[passed] -= 1
            else:
                check(not changes_are_over, "what time does comes before the changes, or after")
                self._check_change(new.principal, reference, entry)
                check(lapsing == Counter(reference.lapsed), "what a grace does not cover lapses")
                lapsing.clear()
                reference.lapsed.clear()
                self._view(new.principal, reference, now)
        in_commit = tuple(reference.held)
        due += Counter(reference.end_commit(now))
        check(not +due, f"what is due is recorded: {+due}")
        self.on_page[new.principal] = [*new.entries]
        held = {grant.id: grant.remaining_microcredits for grant in new.grants}
        check(all(left >= 0 for left in held.values()), "no grant is below zero")
        check(held == reference.balances(), "the row holds what the ledger leaves")
        counts = counted_on(new)
        check(counts == reference.limits.counts, f"{counts} is counted, not what the rules say")
        found, wanted = reserved_on(new), reference.reservations()
        check(found == wanted, f"{found} is reserved, but the rules say {wanted}")
        self.reservations[new.principal].commit(new, entries)
        for entry in entries:
            if entry.reservation.overruns:
                run = f"{entry.identity.subject}:{new.version}"
                self.must_be_overdrawn.add((new.principal, run))
        self.reserved.update(name for entry in entries for name in came_to(entry))
        self._check_expiry(new, reference)
        self._check_reload(old, new, now)
        self._check_low(old, new, entries, partial(base_of, old, new, in_commit, reference))

    def _view(self, principal: Principal, reference: Reference, now: datetime) -> None:
        if self.keeps_views:
            self.views[principal].append((self.steps(), now, reference.as_of_now()))

    @staticmethod
    def _lapses(entries: Sequence[Entry], expired: Entry) -> bool:
        """Tell whether the next change is a run's end that gives credits back."""
        ahead = entries[entries.index(expired) :]
        change = next((entry for entry in ahead if entry.outcome not in BY_TIME), None)
        return change is not None and change.outcome == "returned"

    def _check_expiry(self, account: Account, reference: Reference) -> None:
        for grant in account.grants:
            check(
                (grant.expires_at or FOR_EVER) <= reference.held[grant.id].expires_at,
                "grace ends once, counted from the grant's own expiry",
            )

    def _check_reload(self, old: Account | None, new: Account, now: datetime) -> None:
        before, reload = old.reload if old else None, new.reload
        if reload is None or reload == before:
            return
        if before is None or before.id != reload.id:
            check(reload.pools in self.known.asking, "a reload is asked for by a run that is there")
            self.may_buy[reload.id] = frozenset(reload.pools)
        check(
            before is None or before.id != reload.id or before.pools == reload.pools,
            "a reload keeps the pools of the run that asked",
        )
        if reload.state == "declined" and reload.cause in BY_SETTINGS:
            is_set = any(_rules_out(team, reload) for team in self.known.decliners)
            check(is_set, "what is declined for its settings has settings that rule it out")
        has_end = reload.until is not None or reload.cause in LIFTED_ONLY_BY_SETTINGS
        check(has_end, "a decline that settings did not cause has an end")
        if reload.until is not None:
            check(reload.until <= now + A_DECLINE_ENDS_WITHIN, "a decline ends within a month")

    def _check_low(
        self, old: Account | None, new: Account, entries: Sequence[Entry], base: BaseOf
    ) -> None:
        low, version = self.low[new.principal], (new.principal, str(new.version))
        was_told = bool(low.notified)
        is_told = low.commit(new, entries, base, self.known)
        found = (set(new.low.notified), set(new.low.deferred)) if new.low else (set(), set())
        check(
            found == (low.notified, low.deferred),
            f"{found} notified and deferred, not {low.notified, low.deferred}",
        )
        if is_told:
            self.must_be_told.add(version)
        is_over = was_told and low.base is None and any(e.brings_credits for e in entries)
        if is_over or (old and old.is_exhausted and not new.is_exhausted):
            self.must_be_restored.add(version)

    def _new_entries(self, old: Account | None, new: Account) -> tuple[Entry, ...]:
        if old is None:
            check(new.page_number == 1, "the ledger begins with page 1")
            return new.entries
        if new.page_number == old.page_number:
            kept = len(old.entries)
            check(new.entries[:kept] == old.entries, "a recorded entry never changes")
            return new.entries[kept:]
        check(new.page_number == old.page_number + 1, "pages follow each other")
        return new.entries

    def _check_change(self, principal: Principal, reference: Reference, entry: Entry) -> None:
        expected = self._expected(principal, reference, entry)
        if expected is not None:
            found, expected = found_in(entry), in_one_order(expected)
            check(found == expected, f"{entry.identity.id}: {found}, but the rules say {expected}")
        if entry.type == "agent_run.usage" and entry.outcome != "waived":
            total = entry.drawn_microcredits + entry.shortfall_microcredits
            check(total == entry.amount_microcredits, "draws plus shortfall equal the amount")
        if entry.type.startswith("agent_run.") and entry.identity.subject in self.whole_runs:
            self._check_whole_run(principal, reference, entry)
        if entry.outcome == "insufficient":
            self.failed_runs.add((principal, entry.identity.subject))
        if entry.reload and entry.type in ("reload.granted", "reload.declined"):
            self.reload_resolved_at.setdefault(entry.reload.reload_id, self.steps())
        if entry.type == "reload.granted":
            facts = entry.reload
            check(
                facts and self.charged.get(facts.reload_id) == facts.price_cents,
                "no credits unpaid",
            )

    def _check_whole_run(self, principal: Principal, reference: Reference, entry: Entry) -> None:
        run, held = entry.identity.subject, self.held_by_run[entry.identity.subject]
        account = self.account_of_run.setdefault(run, principal)
        check(account == principal, "a run that says when it began is on one account")
        sign = -1 if entry.outcome == "returned" else 1
        for draw in entry.draws:
            held[principal, draw.grant_id] += sign * draw.microcredits
        if entry.outcome == "returned":
            grants = reference.held
            now = entry.recorded_at
            kept = {
                grant_id
                for (_, grant_id), left in held.items()
                if left and grant_id in grants and grants[grant_id].expires_at > now
            }
            check(not kept, "what a run drew is given back whole, but for what is past its grace")

    def _expected(
        self, principal: Principal, reference: Reference, entry: Entry
    ) -> Expected | None:
        amount, now = entry.amount_microcredits, entry.recorded_at
        if entry.type.startswith("agent_run."):
            return self._expected_of_run(principal, reference, entry)
        match entry.type:
            case "credits.granted" | "reload.granted":
                grant = entry.grant
                assert grant is not None
                check(grant.amount_microcredits == amount, "an entry says what it granted")
                return reference.grant(grant.id, grant.pool, amount, grant.expires_at, now)
            case "plan.changed":
                return reference.change_plan(*self.plans[entry.identity])
            case _:
                return None

    def _expected_of_run(
        self, principal: Principal, reference: Reference, entry: Entry
    ) -> Expected:
        now, run = entry.recorded_at, entry.identity.subject
        if entry.run is None:
            check(run in reference.reserved, "only a live reservation is released by hand")
            return reference.release(run)
        asked = self.asked.get(entry.identity) or _asked_by(entry)
        policy, payer = entry.run.policy_version, entry.run.payer
        rejected = reference.rejection(asked, now, policy, payer)
        check(
            not rejected or not (rejected.is_certain or self._ended_on_page(principal, run)),
            f"{entry.identity.id}: {entry.outcome}, but it must be rejected: {rejected}",
        )
        limits = self._limits_as_the_worker_did(reference, entry, asked)
        expected = reference.apply(asked, now, policy, payer, limits)
        self.limits.follow(principal, entry, limits, reference)
        return expected

    def _limits_as_the_worker_did(
        self, reference: Reference, entry: Entry, asked: Asked
    ) -> tuple[InForce, ...]:
        """Return the limits that the worker went by, and show the account their rows as it did.

        Where it billed an event twice, or may have read several states of rows that it does not
        move, any that explain the entry do.
        """
        assert entry.run is not None
        policy, payer = entry.run.policy_version, entry.run.payer
        teams = self.basis.billed_by.get(entry.identity, ())
        choices = list(dict.fromkeys(limits_in_force(team, asked, payer) for team in teams))
        looks = [
            (limits, shared)
            for limits in choices
            for shared in self.limits.as_read({limit.key for limit in limits})
        ]
        for limits, shared in looks if len(looks) > 1 else ():
            trial = deepcopy(reference)
            trial.limits.shared = shared
            expected = trial.apply(asked, entry.recorded_at, policy, payer, limits)
            if in_one_order(expected) == found_in(entry):
                reference.limits.shared = shared
                return limits
        return choices[0] if choices else ()

    def page_put(self, page: Page, there: Page | None) -> None:
        committed = self.entries[page.principal]
        first = committed.index(page.entries[0]) if page.entries[0] in committed else -1
        check(first >= 0, "what the ledger holds was committed")
        stand = tuple(committed[first : first + len(page.entries)])
        check(stand == page.entries, "a page holds what was committed, in that order")
        check(there is None or there == page, "a page never changes once it is written")

    def receipt_put(self, receipt: Receipt, there: Receipt | None) -> None:
        check(there is None or there == receipt, "a receipt never changes")
        check(
            self.recorded.get(receipt.entry.identity) == (receipt.principal, receipt.entry),
            "a receipt tells of what was committed",
        )

    # Messages and notices

    def acknowledged(self, message: Sent) -> None:
        check(not message.is_rejected, "what is rejected is not acknowledged")
        for identity, payload_hash in message.events:
            check(self.has_outcome(identity, payload_hash), "acknowledged implies recorded")
        check(self.observed.issuperset(message.reports), "acknowledged implies observed")

    def has_outcome(self, identity: Identity, payload_hash: str) -> bool:
        found = self.recorded.get(identity)
        return found is not None and found[1].payload_hash == payload_hash

    def check_contradicted(self, message: Sent, code: str, began: int, began_at: datetime) -> None:
        """Check that a worker which began then may reject the message under this code.

        Its code is `out of order` if the message is to come back because nothing is known yet.
        """
        is_out_of_order = code == "out of order"
        for identity, _ in message.events:
            step = self.recorded_at_step.get(identity)
            if step is not None and step <= began:
                continue
            awaited_until = self.asked[identity].time + ORDER_MIXED_UP
            for rejected in self._rejections(identity, began, began_at):
                is_early = rejected.is_awaited and began_at < awaited_until
                if is_out_of_order and is_early:
                    return
                if code in rejected.codes and not (is_early and code in NOTHING_KNOWN):
                    return
        raise Violation(f"an event is rejected as {code} only if it is so")

    def is_contradicted_for_good(self, identity: Identity) -> bool:
        """Tell whether an event contradicts its account now, and when all has expired as well."""
        if identity not in self.asked:
            return False
        principal, policy, payer = self.billed[identity]
        if principal not in self.references:
            return False  # There is no such account.
        reference, asked = self.references[principal], self.asked[identity]
        times = (self.now(), FOR_EVER)
        return all(reference.rejection(asked, at, policy, payer) for at in times)

    def _ended_on_page(self, principal: Principal, run: str) -> bool:
        return any(
            entry.identity.subject == run and entry.outcome in ("finished", "returned", "released")
            for entry in self.on_page[principal]
        )

    def _rejections(self, identity: Identity, began: int, began_at: datetime) -> Iterator[Rejected]:
        """Yield what an event contradicts, in each state of its account since the step."""
        principal, policy, payer = self.billed[identity]
        views = self.views[principal]
        for number, (_, recorded_at, reference) in enumerate(views):
            if number + 1 < len(views) and views[number + 1][0] < began:
                continue
            at = max(began_at.replace(microsecond=0), recorded_at)
            rejected = reference.rejection(self.asked[identity], at, policy, payer)
            if rejected is not None:
                yield rejected

    def check_rejected(self, message: Sent, began: int) -> None:
        """Check that a worker which began at that step may reject the message."""
        if message.is_rejected:
            return
        is_conflict = any(
            identity in self.recorded and not self.has_outcome(identity, payload_hash)
            for identity, payload_hash in message.events
        )
        absent = [
            sender
            for sender in message.senders
            if any(sender.is_absent(team) for team in self._teams_since(sender.team_id, began))
        ]
        check(is_conflict or absent, "usage dated before a removal's end is never rejected")
        for sender in absent:
            step = self.recorded_at_step.get(sender.of) if isinstance(sender.of, Identity) else None
            check(
                step is None or step > began,
                "a recorded event is recognised when it comes again, whatever changed",
            )

    def _teams_since(self, team_id: str, step: int) -> list[Team]:
        """Return the team as it was at the step, and as it became since."""
        rows = self.team_rows[team_id]
        return [
            team
            for number, (_, team) in enumerate(rows)
            if number + 1 == len(rows) or rows[number + 1][0] >= step
        ]

    def observation_put(self, observation: Observation) -> None:
        check(isinstance(observation, ModelProviderError), "no healthy account is found drifted")
        assert isinstance(observation, ModelProviderError)
        report = report_of(observation)
        check(report not in self.observed, "what a provider answered is observed once")
        self.observed.add(report)

    def published(self, notice: Notice) -> None:
        first = self.notices.setdefault(notice.id, notice)
        # A cap or limit changed back to what it was may be reached again, and is announced once.
        may_differ = notice.type in ("spend_cap.warning", "limit.warning")
        billed, billed_first = notice.data.get("principal"), first.data.get("principal")
        says_the_same = first == notice or (may_differ and billed == billed_first)
        check(says_the_same, "a notice published again says the same")
        if notice.type == "insufficient_credits":
            run = (notice.principal, notice.subject)
            check(run in self.failed_runs, "only a failed run is announced as failed")
            self.announced_runs.add(run)
        must = {
            "credits_low": self.must_be_told,
            "credits_restored": self.must_be_restored,
            "agent_run.overdrawn": self.must_be_overdrawn,
        }
        version = (notice.principal, notice.key)
        check(version in must.get(notice.type, {version}), f"no {notice.type} without a reason")
        if notice.type.startswith("provider_"):
            name = report_name(
                notice.type.removeprefix("provider_"),
                notice.subject,
                notice.key.rpartition(" ")[2],
                notice.team_id,
                notice.time,
            )
            check(name in self.observed, "only what a provider answered is announced")
            there = self.announced_reports.setdefault(name, notice.id)
            check(there == notice.id, "what a provider answered is one notice")

    # Money

    def team_committed(self, old: Team | None, new: Team) -> None:
        check(
            new.version == (old.version if old else 0) + 1,
            "a team's version grows by one per commit",
        )
        self.team_rows[new.team_id].append((self.steps(), new))
        if old is not None:
            self._check_notice(old, new)
            is_lifted = new.settings_version > old.settings_version
            check(
                is_lifted or _settings_of_money(old) == _settings_of_money(new),
                "a change of settings lifts what was declined for the old ones",
            )
        spent = self.spent[new.team_id]
        there = {r.purchase_id: r for r in new.spending.reservations}
        for purchase_id in spent.reserved.keys() - there.keys():
            self._purchase_ended(spent, spent.reserved[purchase_id], new)
        for purchase_id in there.keys() - spent.reserved.keys():
            check(purchase_id not in spent.ended, "a purchase that has ended is not made again")
            self._check_cap(spent, there[purchase_id], new)
            self._check_pool(there[purchase_id], new)
        for purchase_id in there.keys() & spent.reserved.keys():
            before, after = spent.reserved[purchase_id], there[purchase_id]
            check(before.payment_id in (None, after.payment_id), "a stored payment stays the one")
            check(before == _with_payment_of(after, before), "a reservation does not change")
        spent.reserved = there
        owners = Counter(reservation.principal for reservation in there.values())
        check(not owners or max(owners.values()) == 1, "one live reload per account")

    def _check_notice(self, old: Team, new: Team) -> None:
        """Whoever pays, and whoever is a member no longer, changes only once each worker knows."""
        known_from = self.now() + EVERY_WORKER_KNOWS
        kept = tuple(t for t in old.tenures if t.since <= self.now() + BILLED_AHEAD)
        check(new.tenures[: len(kept)] == kept, "a tenure that may have billed never changes")
        added = [tenure for tenure in new.tenures if tenure not in old.tenures]
        check(all(t.since >= known_from for t in added), "a new tenure starts after a notice")
        if new.members == EVERYONE:
            return
        if old.members != EVERYONE:
            for who in new.members - old.members:
                self.joined[new.team_id, who] = self.now()
        before = {EVERYONE} if old.members == EVERYONE else set(old.members)
        ends = dict(new.former_members)
        for who in before - new.members:
            check(who in ends and ends[who] >= known_from, "a removal ends after a notice")
        for who, end in old.former_members:
            is_back = who in new.members
            check(is_back or (who in ends and ends[who] >= end), "a removal's end stays")

    def _check_pool(self, added: CapReservation, team: Team) -> None:
        if added.is_reload:
            pools = self.may_buy.get(added.purchase_id, frozenset())
            check(added.pool in pools, "a reload buys into a pool that the run which asked draws")
            pack = added.microcredits // added.packs // CREDIT
            price = PACKS[team.tenures[-1].policy_version].get(pack, 0)
            check(added.price_cents == added.packs * price, "a pack costs what its policy says")
        _check_drawn(added)

    def _purchase_ended(self, spent: Spent, held: CapReservation, new: Team) -> None:
        # What was given up before anything was charged leaves no record.
        recent = reversed(new.spending.recent)
        outcomes = (p.outcome for p in recent if p.purchase_id == held.purchase_id)
        outcome = next(outcomes, "given up")
        was_charged = held.purchase_id in self.charged
        check(
            (outcome == "settled") == was_charged,
            "a reservation is settled if it was charged, and released if it was not",
        )
        is_declined = (
            held.payment_id in self.declined_payments
            if held.payment_id
            else held.purchase_id in self.never_made
        )
        check(outcome != "declined" or is_declined, "only what was declined counts as a decline")
        # That no payment could be made may have been lost with its answer; what a payment that the
        # row names came to can always be asked again.
        may_be_given_up = held.payment_id not in self.declined_payments
        check(outcome != "given up" or may_be_given_up, "what was declined is not given up")
        spent.ended[held.purchase_id] = outcome
        if was_charged:
            spent.settled_cents[held.month] += held.price_cents

    def _check_cap(self, spent: Spent, added: CapReservation, team: Team) -> None:
        held = sum(r.price_cents for r in spent.reserved.values() if r.month == added.month)
        total = held + spent.settled_cents[added.month] + added.price_cents
        check(total <= team.spend_cap_cents, "spent plus reserved never passes the cap")

    def charged_card(
        self, purchase_id: str, payment_id: str, cents: int, held: CapReservation | None
    ) -> None:
        """A provider takes money; `held` is the reservation as it stands at this moment."""
        check(purchase_id not in self.charged, "a purchase is charged once")
        check(held is not None, "nothing is charged that is not reserved")
        if held is not None:
            check(held.payment_id == payment_id, "nothing is charged that the row does not name")
            check(held.price_cents == cents, "what is charged is what was reserved")
            _check_drawn(held)
        self.charged[purchase_id] = cents

    def declined_card(self, payment_id: str) -> None:
        """A provider rejects a payment for good."""
        self.declined_payments.add(payment_id)

    def declined_to_make(self, purchase_id: str) -> None:
        """A provider rejects to make a payment at all; it may still make one for a later call."""
        self.never_made.add(purchase_id)

    # The end of a history

    def check_ledger(self, account: Account, pages: Callable[[int], Page | None]) -> None:
        """Check the account as it is stored against everything that was ever committed to it."""
        stored: list[Entry] = []
        for number in range(1, account.page_number):
            page = pages(number)
            check(page is not None, f"page {number} of {account.principal} is there")
            stored += page.entries if page else ()
        stored += account.entries
        check(stored == self.entries[account.principal], "the ledger holds every entry, in order")

    def check_at_the_end(self) -> None:
        unheard = self.observed - self.announced_reports.keys()
        check(not unheard, f"what a provider answered is announced: {unheard}")
        missing = self.failed_runs - self.announced_runs
        check(not missing, f"every failed run has at least one notice: {missing}")
        for notice_type, must in (
            ("credits_low", self.must_be_told),
            ("credits_restored", self.must_be_restored),
            ("agent_run.overdrawn", self.must_be_overdrawn),
        ):
            of_type = [n for n in self.notices.values() if n.type == notice_type]
            missing = must - {(notice.principal, notice.key) for notice in of_type}
            check(not missing, f"every {notice_type} that is due is announced: {missing}")
        for team_id, spent in self.spent.items():
            check(not spent.reserved, f"no purchase of {team_id} is left open")
        settled = {p for s in self.spent.values() for p, end in s.ended.items() if end == "settled"}
        granted = {
            entry.reload.reload_id: entry.reload.price_cents
            for _, entry in self.recorded.values()
            if entry.type == "reload.granted" and entry.reload
        }
        check(self.charged == granted, "what was charged was granted")
        check(settled == granted.keys(), "what was granted was settled")


def asked_in(document: Mapping[str, Any]) -> Asked:
    """Return what an event asks for, read without the code that is checked."""
    data = document["data"]
    microcredits = None
    if "credits" in data:
        whole, _, part = str(data["credits"]).partition(".")
        microcredits = int(whole) * CREDIT + int(part.ljust(6, "0") or 0)
    ttl = data.get("ttl_seconds")
    return Asked(
        kind=document["type"].removeprefix("agent_run."),
        run=document["subject"],
        credits=microcredits,
        reserve=data.get("reserve"),
        ttl=None if ttl is None else timedelta(seconds=ttl),
        parent=data.get("parent_run_id"),
        status=data.get("status", "ok"),
        time=datetime.fromisoformat(document["time"]),
        project=data.get("project_id"),
        user=data["trigger"].get("user_id"),
    )


def found_in(entry: Entry) -> Expected:
    """Return what the entry says, as the rules say it."""
    draws = tuple((draw.grant_id, draw.microcredits) for draw in entry.draws)
    found = Expected(
        entry.outcome,
        draws,
        entry.shortfall_microcredits,
        entry.fails_run,
        facts_of(entry),
        limits_said(entry),
    )
    return in_one_order(found)


def in_one_order(expected: Expected) -> Expected:
    """Sort draws that go back: in which order they do makes no difference to anything."""
    if expected.outcome != "returned":
        return expected
    return expected._replace(draws=tuple(sorted(expected.draws)))


def facts_of(entry: Entry) -> Facts:
    """Return what the entry says of reservations, as the rules say it."""
    facts = entry.reservation
    moves = [(move.run_id, move.grant_id, move.microcredits) for move in facts.moves]
    check(len(set(moves)) == len(moves), "an entry says once what it moves")
    ended = (
        (
            e.run_id,
            e.parent_run_id,
            e.reserved_microcredits,
            e.drawn_microcredits,
            e.overdrawn_microcredits,
        )
        for e in facts.ended
    )
    return Facts(
        frozenset(moves),
        tuple(sorted(ended)),
        facts.parent_run_id,
        facts.overdrawn_microcredits,
        facts.overruns,
        facts.directive,
        facts.reserved_before_microcredits,
    )


def limits_said(entry: Entry) -> LimitsSaid:
    """Return what the entry says of limits, as the rules say it."""
    counted = [(key_of(c.key), c.ends_at, c.microcredits) for c in entry.limits.counted]
    check(len({key for key, _, _ in counted}) == len(counted), "an entry counts once under a limit")
    return LimitsSaid(
        frozenset(counted),
        tuple(
            Standing(
                key_of(said.key),
                said.limit_microcredits,
                said.stops,
                said.drawn_microcredits,
                said.held_microcredits,
                said.resets_at,
                said.cannot_count,
            )
            for said in entry.limits.standings
        ),
    )


def counted_on(account: Account) -> dict[Key, Count]:
    """Return what a row counts under limits, as the rules keep it."""
    return {
        key_of(count.key): Count(count.ends_at, count.drawn_microcredits, count.spans_accounts)
        for count in account.limit_counts
    }


def shared_on(row: LimitRow) -> SharedLimit:
    """Return a limit's row as the rules keep it."""
    check(row.moved_at.microsecond == 0, "times on rows are whole seconds")
    return SharedLimit(row.ends_at, row.drawn_microcredits, dict(row.held), row.moved_at)


def reserved_on(account: Account) -> dict[str, object]:
    """Return the reservations of a row, as the rules keep them."""
    return {
        held.run_id: (
            held.parent_run_id,
            tuple((part.grant_id, part.microcredits) for part in held.parts),
            (held.reserved_microcredits, held.drawn_microcredits, held.overdrawn_microcredits),
            held.directive,
            held.expires_at,
            frozenset(key_of(key) for key in held.limits),
        )
        for held in account.reservations
    }


def passed_in(entry: Entry) -> Passing:
    """Return what time did, by its entry."""
    if entry.outcome == "reservations_expired":
        return Passing(entry.outcome, "", entry.amount_microcredits, facts_of(entry))
    return Passing(entry.outcome, _grant_id(entry), entry.amount_microcredits, facts_of(entry))


def report_name(meaning: str, run_id: str, event_id: str, team_id: str, time: datetime) -> str:
    """Return what makes a provider's answer count once, said a second time.

    An empty account counts for every event, a rate limit for a team and an hour; projects are all
    the same here, and so is the provider.
    """
    if meaning == "quota_exhausted":
        return f"empty: {run_id} {event_id}"
    return f"busy: {team_id} {time.astimezone(UTC):%Y-%m-%d %H}"


def report_of(rejected: ModelProviderError) -> str:
    return report_name(
        rejected.classification, rejected.run_id, rejected.event_id, rejected.team_id, rejected.time
    )


def _check_drawn(held: CapReservation) -> None:
    kind = held.principal.partition(":")[0]
    drawn = {pool for pools in POOLS.values() for pool in pools[kind]}
    check(held.pool in drawn, "nothing is charged into a pool that no rule draws")


def _settings_of_money(team: Team) -> tuple[object, ...]:
    return team.auto_reload, team.payment, team.spend_cap_cents, team.time_zone, team.currency


def _rules_out(team: Team, reload: Reload) -> bool:
    """Tell whether the team's settings alone are why this reload is declined."""
    settings = team.auto_reload
    match reload.cause:
        case "auto_reload_off":
            return settings is None or not settings.enabled
        case "payment_method_missing":
            return team.payment is None
        case "suspended":
            suspended = team.spending.suspended_payment_method
            return team.payment is not None and team.payment.name == suspended
        case _:
            packs = PACKS[team.tenures[-1].policy_version]
            return settings is not None and (
                settings.pool not in reload.pools
                or settings.pack_microcredits // CREDIT not in packs
            )


def _asked_by(entry: Entry) -> Asked:
    """Return what an event asked for that no history sent; such a one reserves nothing."""
    status = "error" if entry.outcome == "returned" else "ok"
    kind = entry.type.removeprefix("agent_run.")
    amount = entry.amount_microcredits
    return Asked(kind, entry.identity.subject, amount, status=status)


def _grant_id(entry: Entry) -> str:
    check(entry.grant is not None, "an entry names the grant that expired or refilled")
    assert entry.grant is not None
    return entry.grant.id


def _with_payment_of(after: CapReservation, before: CapReservation) -> CapReservation:
    return after.model_copy(update={"payment_id": before.payment_id})
