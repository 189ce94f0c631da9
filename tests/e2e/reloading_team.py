"""A team with auto-reload on and a card at the stand-in, on an embedded stack."""

import json
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from agent_credits.aws.backoff import back_off
from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.billing.policy import BillingPolicy, BillingRule, Pack
from agent_credits.billing.spend_cap import PaymentMethod
from agent_credits.billing.teams import AutoReload, Team, Tenure
from agent_credits.commit.changes import GrantChange
from agent_credits.commit.write_protocol import commit
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Entry
from agent_credits.values.principals import Principal
from agent_credits_cli.messages import Message
from agent_credits_cli.run_queue import send_messages
from agent_credits_cli.target import Target, rows_of
from agent_credits_local.payment_stand_in import CardOnFile
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
        return rows_of(self.target)

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
            self.send(json.dumps(self.usage(run_id, amount)))

    def usage(self, run_id: str, amount: str) -> dict[str, Any]:
        return {
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

    def send(self, body: str, signature: str | None = None) -> None:
        message = Message(body, group=str(self.member), events=1, signature=signature)
        send_messages(self.target.sqs, self.target.outputs.agent_runs_queue_url, [message])

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


def set_up_team(target: LocalTarget, card_number: str) -> ReloadingTeam:
    """Make a team of its own on a card of its own, and a queue of what is published about it."""
    name = uuid.uuid4().hex[:12]
    team = ReloadingTeam(
        target=target,
        team_id=f"team-{name}",
        member=Principal("user", f"ana-{name}"),
        card=target.payment_stand_in.put_card_on_file(card_number),
        notices_url=queue_of_notices(target, name),
    )
    apply(team, f"policy-{name}")
    return team


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
