"""The functions of the stack, and its operator: the project's code over ports that go wrong."""

import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from agent_credits.aws.run_queue import wait_seconds
from agent_credits.billing.directory import Directory
from agent_credits.billing.policy import BillingPolicy
from agent_credits.billing.spend_cap import with_cap
from agent_credits.billing.teams import Billing, Team
from agent_credits.commit.changes import GrantChange, PlanChange, ReleaseChange
from agent_credits.commit.rows import LostTogether
from agent_credits.commit.team_changes import change_team
from agent_credits.commit.together import commit_changes
from agent_credits.commit.write_protocol import commit
from agent_credits.events.agent_runs import AgentRunEvent, Rejection
from agent_credits.intake.debited_batch import DebitedBatch, Delivery
from agent_credits.intake.debits import Debits
from agent_credits.ledger import accounts
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Identity, Page, Receipt
from agent_credits.ledger.limits import LimitKey, LimitRow
from agent_credits.ledger.reloads import ReloadRequest, ask_again_seconds
from agent_credits.notices.announcements import (
    AccountRecord,
    NoticeSettings,
    StreamRecord,
    notices_of,
    reload_requests,
)
from agent_credits.notices.observations import Observation
from agent_credits.payments.port import (
    Charge,
    Declined,
    InvoicePayments,
    PaymentState,
    PaymentUnavailable,
)
from agent_credits.payments.reload_saga import Open, ReloadSaga
from agent_credits.values.errors import (
    AgentCreditsError,
    InvariantViolated,
    QueueUnavailable,
    RowsUnavailable,
)
from agent_credits.values.principals import Principal
from agent_credits_cli.errors import CommandError
from agent_credits_cli.stack import read_stack
from agent_credits_cli.steps import ChangeAccount, carry_out, plan_steps
from tests.dispositions import out_of_order, postponed, rejected, waiting
from tests.simulation.invariants import CONTRADICTIONS, Basis, Sent
from tests.simulation.low_reference import Knowledge
from tests.simulation.outside import Message
from tests.simulation.reference import POOLS
from tests.simulation.scheduler import Worker
from tests.simulation.violation import Violation, check
from tests.simulation.world import (
    CREDIT,
    LAST_POOLS,
    SHARED_POOLS,
    declared_world,
    drawn_limits,
    payment_method,
)

if TYPE_CHECKING:
    from tests.simulation.history import History

Result = TypeVar("Result")

BATCH_MAX = 6
RECORDS_MAX = 5
OPERATES_PER_TURN = 0.05
# A request that AWS receives longer after it was signed is rejected.
SIGNATURE_VALID_FOR = timedelta(minutes=5)
SETTINGS = NoticeSettings("https://docs.example.com")


def pause(attempts_lost: int) -> None:
    """Wait for nobody: the scheduler decides who goes on."""


class StackWorker(Worker):
    """A worker of this stack: one history, and one version of the code."""

    def __init__(self, history: "History", name: str) -> None:
        self.history = history
        self.page_entries_full = 0
        super().__init__(history.scheduler, name)

    def boot(self) -> None:
        self.teams_read: dict[str, list[Team]] = {}
        self.began_at = self.scheduler.now
        # Whatever starts may be of another version than what runs already.
        self.page_entries_full = self.history.random.choice(self.history.page_sizes)
        self.rows = self.history.parts.rows(self)

    def basis(self) -> Basis:
        """Return what this worker decides by at this moment, where limits hold."""
        return Basis()

    def begin(self) -> datetime:
        """Begin an invocation: of what was read before, the newest is all that is still known."""
        self.teams_read = {team_id: read[-1:] for team_id, read in self.teams_read.items()}
        self.began_at = self.clock()
        return self.began_at

    def knowledge_of(self, account: Account) -> Knowledge:
        """Return what this worker goes by when it commits to the account."""
        billed = (entry.run.team_id for entry in reversed(account.entries) if entry.run)
        teams = self.teams_read.get(next(billed, ""), [])
        decliners = self.teams_read.get(account.reload.team_id, []) if account.reload else []
        asking = self.pools_of_runs(account.principal)
        return Knowledge(tuple(teams), self.began_at, asking, tuple(decliners))

    def pools_of_runs(self, _: Principal) -> frozenset[tuple[str, ...]]:
        """Return which pools the runs draw that this worker has been told of."""
        return frozenset()

    def before_resuming(self) -> None:
        accounts.PAGE_ENTRIES_FULL = self.page_entries_full


class WorkerRows:
    """The rows as one worker reaches them: each call a step, at which anything can go wrong."""

    def __init__(self, worker: "StackWorker") -> None:
        self._worker = worker
        self._rows = worker.history.rows

    def read_account(self, principal: Principal) -> Account | None:
        return self._read(f"read {principal}", lambda: self._rows.read_account(principal))

    def read_accounts_of(self, principals: Collection[Principal]) -> Mapping[Principal, Account]:
        what = f"read {' '.join(str(principal) for principal in principals)}"
        return self._read(what, lambda: self._rows.read_accounts_of(principals))

    def read_receipts(self, identities: Collection[Identity]) -> Mapping[Identity, Receipt]:
        if not identities:
            return {}
        what = f"read receipts of {' '.join(i.id for i in identities)}"
        return self._read(what, lambda: self._rows.read_receipts(identities))

    def flush_and_read_receipts(
        self, pages: Collection[Page], identities: Collection[Identity]
    ) -> Mapping[Identity, Receipt]:
        """The real calls overlap; here the receipts are read before, between or after the pages."""
        before = [page for page in pages if page.number % 2]
        for page in before:
            self.put_page(page)
        receipts = self.read_receipts(identities)
        for page in pages:
            if page not in before:
                self.put_page(page)
        return receipts

    def read_run(self, run_id: str) -> Iterable[Receipt]:
        return self._read(f"read {run_id}", lambda: list(self._rows.read_run(run_id)))

    def read_team(self, team_id: str) -> Team | None:
        team = self._read(f"read team {team_id}", lambda: self._rows.read_team(team_id))
        if team is not None:
            self._worker.teams_read.setdefault(team_id, []).append(team)
        return team

    def newest_team(self, team_id: str) -> Team:
        """Return the row that this worker read last."""
        return self._worker.teams_read[team_id][-1]

    def read_policy(self, version: str) -> BillingPolicy | None:
        return self._read(f"read policy {version}", lambda: self._rows.read_policy(version))

    def compare_and_set(self, account: Account) -> Account | None:
        known, basis = self._worker.knowledge_of(account), self._worker.basis()

        def write() -> Account | None:
            # Perhaps much later, when this worker knows other things.
            invariants = self._worker.history.invariants
            invariants.known, invariants.basis = known, basis
            return self._rows.compare_and_set(account)

        what = f"write {account.principal} version {account.version}"
        return self._worker.call("write", what, write, RowsUnavailable)

    def read_limits(self, keys: Collection[LimitKey]) -> Mapping[LimitKey, LimitRow]:
        what = f"read limits {', '.join(str(key) for key in keys)}"
        return self._read(what, lambda: self._rows.read_limits(keys))

    def compare_and_set_together(
        self, accounts: Sequence[Account], limits: Sequence[LimitRow]
    ) -> LostTogether | None:
        known = {account.principal: self._worker.knowledge_of(account) for account in accounts}
        basis, scheduler = self._worker.basis(), self._worker.scheduler

        def write() -> LostTogether | None:
            if scheduler.faults.happens("transaction conflicted"):
                return LostTogether(conflicts=True)
            invariants = self._worker.history.invariants
            invariants.known_of, invariants.basis = known, basis
            lost = self._rows.compare_and_set_together(accounts, limits)
            if lost and scheduler.faults.happens("not all rows that moved were named", 4):
                return _some_of(lost, scheduler.random)
            return lost

        named = [f"{account.principal} version {account.version}" for account in accounts]
        named += [f"{row.key} version {row.version}" for row in limits]
        return self._worker.call("write", f"write {', '.join(named)}", write, RowsUnavailable)

    def compare_and_set_team(self, team: Team) -> Team | None:
        return self._worker.call(
            "write",
            f"write team {team.team_id} version {team.version}",
            lambda: self._rows.compare_and_set_team(team),
            RowsUnavailable,
        )

    def put_policy(self, policy: BillingPolicy) -> BillingPolicy:
        return self._worker.call(
            "write",
            f"put policy {policy.version}",
            lambda: self._rows.policies.setdefault(policy.version, policy),
            RowsUnavailable,
        )

    def put_page(self, page: Page) -> None:
        items = [page, *(Receipt(page.principal, page.number, entry) for entry in page.entries)]
        puts = [partial(self._rows.put_item, item) for item in items]
        what = f"put page {page.number} of {page.principal}"
        self._worker.put_items(what, puts, RowsUnavailable)

    def put_observation(self, observation: Observation, now: datetime) -> bool:
        return self._worker.call(
            "write",
            f"observe {observation.key}",
            lambda: self._rows.put_observation(observation, now),
            RowsUnavailable,
        )

    def _read(self, what: str, read: Callable[[], Result]) -> Result:
        return self._worker.call("read", what, read, RowsUnavailable)


def _some_of(lost: LostTogether, randomness: random.Random) -> LostTogether:
    """Return at least one of the rows that a lost race names."""
    named = [*lost.accounts, *lost.limits]
    kept = randomness.sample(named, randomness.randint(1, len(named)))
    return LostTogether(
        tuple(account for account in lost.accounts if account in kept),
        tuple(row for row in lost.limits if row in kept),
    )


class OperatorRows(WorkerRows):
    """A request that took too long on its way is not carried out: its signature has expired."""

    def compare_and_set_team(self, team: Team) -> Team | None:
        scheduler, signed_at = self._worker.scheduler, self._worker.scheduler.now

        def write() -> Team | None:
            if scheduler.now > signed_at + SIGNATURE_VALID_FOR:
                raise RowsUnavailable("the signature has expired")
            return self._rows.compare_and_set_team(team)

        what = f"write team {team.team_id} version {team.version}"
        return self._worker.call("write", what, write, RowsUnavailable)


class NotingDirectory(Directory):
    """Notes by which settings each event was billed, the newest first.

    What is billed again before it fails may in the end be recorded as it was billed at first: where
    the account has changed since, it no longer fails.
    """

    def __init__(self, rows: WorkerRows, billed_by: dict[Identity, list[Team]]) -> None:
        super().__init__(rows)
        self._newest_row = rows.newest_team
        self._billed_by = billed_by

    def bill(self, event: AgentRunEvent, now: datetime) -> Billing | Rejection:
        billing = super().bill(event, now)
        if isinstance(billing, Billing):
            newest = self._newest_row(event.data.team_id)
            self._billed_by.setdefault(event.identity, []).insert(0, newest)
        return billing


class DebitWorker(StackWorker):
    """functions/debit_runs, with the poller that Lambda puts before it."""

    directory: type[NotingDirectory] = NotingDirectory

    def boot(self) -> None:
        super().boot()
        self.billed: frozenset[tuple[Principal, str]] = frozenset()
        self.billed_by: dict[Identity, list[Team]] = {}
        self.began_at_step = 0
        directory = self.directory(self.rows, self.billed_by)
        self.debits = Debits(self.rows, directory, pause, side_by_side=self.in_any_order)

    def basis(self) -> Basis:
        billed_by = {identity: tuple(by) for identity, by in self.billed_by.items()}
        return Basis(billed_by, self.began_at_step)

    def in_any_order(self, calls: Sequence[Callable[[], Result]]) -> list[Result]:
        """Make the calls one after another, in an order drawn from the seed.

        What happens between the calls of different accounts is up to the other workers: nothing
        that is written for one account is read for another.
        """
        order = [*range(len(calls))]
        self.scheduler.random.shuffle(order)
        made = {number: calls[number]() for number in order}
        return [made[number] for number in range(len(calls))]

    def pools_of_runs(self, principal: Principal) -> frozenset[tuple[str, ...]]:
        return frozenset(POOLS[policy][who.kind] for who, policy in self.billed if who == principal)

    def has_work(self) -> bool:
        return bool(self.history.run_queue.receivable(self.scheduler.now))

    def next_invocation(self) -> Callable[[], None] | None:
        queue, now = self.history.run_queue, self.scheduler.now
        ready = queue.receivable(now)
        if not ready:
            return None
        size = min(self.scheduler.random.randint(1, BATCH_MAX), len(ready))
        deliveries = {}
        for number in self.scheduler.random.sample(ready, size):
            hides = not self.scheduler.faults.happens("message delivered twice")
            message = queue.receive(number, now, hides=hides)
            deliveries[number] = (message, message.receives)
        return partial(self._debit, deliveries)

    def _debit(self, deliveries: Mapping[int, tuple[Message, int]]) -> None:
        began = self.began_at_step = self.scheduler.steps
        self.billed_by.clear()
        self.scheduler.note(self.name, f"receives messages {[*deliveries]}")
        self.billed = frozenset[tuple[Principal, str]]().union(
            *(message.sent.billed for message, _ in deliveries.values())
        )
        batch = self.debits.debit(
            [Delivery(str(number), m.sent.body) for number, (m, _) in deliveries.items()],
            now=self.begin(),
            time_is_left=lambda: not self.scheduler.faults.happens("function's time was up"),
        )
        self._check(batch, deliveries, began)
        now = self.scheduler.now
        returned = {int(m): now for m in rejected(batch) if m not in postponed(batch)}
        for message_id in (*waiting(batch), *out_of_order(batch)):
            receives = deliveries[int(message_id)][1]
            returned[int(message_id)] = now + timedelta(seconds=wait_seconds(receives))
        if returned:
            self._call_queue(f"return {[*returned]}", lambda: self._return(returned))
        failed = {int(message_id) for message_id in batch.failed_message_ids}
        done = {n: message.sent for n, (message, _) in deliveries.items() if n not in failed}
        if done:
            self._call_queue(f"acknowledge {[*done]}", lambda: self._acknowledge(done))

    def _check(
        self, batch: DebitedBatch, deliveries: Mapping[int, tuple[Message, int]], began: int
    ) -> None:
        invariants, began_at = self.history.invariants, self.began_at
        for message_id, rejection in rejected(batch).items():
            sent = deliveries[int(message_id)][0].sent
            if rejection.code in CONTRADICTIONS:
                invariants.check_contradicted(sent, rejection.code, began, began_at)
            else:
                invariants.check_rejected(sent, began)
        for message_id in out_of_order(batch):
            sent = deliveries[int(message_id)][0].sent
            invariants.check_contradicted(sent, "out of order", began, began_at)
        for error in postponed(batch).values():
            if isinstance(error, InvariantViolated):
                raise Violation(str(error)) from error
        for reload_id in waiting(batch).values():
            resolved = self.history.invariants.reload_resolved_at.get(reload_id)
            check(resolved is None or resolved >= began, "nobody waits for a resolved reload")

    def _call_queue(self, what: str, apply: Callable[[], None]) -> None:
        try:
            self.call("write", what, apply, QueueUnavailable)
        except QueueUnavailable:
            return

    def _return(self, returned: Mapping[int, datetime]) -> None:
        for number, visible_at in returned.items():
            self.history.run_queue.return_at(number, visible_at)

    def _acknowledge(self, done: Mapping[int, Sent]) -> None:
        for number, sent in done.items():
            self.history.invariants.acknowledged(sent)
            self.history.run_queue.delete(number)


class WorkerPayments:
    """The payment provider as one worker reaches it."""

    def __init__(self, worker: StackWorker) -> None:
        self._worker = worker
        self._provider = worker.history.provider

    def create(self, charge: Charge) -> str | Declined:
        now = self._worker.scheduler.now
        return self._call(f"pay {charge.purchase_id}", lambda: self._provider.create(charge, now))

    def confirm(self, payment_id: str) -> PaymentState:
        return self._call(f"confirm {payment_id}", self._confirm(payment_id))

    def cancel(self, payment_id: str) -> PaymentState:
        return self._call(f"cancel {payment_id}", self._cancel(payment_id))

    def _cancel(self, payment_id: str) -> Callable[[], PaymentState]:
        return lambda: self._provider.cancel(payment_id, self._worker.scheduler.now)

    def _confirm(self, payment_id: str) -> Callable[[], PaymentState]:
        # At whatever time the call gets there.
        return lambda: self._provider.confirm(payment_id, self._worker.scheduler.now)

    def _call(self, what: str, apply: Callable[[], Result]) -> Result:
        return self._worker.call("write", what, apply, PaymentUnavailable)


class WorkerInvoices(InvoicePayments):
    """Payment by invoice: what the row says is paid counts as charged from that moment."""

    def __init__(self, worker: StackWorker) -> None:
        self._worker = worker

    def confirm(self, payment_id: str) -> PaymentState:
        self._worker.history.provider.invoice(payment_id)
        return super().confirm(payment_id)

    def cancel(self, payment_id: str) -> PaymentState:
        self._worker.history.provider.invoice(payment_id)
        return super().cancel(payment_id)


class ReloadWorker(StackWorker):
    """functions/auto_reload: one message at a time, per team in order."""

    def boot(self) -> None:
        super().boot()
        payments = {"stripe": WorkerPayments(self), "invoice": WorkerInvoices(self)}
        self.saga = self.history.parts.saga(self.rows, self.rows, payments, pause)

    def has_work(self) -> bool:
        return bool(self.history.reload_queue.receivable(self.scheduler.now))

    def next_invocation(self) -> Callable[[], None] | None:
        queue, now = self.history.reload_queue, self.scheduler.now
        ready = queue.receivable(now)
        if not ready:
            return None
        number = self.scheduler.random.choice(ready)
        message = queue.receive(number, now)
        return partial(self._resolve, number, message.sent, message.receives)

    def _resolve(self, number: int, request: ReloadRequest, receives: int) -> None:
        self.scheduler.note(self.name, f"receives the request of {request.reload_id}")
        queue = self.history.reload_queue
        try:
            self.teams_read.clear()
            resolution = self.saga.resolve(request, self.begin())
            self.scheduler.note(self.name, f"resolved: {type(resolution).__name__}")
            is_followed_up = isinstance(resolution, Open) and resolution.is_followed_up
            if isinstance(resolution, Open) and (request.follows_up or not is_followed_up):
                later = self.scheduler.now + timedelta(seconds=ask_again_seconds(request, receives))
                self.call(
                    "write", "ask again", lambda: queue.return_at(number, later), QueueUnavailable
                )
            else:
                self.call("write", "done", lambda: queue.delete(number), QueueUnavailable)
        except InvariantViolated as violated:
            raise Violation(str(violated)) from violated
        except AgentCreditsError as error:
            self.scheduler.note(self.name, f"gives up for now: {type(error).__name__} {error}")


class AnnounceWorker(StackWorker):
    """functions/announce: the change stream, in order, from the first record not yet done."""

    def has_work(self) -> bool:
        return self.history.announced < len(self.history.rows.changes)

    def next_invocation(self) -> Callable[[], None] | None:
        history = self.history
        others = (w for w in history.workers if isinstance(w, AnnounceWorker) and w is not self)
        if any(not other.is_idle and not other.is_frozen for other in others):
            return None
        start = history.announced
        if start >= len(history.rows.changes):
            return None
        return partial(self._announce, start, start + self.scheduler.random.randint(1, RECORDS_MAX))

    def _announce(self, start: int, end: int) -> None:
        history = self.history
        for number, change in enumerate(history.rows.changes[start:end], start):
            try:
                self._announce_one(change)
            except QueueUnavailable:
                return
            history.announced = max(history.announced, number + 1)

    def _announce_one(self, change: StreamRecord) -> None:
        history = self.history
        for request in reload_requests(change) if isinstance(change, AccountRecord) else ():
            send = partial(history.send_reload, request, self.scheduler.now)
            self.call("write", f"request {request.reload_id}", send, QueueUnavailable)
        for notice in notices_of(change, SETTINGS):
            publish = partial(history.invariants.published, notice)
            self.call("write", f"publish {notice.type} {notice.subject}", publish, QueueUnavailable)


class Operator(StackWorker):
    """Somebody at a terminal: tops up, changes caps and cards, and applies another file."""

    def boot(self) -> None:
        super().boot()
        self.rows = OperatorRows(self)

    def has_work(self) -> bool:
        return False

    def next_invocation(self) -> Callable[[], None] | None:
        if not self.scheduler.faults.enabled or self.scheduler.random.random() > OPERATES_PER_TURN:
            return None
        act = self.scheduler.random.choice(
            (
                *(self._top_up, self._change_team, self._apply, self._apply),
                *self._of_reservations(),
                *self._of_limits(),
                *self._of_shared_pools(),
            )
        )
        return partial(self._act, act)

    def _act(self, act: Callable[[], None]) -> None:
        try:
            act()
        except InvariantViolated as violated:
            raise Violation(str(violated)) from violated
        except (AgentCreditsError, CommandError) as error:
            self.scheduler.note(self.name, f"is told {type(error).__name__} {error}")

    def _top_up(self) -> None:
        randomness = self.scheduler.random
        principal = randomness.choice([*self.history.rows.accounts])
        # A top-up is repeated where the first answer was lost, so a repeat must do nothing.
        name = f"top-up-{randomness.randint(1, 12)}"
        if principal.kind == "user" and randomness.random() < 0.2:
            # Another day than the file says is found, and told, by the next apply.
            days = randomness.choice((0, 0, 0, 0, 0, randomness.randint(1, 40)))
            anchor = self.history.anchor - timedelta(days=days)
            change = PlanChange(principal, f"plan:{name}", name, "plan", 7 * CREDIT, anchor)
            planned = self.history.invariants.plans.setdefault(
                change.identity, (change.microcredits, change.anchor)
            )
            change = PlanChange(principal, f"plan:{name}", name, "plan", planned[0], planned[1])
        else:
            pool = randomness.choice(LAST_POOLS["team" if principal.kind == "team" else "user"])
            hours = randomness.choice((None, 1, 30))
            expires_at = self.scheduler.now + timedelta(hours=hours) if hours else None
            change = GrantChange(principal, name, pool, 9 * CREDIT, expires_at, "purchase")
        commit(self.rows, principal, [change], now=self.clock(), pause=pause)

    def _of_reservations(self) -> tuple[Callable[[], None], ...]:
        return (self._release, self._release) if self.history.reserves else ()

    def _release(self) -> None:
        """Release the reservation of a run that is at work, or was a moment ago."""
        randomness = self.scheduler.random
        rows = [row for row in self.history.rows.accounts.values() if row.reservations]
        if not rows:
            return
        row = randomness.choice(rows)
        run = randomness.choice(row.reservations).run_id
        change = ReleaseChange(row.principal, run, f"release:{run}", "its worker is gone")
        commit_changes(self.rows, row.principal, [change], now=self.clock(), pause=pause)

    def _of_limits(self) -> tuple[Callable[[], None], ...]:
        return (self._change_limits, self._change_limits) if self.history.limits_hold else ()

    def _of_shared_pools(self) -> tuple[Callable[[], None], ...]:
        return (self._top_up_team,) if self.history.shares else ()

    def _top_up_team(self) -> None:
        """Give a team credits that its users share; a repeat must do nothing."""
        randomness = self.scheduler.random
        principal = Principal("team", randomness.choice(self.history.team_ids))
        name, pool = f"share-{randomness.randint(1, 12)}", randomness.choice(SHARED_POOLS)
        hours = randomness.choice((None, 1, 30))
        expires_at = self.scheduler.now + timedelta(hours=hours) if hours else None
        change = GrantChange(principal, name, pool, 9 * CREDIT, expires_at, "purchase")
        commit(self.rows, principal, [change], now=self.clock(), pause=pause)

    def _change_limits(self) -> None:
        """Declare other limits, raise one, lower one, or lift one for a while."""
        randomness = self.scheduler.random
        team_id = randomness.choice(self.history.team_ids)
        others = drawn_limits(randomness, self.scheduler.now)
        factor, place = randomness.choice((0, 0.5, 1, 3)), randomness.random()
        until = self.scheduler.now + timedelta(hours=randomness.choice((1, 30)))

        def changed(team: Team) -> Team:
            limits = [*team.limits]
            if not limits or randomness.random() < 0.2:
                return team.model_copy(update={"limits": others})
            number = int(place * len(limits))
            one = limits[number]
            if factor == 1:
                limits[number] = one.model_copy(update={"raise_until": until})
            else:
                credits_now = int(one.microcredits * factor)
                limits[number] = one.model_copy(update={"microcredits": credits_now})
            return team.model_copy(update={"limits": tuple(limits)})

        change_team(self.rows, team_id, changed, pause)

    def _change_team(self) -> None:
        randomness = self.scheduler.random
        team_id = randomness.choice(self.history.team_ids)
        cap = randomness.choice((0, 2_500, 6_000, 20_000, 100_000))
        method = payment_method(randomness, team_id)
        turns_off = randomness.random() < 0.1

        def changed(team: Team) -> Team:
            reloads = team.auto_reload
            if reloads is not None:
                reloads = reloads.model_copy(update={"enabled": not turns_off})
            settings = {
                "spend_cap_cents": cap,
                "spending": with_cap(team.spending, cap),
                "payment": method,
                "auto_reload": reloads,
                "settings_version": team.settings_version + 1,
            }
            return team.model_copy(update=settings)

        change_team(self.rows, team_id, changed, pause)

    def _apply(self) -> None:
        """Apply a file in which something of one team is written otherwise than it is now."""
        team = self.history.rows.teams[self.scheduler.random.choice(self.history.team_ids)]
        declared = declared_world(
            self.scheduler.random, team, self.history.anchor, self.history.policies
        )
        steps = plan_steps(declared, read_stack(self.rows, declared), self.clock())
        differences = [d for step in steps for d in step.differences]
        for step in steps:
            for change in step.changes if isinstance(step, ChangeAccount) else ():
                assert isinstance(change, PlanChange)
                planned = (change.microcredits, change.anchor)
                self.history.invariants.plans.setdefault(change.identity, planned)
        self.scheduler.note(self.name, f"applies {[(d.what, d.after) for d in differences]}")
        carry_out(self.rows, steps, clock=self.clock, pause=pause)
        self.history.applied.update(d.what for d in differences if d.kind == "team")


@dataclass(frozen=True)
class Parts:
    """The classes that a history is built from; a mutant replaces one of them."""

    rows: type[WorkerRows] = WorkerRows
    saga: type[ReloadSaga] = ReloadSaga
    debits: type[DebitWorker] = DebitWorker
    announcer: type[AnnounceWorker] = AnnounceWorker
    checks_version: bool = True
    checks_limits: bool = True
