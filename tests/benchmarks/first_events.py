"""A usual first event for each function, and on an emulator all that it reads and calls."""

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.sweeps.sweep import beginning
from agent_credits_local.session import LOCAL_CLIENT_CONFIG, local_session
from tests.benchmarks.workloads import team_of_everybody, users
from tests.integration.stack_tables import create_notices_table, create_tables
from tests.lambda_events import FOLDER
from tests.unit.builders import POLICY, body, grant_change, open_account, usage

WEBHOOK = "/services/T0/B0/of-another-team"
SLACK_SECRET = "webhooks-of-other-teams"


@dataclass(frozen=True, slots=True)
class FirstEvents:
    """What the environment of every function says, and how to make an event for each."""

    environment: dict[str, str]
    makers: dict[str, Callable[[], dict[str, Any]]]


def stage(endpoint_url: str) -> FirstEvents:
    """Set up tables with an account, a topic, a queue and a secret."""

    def client(service: str) -> Any:
        return local_session().client(
            service,  # type: ignore[call-overload]  # The types want one that is written out.
            endpoint_url=endpoint_url,
            config=LOCAL_CLIENT_CONFIG,
        )

    suffix = uuid.uuid4().hex
    tables = create_tables(client("dynamodb"), suffix)
    rows = DynamoDBRows(client("dynamodb"), tables.accounts, tables.ledger)
    team, (principal,) = team_of_everybody(), users(1)
    rows.put_policy(POLICY)
    rows.compare_and_set_team(team)
    open_account(rows, grant_change("pack", credits="1000", principal=principal))
    fifo = {"FifoQueue": "true", "ContentBasedDeduplication": "true"}
    webhooks = json.dumps({"teams": {"another": endpoint_url + WEBHOOK}})
    client("secretsmanager").create_secret(Name=SLACK_SECRET, SecretString=webhooks)
    nowhere = f"{endpoint_url}/000000000000/no-such-queue"
    environment = {
        "STACK_NAME": "agent-credits",
        "ACCOUNTS_TABLE": tables.accounts,
        "LEDGER_TABLE": tables.ledger,
        "AGENT_RUNS_QUEUE_URL": nowhere,
        "EVENT_SIGNATURES": "off",
        "EVENT_SIGNING_SECRET_ARN": "any",
        "NOTICES_TOPIC_ARN": client("sns").create_topic(Name="notices")["TopicArn"],
        "NOTICES_TABLE": create_notices_table(client("dynamodb"), suffix),
        "PROBLEM_TYPE_BASE_URL": "",
        "RELOADS_QUEUE_URL": nowhere,
        "ANNOUNCE_FAILURES_BUCKET": "none",
        "STRIPE_SECRET_ARN": "none",
        "STRIPE_API_BASE": endpoint_url,
        "SLACK_QUEUE_URL": nowhere,
        "SLACK_SECRET_ARN": SLACK_SECRET,
        "SLACK_POSTS_TABLE": "none",
        "SLACK_API_BASE": endpoint_url,
        "SWEEPS_QUEUE_URL": client("sqs").create_queue(QueueName="w.fifo", Attributes=fifo)[
            "QueueUrl"
        ],
        "EXPIRY_NOTICE_DAYS": "7",
    }
    reload = {"reload_id": "r-1", "team_id": team.team_id, "principal": str(principal)}

    def run() -> dict[str, Any]:
        return usage(str(uuid.uuid4()), team=team.team_id, user=principal.id)

    return FirstEvents(
        environment,
        {
            # Debited, and recorded.
            "debit_runs": lambda: _from_queue(body(run())),
            # A run failed, which is published and kept.
            "announce": lambda: json.loads((FOLDER / "stream_insufficient.json").read_text()),
            # Resolved already, as by another delivery.
            "auto_reload": lambda: _from_queue(json.dumps(reload)),
            # Of a team that has no webhook.
            "notify_slack": lambda: _from_queue(_envelope(team.team_id)),
            # The only step over few rows.
            "sweep": lambda: _from_queue(beginning("reconciliation")),
        },
    )


def _from_queue(text: str) -> dict[str, Any]:
    attributes = {
        "ApproximateReceiveCount": "1",
        "SentTimestamp": str(int(datetime.now(UTC).timestamp() * 1_000)),
    }
    record = {"messageId": "m-1", "receiptHandle": "h-1", "body": text, "attributes": attributes}
    return {"Records": [record]}


def _envelope(team_id: str) -> str:
    notice = {
        "specversion": "1.0",
        "id": str(uuid.uuid4()),
        "type": "auto_reload.succeeded",
        "subject": team_id,
        "time": datetime.now(UTC).isoformat(),
        "data": {"team_id": team_id},
    }
    return json.dumps({"Subject": "Reloaded", "Message": json.dumps(notice)})
