"""One history: a world, its workers, what is sent to it and what goes wrong, all from one seed."""

import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from agent_credits.billing.directory import Directory
from agent_credits.billing.policy import BillingPolicy
from agent_credits.billing.teams import Team, Tenure
from agent_credits.commit.changes import PlanChange
from agent_credits.commit.write_protocol import commit
from agent_credits.events.agent_runs import (
    AgentRunEvent,
    ModelProviderErrorReported,
    parse_message,
)
from agent_credits.intake.debited_batch import Delivery
from agent_credits.intake.debits import Debits
from agent_credits.ledger import accounts
from agent_credits.ledger.entries import Identity
from agent_credits.ledger.reloads import ReloadRequest
from agent_credits.sweeps.checkpoint import Checkpoint
from agent_credits.sweeps.limit_rows import verify_limit
from agent_credits.sweeps.shared_draws import SharedDraws, contradictions
from agent_credits.sweeps.verification import verify_row
from agent_credits.values.principals import Principal
from tests.simulation.faults import TOGETHER_FAULTS, Faults
from tests.simulation.invariants import Invariants, Sender, Sent, asked_in, report_name
from tests.simulation.outside import Provider, Queue, StoredRows
from tests.simulation.scheduler import Scheduler
from tests.simulation.shared_invariants import SharedInvariants
from tests.simulation.violation import Violation, check
from tests.simulation.workers import (
    Operator,
    Parts,
    ReloadWorker,
    StackWorker,
    pause,
)
from tests.simulation.world import (
    BOUNDARIES,
    FAR_PAST,
    POLICIES,
    PROJECTS,
    RESERVING_POLICIES,
    SHARING_POLICIES,
    build_world,
    extension_data,
    reservation_data,
    with_limits,
    with_shared_pools,
)

# The runs of every other hundred of seeds reserve, from 100 on. In two of eight hundreds, from 300
# on, limits hold: in one that reserves and one that does not. In one more, from 600 on, runs
# reserve and teams share pools with their users.
SEEDS_ALIKE = 100
HUNDREDS_ALIKE, HUNDREDS_WITH_LIMITS, HUNDRED_THAT_SHARES = 8, (3, 4), 6
MESSAGES_MIN, MESSAGES_MAX = 10, 120
SENDS_PER_TURN = 0.012
TURNS_MAX = 400_000
REDRIVES_MAX = 60
REPLAYED_AT_ONCE = 25
# After so many workers in a row that had nothing to do, it is worth a look whether any has.
MISSES_MAX = 6
DEDUPLICATED_FOR = timedelta(minutes=5)
# Encoding takes a third of the time, and what it can get wrong does not depend on the schedule.
CODEC_SHARE = 0.2
A_MONTH = timedelta(days=31)
# What a provider answers whose account is empty, or that is busy.
EMPTY, BUSY = "insufficient_quota", "rate_limit_exceeded"


@dataclass(frozen=True)
class Report:
    seed: int
    steps: int
    events: int
    commits: int
    faults: Counter[str]
    # What operators changed of teams, by applying files.
    applied: Counter[str]
    # What reservations came to, in the histories whose runs reserve.
    reserved: Counter[str] = field(default_factory=Counter)
    # What limits came to, in the histories where they hold.
    limited: Counter[str] = field(default_factory=Counter)
    # What shared pools came to, in the histories that have them.
    shared: Counter[str] = field(default_factory=Counter)


class Failed(AssertionError):
    """A history in which an invariant broke, with its seed and its last steps."""

    def __init__(self, seed: int, reason: BaseException, trace: list[str]) -> None:
        self.seed = seed
        self.reason = reason
        steps = "\n".join(trace)
        super().__init__(f"{steps}\nseed {seed}: {type(reason).__name__}: {reason}")


def run_history(seed: int, parts: Parts = Parts()) -> Report:  # noqa: B008 -- It is frozen.
    history = History(seed, parts)
    with _page_size_restored():
        try:
            return history.run()
        except (AssertionError, Exception) as reason:
            raise Failed(seed, reason, list(history.scheduler.trace)) from reason


class History:
    def __init__(self, seed: int, parts: Parts) -> None:
        self.seed = seed
        self.parts = parts
        self.random = random.Random(seed)
        hundred = seed // SEEDS_ALIKE % HUNDREDS_ALIKE
        self.shares = hundred == HUNDRED_THAT_SHARES
        self.reserves = hundred % 2 == 1 or self.shares
        reserving = SHARING_POLICIES if self.shares else RESERVING_POLICIES
        self.policies = _beginning_with_any(reserving, self.random) if self.reserves else POLICIES
        world = build_world(self.random, self.policies)
        self.limits_hold = hundred in HUNDREDS_WITH_LIMITS
        faults = Faults(self.random)
        if self.limits_hold:
            world = with_limits(world, self.random)
        if self.shares:
            world = with_shared_pools(world, self.random)
        if self.limits_hold or self.shares:
            faults.include(TOGETHER_FAULTS)
        self.scheduler = Scheduler(self.random, faults, world.starts_at)
        self.invariants = SharedInvariants() if self.shares else Invariants()
        self.invariants.steps = lambda: self.scheduler.steps
        self.invariants.now = lambda: self.scheduler.now
        self.invariants.keeps_views = self.reserves
        self.rows = StoredRows(
            self.invariants,
            checks_version=parts.checks_version,
            checks_limits=parts.checks_limits,
            uses_codec=self.random.random() < CODEC_SHARE,
            clock=lambda: self.scheduler.now,
        )
        self.provider = Provider(self.random, self.rows, self.invariants)
        self.run_queue: Queue[Sent] = Queue(
            self.random.choice((4, 15)), timedelta(seconds=self.random.choice((30, 240)))
        )
        self.reload_queue: Queue[ReloadRequest] = Queue(
            self.random.choice((4, 100)), timedelta(seconds=self.random.choice((30, 360))), True
        )
        self.page_sizes = self.random.choice(((8,), (3,), (3, 8)))
        self.announced = 0
        # Whether the dead letters were redriven, and nothing came of it.
        self.is_settled = False
        self.applied: Counter[str] = Counter()
        self._misses = 0
        self.team_ids = [team.team_id for team in world.teams]
        self.anchor = world.anchor
        self._world = world
        self._sent: list[Sent] = []
        self._billed_to: dict[Identity, tuple[Principal, str]] = {}
        self._runs: list[dict[str, Any]] = []
        self._requested_at: dict[ReloadRequest, datetime] = {}
        self.workers: list[StackWorker] = [
            *(parts.debits(self, f"debit {n}") for n in range(self.random.randint(2, 4))),
            *(ReloadWorker(self, f"reload {n}") for n in range(2)),
            *(parts.announcer(self, f"announce {n}") for n in range(2)),
            Operator(self, "operator"),
        ]

    def run(self) -> Report:
        self._open_world()
        for _ in range(self.random.randint(MESSAGES_MIN, MESSAGES_MAX)):
            while self.random.random() > SENDS_PER_TURN:
                self._take_turn()
            self._send_something()
        self._come_to_rest()
        self._check_at_rest()
        self._replay()
        return Report(
            seed=self.seed,
            steps=self.scheduler.steps,
            events=len(self._billed_to),
            commits=len(self.rows.changes),
            faults=self.scheduler.faults.injected,
            applied=self.applied,
            reserved=self.invariants.reserved,
            limited=self.invariants.limited,
            shared=self.invariants.shared,
        )

    def send_reload(self, request: ReloadRequest, now: datetime) -> None:
        last = self._requested_at.get(request)
        if last is None or now >= last + DEDUPLICATED_FOR:
            self._requested_at[request] = now
            group = request.reload_id if request.follows_up else request.team_id
            self.reload_queue.send(request, group, now)

    def _open_world(self) -> None:
        for team in self._world.teams:
            self.rows.compare_and_set_team(team)
        policy = next(iter(self.policies.values()))
        self.rows.policies[policy.version] = policy
        for principal, changes in self._world.accounts.items():
            for change in changes:
                if isinstance(change, PlanChange):
                    self.invariants.plans[change.identity] = (change.microcredits, change.anchor)
            rows = _Unbroken(self.rows)
            now = self._world.starts_at
            commit(rows, principal, changes, now=now, pause=pause, opens_account=True)

    # Turns

    def _take_turn(self) -> bool:
        self.scheduler.now += timedelta(milliseconds=self.random.randint(0, 40))
        faults = self.scheduler.faults
        if faults.enabled:
            self._let_time_go_wrong(faults)
        if self.random.choice(self.workers).go_on():
            self._misses = 0
            return True
        self._misses += 1
        if self._misses < MISSES_MAX or any(worker.can_go_on() for worker in self.workers):
            return True
        self._misses = 0
        return self._skip_to_what_is_due()

    def _skip_to_what_is_due(self) -> bool:
        now = self.scheduler.now
        due = [*self.run_queue.visible_times(), *self.reload_queue.visible_times()]
        due += [worker.frozen_until for worker in self.workers if worker.frozen_until]
        ahead = [time for time in due if time > now]
        self.scheduler.now = min(ahead, default=now)
        return bool(ahead)

    def _let_time_go_wrong(self, faults: Faults) -> None:
        if self.random.random() < 0.02:
            self.scheduler.land_one_late_write()
        if faults.happens("clock jumped to a boundary", 0.01):
            boundaries = [*BOUNDARIES, *self._ends_of_notices(), *self._ends_of_limits()]
            ahead = [b for b in boundaries if b > self.scheduler.now + timedelta(seconds=2)]
            ends = [end for end in self._ends_of_reservations() if end > self.scheduler.now]
            if ends and self.random.random() < 0.8:
                self.scheduler.now = self.random.choice(ends) - timedelta(seconds=1)
            elif ahead:
                self.scheduler.now = min(ahead) - timedelta(seconds=1)
        if faults.happens("clock jumped", 0.02):
            minutes = self.random.choice((1, 6, 11, 60, 900, 1_500))
            self.scheduler.now += timedelta(minutes=minutes)
        if (self.run_queue.dead or self.reload_queue.dead) and faults.happens(
            "dead letters redriven a month later", 0.05
        ):
            self.scheduler.now += A_MONTH
            self._redrive()

    def _ends_of_notices(self) -> Iterator[datetime]:
        """Yield when another tenure begins or the events of a former member no longer count."""
        for team in self.rows.teams.values():
            yield from (tenure.since for tenure in team.tenures)
            yield from (end for _, end in team.former_members)

    def _ends_of_limits(self) -> Iterator[datetime]:
        """Yield when the period of a limit is over."""
        for account in self.rows.accounts.values():
            yield from (count.ends_at for count in account.limit_counts)

    def _ends_of_reservations(self) -> Iterator[datetime]:
        for account in self.rows.accounts.values():
            yield from (held.expires_at for held in account.reservations)

    def _redrive(self) -> int:
        self.scheduler.note("operator", "redrives the dead letters")
        now = self.scheduler.now
        return self.run_queue.redrive(now) + self.reload_queue.redrive(now)

    # What is sent

    def _send_something(self) -> None:
        faults = self.scheduler.faults
        if self._sent and faults.happens("event sent again days later", 3):
            self._send(self.random.choice(self._sent).body)
            return
        events = [self._event() for _ in range(self.random.choice((1, 1, 1, 2, 5)))]
        if faults.happens("malformed message", 2):
            events.insert(self.random.randint(0, len(events)), {"specversion": "1.0"})
        body = json.dumps(events if len(events) > 1 else events[0])
        self._send(body)
        if faults.happens("message sent twice", 2):
            self._send(body)
        if "data" in events[0] and faults.happens("event sent again with another payload", 2):
            self._send(json.dumps({**events[0], "datacontenttype": "application/json"}))

    def _send(self, body: str) -> None:
        message = parse_message(body)
        for event in message.events:
            team = self.rows.teams[event.data.team_id]
            self._billed_to.setdefault(event.identity, _billed(team, event))
        if self.reserves or self.limits_hold:
            self._tell_what_is_asked(json.loads(body), message.events)
        reports = [e for e in message.events if isinstance(e, ModelProviderErrorReported)]
        events = tuple((e.identity, e.payload_hash) for e in message.events if e not in reports)
        answers = tuple(_report_name(report) for report in reports)
        billed = frozenset(self._billed_to[event.identity] for event in message.events)
        senders = tuple(s for event in message.events for s in _senders(event))
        sent = Sent(
            len(self._sent), body, events, bool(message.rejections), answers, billed, senders
        )
        self._sent.append(sent)
        names = [f"{event.id} {event.type.removeprefix('agent_run.')}" for event in message.events]
        self.scheduler.note("platform", f"sends {names} as {self.run_queue.next_number}")
        self.run_queue.send(sent, "", self.scheduler.now)

    def _tell_what_is_asked(self, body: Any, events: Iterable[AgentRunEvent]) -> None:
        documents = body if isinstance(body, list) else [body]
        by_id = {(d["subject"], d["id"]): d for d in documents if "data" in d}
        for event in events:
            identity, (principal, policy) = event.identity, self._billed_to[event.identity]
            asked = asked_in(by_id[event.subject, event.id])
            self.invariants.asked.setdefault(identity, asked)
            by_user = "user" if event.data.trigger.kind == "user" else "owner"
            payer = "team" if principal.kind == "team" else by_user
            self.invariants.billed.setdefault(identity, (principal, policy, payer))

    def _event(self) -> dict[str, Any]:
        run = self._next_run()
        run["events"] += 1
        kind, data = self._what_happened_to(run) if self.reserves else self._what_happened()
        data = {"team_id": run["team"], "trigger": run["trigger"], **run["started"], **data}
        project = self.random.choice(PROJECTS) if self.limits_hold else None
        if project and kind != "provider_error":
            data["project_id"] = project
        return {
            "specversion": "1.0",
            "id": f"{run['id']}-{run['events']}",
            "source": "/platform",
            "type": f"agent_run.{kind}",
            "subject": run["id"],
            "time": max(self._around_now(), run["not before"]).isoformat(),
            "data": data,
        }

    def _next_run(self) -> dict[str, Any]:
        """Return a new run or one of the last; where runs reserve, rather one at work."""
        at_work = self._with_reservation()
        drawn = self.random.random() if at_work else 1.0
        if drawn < 0.55:
            return self.random.choice(at_work)
        if drawn < 0.8:
            # A run of the same payer, which may be its child.
            alike = self.random.choice(at_work)
            self._runs.append({**alike, "id": f"run-{len(self._runs)}", "events": 0})
            if alike["started"]:
                self.invariants.whole_runs.add(self._runs[-1]["id"])
            return self._runs[-1]
        if not self._runs or self.random.random() < 0.4:
            self._runs.append(self._run(len(self._runs)))
        return self.random.choice(self._runs[-6:])

    def _with_reservation(self) -> list[dict[str, Any]]:
        held = {h.run_id for row in self.rows.accounts.values() for h in row.reservations}
        return [run for run in self._runs if run["id"] in held]

    def _around_now(self) -> datetime:
        """Return a moment by a producer's clock, which may be ahead by less than five minutes."""
        lag = self.random.choice((0, 10**5, 3 * 10**7, 10**11, -24 * 10**7))
        return self.scheduler.now - timedelta(microseconds=lag)

    def _what_happened(self) -> tuple[str, dict[str, Any]]:
        drawn = self.random.random()
        if drawn < 0.2:
            estimate = self.random.choice((None, "2", "40"))
            return "requested", {"credits": estimate} if estimate else {}
        if drawn < 0.35:
            return "finished", {"status": self.random.choice(("ok", "error", "cancelled"))}
        if drawn > 0.97:
            code = self.random.choice((EMPTY, BUSY))
            return "provider_error", {"provider": "openai", "error": {"code": code}}
        return "usage", {"credits": self.random.choice(("0.000001", "1", "3.5", "7", "25"))}

    def _what_happened_to(self, run: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return what a run does in a history whose runs reserve; it begins with a request."""
        drawn = self.random.random()
        if drawn < 0.25 or (run["events"] == 1 and drawn < 0.7):
            return "requested", reservation_data(self.random, partial(self._parent_of, run))
        # Where teams share pools, more of what is drawn has to go back to two accounts.
        if drawn < (0.32 if self.shares else 0.42):
            return "extended", extension_data(self.random)
        if drawn < 0.5:
            ends = ("ok", "error") if self.shares else ("ok", "ok", "error", "cancelled")
            return "finished", {"status": self.random.choice(ends)}
        if drawn < 0.53:
            return "released", {}
        amounts = ("0", "0.000001", "0.5", "1", "2", "2", "3.5", "25")
        return "usage", {"credits": self.random.choice(amounts)}

    def _parent_of(self, run: dict[str, Any]) -> str | None:
        """Return a run of the same payer, as a rule; or any run, itself, or one that never was."""
        alike = [
            other["id"]
            for other in self._with_reservation()
            if (other["team"], other["trigger"]) == (run["team"], run["trigger"])
            and other is not run
        ]
        if alike and self.random.random() < 0.9:
            return str(self.random.choice(alike))
        if self.random.random() < 0.8:
            return None
        return f"run-{self.random.randint(max(len(self._runs) - 6, 0), len(self._runs))}"

    def _run(self, number: int) -> dict[str, Any]:
        team_id = self.random.choice(self.team_ids)
        team = self.rows.teams[team_id]
        users = sorted(team.members) if team.members != "*" else ["anybody"]
        triggers = (
            {"kind": "user", "user_id": self.random.choice(users)},
            {"kind": "team_api_key", "key_id": "key"},
            {"kind": "schedule", "schedule_id": "nightly"},
        )
        trigger = self.random.choice(triggers)
        # A run does not begin before its user has joined the team.
        joined = self.invariants.joined.get((team_id, trigger.get("user_id", "")), FAR_PAST)
        run = {"id": f"run-{number}", "team": team_id, "trigger": trigger, "events": 0}
        if self.random.random() < 0.5:
            return {**run, "started": {}, "not before": joined}
        started_at = max(self._around_now(), joined)
        self.invariants.whole_runs.add(f"run-{number}")
        return {
            **run,
            "started": {"started_at": started_at.isoformat()},
            "not before": started_at,
        }

    # The end

    def _come_to_rest(self) -> None:
        self.scheduler.faults.enabled = False
        while self.scheduler.late:
            self.scheduler.land_one_late_write()
        changes = -1
        for _ in range(REDRIVES_MAX):
            self._drain()
            self._bury_the_hopeless()
            if not (self.run_queue.dead or self.reload_queue.dead):
                return
            # An event that contradicts a reservation may be recorded once that has ended.
            self.is_settled = len(self.rows.changes) == changes
            if self.is_settled and not self.reload_queue.dead:
                self._bury_the_hopeless()
                check(not self.run_queue.dead, "what is not recorded contradicts what is")
                return
            changes = len(self.rows.changes)
            self.scheduler.now += A_MONTH
            self._redrive()
        raise Violation("the dead letters that can be recorded are recorded once they are redriven")

    def _drain(self) -> None:
        for _ in range(TURNS_MAX):
            if not self._take_turn():
                return
        raise Violation("a history comes to rest")

    def _bury_the_hopeless(self) -> None:
        dead = self.run_queue.dead
        for number in [n for n, message in dead.items() if self._is_hopeless(message.sent)]:
            del dead[number]

    def _is_hopeless(self, sent: Sent) -> bool:
        """Tell whether all was recorded that could be, and still the message will never be done."""
        absent = self._absent(sent) | self._contradicting(sent)
        if self._missing(sent) - absent:
            return False
        return (
            sent.is_rejected
            or bool(absent)
            or not all(self.invariants.has_outcome(*event) for event in sent.events)
        )

    def _missing(self, sent: Sent) -> set[Identity | str]:
        recorded, observed = self.invariants.recorded, self.invariants.observed
        missing: set[Identity | str] = {i for i, _ in sent.events if i not in recorded}
        return missing | {report for report in sent.reports if report not in observed}

    def _absent(self, sent: Sent) -> set[Identity | str]:
        """Return the events of users who were removed before."""
        return {s.of for s in sent.senders if s.is_absent(self.rows.teams[s.team_id])}

    def _contradicting(self, sent: Sent) -> set[Identity | str]:
        """Return the events that contradict the reservations there are, once nothing changes."""
        invariants = self.invariants
        if not self.is_settled:
            return set()
        missing = (i for i, _ in sent.events if i not in invariants.recorded)
        return {i for i in missing if invariants.is_contradicted_for_good(i)}

    def _check_at_rest(self) -> None:
        for sent in self._sent:
            missing = self._missing(sent) - self._absent(sent) - self._contradicting(sent)
            check(not missing, f"each event has an outcome, and each answer is observed: {missing}")
            for identity, _ in sent.events:
                if identity in self.invariants.recorded:
                    principal, entry = self.invariants.recorded[identity]
                    found = (principal, entry.run.policy_version if entry.run else "")
                    check(found == self._billed_to[identity], "who has to pay is billed, by rule")
        shared = SharedDraws()
        for account in self.rows.accounts.values():
            self.invariants.check_ledger(
                account, lambda number, p=account.principal: self.rows.pages.get((p, number))
            )
            since = Checkpoint(account.principal, self.scheduler.now.date())
            verified = verify_row(self.rows, account, {}, since)
            found = verified.findings
            check(not found, f"the product's own replay finds no drift: {found}")
            shared.update(verified.shared)
        differing = [*contradictions(shared)]
        check(not differing, f"nor between what teams gave and others received: {differing}")
        for key in self.rows.limits:
            drift = verify_limit(self.rows, key, self.scheduler.now, [*self.rows.accounts])
            check(drift == (), f"nor between a limit's row and its accounts: {drift}")
        self.invariants.check_at_the_end()

    def _replay(self) -> None:
        """Send everything again, months later, to workers that know nothing: nothing changes."""
        before, observed = dict(self.rows.accounts), len(self.rows.observation_stream)
        rows = _Unbroken(self.rows)
        debits = Debits(rows, Directory(rows), pause)
        now = self.scheduler.now + 2 * A_MONTH
        for start in range(0, len(self._sent), REPLAYED_AT_ONCE):
            sent = self._sent[start : start + REPLAYED_AT_ONCE]
            deliveries = [Delivery(str(message.number), message.body) for message in sent]
            batch = debits.debit(deliveries, now=now, time_is_left=lambda: True)
            done = {str(m.number) for m in sent} - set(batch.failed_message_ids)
            hopeful = {str(m.number) for m in sent if not self._is_hopeless(m)}
            check(done == hopeful, "what was done is done, and nothing else")
        check(self.rows.accounts == before, "replaying the whole queue changes nothing")
        check(len(self.rows.observation_stream) == observed, "nor does it announce anything")


class _Unbroken:
    """The rows where nothing goes wrong: for what is there before a history begins."""

    def __init__(self, rows: StoredRows) -> None:
        self.read_account = rows.read_account
        self.read_accounts_of = rows.read_accounts_of
        self.read_receipts = rows.read_receipts
        self.flush_and_read_receipts = rows.flush_and_read_receipts
        self.read_run = rows.read_run
        self.read_team = rows.read_team
        self.read_policy = rows.read_policy
        self.read_limits = rows.read_limits
        self.compare_and_set = rows.compare_and_set
        self.compare_and_set_together = rows.compare_and_set_together
        self.put_page = rows.put_page
        self.put_observation = rows.put_observation


def _beginning_with_any(
    policies: Mapping[str, BillingPolicy], randomness: random.Random
) -> dict[str, BillingPolicy]:
    first = randomness.choice([*policies])
    return {first: policies[first], **policies}


def _billed(team: Team, event: AgentRunEvent) -> tuple[Principal, str]:
    """Return who pays, and by which policy: a run's beginning decides, or else the event's time."""
    tenure = _tenure_at(team, event.data.started_at or event.time)
    if tenure.kind == "enterprise":
        return Principal("team", team.team_id), tenure.policy_version
    if event.data.trigger.kind == "user":
        return Principal("user", event.data.trigger.user_id), tenure.policy_version
    return Principal("user", tenure.owner), tenure.policy_version


def _senders(event: AgentRunEvent) -> Iterator[Sender]:
    if event.data.trigger.kind == "user":
        is_report = isinstance(event, ModelProviderErrorReported)
        name = _report_name(event) if is_report else event.identity
        at = event.data.started_at or event.time
        yield Sender(name, event.data.team_id, event.data.trigger.user_id, at)


def _report_name(event: ModelProviderErrorReported) -> str:
    meaning = "quota_exhausted" if event.data.error.code == EMPTY else "rate_limited"
    return report_name(meaning, event.subject, event.id, event.data.team_id, event.time)


def _tenure_at(team: Team, time: datetime) -> Tenure:
    return max((t for t in team.tenures if t.since <= time), key=lambda t: t.since)


@contextmanager
def _page_size_restored() -> Iterator[None]:
    before = accounts.PAGE_ENTRIES_FULL
    try:
        yield
    finally:
        accounts.PAGE_ENTRIES_FULL = before
