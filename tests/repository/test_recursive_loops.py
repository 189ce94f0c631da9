"""Lambda stops a function that is in a loop through queues and topics, unless the loop is allowed.

It counts about 16 invocations by one and the same event. A loop through a table's stream is not
detected, so streams are not followed here.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.permissions import allowed
from tests.template import Template, load_template, translate

SENDS = {"sqs:SendMessage", "sns:Publish"}


def functions(template: Template) -> Iterator[str]:
    for name, resource in template["Resources"].items():
        if resource["Type"] == "AWS::Serverless::Function":
            yield name


def consumers(template: Template, queue_name: str) -> set[str]:
    """Return the functions that the queue invokes."""
    return {
        name
        for name in functions(template)
        for source in template["Resources"][name]["Properties"].get("Events", {}).values()
        if source["Type"] == "SQS" and source["Properties"]["Queue"]["Fn::GetAtt"][0] == queue_name
    }


def subscribers(template: Template, topic: str) -> set[str]:
    """Return the queues that the topic delivers to."""
    return {
        resource["Properties"]["Endpoint"]["Fn::GetAtt"][0]
        for resource in template["Resources"].values()
        if resource["Type"] == "AWS::SNS::Subscription"
        and resource["Properties"]["Protocol"] == "sqs"
        and resource["Properties"]["TopicArn"] == {"Ref": topic}
    }


def invoked_by(template: Template, function: str) -> set[str]:
    """Return the functions that this one can invoke by what its role lets it send to."""
    targets = {target for action, target in allowed(template, function) if action in SENDS}
    queues = targets | {q for target in targets for q in subscribers(template, target)}
    return {consumer for name in queues for consumer in consumers(template, name)}


def in_a_loop(template: Template) -> set[str]:
    """Return the functions that can invoke themselves, directly or through others."""
    found = set()
    for function in functions(template):
        reached: set[str] = set()
        waiting = invoked_by(template, function)
        while waiting:
            reached |= waiting
            waiting = {n for name in waiting for n in invoked_by(template, name)} - reached
        if function in reached:
            found.add(function)
    return found


def let(template: Template, role: str, action: str, resource: dict[str, Any]) -> None:
    """Give the role one right more."""
    (policy,) = template["Resources"][role]["Properties"]["Policies"]
    statement = {"Effect": "Allow", "Action": action, "Resource": resource}
    policy["PolicyDocument"]["Statement"].append(statement)


def queue(name: str) -> dict[str, Any]:
    return {"Fn::GetAtt": [name, "Arn"]}


def test_exactly_the_functions_in_a_loop_are_allowed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    template = load_template()

    deployed = {
        name: resource["Properties"].get("RecursiveLoop")
        for name, resource in translate(template)["Resources"].items()
        if resource["Type"] == "AWS::Lambda::Function"
    }

    assert deployed == {
        name: "Allow" if name in in_a_loop(template) else None for name in functions(template)
    }


def test_the_sweep_is_the_only_loop() -> None:
    assert in_a_loop(load_template()) == {"Sweep"}


def test_a_function_that_may_send_to_its_own_queue_is_a_loop() -> None:
    template = load_template()
    let(template, "DebitRunsRole", "sqs:SendMessage", queue("AgentRunsQueue"))

    assert in_a_loop(template) == {"Sweep", "DebitRuns"}


def test_a_loop_over_two_functions_is_one_too() -> None:
    template = load_template()
    let(template, "AutoReloadRole", "sqs:SendMessage", queue("SlackQueue"))
    let(template, "NotifySlackRole", "sqs:SendMessage", queue("ReloadsQueue"))

    assert in_a_loop(template) == {"Sweep", "AutoReload", "NotifySlack"}


def test_a_loop_over_a_topic_is_one_too() -> None:
    template = load_template()
    let(template, "NotifySlackRole", "sns:Publish", {"Ref": "NoticesTopic"})

    assert in_a_loop(template) == {"Sweep", "NotifySlack"}
