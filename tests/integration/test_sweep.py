"""The function sweep from its cold start on: over the stack's tables and its FIFO queue in moto."""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import typer
from msgspec import structs
from typer.testing import CliRunner, Result

from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.aws.items import account_key, limit_row_item, team_key
from agent_credits.commit.together import commit_changes
from agent_credits.commit.write_protocol import commit
from agent_credits.ledger.accounts import Account
from agent_credits.sweeps.sweep import Step, Visit, beginning, parse_sweep_message
from agent_credits.values.errors import RowsUnavailable
from agent_credits.values.principals import Principal
from agent_credits_cli.commands import sweep as sweep_command
from agent_credits_cli.errors import CommandGroup
from agent_credits_cli.target import Target
from tests.integration.lambda_runtime import Context, Function, cold_start
from tests.integration.stack_tables import StackTables
from tests.unit.builders import (
    ACME,
    ANA,
    BIGCORP_TEAM,
    NOW,
    POLICY,
    grant_change,
    open_account,
    pause,
    run_change,
)
from tests.unit.builders import usage as usage_event
from tests.unit.limit_world import LimitWorld, limit

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_sqs import SQSClient

MESSAGES_MAX = 100

Run = Callable[..., Result]


@pytest.fixture
def sweeps_url(sqs: "SQSClient") -> str:
    attributes = {"FifoQueue": "true", "ContentBasedDeduplication": "true"}
    return sqs.create_queue(QueueName="sweeps.fifo", Attributes=attributes)["QueueUrl"]


@pytest.fixture
def environment(tables: StackTables, sweeps_url: str) -> dict[str, str]:
    return {
        "STACK_NAME": "agent-credits",
        "ACCOUNTS_TABLE": tables.accounts,
        "LEDGER_TABLE": tables.ledger,
        "SWEEPS_QUEUE_URL": sweeps_url,
        "EXPIRY_NOTICE_DAYS": "7",
    }


@pytest.fixture
def sweep(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Function:
    return cold_start("sweep", environment, monkeypatch)


@pytest.fixture
def run(target: Target, sweeps_url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    outputs = target.outputs.model_copy(update={"sweeps_queue_url": sweeps_url})
    monkeypatch.setattr(
        sweep_command, "connect", lambda _: dataclasses.replace(target, outputs=outputs)
    )
    app = typer.Typer(cls=CommandGroup, pretty_exceptions_enable=False)
    app.command()(sweep_command.sweep)
    app.callback()(lambda: None)
    return lambda *arguments: CliRunner().invoke(app, ["sweep", *arguments])


@pytest.fixture
def open_rows(rows: DynamoDBRows) -> DynamoDBRows:
    """Thirty accounts, one of them with full pages."""
    rows.put_policy(POLICY)
    open_account(rows, grant_change("pack", credits="100"))
    for number in range(30):
        change = run_change(usage_event(f"e-{number}", "0.5"))
        commit(rows, ANA, [change], now=NOW, pause=pause)
    for number in range(29):
        open_account(rows, grant_change("pack", principal=Principal("user", f"u{number}")))
    return rows


def record(body: str, receives: int = 1) -> dict[str, Any]:
    sent = str(int(NOW.timestamp() * 1_000))
    attributes = {"ApproximateReceiveCount": str(receives), "SentTimestamp": sent}
    return {"Records": [{"messageId": "m-1", "body": body, "attributes": attributes}]}


def bodies(sqs: "SQSClient", url: str) -> Iterator[str]:
    """Yield each message of the queue, and delete it when the next is requested."""
    for _ in range(MESSAGES_MAX):
        answer = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=1)
        if not answer.get("Messages"):
            return
        (message,) = answer["Messages"]
        yield message["Body"]
        sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    raise AssertionError("a sweep comes to its end")


def take_all(sweep: Function, sqs: "SQSClient", url: str, context: Context) -> list[Step | Visit]:
    sqs.send_message(
        QueueUrl=url, MessageBody=beginning("reconciliation"), MessageGroupId="reconciliation"
    )
    taken = []
    for body in bodies(sqs, url):
        assert sweep.failed_ids(record(body), context) == []
        taken.append(parse_sweep_message(body, NOW))
    return taken


def counted(capsys: pytest.CaptureFixture[str], name: str) -> int:
    """Return what the function's metrics add up to."""
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    return sum(int(sum(json.loads(line).get(name, [0]))) for line in lines)


@pytest.mark.usefixtures("open_rows")
def test_a_sweep_goes_over_all_accounts_by_messages_alone(
    sweep: Function,
    rows: DynamoDBRows,
    sqs: "SQSClient",
    sweeps_url: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    no_time_left = Context(remaining_milliseconds=0)

    taken = take_all(sweep, sqs, sweeps_url, no_time_left)

    assert [step.number for step in taken if isinstance(step, Step)] == list(range(len(taken)))
    assert len(taken) >= 30
    assert counted(capsys, "AccountsReconciled") == 30
    last = rows.read_last_sweep("reconciliation")
    assert last is not None
    assert (last.day, last.rows, last.visits) == (NOW.date(), 30, 0)
    assert last.counts == {"AccountsReconciled": 30}


@pytest.mark.usefixtures("open_rows")
def test_a_sweep_with_time_takes_one_step(
    sweep: Function, sqs: "SQSClient", sweeps_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = take_all(sweep, sqs, sweeps_url, Context())

    assert len(taken) == 1
    assert counted(capsys, "AccountsReconciled") == 30
    (line,) = sweep.lines("swept")
    assert (line["sweep"], line["rows"], line["is_last"]) == ("reconciliation", 30, True)


def test_drift_is_observed_counted_and_no_row_of_an_account_is_touched(
    sweep: Function,
    open_rows: DynamoDBRows,
    dynamodb: "DynamoDBClient",
    tables: StackTables,
    capsys: pytest.CaptureFixture[str],
) -> None:
    dynamodb.update_item(
        TableName=tables.accounts,
        Key=account_key(ANA),
        UpdateExpression="SET grants = :none",
        ExpressionAttributeValues={":none": {"S": "[]"}},
    )
    before = {account.principal: account for account in open_rows.list_accounts()}

    assert sweep.failed_ids(record(beginning("reconciliation"))) == []

    assert counted(capsys, "AccountsDrifted") == 1
    assert {account.principal: account for account in open_rows.list_accounts()} == before
    assert observed(dynamodb, tables) == ["drift_found"]


def test_a_limit_that_contradicts_its_accounts_is_observed_and_no_row_is_touched(
    sweep: Function,
    rows: DynamoDBRows,
    dynamodb: "DynamoDBClient",
    tables: StackTables,
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = datetime.now(UTC)
    world = LimitWorld(limit("team", "50"), limit("project", "50"))
    rows.put_policy(POLICY)
    rows.compare_and_set_team(world.team.model_copy(update={"version": 1}))
    for principal, changes in world.changes(
        usage_event("e-1", "5", project_id="web"),
        usage_event("e-2", "2", user="ben", run="run-2"),
    ).items():
        open_account(rows, grant_change("pack", principal=principal))
        commit_changes(rows, principal, changes, now=now, pause=pause)
    row = next(row for row in rows.list_limits() if row.key.scope == "team")
    less = structs.replace(row, drawn_microcredits=6_000_000)
    dynamodb.put_item(TableName=tables.accounts, Item=limit_row_item(less))

    assert sweep.failed_ids(record(beginning("reconciliation"))) == []

    last = rows.read_last_sweep("reconciliation")
    assert last is not None
    counts = {"AccountsReconciled": 2, "LimitsReconciled": 1, "AccountsDrifted": 1}
    assert last.counts == counts
    assert counted(capsys, "LimitsReconciled") == 1
    assert observed(dynamodb, tables) == ["drift_found"]
    assert less in list(rows.list_limits())


def observed(dynamodb: "DynamoDBClient", tables: StackTables) -> list[str]:
    items = dynamodb.scan(TableName=tables.accounts)["Items"]
    texts = [item["observation"]["S"] for item in items if "observation" in item]
    return [json.loads(text)["kind"] for text in texts]


def test_credits_that_expire_within_the_days_of_the_deployment_are_observed_once(
    sweep: Function, rows: DynamoDBRows, dynamodb: "DynamoDBClient", tables: StackTables
) -> None:
    soon, later = (datetime.now(UTC) + timedelta(days=days) for days in (6, 8))
    open_account(
        rows, grant_change("soon", expires_at=soon), grant_change("later", expires_at=later)
    )

    for _ in range(2):
        assert sweep.failed_ids(record(beginning("expiring_credits"))) == []

    assert observed(dynamodb, tables) == ["credits_expiring"]


def test_an_unreadable_row_is_observed_and_the_others_are_reconciled(
    sweep: Function,
    open_rows: DynamoDBRows,
    dynamodb: "DynamoDBClient",
    tables: StackTables,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert isinstance(open_rows.read_account(ANA), Account)
    dynamodb.update_item(
        TableName=tables.accounts, Key=account_key(ANA), UpdateExpression="REMOVE grants"
    )

    assert sweep.failed_ids(record(beginning("reconciliation"))) == []

    assert counted(capsys, "AccountsReconciled") == 29
    assert observed(dynamodb, tables) == ["drift_found"]


@pytest.mark.usefixtures("open_rows")
def test_the_next_day_a_quiet_account_needs_only_its_checkpoint_and_the_receipts_of_its_page(
    sweep: Function,
) -> None:
    sweep.invoke(record(beginning("reconciliation")))
    calls: Counter[str] = Counter()
    events = sweep.app.rows._client.meta.events
    events.register("before-call.dynamodb.*", lambda model, **_: calls.update([model.name]))

    sweep.invoke(record(beginning("reconciliation")))

    # Of the thirty only one has a page on the ledger, and that is behind its checkpoint. The one
    # write is how the sweep ended.
    assert calls == Counter(Scan=1, GetItem=30, BatchGetItem=30, PutItem=1)


def test_a_sweep_is_begun_from_the_command_line_however_often(
    sweep: Function, sqs: "SQSClient", sweeps_url: str, run: Run
) -> None:
    first = run("expiring_credits", "--json")
    again = run("expiring_credits")

    assert json.loads(first.stdout)["sweep"] == "expiring_credits"
    assert again.stdout.startswith("the sweep expiring_credits has begun;")
    begun = list(bodies(sqs, sweeps_url))
    assert begun == [beginning("expiring_credits")] * 2
    assert [sweep.failed_ids(record(body)) for body in begun] == [[], []]


def test_an_unknown_sweep_is_rejected_by_name(run: Run) -> None:
    refused = run("marathon")

    assert refused.exit_code == 2
    assert "'marathon' is not one of" in refused.stderr


@pytest.mark.usefixtures("open_rows")
def test_a_step_that_failed_twice_is_split_into_visits(
    sweep: Function, sqs: "SQSClient", sweeps_url: str
) -> None:
    assert sweep.failed_ids(record(beginning("reconciliation"), receives=3)) == []

    visits = [parse_sweep_message(body, NOW) for body in bodies(sqs, sweeps_url)]
    assert len(visits) == 30
    assert {visit.key for visit in visits if isinstance(visit, Visit)} >= {"ACCOUNT#user:ana"}


@pytest.mark.usefixtures("open_rows")
def test_each_kind_of_sweep_has_a_row_that_its_next_one_overwrites(
    sweep: Function, rows: DynamoDBRows
) -> None:
    assert rows.read_last_sweep("expiring_credits") is None

    for _ in range(2):
        sweep.invoke(record(beginning("reconciliation")))
    sweep.invoke(record(beginning("expiring_credits")))

    reconciled, expiring = map(rows.read_last_sweep, ("reconciliation", "expiring_credits"))
    assert reconciled is not None
    assert expiring is not None
    assert (reconciled.sweep, reconciled.counts) == ("reconciliation", {"AccountsReconciled": 30})
    assert (expiring.sweep, expiring.rows) == ("expiring_credits", 30)


def test_a_table_that_does_not_answer_fails_the_message(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = cold_start("sweep", environment | {"ACCOUNTS_TABLE": "no-such-table"}, monkeypatch)

    with pytest.raises(RowsUnavailable, match="ResourceNotFound"):
        sweep.invoke(record(beginning("reconciliation")))


def test_a_checkpoint_spares_the_ledger_the_next_day(
    sweep: Function, open_rows: DynamoDBRows
) -> None:
    sweep.invoke(record(beginning("reconciliation")))
    queries: list[str] = []
    client = sweep.app.rows._client
    client.meta.events.register("before-call.dynamodb.Query", lambda **_: queries.append("Query"))

    sweep.invoke(record(beginning("reconciliation")))

    checkpoint = open_rows.read_checkpoint(ANA)
    assert checkpoint is not None
    assert checkpoint.page_number == 3
    assert queries == []


def test_balance_reports_are_swept_over_teams(
    sweep: Function, open_rows: DynamoDBRows, dynamodb: "DynamoDBClient", tables: StackTables
) -> None:
    for team in (ACME, BIGCORP_TEAM):
        open_rows.compare_and_set_team(team.model_copy(update={"version": 1}))

    assert sweep.failed_ids(record(beginning("balance_reports"))) == []
    assert sweep.failed_ids(record(beginning("balance_reports"))) == []

    assert observed(dynamodb, tables) == ["balance_report", "balance_report"]
    assert open_rows.read_burn_counts([ANA])[ANA].page_number > 0


def test_a_team_without_a_possible_report_is_counted_and_the_others_get_theirs(
    sweep: Function,
    open_rows: DynamoDBRows,
    dynamodb: "DynamoDBClient",
    tables: StackTables,
    capsys: pytest.CaptureFixture[str],
) -> None:
    open_rows.compare_and_set_team(ACME.model_copy(update={"version": 1}))
    of_another_version = {"version": {"N": "1"}, "settings": {"S": '{"colour": "red"}'}}
    dynamodb.put_item(TableName=tables.accounts, Item=team_key("bigcorp") | of_another_version)

    assert sweep.failed_ids(record(beginning("balance_reports"))) == []

    assert counted(capsys, "TeamsNotReported") == 1
    assert [line["left_out"] for line in sweep.lines("swept")] == [["TEAM#bigcorp"]]
    assert observed(dynamodb, tables) == ["balance_report"]
