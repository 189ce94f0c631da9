"""Every permission of every role is asked for, and is missed when it is taken away.

The stack of the template runs on an emulator that enforces IAM: the samples, a reload, notices for
Slack, sweeps and what goes wrong on the way. What AWS itself does in a role's name is done here
with the credentials of that role.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError
from rich.console import Console

from agent_credits.aws.topic import NoticesTopic
from agent_credits.events.signatures import sign
from agent_credits.ledger.accounts import PAGE_ENTRIES_FULL
from agent_credits.notices.channel_tests import channel_test
from agent_credits.sweeps.sweep import STEP_ATTEMPTS_MAX
from agent_credits_demo.drain import messages_in
from agent_credits_demo.sample_run import SampleRun, run_samples
from agent_credits_local import embedded_stack
from agent_credits_local.checkout import this_checkout
from agent_credits_local.deployment import Deployment
from agent_credits_local.payment_stand_in import CARD_THAT_PAYS
from agent_credits_local.stack_state import StateFolder
from agent_credits_local.target import connect_to_local
from tests.e2e.api_calls import ApiCalls, usage
from tests.e2e.enforced_stack import (
    EnforcedStack,
    EnforcingCheckout,
    Permission,
    Question,
    permissions_of,
    refused,
    statements_of,
)
from tests.e2e.reloading_team import ReloadingTeam, once, set_up_team
from tests.permissions import called, called_by_aws
from tests.sample_world import SAMPLES_FILE
from tests.template import load_template

# It brings up a stack of its own, and so takes longer than other tests.
pytestmark = pytest.mark.timeout(600)

SECONDS_MAX = 90.0
LOOK_EVERY_SECONDS = 0.5

TEMPLATE = load_template()
PERMISSIONS = list(permissions_of(TEMPLATE))
# The statements for rows whose key begins with one of these, as role and Sid.
KEYED = {
    (role, statement["Sid"]): keys["dynamodb:LeadingKeys"]
    for role, statement in statements_of(TEMPLATE)
    if (keys := statement.get("Condition", {}).get("ForAllValues:StringLike"))
}


def by_aws() -> Iterator[tuple[str, str, str]]:
    """Yield what AWS does in the name of a role: role, action and resource."""
    for name, resource in TEMPLATE["Resources"].items():
        properties = resource.get("Properties", {})
        if resource["Type"] == "AWS::Serverless::Function":
            role = properties["Role"]["Fn::GetAtt"][0]
            for action, on in called_by_aws(TEMPLATE, name, called(TEMPLATE, name)):
                yield role, action, on
        elif resource["Type"] == "AWS::Scheduler::Schedule":
            target = properties["Target"]
            role, queue = target["RoleArn"]["Fn::GetAtt"][0], target["Arn"]["Fn::GetAtt"][0]
            yield role, "sqs:SendMessage", queue


BY_AWS = set(by_aws())


def is_by_aws(permission: Permission) -> bool:
    return (permission.role, permission.action, permission.resource) in BY_AWS


@dataclass(frozen=True)
class Run:
    """What happened on the stack, and what its roles asked for meanwhile."""

    stack: EnforcedStack
    samples: SampleRun
    questions: Sequence[Question]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnforcedStack]:
    path = tmp_path_factory.mktemp("enforced")
    folder, console = StateFolder(path / "state"), Console(stderr=True)
    checkout = EnforcingCheckout(this_checkout().root, path / "questions")
    try:
        embedded_stack.up(folder, checkout, port=0, console=console)
        target = connect_to_local(folder)
        assert target.endpoint_url
        deployment = Deployment(
            folder,
            checkout,
            target.endpoint_url,
            target.payment_stand_in.endpoint_url,
            target.slack_stand_in.endpoint_url,
            console,
        )
        # What is off by default needs permissions too.
        deployment.deploy(
            embedded_stack.STACK_NAME, "EventSignatures=check-signed", "BalanceReports=true"
        )
        yield EnforcedStack(target, TEMPLATE, checkout.questions, folder)
    finally:
        embedded_stack.discard(folder)


@pytest.fixture(scope="module")
def run(stack: EnforcedStack) -> Run:
    target = stack.target
    with stack.naming_refusals():
        fill_pages_and_reload(set_up_team(target, CARD_THAT_PAYS))
        call_the_api(stack, set_up_team(target, CARD_THAT_PAYS))
        reject_a_message(stack)
        post_while_slack_is_down(stack)
        # The samples would wait for minutes for what was refused.
        assert refused(stack.questions()) == []
        samples = run_samples(target, SAMPLES_FILE)
        begin_sweeps(stack)
        split_a_step(stack)
        reload_while_stripe_is_down(set_up_team(target, CARD_THAT_PAYS))
        wait_until_all_is_asked(stack)
        do_what_aws_does(stack)
    return Run(stack, samples, stack.questions())


def fill_pages_and_reload(team: ReloadingTeam) -> None:
    """Let DebitRuns read the signing keys, and DebitRuns and AutoReload each flush a full page."""
    for part in range(3):
        runs = [f"run-{part}-{number}" for number in range(PAGE_ENTRIES_FULL)]
        body = json.dumps([team.usage(run_id, "0.1") for run_id in runs])
        team.send(body, sign(body, "k1", key_of(team)))
        team.usages_once_decided((part + 1) * PAGE_ENTRIES_FULL)


def call_the_api(stack: EnforcedStack, team: ReloadingTeam) -> None:
    """Let Api read and commit an account, flush a page, find a run, change a team, and buy."""
    calls = ApiCalls(stack.target, stack.folder)
    member = str(team.member)
    for number in range(2 * PAGE_ENTRIES_FULL):
        event = usage(team.team_id, team.member.id, f"api-{number}", "e1", "0.1")
        assert calls.by_producer("POST", "/v1/events", event).status == 200
    query = {"principal": member}
    assert calls.by_producer("GET", "/v1/runs/api-0", query=query).status == 200
    assert calls.by_producer("GET", f"/v1/accounts/{member}/ledger").status == 200
    path = f"/v1/teams/{team.team_id}"
    assert calls.by_producer("PATCH", f"{path}/settings", {"alerts_low": []}).status == 200
    bought = {"principal": member, "pack_credits": "400"}
    # While a reload is under way, a purchase is asked to wait.
    once(
        lambda: (
            calls.by_producer(
                "POST", f"{path}/purchases", bought, headers={"idempotency-key": "k1"}
            ).status
            == 202
        )
    )
    assert calls.by_producer("GET", f"{path}/report").status == 200


def key_of(team: ReloadingTeam) -> bytes:
    secret_arn = team.target.outputs.event_signing_secret_arn
    assert secret_arn
    secret = team.target.secretsmanager.get_secret_value(SecretId=secret_arn)["SecretString"]
    key: str = json.loads(secret)["k1"]
    return key.encode()


def reject_a_message(stack: EnforcedStack) -> None:
    """Let DebitRuns hand a message back at once, until it is in the dead-letter queue."""
    outputs = stack.target.outputs
    stack.target.sqs.send_message(QueueUrl=outputs.agent_runs_queue_url, MessageBody="no event")
    once(lambda: messages_in(stack.target, outputs.agent_runs_dead_letter_queue_url))


def post_while_slack_is_down(stack: EnforcedStack) -> None:
    """Let NotifySlack post a notice at the second attempt, and receive it once more."""
    target = stack.target
    target.slack_stand_in.answer_next(503, "service_unavailable")
    topic = NoticesTopic(target.sns, target.outputs.notices_topic_arn)
    notice = channel_test("slack", "test", "enforced", datetime.now(UTC))
    topic.publish(notice)
    topic.publish(notice)
    once(lambda: messages_in(target, stack.physical_id("SlackQueue")) == 0)


def begin_sweeps(stack: EnforcedStack) -> None:
    """Do what the schedules do, with their role."""
    for resource in TEMPLATE["Resources"].values():
        if resource["Type"] == "AWS::Scheduler::Schedule":
            target = resource["Properties"]["Target"]
            stack.client("sqs", target["RoleArn"]["Fn::GetAtt"][0]).send_message(
                QueueUrl=stack.target.outputs.sweeps_queue_url,
                MessageBody=target["Input"],
                MessageGroupId=target["SqsParameters"]["MessageGroupId"],
            )


def split_a_step(stack: EnforcedStack) -> None:
    """Give Sweep a step that has failed so often that it sends a visit for each row."""
    record = {
        "messageId": "failed-often",
        "body": json.dumps({"sweep": "expiring_credits"}),
        "attributes": {
            "SentTimestamp": str(int(time.time() * 1_000)),
            "ApproximateReceiveCount": str(STEP_ATTEMPTS_MAX + 1),
        },
    }
    response = stack.client("lambda").invoke(
        FunctionName=stack.physical_id("Sweep"), Payload=json.dumps({"Records": [record]})
    )
    assert "FunctionError" not in response, response["Payload"].read()


def reload_while_stripe_is_down(team: ReloadingTeam) -> None:
    team.target.payment_stand_in.stop()
    team.use("run-1", amount="50")


def wait_until_all_is_asked(stack: EnforcedStack) -> None:
    """Wait until the functions have asked for all that their code needs, or for long enough."""
    ends_at = time.monotonic() + SECONDS_MAX
    by_functions = [permission for permission in PERMISSIONS if not is_by_aws(permission)]
    while time.monotonic() < ends_at:
        questions = stack.questions()
        if all(stack.asked(permission, questions) for permission in by_functions):
            return
        time.sleep(LOOK_EVERY_SECONDS)


def do_what_aws_does(stack: EnforcedStack) -> None:
    """Make the calls that AWS makes in a role's name, and that the emulator makes in its own."""
    for permission in filter(is_by_aws, PERMISSIONS):
        service = permission.action.partition(":")[0]
        # AWS itself calls nothing of DynamoDB but its streams.
        name = "dynamodbstreams" if service == "dynamodb" else service
        # Only the permission counts, and a receipt handle of nothing is answered with an error.
        with suppress(ClientError):
            CALLS[permission.action](stack.client(name, permission.role), stack.arn_of(permission))


def queue_url(sqs: Any, arn: str) -> str:
    # A role may not ask for the URL of a queue, and need not: it consists of what the ARN says.
    account, name = arn.split(":")[4:]
    return f"{sqs.meta.endpoint_url}/{account}/{name}"


def iterator_of(streams: Any, arn: str) -> str:
    (shard, *_) = streams.describe_stream(StreamArn=arn)["StreamDescription"]["Shards"]
    iterator: str = streams.get_shard_iterator(
        StreamArn=arn, ShardId=shard["ShardId"], ShardIteratorType="LATEST"
    )["ShardIterator"]
    return iterator


def log_group(arn: str) -> str:
    return arn.split(":")[6]


def put_log_event(logs: Any, arn: str) -> None:
    event = {"timestamp": int(time.time() * 1_000), "message": "written as the role"}
    logs.put_log_events(logGroupName=log_group(arn), logStreamName="test", logEvents=[event])


def decrypt(kms: Any, arn: str) -> None:
    data_key = kms.generate_data_key(KeyId=arn, KeySpec="AES_256")
    kms.decrypt(KeyId=arn, CiphertextBlob=data_key["CiphertextBlob"])


# What AWS does in a role's name, by action.
CALLS: dict[str, Callable[[Any, str], Any]] = {
    "dynamodb:DescribeStream": lambda streams, arn: streams.describe_stream(StreamArn=arn),
    "dynamodb:GetRecords": lambda streams, arn: streams.get_records(
        ShardIterator=iterator_of(streams, arn)
    ),
    "dynamodb:GetShardIterator": iterator_of,
    "dynamodb:ListStreams": lambda streams, arn: streams.list_streams(TableName=arn.split("/")[1]),
    "kms:Decrypt": decrypt,
    "kms:GenerateDataKey": decrypt,
    "logs:CreateLogStream": lambda logs, arn: logs.create_log_stream(
        logGroupName=log_group(arn), logStreamName="test"
    ),
    "logs:PutLogEvents": put_log_event,
    "s3:ListBucket": lambda s3, arn: s3.list_objects_v2(Bucket=arn.split(":")[5]),
    "s3:PutObject": lambda s3, arn: s3.put_object(
        Bucket=arn.split(":")[5].split("/")[0], Key="aws/lambda/as-the-role"
    ),
    "sqs:DeleteMessage": lambda sqs, arn: sqs.delete_message(
        QueueUrl=queue_url(sqs, arn), ReceiptHandle="none"
    ),
    "sqs:GetQueueAttributes": lambda sqs, arn: sqs.get_queue_attributes(
        QueueUrl=queue_url(sqs, arn), AttributeNames=["QueueArn"]
    ),
    "sqs:ReceiveMessage": lambda sqs, arn: sqs.receive_message(
        QueueUrl=queue_url(sqs, arn), VisibilityTimeout=0
    ),
    "sqs:SendMessage": lambda sqs, arn: sqs.send_message(
        QueueUrl=queue_url(sqs, arn), MessageBody="{}"
    ),
}


def test_every_sample_has_its_results_where_permissions_are_enforced(run: Run) -> None:
    assert [check for check in run.samples.checks if not check.is_met] == []
    assert run.samples.verified.is_clean


def test_no_role_asks_for_what_it_was_not_given(run: Run) -> None:
    assert refused(run.questions) == []


def test_a_role_was_given_what_aws_does_in_its_name() -> None:
    given = {
        (permission.role, permission.action, permission.resource) for permission in PERMISSIONS
    }

    assert given >= BY_AWS


@pytest.mark.parametrize("permission", PERMISSIONS, ids=str)
def test_a_permission_is_asked_for_and_missed_when_it_is_taken_away(
    run: Run, permission: Permission
) -> None:
    questions = run.stack.asked(permission, run.questions)
    assert questions, "granted, and nothing in this run needs it"

    with run.stack.without(permission):
        assert not run.stack.ask_again(questions[0])


@pytest.mark.parametrize(("role", "sid"), KEYED)
def test_a_statement_for_some_keys_allows_no_other(run: Run, role: str, sid: str) -> None:
    permission = next(p for p in PERMISSIONS if (p.role, p.sid) == (role, sid))
    question = run.stack.asked(permission, run.questions)[0]
    body = question.body
    for pattern in KEYED[role, sid]:
        body = body.replace(pattern.removesuffix("*"), "POLICY#")
    assert body != question.body

    assert not run.stack.ask_again(question, body)


def test_a_producer_may_record_through_the_api_and_change_nothing(run: Run) -> None:
    target = run.stack.target
    session = run.stack.session_of_a_role_with("CallApiAsProducer")
    calls = ApiCalls(target, run.stack.folder, session)

    asked = calls.by_producer("POST", "/v1/decide", {})
    settings = calls.by_producer("PATCH", "/v1/teams/acme/settings", {"spend_cap_cents": 0})
    account = calls.by_producer("GET", "/v1/accounts/user:ana")

    # It was let in, and the function found fault with what it sent.
    assert (asked.status, asked.json["error"]) == (422, "invalid_request")
    assert (settings.status, account.status) == (403, 403)
    assert "error" not in settings.json


def test_an_operator_may_make_every_call_of_the_api(run: Run) -> None:
    session = run.stack.session_of_a_role_with("CallApiAsOperator")
    calls = ApiCalls(run.stack.target, run.stack.folder, session)

    assert calls.by_producer("GET", "/v1/teams/acme").status == 200


def test_a_producer_may_send_events_and_nothing_else(run: Run) -> None:
    target = run.stack.target
    producer = run.stack.client_of_a_role_with("SendEvents", "sqs")
    runs, sweeps = target.outputs.agent_runs_queue_url, target.outputs.sweeps_queue_url

    assert producer.send_message(QueueUrl=runs, MessageBody="not an event")["MessageId"]

    for refused_call in (
        lambda: producer.receive_message(QueueUrl=runs),
        lambda: producer.purge_queue(QueueUrl=runs),
        lambda: producer.send_message(QueueUrl=sweeps, MessageBody="{}", MessageGroupId="any"),
    ):
        with pytest.raises(ClientError, match="not authorized"):
            refused_call()
