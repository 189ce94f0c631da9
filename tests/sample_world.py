"""The sample world in memory: applied as `apply` does it, debited as the functions do.

What AWS would do between the parts is written out here: a message that fails is delivered again
until its queue gives up on it, and every commit reaches the announcements by the change stream.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from agent_credits.announcements import Commit, NoticeSettings, notices_of
from agent_credits.debits import Debits, Delivery
from agent_credits.directory import Directory
from agent_credits.notices import Notice
from agent_credits.policy import BillingPolicy
from agent_credits.teams import Team
from agent_credits_cli.apply import carry_out, read_stack
from agent_credits_cli.samples import (
    Check,
    Observed,
    SeenNotice,
    SentSample,
    check_balances,
    check_samples,
    identities_of,
    read_ledger,
    sample_files,
    waves,
)
from agent_credits_cli.steps import plan_steps
from agent_credits_cli.world import Sample, World, load_world
from tests.memory_rows import MemoryRows
from tests.template import load_template

CHECKOUT = Path(__file__).parent.parent
SAMPLES_FILE = CHECKOUT / "samplesconfig.toml"
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
MAX_RECEIVE_COUNT: int = load_template()["Parameters"]["MaxReceiveCount"]["Default"]


class OperatedRows(MemoryRows):
    """The rows in memory with the two writes of settings that only the operator makes."""

    def put_policy(self, policy: BillingPolicy) -> BillingPolicy:
        return self.policies.setdefault(policy.version, policy)

    def compare_and_set_team(self, team: Team) -> Team | None:
        there = self.teams.get(team.team_id)
        if (there.version if there else 0) != team.version - 1:
            return there
        self.teams[team.team_id] = team
        return None


def pause(attempts_lost: int) -> None:
    """Wait for nobody: there is only one writer."""


@dataclass(slots=True)
class SampleRun:
    """The sample world in memory. `notices` are all that were published, repeats included."""

    world: World = field(default_factory=lambda: load_world(SAMPLES_FILE))
    rows: OperatedRows = field(default_factory=OperatedRows)
    notices: list[Notice] = field(default_factory=list)
    debits: Debits = field(init=False)

    def __post_init__(self) -> None:
        steps = plan_steps(self.world, read_stack(self.rows, self.world), NOW)
        carry_out(self.rows, steps, now=NOW, pause=pause)
        self.debits = Debits(self.rows, Directory(self.rows), pause)

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


def observe(run: SampleRun, samples: Iterable[Sample]) -> tuple[list[SentSample], Observed]:
    """Deliver all files of these samples in one batch; what fails comes again, on its own."""
    together = [_sent(sample) for sample in samples]
    identities = identities_of(file for sent in together for file in sent.files)
    principals = run.world.team_of_accounts()
    before = read_ledger(run.rows, principals, identities)
    commits_before = len(run.rows.stream)
    refusals, dead_letters = _deliver(run.debits, together)
    published = [
        notice
        for old, new in run.rows.stream[commits_before:]
        for notice in notices_of(Commit(old, new), NoticeSettings(""))
    ]
    run.notices += published
    return together, Observed(
        before=before,
        after=read_ledger(run.rows, principals, identities),
        refusals=refusals,
        dead_letters=dead_letters,
        notices=[SeenNotice(notice.type, notice.subject) for notice in published],
    )


def _deliver(
    debits: Debits, together: Iterable[SentSample]
) -> tuple[dict[str, str], frozenset[str]]:
    """Return the code of each refused message, and the messages that the queue gave up on."""
    refusals: dict[str, str] = {}
    waiting = [
        Delivery(message_id, file.message.body)
        for sent in together
        for message_id, file in zip(sent.message_ids, sent.files, strict=True)
    ]
    for _ in range(MAX_RECEIVE_COUNT):
        batch = debits.debit(waiting, now=NOW, time_is_left=lambda: True)
        refusals |= {message_id: refusal.code for message_id, refusal in batch.refused.items()}
        waiting = [d for d in waiting if d.message_id in batch.failed_message_ids]
    return refusals, frozenset(delivery.message_id for delivery in waiting)


def _sent(sample: Sample) -> SentSample:
    files = sample_files(sample, CHECKOUT)
    return SentSample(sample, files, tuple(f"{sample.name} {n}" for n in range(len(files))))
