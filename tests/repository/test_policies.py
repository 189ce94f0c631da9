"""Who is let in, and who is not: the template's policies, asked with requests."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.policies import (
    ACCOUNT,
    PSEUDO_PARAMETERS,
    Request,
    Statement,
    arn_of,
    arn_of_resource,
    evaluate,
    managed_policies,
    resource_policies,
    resource_policy_documents,
    role_policies,
)
from tests.template import Template, load_template

FOREIGN = "999988887777"
# What carries data in or out, by the type of resource.
ACTIONS = {
    "AWS::SQS::Queue": ["sqs:SendMessage", "sqs:ReceiveMessage", "sqs:DeleteMessage"],
    "AWS::SNS::Topic": ["sns:Publish", "sns:Subscribe"],
    "AWS::DynamoDB::Table": [
        *("dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:Query", "dynamodb:Scan"),
        *("dynamodb:PartiQLSelect", "dynamodb:PartiQLInsert"),
    ],
    "AWS::S3::Bucket": ["s3:PutObject", "s3:GetObject", "s3:DeleteObject", "s3:ListBucket"],
}
# Every write of DynamoDB's data that can replace, change or remove an item.
CHANGES = [
    *("dynamodb:BatchWriteItem", "dynamodb:DeleteItem", "dynamodb:PutItem"),
    *("dynamodb:UpdateItem", "dynamodb:PartiQLDelete", "dynamodb:PartiQLUpdate"),
]
# As if somebody had let everybody in by hand, and as an administrator may.
EVERYTHING: Statement = {"Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "*"}

REQUESTS = [
    (name, action)
    for name, resource in load_template()["Resources"].items()
    for action in ACTIONS.get(resource["Type"], [])
]
SERVICES = [
    (name, service)
    for name, policy in resource_policies(load_template()).items()
    for statement in policy
    if statement["Effect"] == "Allow" and isinstance(statement["Principal"], dict)
    for service in [statement["Principal"]["Service"]]
]


@pytest.fixture
def template() -> Template:
    return load_template()


def asked(name: str, action: str, **options: Any) -> Request:
    return Request(action, arn_of_resource(name, action), **options)


def ask(template: Template, name: str, request: Request) -> str:
    """Ask the resource, where whoever asks has every permission that somebody else can give."""
    return evaluate([*resource_policies(template).get(name, []), EVERYTHING], request)


@pytest.mark.parametrize(("name", "action"), REQUESTS)
def test_nothing_is_reached_over_plain_http(template: Template, name: str, action: str) -> None:
    plain = {"aws:SecureTransport": "false"}

    assert ask(template, name, asked(name, action, context=plain)) == "denied"


@pytest.mark.parametrize(("name", "action"), REQUESTS)
def test_nothing_is_reached_from_a_foreign_account(
    template: Template, name: str, action: str
) -> None:
    assert ask(template, name, asked(name, action, account=FOREIGN)) == "denied"


@pytest.mark.parametrize(("name", "action"), REQUESTS)
def test_nothing_is_reached_by_an_unsigned_request(
    template: Template, name: str, action: str
) -> None:
    unsigned = asked(name, action, account=None)
    assert not unsigned.keys.keys() & {"aws:PrincipalAccount", "aws:PrincipalIsAWSService"}

    assert ask(template, name, unsigned) == "denied"


@pytest.mark.parametrize(("name", "action"), REQUESTS)
def test_the_refusals_shut_out_nobody_of_the_account(
    template: Template, name: str, action: str
) -> None:
    is_rejected_to_all = name == "LedgerTable" and action in CHANGES

    answer = ask(template, name, asked(name, action))

    assert answer == ("denied" if is_rejected_to_all else "allowed")


@pytest.mark.parametrize(("name", "service"), SERVICES)
def test_a_service_of_aws_acts_only_for_this_account(
    template: Template, name: str, service: str
) -> None:
    policy = resource_policies(template)[name]
    action = {"cloudwatch.amazonaws.com": "sns:Publish", "sns.amazonaws.com": "sqs:SendMessage"}[
        service
    ]

    def answer(account: str) -> str:
        sources = [f"arn:aws:cloudwatch:us-east-1:{account}:alarm:any", arn_of("NoticesTopic")]
        answers = set()
        for source in sources:
            context = {
                "aws:SourceArn": source.replace(ACCOUNT, account),
                "aws:SourceAccount": account,
            }
            request = asked(name, action, account=None, service=service, context=context)
            answers.add(evaluate(policy, request))
        return "allowed" if "allowed" in answers else "not allowed"

    assert answer(ACCOUNT) == "allowed"
    assert answer(FOREIGN) == "not allowed"


@pytest.mark.parametrize("action", CHANGES)
def test_what_the_ledger_holds_is_changed_by_nobody(template: Template, action: str) -> None:
    request = Request(action, arn_of("LedgerTable"))

    # Not by a function, whose role has no such permission, whatever the key.
    for role, statements in role_policies(template).items():
        for key in ("ACCOUNT#user:ana", "RUN#run-1", "TEAM#acme"):
            keyed = Request(action, arn_of("LedgerTable"), context={"dynamodb:LeadingKeys": [key]})
            assert evaluate(statements, keyed) == "not allowed", role
    # And not by who has every permission.
    assert ask(template, "LedgerTable", request) == "denied"


def test_who_may_send_events_is_who_was_given_that_right(template: Template) -> None:
    send = Request("sqs:SendMessage", arn_of("AgentRunsQueue"))

    (given,) = [
        name for name, s in managed_policies(template).items() if evaluate(s, send) == "allowed"
    ]
    assert [r for r, s in role_policies(template).items() if evaluate(s, send) == "allowed"] == []
    # No more than that right, and no other queue.
    for action in ACTIONS["AWS::SQS::Queue"][1:]:
        received = Request(action, arn_of("AgentRunsQueue"))
        assert evaluate(managed_policies(template)[given], received) == "not allowed"
    elsewhere = Request("sqs:SendMessage", arn_of("ReloadsQueue"))
    assert evaluate(managed_policies(template)[given], elsewhere) == "not allowed"


@pytest.mark.parametrize(
    ("call", "producer"),
    [
        ("POST/v1/events", "allowed"),
        ("POST/v1/decide", "allowed"),
        ("POST/v1/reservations", "allowed"),
        ("POST/v1/reservations/run-1/settle", "allowed"),
        ("GET/v1/reservations/run-1", "allowed"),
        ("GET/v1/accounts/user:ana", "not allowed"),
        ("PATCH/v1/teams/acme/settings", "not allowed"),
        ("POST/v1/teams/acme/purchases", "not allowed"),
    ],
)
def test_a_producer_may_record_and_reserve_through_the_api_and_an_operator_may_call_all(
    template: Template, call: str, producer: str
) -> None:
    arn = f"{_stage_of('ProducersApi')}/{call}"
    request = Request("execute-api:Invoke", arn)

    assert evaluate(managed_policies(template)["CallApiAsProducer"], request) == producer
    assert evaluate(managed_policies(template)["CallApiAsOperator"], request) == "allowed"


def _stage_of(api: str) -> str:
    partition, region, account = (
        PSEUDO_PARAMETERS[f"AWS::{name}"] for name in ("Partition", "Region", "AccountId")
    )
    return f"arn:{partition}:execute-api:{region}:{account}:{api}/$default"


@pytest.mark.parametrize("action", ["s3:PutObject", "s3:ListBucket"])
def test_a_record_is_set_aside_only_in_a_bucket_of_this_account(
    template: Template, action: str
) -> None:
    bucket = arn_of_resource("AnnounceFailuresBucket", action)
    announce = role_policies(template)["AnnounceRole"]

    assert evaluate(announce, Request(action, bucket)) == "allowed"
    # The bucket was deleted, and another account has made one of its name.
    assert evaluate(announce, Request(action, bucket, owner=FOREIGN)) == "not allowed"


@pytest.mark.parametrize("action", ["s3:GetObject", "s3:DeleteObject"])
def test_what_was_set_aside_is_read_and_removed_by_no_function(
    template: Template, action: str
) -> None:
    request = Request(action, arn_of_resource("AnnounceFailuresBucket", action))

    for role, statements in role_policies(template).items():
        assert evaluate(statements, request) == "not allowed", role


def without(template: Template, name: str, sid: str) -> Template:
    """Return the template with this statement of the resource's policy taken away."""
    (document,) = [
        document for attached, document in resource_policy_documents(template) if name in attached
    ]
    kept = [s for s in document["Statement"] if s["Sid"] != sid]
    assert len(kept) == len(document["Statement"]) - 1
    document["Statement"] = kept
    return template


def refusals() -> Iterator[tuple[str, str, Request]]:
    plain = {"aws:SecureTransport": "false"}
    for name, action in REQUESTS:
        if name == "LedgerTable" and action in CHANGES:
            continue  # Another statement refuses it to everybody.
        yield name, "DenyPlainHttp", asked(name, action, context=plain)
        yield (
            name,
            "DenyForeignAccounts",
            asked(name, action, account=FOREIGN),
        )
        yield (
            name,
            "DenyForeignAccounts",
            asked(name, action, account=None),
        )


@pytest.mark.parametrize(("name", "sid", "request_"), list(refusals()))
def test_each_refusal_is_what_refuses(name: str, sid: str, request_: Request) -> None:
    assert ask(load_template(), name, request_) == "denied"
    assert ask(without(load_template(), name, sid), name, request_) == "allowed"


def test_a_second_policy_of_a_queue_is_noticed() -> None:
    template = load_template()
    resources = template["Resources"]
    resources["AnotherPolicy"] = resources["SlackQueuePolicy"]

    # AWS keeps one, so the denials of the other would be gone.
    with pytest.raises(AssertionError, match="SlackQueue would keep the last one"):
        resource_policies(template)


@pytest.mark.parametrize("action", CHANGES)
def test_the_ledger_is_append_only_by_its_own_policy(action: str) -> None:
    open_to_change = without(load_template(), "LedgerTable", "DenyChangesOfWhatIsRecorded")

    assert ask(open_to_change, "LedgerTable", Request(action, arn_of("LedgerTable"))) == "allowed"
