"""The samples of a declared world: what is sent, what came of it, and whether that was expected.

Judged is only what can be seen from outside: the ledger before and after, the rejections that were
logged, the dead-letter queue, the notices, and what was charged. The demo and the tests use the
very same judgement.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from agent_credits.billing.teams import Team
from agent_credits.commit.rows import Rows
from agent_credits.events.agent_runs import AgentRunEvent, ModelProviderErrorReported, parse_message
from agent_credits.ledger.accounts import Account, pool_balances
from agent_credits.ledger.entries import Identity, Receipt
from agent_credits.ledger.expiry import bring_up_to
from agent_credits.values.credits import format_credits
from agent_credits.values.principals import Principal
from agent_credits_cli.messages import Message, message_of, read_text
from agent_credits_demo.sample_world import ExpectedBalance, ExpectedEvent, Sample

NOTHING = "nothing"

Ledger = Mapping[Identity, Receipt]


@dataclass(frozen=True, slots=True)
class SampleFile:
    """A file of a sample, which is sent as one message."""

    path: str
    message: Message

    @property
    def events(self) -> tuple[AgentRunEvent, ...]:
        return parse_message(self.message.body).events

    @property
    def unreadable_events(self) -> int:
        return len(parse_message(self.message.body).rejections)


@dataclass(frozen=True, slots=True)
class SentSample:
    """A sample whose files were sent; the ids of their messages, in the same order."""

    sample: Sample
    files: tuple[SampleFile, ...]
    message_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SeenNotice:
    """`run` is what the notice is about: a run, or else a reload or a team."""

    type: str
    run: str


@dataclass(frozen=True, slots=True)
class TeamPayments:
    """A team that pays by card, as its row stands, and what the provider charged it."""

    team: Team
    charged_cents: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Observed:
    """What was seen of samples that were sent together, once the queues had run dry.

    `rejections`: the logged code per message id. `dead_letters`: the ids of the messages that ended
    there. `notices`: those published since these samples were sent, without repeated ids.
    """

    before: Ledger
    after: Ledger
    rejections: Mapping[str, str]
    dead_letters: Collection[str]
    notices: Sequence[SeenNotice]


@dataclass(frozen=True, slots=True)
class _EventOutcome:
    """What comes of one event: `lost` is one that is neither recorded nor rejected.

    `observed`: what a model provider answered; it leaves no entry, and its notice is checked.
    """

    event: str | None
    outcome: str
    principal: Principal | None = None
    draws: Mapping[str, int] = field(default_factory=dict)
    shortfall_microcredits: int = 0
    code: str | None = None

    @property
    def text(self) -> str:
        parts = [self.outcome]
        if self.code:
            parts.append(self.code)
        if self.principal:
            parts.append(str(self.principal))
        if self.draws:
            # In the order in which they were drawn, which is part of what is expected.
            parts.append(", ".join(_pool_texts(self.draws)))
        if self.shortfall_microcredits:
            parts.append(f"short {format_credits(self.shortfall_microcredits)}")
        return ": ".join(parts)


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation beside what happened, both in the same words."""

    sample: str
    what: str
    expected: str
    actual: str

    @property
    def is_met(self) -> bool:
        return self.expected == self.actual


def waves(samples: Iterable[Sample]) -> list[list[Sample]]:
    """Return the samples in groups that can be sent together, one group after the other."""
    wave_of: dict[str, int] = {}
    groups: list[list[Sample]] = []
    for sample in samples:
        wave = max((wave_of[earlier] + 1 for earlier in sample.after), default=0)
        wave_of[sample.name] = wave
        if wave == len(groups):
            groups.append([])
        groups[wave].append(sample)
    return groups


def sample_files(sample: Sample, folder: Path) -> tuple[SampleFile, ...]:
    """Read the sample's files, which are named relative to the file that declares the world."""
    names = [str(folder / name) for name in sample.files]
    return tuple(
        SampleFile(path, message_of(name, read_text(name)))
        for path, name in zip(sample.files, names, strict=True)
    )


def read_ledger(
    rows: Rows, principals: Iterable[Principal], identities: Collection[Identity]
) -> Ledger:
    """Return what is recorded under these identities: the accounts' open pages, then receipts."""
    ledger: dict[Identity, Receipt] = {}
    for principal in principals:
        account = rows.read_account(principal)
        for entry in account.entries if account else ():
            if account and entry.identity in identities:
                ledger[entry.identity] = Receipt(principal, account.page_number, entry)
    return {**ledger, **rows.read_receipts(set(identities) - ledger.keys())}


def identities_of(files: Iterable[SampleFile]) -> frozenset[Identity]:
    return frozenset(event.identity for file in files for event in file.events)


def check_samples(together: Sequence[SentSample], observed: Observed) -> list[Check]:
    """Compare samples that were sent together with what was seen of them."""
    checks = [check for sent in together for check in _check_sample(sent, observed)]
    subjects = {subject for sent in together for subject in _subjects(sent)}
    stray = [notice for notice in observed.notices if notice.run not in subjects]
    if stray:
        checks.append(Check("no sample", "notices", NOTHING, _notices_text(stray)))
    return checks


def check_balances(
    expected: Iterable[ExpectedBalance], accounts: Mapping[Principal, Account], now: datetime
) -> list[Check]:
    """Compare what every pool of these accounts holds at `now`."""
    checks = []
    for balance in expected:
        account = accounts.get(balance.principal, Account(balance.principal))
        current = bring_up_to(account, now)
        pools = sorted({grant.pool for grant in current.grants})
        held = {p.pool: p.available_microcredits for p in pool_balances(current, pools, now)}
        checks.append(
            Check(
                "all samples",
                str(balance.principal),
                _list_text(_pool_texts(balance.pools)),
                _list_text(_pool_texts(held)),
            )
        )
    return checks


def check_payments(payments: Iterable[TeamPayments]) -> list[Check]:
    """Compare what the teams' rows say was bought with what the provider charged."""
    return [
        Check(
            "all samples",
            f"charges of {paid.team.team_id}",
            _charges_text(
                purchase.price_cents
                for purchase in paid.team.spending.recent
                if purchase.outcome == "settled"
            ),
            _charges_text(paid.charged_cents),
        )
        for paid in payments
    ]


def _check_sample(sent: SentSample, observed: Observed) -> Iterator[Check]:
    sample = sent.sample
    came = _outcomes(sent, observed)
    for expected in sample.expect:
        actual = next((outcome for outcome in came if outcome.event == expected.event), None)
        if actual is not None:
            came.remove(actual)
        what = expected.event or "unreadable event"
        text = actual.text if actual else NOTHING
        yield Check(sample.name, what, _expected_outcome(expected).text, text)
    for outcome in came:
        yield Check(sample.name, outcome.event or "unreadable event", NOTHING, outcome.text)
    dead = [
        file.path
        for file, message_id in zip(sent.files, sent.message_ids, strict=True)
        if message_id in observed.dead_letters
    ]
    expected_dead = sample.files if sample.dead_letter else ()
    yield Check(sample.name, "dead letters", _list_text(expected_dead), _list_text(dead))
    subjects = _subjects(sent)
    yield Check(
        sample.name,
        "notices",
        _notices_text(SeenNotice(notice.type, notice.run) for notice in sample.notices),
        _notices_text(notice for notice in observed.notices if notice.run in subjects),
    )


def _subjects(sent: SentSample) -> set[str]:
    """Return what a notice of this sample can be about."""
    runs = {event.subject for file in sent.files for event in file.events}
    return runs | {notice.run for notice in sent.sample.notices}


def _expected_outcome(expected: ExpectedEvent) -> _EventOutcome:
    return _EventOutcome(
        event=expected.event,
        outcome=expected.outcome,
        principal=expected.principal,
        draws=expected.draws,
        shortfall_microcredits=expected.shortfall_microcredits,
        code=expected.code,
    )


def _outcomes(sent: SentSample, observed: Observed) -> list[_EventOutcome]:
    """Return what came of each event, once, and of each event that cannot be read."""
    outcomes: dict[Identity, _EventOutcome] = {}
    unreadable: list[_EventOutcome] = []
    for file, message_id in zip(sent.files, sent.message_ids, strict=True):
        code = observed.rejections.get(message_id)
        for event in file.events:
            outcomes[event.identity] = _outcome(event, observed, code)
        rejected = _EventOutcome(event=None, outcome="rejected" if code else "lost", code=code)
        unreadable += [rejected] * file.unreadable_events
    return [*outcomes.values(), *unreadable]


def _outcome(event: AgentRunEvent, observed: Observed, code: str | None) -> _EventOutcome:
    receipt = observed.after.get(event.identity)
    if isinstance(event, ModelProviderErrorReported) and receipt is None and code is None:
        return _EventOutcome(event.id, "observed")
    if receipt is None:
        return _EventOutcome(event.id, "rejected" if code else "lost", code=code)
    entry = receipt.entry
    if entry.payload_hash != event.payload_hash:
        return _EventOutcome(event.id, "conflicting", receipt.principal)
    if event.identity in observed.before:
        return _EventOutcome(event.id, "already_recorded", receipt.principal)
    draws: dict[str, int] = {}
    for part in entry.draws:
        draws[part.pool] = draws.get(part.pool, 0) + part.microcredits
    return _EventOutcome(
        event=event.id,
        outcome=entry.outcome,
        principal=receipt.principal,
        draws=draws,
        shortfall_microcredits=entry.shortfall_microcredits,
    )


def _pool_texts(pools: Mapping[str, int]) -> list[str]:
    return [f"{pool} {format_credits(held)}" for pool, held in pools.items() if held]


def _notices_text(notices: Iterable[SeenNotice]) -> str:
    return _list_text(f"{notice.type} for {notice.run}" for notice in notices)


def _charges_text(cents: Iterable[int]) -> str:
    each = list(cents)
    return f"{len(each)} of {sum(each)} cents"


def _list_text(parts: Iterable[str]) -> str:
    return ", ".join(sorted(parts)) or NOTHING
