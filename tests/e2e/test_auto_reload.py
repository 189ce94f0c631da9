"""Auto-reload on the embedded stack: from an event that finds too little to the charge, and back.

Everything is real but the card: queue, functions, stream, and the adapter to Stripe.
"""

import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest

from agent_credits.aws.backoff import back_off
from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.billing.policy import BillingPolicy, BillingRule, Pack
from agent_credits.billing.spend_cap import PaymentMethod
from agent_credits.billing.teams import AutoReload, Team, Tenure
from agent_credits.commit.changes import GrantChange
from agent_credits.commit.write_protocol import commit
from agent_credits.ledger.accounts import Account, available_microcredits
from agent_credits.ledger.entries import Entry
from agent_credits.values.principals import Principal
from agent_credits_cli.target import Target
from agent_credits_local.payment_stand_in import (
    CARD_THAT_DECLINES,
    CARD_THAT_PAYS,
    CardOnFile,
)
from agent_credits_local.target import LocalTarget

SECONDS_MAX = 40.0
LOOK_EVERY_SECONDS = 0.2
CREDIT = 1_000_000
PACK = Pack(microcredits=400 * CREDIT, price_cents=4_000, currency="usd")
SPEND_CAP_CENTS = 10_000

Seen = TypeVar("Seen")


@dataclass(frozen=True)
class ReloadingTeam:
    """A team with auto-reload on and one member, whose add-on pool holds ten credits."""

    target: LocalTarget
    team_id: str
    member: Principal
    card: CardOnFile
    notices_url: str

    @property
    def rows(self) -> DynamoDBRows:
        outputs = self.target.outputs
        return DynamoDBRows(
            self.target.dynamodb, outputs.accounts_table_name, outputs.ledger_table_name
        )

    @property
    def account(self) -> Account:
        account = self.rows.read_account(self.member)
        assert account is not None
        return account

    @property
    def team(self) -> Team:
        team = self.rows.read_team(self.team_id)
        assert team is not None
        return team

    @property
    def payments(self) -> Sequence[tuple[str, int]]:
        """The payments made so far at the stand-in: how each stands, and its amount."""
        made = self.target.payment_stand_in.payments(self.card.customer)
        return [(payment.status, payment.amount) for payment in made]

    def use(self, *runs: str, amount: str) -> None:
        """Send one event of usage for each run."""
        for run_id in runs:
            event = {
                "specversion": "1.0",
                "id": f"{run_id}-usage",
                "source": "/platform/agents",
                "type": "agent_run.usage",
                "subject": run_id,
                "time": datetime.now(UTC).isoformat(),
                "data": {
                    "team_id": self.team_id,
                    "trigger": {"kind": "user", "user_id": self.member.id},
                    "credits": amount,
                },
            }
            self.target.sqs.send_message(
                QueueUrl=self.target.outputs.agent_runs_queue_url,
                MessageBody=json.dumps(event),
                MessageGroupId=str(self.member),
            )

    def entries(self, entry_type: str) -> list[Entry]:
        """The account's entries of one type, oldest first."""
        pages = [page.entries for page in self.rows.read_pages(self.member)]
        # A page is flushed by the commit that starts the next, so the open page is not among them.
        entries = [entry for page in [*pages, self.account.entries] for entry in page]
        return [entry for entry in entries if entry.type == entry_type]

    def usages_once_decided(self, count: int) -> list[Entry]:
        return once(
            lambda: (found := self.entries("agent_run.usage")) and len(found) == count and found
        )

    def notices(self, *types: str) -> list[dict[str, Any]]:
        """Wait until one notice of each of these types was published; return them in this order."""
        found: dict[str, dict[str, Any]] = {}

        def all_found() -> bool:
            received = self.target.sqs.receive_message(
                QueueUrl=self.notices_url, MaxNumberOfMessages=10
            )
            for message in received.get("Messages", []):
                notice = json.loads(message["Body"])
                found.setdefault(notice["type"], notice)
            return found.keys() >= set(types)

        once(all_found)
        return [found[notice_type] for notice_type in types]


def once(look: Callable[[], Seen]) -> Seen:
    """Poll until there is a result, and return it."""
    deadline = time.monotonic() + SECONDS_MAX
    while not (seen := look()):
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(LOOK_EVERY_SECONDS)
    return seen


@pytest.fixture
def reloading_team(stack: LocalTarget) -> Iterator[Callable[[str], ReloadingTeam]]:
    """Set up teams, each on a card of its own; what they publish goes to queues of their own."""
    queues: list[str] = []

    def set_up(card_number: str) -> ReloadingTeam:
        name = uuid.uuid4().hex[:12]
        queues.append(queue_of_notices(stack, name))
        team = ReloadingTeam(
            target=stack,
            team_id=f"team-{name}",
            member=Principal("user", f"ana-{name}"),
            card=stack.payment_stand_in.put_card_on_file(card_number),
            notices_url=queues[-1],
        )
        apply(team, f"policy-{name}")
        return team

    yield set_up
    for queue_url in queues:
        stack.sqs.delete_queue(QueueUrl=queue_url)


def queue_of_notices(stack: Target, name: str) -> str:
    queue_url = stack.sqs.create_queue(QueueName=f"notices-{name}")["QueueUrl"]
    queue = stack.sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])
    stack.sns.subscribe(
        TopicArn=stack.outputs.notices_topic_arn,
        Protocol="sqs",
        Endpoint=queue["Attributes"]["QueueArn"],
        Attributes={
            "RawMessageDelivery": "true",
            "FilterPolicy": json.dumps({"team_id": [f"team-{name}"]}),
        },
    )
    return queue_url


def apply(team: ReloadingTeam, policy_version: str) -> None:
    now = datetime.now(UTC)
    team.rows.put_policy(
        BillingPolicy(
            version=policy_version,
            rules=(
                BillingRule(
                    team="self_serve", triggers=("user",), payer="user", pools=("plan", "add_on")
                ),
                BillingRule(
                    team="self_serve",
                    triggers=("team_api_key", "schedule"),
                    payer="owner",
                    pools=("plan", "add_on"),
                ),
                BillingRule(
                    team="enterprise",
                    triggers=("user", "team_api_key", "schedule"),
                    payer="team",
                    pools=("contract",),
                ),
            ),
            packs=(PACK,),
        )
    )
    settings = Team(
        team_id=team.team_id,
        version=1,
        plan="build",
        time_zone="Europe/Berlin",
        members=frozenset({team.member.id}),
        settings_version=1,
        auto_reload=AutoReload(
            enabled=True,
            threshold_microcredits=100 * CREDIT,
            pack_microcredits=PACK.microcredits,
        ),
        payment=PaymentMethod(
            provider="stripe",
            customer=team.card.customer,
            payment_method=team.card.payment_method,
        ),
        spend_cap_cents=SPEND_CAP_CENTS,
        tenures=(
            Tenure(
                since=now - timedelta(days=1),
                kind="self_serve",
                owner=team.member.id,
                policy_version=policy_version,
            ),
        ),
    )
    assert team.rows.compare_and_set_team(settings) is None
    gift = GrantChange(
        principal=team.member,
        grant_id="gift",
        pool="add_on",
        microcredits=10 * CREDIT,
        expires_at=None,
        cause="gift",
    )
    commit(team.rows, team.member, [gift], now=now, pause=back_off, opens_account=True)


def test_events_that_find_too_little_wait_for_one_charge_and_are_debited_in_full(reloading_team):
    team = reloading_team(CARD_THAT_PAYS)

    team.use("run-1", "run-2", "run-3", amount="50")

    usages = team.usages_once_decided(3)
    assert {(usage.outcome, usage.drawn_microcredits) for usage in usages} == {
        ("debited", 50 * CREDIT)
    }
    assert not any(usage.fails_run for usage in usages)
    once(lambda: not team.team.spending.reservations)
    assert team.team.spending.spent_cents == PACK.price_cents
    assert team.payments == [("succeeded", PACK.price_cents)]
    available = available_microcredits(team.account, ("add_on",), datetime.now(UTC))
    assert available == (10 + 400 - 3 * 50) * CREDIT
    (succeeded,) = team.notices("auto_reload.succeeded")
    assert succeeded["data"]["credits"] == "400"
    assert succeeded["data"]["price_cents"] == PACK.price_cents


def test_events_whose_reload_is_declined_fail_with_the_cause_and_the_card_is_left_alone(
    reloading_team,
):
    team = reloading_team(CARD_THAT_DECLINES)

    team.use("run-1", amount="50")
    (first,) = team.usages_once_decided(1)
    team.use("run-2", amount="50")
    _, second = team.usages_once_decided(2)

    assert (first.outcome, first.fails_run, first.decline) == (
        "insufficient",
        True,
        "payment_declined",
    )
    assert first.shortfall_microcredits == 40 * CREDIT
    assert (second.outcome, second.decline) == ("insufficient", "payment_declined")
    assert len(team.entries("reload.requested")) == 1
    # A payment that is left open could still be paid, when nobody grants credits for it any more.
    assert team.payments == [("canceled", PACK.price_cents)]
    once(lambda: not team.team.spending.reservations)
    assert team.team.spending.spent_cents == 0
    assert team.team.spending.declines_in_a_row == 1
    declined, failed = team.notices("auto_reload.declined", "insufficient_credits")
    assert declined["data"]["cause"] == "payment_declined"
    assert failed["data"]["cause"] == "payment_declined"
