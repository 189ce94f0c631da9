"""The sample world in memory: applied as `apply` does it, debited as the functions do.

What AWS would do between the parts is written out here: a message that fails is delivered again
until its queue gives up on it, every commit reaches the announcements by the change stream, and
the reloads that commits ask for are carried out before the next delivery.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from agent_credits.billing.directory import Directory
from agent_credits.billing.policy import BillingPolicy
from agent_credits.billing.spend_cap import PaymentMethod
from agent_credits.intake.debited_batch import Delivery
from agent_credits.intake.debits import Debits
from agent_credits.ledger.grants import RELOAD_PREFIX
from agent_credits.notices import announcements
from agent_credits.notices.announcements import (
    AccountRecord,
    LimitRecord,
    NoticeSettings,
    TeamRecord,
    notices_of,
    reload_requests,
)
from agent_credits.notices.notice import Notice
from agent_credits.payments.reload_saga import ReloadSaga
from agent_credits_cli.stack import read_stack
from agent_credits_cli.steps import carry_out, plan_steps
from agent_credits_demo.sample_checks import (
    Check,
    Observed,
    SeenNotice,
    SentSample,
    TeamPayments,
    check_balances,
    check_payments,
    check_samples,
    identities_of,
    read_ledger,
    sample_files,
    waves,
)
from agent_credits_demo.sample_world import (
    Sample,
    SampleWorld,
    load_sample_world,
    with_cards_on_file,
)
from agent_credits_local.payment_stand_in import CARD_THAT_DECLINES
from tests.dispositions import rejected
from tests.memory_rows import MemoryRows
from tests.template import load_template
from tests.unit.payments.payment_fakes import FakePayments

CHECKOUT = Path(__file__).parent.parent
SAMPLES_FILE = CHECKOUT / "samplesconfig.toml"
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
MAX_RECEIVE_COUNT: int = load_template()["Parameters"]["MaxReceiveCount"]["Default"]


class OperatedRows(MemoryRows):
    """The rows in memory with the write of settings that only the operator makes."""

    def put_policy(self, policy: BillingPolicy) -> BillingPolicy:
        return self.policies.setdefault(policy.version, policy)


def pause(attempts_lost: int) -> None:
    """Wait for nobody: there is only one writer."""


def put_on_file(card_number: str) -> PaymentMethod:
    return PaymentMethod(provider="stripe", customer="cus", payment_method=f"pm_{card_number}")


@dataclass(slots=True)
class SampleRun:
    """The sample world in memory. `notices` are all that were published, repeats included."""

    world: SampleWorld = field(
        default_factory=lambda: with_cards_on_file(load_sample_world(SAMPLES_FILE), put_on_file)
    )
    rows: OperatedRows = field(default_factory=OperatedRows)
    notices: list[Notice] = field(default_factory=list)
    payments: FakePayments = field(default_factory=FakePayments)
    debits: Debits = field(init=False)
    saga: ReloadSaga = field(init=False)

    def __post_init__(self) -> None:
        steps = plan_steps(self.world, read_stack(self.rows, self.world), NOW)
        carry_out(self.rows, steps, clock=lambda: NOW, pause=pause)
        self.debits = Debits(self.rows, Directory(self.rows), pause)
        self.payments.declining = {f"pm_{CARD_THAT_DECLINES}"}
        self.saga = ReloadSaga(self.rows, self.rows, {"stripe": self.payments}, pause)

    def send_all(
        self, order: Callable[[list[Sample]], Iterable[Sample]] = list
    ) -> dict[str, list[Check]]:
        """Send every sample; return the checks by the name of the sample."""
        checks: dict[str, list[Check]] = {sample.name: [] for sample in self.world.samples}
        for wave in waves(self.world.samples):
            for check in self.send(list(order(wave))):
                checks[check.sample].append(check)
        return checks

    def send(self, samples: Sequence[Sample]) -> list[Check]:
        together, observed = observe(self, samples)
        return check_samples(together, observed)

    def check_balances(self) -> list[Check]:
        return check_balances(self.world.balances, self.rows.accounts, NOW)

    def team_payments(self) -> list[TeamPayments]:
        """Return what was charged; a purchase's id names the account that asked for it."""
        accounts = {str(p): t.team_id for p, t in self.world.team_of_accounts().items()}
        charged: dict[str, list[int]] = {card.team_id: [] for card in self.world.cards}
        for charge in self.payments.charges:
            principal = charge.purchase_id.removeprefix(RELOAD_PREFIX).rpartition(":")[0]
            charged[accounts[principal]].append(charge.price_cents)
        return [
            TeamPayments(self.rows.teams[team_id], tuple(cents))
            for team_id, cents in charged.items()
        ]

    def check_payments(self) -> list[Check]:
        return check_payments(self.team_payments())

    def carry_out_reloads(self, commits_before: int) -> None:
        """Do what the change stream since then asks for; a reload's own commits ask for nothing."""
        for old, new in self.rows.stream[commits_before:]:
            for request in reload_requests(AccountRecord(old, new)):
                self.saga.resolve(request, NOW)


def observe(run: SampleRun, samples: Iterable[Sample]) -> tuple[list[SentSample], Observed]:
    """Deliver all files of these samples in one batch; what fails comes again, on its own."""
    together = [_sent(sample) for sample in samples]
    identities = identities_of(file for sent in together for file in sent.files)
    principals = run.world.team_of_accounts()
    before = read_ledger(run.rows, principals, identities)
    commits_before, team_changes_before = len(run.rows.stream), len(run.rows.team_stream)
    limits_before = len(run.rows.limit_stream)
    observations_before = len(run.rows.observation_stream)
    rejections, dead_letters = _deliver(run, together)
    changes = [
        *(AccountRecord(old, new) for old, new in run.rows.stream[commits_before:]),
        *(TeamRecord(old, new, NOW) for old, new in run.rows.team_stream[team_changes_before:]),
        *(LimitRecord(old, new, NOW) for old, new in run.rows.limit_stream[limits_before:]),
        *map(announcements.Observed, run.rows.observation_stream[observations_before:]),
    ]
    published = [n for change in changes for n in notices_of(change, NoticeSettings(""))]
    run.notices += published
    return together, Observed(
        before=before,
        after=read_ledger(run.rows, principals, identities),
        rejections=rejections,
        dead_letters=dead_letters,
        notices=[SeenNotice(notice.type, notice.subject) for notice in published],
    )


def _deliver(
    run: SampleRun, together: Iterable[SentSample]
) -> tuple[dict[str, str], frozenset[str]]:
    """Return the code of each rejected message, and the messages that the queue gave up on."""
    rejections: dict[str, str] = {}
    waiting = [
        Delivery(message_id, file.message.body)
        for sent in together
        for message_id, file in zip(sent.message_ids, sent.files, strict=True)
    ]
    for _ in range(MAX_RECEIVE_COUNT):
        commits_before = len(run.rows.stream)
        batch = run.debits.debit(waiting, now=NOW, time_is_left=lambda: True)
        rejections |= {
            message_id: rejection.code for message_id, rejection in rejected(batch).items()
        }
        waiting = [d for d in waiting if d.message_id in batch.failed_message_ids]
        run.carry_out_reloads(commits_before)
    return rejections, frozenset(delivery.message_id for delivery in waiting)


def _sent(sample: Sample) -> SentSample:
    files = sample_files(sample, CHECKOUT)
    return SentSample(sample, files, tuple(f"{sample.name} {n}" for n in range(len(files))))
