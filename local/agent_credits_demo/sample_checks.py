"""The samples of a declared world: what was sent, what happened, and what was expected.

Only what is visible from outside is checked: the ledger before and after, the logged rejections,
the dead-letter queue, the notices, and the charges. The demo and the tests share these checks.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from agent_credits.billing.teams import Team
from agent_credits.commit.rows import Rows
from agent_credits.events.agent_runs import AgentRunEvent, ModelProviderErrorReported, parse_message
from agent_credits.ledger.accounts import Account, pool_balances, reserved_balances
from agent_credits.ledger.entries import Identity, Receipt
from agent_credits.ledger.expiry import bring_up_to
from agent_credits.ledger.shared_pools import TEAM_POOL_PREFIX, is_shared_pool, own_pool
from agent_credits.values.display import amount_text, count_text, money_text
from agent_credits.values.principals import Principal
from agent_credits_cli.messages import Message, message_of, read_text
from agent_credits_demo.sample_world import ExpectedBalance, ExpectedEvent, Sample

NOTHING = "nothing"

Ledger = Mapping[Identity, Receipt]


@dataclass(frozen=True, slots=True)
class SampleFile:
    """A file of a sample; it is sent as one message."""

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
    """A sample whose files were sent, with the ids of their messages in the same order."""

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
    """A team that pays by card, and what the payment provider charged it."""

    team: Team
    charged_cents: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Observed:
    """What samples that were sent together had led to once the queues were empty.

    `rejections`: the logged code by message id. `dead_letters`: the ids of dead-lettered messages.
    `notices`: those published since these samples were sent, without repeated ids.
    """

    before: Ledger
    after: Ledger
    rejections: Mapping[str, str]
    dead_letters: Collection[str]
    notices: Sequence[SeenNotice]


@dataclass(frozen=True, slots=True)
class _EventOutcome:
    """The outcome of one event; it is `lost` if it is neither recorded nor rejected.

    `observed`: the error of a model provider; it leaves no entry, and its notice is checked.
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
            # In drawing order, which is part of the expectation.
            parts.append(", ".join(_pool_texts(self.draws)))
        if self.shortfall_microcredits:
            parts.append(f"short {amount_text(self.shortfall_microcredits)}")
        return ": ".join(parts)


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation and what happened, in the same words."""

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
    """Compare samples that were sent together with what was observed."""
    checks = [check for sent in together for check in _check_sample(sent, observed)]
    subjects = {subject for sent in together for subject in _subjects(sent)}
    stray = [notice for notice in observed.notices if notice.run not in subjects]
    if stray:
        checks.append(Check("no sample", "notices", NOTHING, _notices_text(stray)))
    return checks


def check_balances(
    expected: Iterable[ExpectedBalance], accounts: Mapping[Principal, Account], now: datetime
) -> list[Check]:
    """Compare what every pool of these accounts holds at `now`, and what is reserved of it."""
    checks = []
    for balance in expected:
        account = accounts.get(balance.principal, Account(balance.principal))
        current = bring_up_to(account, now)
        pools = sorted({grant.pool for grant in current.grants})
        held = {p.pool: p.available_microcredits for p in pool_balances(current, pools, now)}
        reserved = {
            p.pool: p.available_microcredits for p in reserved_balances(current, pools, now)
        }
        checks.append(
            Check(
                "all samples",
                str(balance.principal),
                _holdings_text(balance.pools, balance.reserved),
                _holdings_text(held, reserved),
            )
        )
    return checks


def check_payments(payments: Iterable[TeamPayments]) -> list[Check]:
    """Compare the purchases on the teams' rows with the payment provider's charges."""
    return [
        Check(
            "all samples",
            f"charges of {paid.team.team_id}",
            _charges_text(
                (
                    purchase.price_cents
                    for purchase in paid.team.spending.recent
                    if purchase.outcome == "settled"
                ),
                paid.team.currency,
            ),
            _charges_text(paid.charged_cents, paid.team.currency),
        )
        for paid in payments
    ]


def _check_sample(sent: SentSample, observed: Observed) -> Iterator[Check]:
    sample = sent.sample
    outcomes = _outcomes(sent, observed)
    for expected in sample.expect:
        actual = next((outcome for outcome in outcomes if outcome.event == expected.event), None)
        if actual is not None:
            outcomes.remove(actual)
        what = expected.event or "unreadable event"
        text = actual.text if actual else NOTHING
        yield Check(sample.name, what, _expected_outcome(expected).text, text)
    for outcome in outcomes:
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
    """Return the outcome of each event once, and of each event that cannot be read."""
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
        pool = _as_in_a_rule(part.pool)
        draws[pool] = draws.get(pool, 0) + part.microcredits
    return _EventOutcome(
        event=event.id,
        outcome=entry.outcome,
        principal=receipt.principal,
        draws=draws,
        shortfall_microcredits=entry.shortfall_microcredits,
    )


def _as_in_a_rule(pool: str) -> str:
    """Return the name that rules have for a pool: that of the team without the team's id."""
    return f"{TEAM_POOL_PREFIX}{own_pool(pool)}" if is_shared_pool(pool) else pool


def _holdings_text(pools: Mapping[str, int], reserved: Mapping[str, int]) -> str:
    in_flight = [f"{text} reserved" for text in _pool_texts(reserved)]
    return _list_text([*_pool_texts(pools), *in_flight])


def _pool_texts(pools: Mapping[str, int]) -> list[str]:
    return [f"{pool} {amount_text(held)}" for pool, held in pools.items() if held]


def _notices_text(notices: Iterable[SeenNotice]) -> str:
    return _list_text(f"{notice.type} for {notice.run}" for notice in notices)


def _charges_text(cents: Iterable[int], currency: str) -> str:
    each = list(cents)
    return f"{count_text(len(each), 'charge')}, {money_text(sum(each), currency)} in all"


def _list_text(parts: Iterable[str]) -> str:
    return ", ".join(sorted(parts)) or NOTHING
