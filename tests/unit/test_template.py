"""What template.yaml must keep. Each rule is a function that yields what breaks it, so that the
last test here can break every rule once and see that its guard notices.
"""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import pytest
from samtranslator.translator.transform import transform

from tests.template import Template, load_template

OUTPUTS = {
    "AgentRunsQueueUrl": {"Ref": "AgentRunsQueue"},
    "AgentRunsDeadLetterQueueUrl": {"Ref": "AgentRunsDeadLetterQueue"},
    "NoticesTopicArn": {"Ref": "NoticesTopic"},
    "AccountsTableName": {"Ref": "AccountsTable"},
    "LedgerTableName": {"Ref": "LedgerTable"},
}
FOURTEEN_DAYS = 14 * 24 * 60 * 60
# The type of resource that a variable of this ending must name.
TYPE_BEHIND_VARIABLE = {
    "_TABLE": "AWS::DynamoDB::Table",
    "_QUEUE_URL": "AWS::SQS::Queue",
    "_TOPIC_ARN": "AWS::SNS::Topic",
}
ALARM_DESCRIPTION_LENGTH_MAX = 1024

Path = tuple[str | int, ...]
Rule = Callable[[Template], Iterator[str]]


@pytest.fixture(scope="module")
def template() -> Template:
    return load_template()


# The template, taken apart.


def of_type(template: Template, *types: str) -> dict[str, Any]:
    resources: dict[str, Any] = template["Resources"]
    return {name: r for name, r in resources.items() if r["Type"] in types}


def functions(template: Template) -> dict[str, Any]:
    return of_type(template, "AWS::Serverless::Function")


def event_sources(template: Template, source_type: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, function in functions(template).items():
        for source in function["Properties"].get("Events", {}).values():
            if source["Type"] == source_type:
                yield name, source["Properties"]


def referred(value: Any) -> str | None:
    """The logical id behind a Ref or a GetAtt, and None for anything else."""
    match value:
        case {"Ref": str(name)} | {"Fn::GetAtt": [str(name), *_]}:
            return name
        case _:
            return None


def target_of(template: Template, value: Any) -> dict[str, Any]:
    """The properties of the resource that is referred to; empty if there is no such resource."""
    resource = template["Resources"].get(referred(value), {})
    properties: dict[str, Any] = resource.get("Properties", {})
    return properties


def largest(template: Template, value: Any) -> int:
    """A number of the template, or the largest that its parameter lets an operator choose."""
    if isinstance(value, int):
        return value
    return int(template["Parameters"][value["Ref"]]["MaxValue"])


def statements(template: Template) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every policy statement, wherever in the template, with the path to it."""

    def below(node: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if isinstance(node, dict):
            for key, value in node.items():
                if key == "Statement":
                    for statement in as_list(value):
                        yield f"{path}.{statement.get('Sid', 'Statement')}", statement
                else:
                    yield from below(value, f"{path}.{key}")
        elif isinstance(node, list):
            for item in node:
                yield from below(item, path)

    for name, resource in template["Resources"].items():
        yield from below(resource["Properties"], name)


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


# The rules.


def visibility_is_too_short(template: Template) -> Iterator[str]:
    for name, source in event_sources(template, "SQS"):
        timeout = functions(template)[name]["Properties"]["Timeout"]
        window = largest(template, source["MaximumBatchingWindowInSeconds"])
        visibility = target_of(template, source["Queue"])["VisibilityTimeout"]
        if visibility < 6 * timeout + window:
            yield f"{name}: {visibility} s are less than 6 x {timeout} s + {window} s"


def batches_are_all_or_nothing(template: Template) -> Iterator[str]:
    for source_type in ("SQS", "DynamoDB"):
        for name, source in event_sources(template, source_type):
            if source.get("FunctionResponseTypes") != ["ReportBatchItemFailures"]:
                yield f"{name} cannot give back a part of a batch"


def a_queue_has_no_dead_letter_queue(template: Template) -> Iterator[str]:
    for name, source in event_sources(template, "SQS"):
        queue = target_of(template, source["Queue"])
        redrive = queue.get("RedrivePolicy", {})
        dead_letters = target_of(template, redrive.get("deadLetterTargetArn"))
        if not redrive.get("maxReceiveCount") or not dead_letters:
            yield f"the queue of {name} has no dead-letter queue"
        elif dead_letters.get("MessageRetentionPeriod") != FOURTEEN_DAYS:
            yield f"the dead-letter queue of {name} does not keep its messages for 14 days"
        elif queue["MessageRetentionPeriod"] >= FOURTEEN_DAYS:
            yield f"a message of {name} may be too old for its dead-letter queue"
        elif dead_letters.get("RedriveAllowPolicy", {}).get("redrivePermission") != "byQueue":
            yield f"any queue may use the dead-letter queue of {name}"
        elif dead_letters["RedriveAllowPolicy"]["sourceQueueArns"] != [arn_by_name(queue)]:
            yield f"the dead-letter queue of {name} does not accept its queue"


def arn_by_name(queue: dict[str, Any]) -> dict[str, str]:
    name = queue["QueueName"]["Fn::Sub"]
    return {"Fn::Sub": f"arn:${{AWS::Partition}}:sqs:${{AWS::Region}}:${{AWS::AccountId}}:{name}"}


def a_stream_failure_is_dropped(template: Template) -> Iterator[str]:
    for name, source in event_sources(template, "DynamoDB"):
        failures = source.get("DestinationConfig", {}).get("OnFailure", {})
        queue = target_of(template, failures.get("Destination"))
        if queue.get("MessageRetentionPeriod") != FOURTEEN_DAYS:
            yield f"{name} has no queue that keeps its failures for 14 days"
        for bound in ("MaximumRetryAttempts", "MaximumRecordAgeInSeconds"):
            if source.get(bound, -1) < 0:
                yield f"{name} has no {bound}: one bad record would block its shard for a day"
        if not source.get("BisectBatchOnFunctionError"):
            yield f"{name} sets a whole batch aside for one bad record"


def a_table_can_lose_data(template: Template) -> Iterator[str]:
    for name, table in of_type(template, "AWS::DynamoDB::Table").items():
        properties = table["Properties"]
        kept = {
            "DeletionPolicy": table.get("DeletionPolicy") == "Retain",
            "UpdateReplacePolicy": table.get("UpdateReplacePolicy") == "Retain",
            "PointInTimeRecovery": properties.get("PointInTimeRecoverySpecification")
            == {"PointInTimeRecoveryEnabled": True},
            "SSE": properties.get("SSESpecification", {}).get("SSEEnabled") is True,
            "DeletionProtection": properties.get("DeletionProtectionEnabled")
            == {"Fn::If": ["HasDeletionProtection", True, False]},
            "Tags": bool(properties.get("Tags")),
        }
        yield from (f"{name} has no {guard}" for guard, is_kept in kept.items() if not is_kept)
    if template["Parameters"]["DeletionProtection"]["Default"] != "true":
        yield "deletion protection is off unless somebody asks for it"


def messages_lie_in_the_clear(template: Template) -> Iterator[str]:
    for name, queue in of_type(template, "AWS::SQS::Queue").items():
        if queue["Properties"].get("SqsManagedSseEnabled") is not True:
            yield f"{name} is not encrypted"
    for name, topic in of_type(template, "AWS::SNS::Topic").items():
        key = target_of(template, topic["Properties"].get("KmsMasterKeyId"))
        if key.get("EnableKeyRotation") is not True:
            yield f"{name} is not encrypted under a key of the stack that rotates"


def plain_http_is_accepted(template: Template) -> Iterator[str]:
    kinds = {
        "AWS::SQS::Queue": ("AWS::SQS::QueuePolicy", "Queues", "sqs:SendMessage"),
        "AWS::SNS::Topic": ("AWS::SNS::TopicPolicy", "Topics", "sns:Publish"),
    }
    for resource_type, (policy_type, members, action) in kinds.items():
        refusing = {
            referred(member)
            for policy in of_type(template, policy_type).values()
            for member in policy["Properties"][members]
            for statement in policy["Properties"]["PolicyDocument"]["Statement"]
            if statement["Effect"] == "Deny"
            and statement["Principal"] == "*"
            and action in as_list(statement["Action"])
            and referred(statement["Resource"]) == referred(member)
            and statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
        }
        for name in of_type(template, resource_type):
            if name not in refusing:
                yield f"{name} accepts plain HTTP"


def a_permission_is_too_wide(template: Template) -> Iterator[str]:
    for path, statement in statements(template):
        if statement.keys() & {"NotAction", "NotResource", "NotPrincipal"}:
            yield f"{path} grants all but what it names"
        for action in as_list(statement.get("Action", "*")):
            if "*" in action:
                yield f"{path} has the wildcard action {action}"
        if statement["Effect"] == "Allow" and statement.get("Principal") in ("*", {"AWS": "*"}):
            yield f"{path} grants to everybody"
        # A trust policy has no resource: it is about the role that it belongs to.
        if ".AssumeRolePolicyDocument." not in path:
            yield from unscoped_resources(template, path, statement)
        yield from conditions_that_hold_without_a_key(path, statement)


def unscoped_resources(template: Template, path: str, statement: dict[str, Any]) -> Iterator[str]:
    for resource in as_list(statement.get("Resource", "*")):
        # The one exception: a key's own policy can only write "*", and there it means this key.
        if path.startswith("TopicsKey.KeyPolicy.") and resource == "*":
            continue
        if referred(resource) not in template["Resources"]:
            yield f"{path} is not scoped to a resource of the stack: {resource}"


def conditions_that_hold_without_a_key(path: str, statement: dict[str, Any]) -> Iterator[str]:
    condition = statement.get("Condition", {})
    for operator, tested in condition.items():
        for key in tested if operator.startswith("ForAllValues:") else ():
            if condition.get("Null", {}).get(key) != "false":
                yield f"{path} also holds for a request without {key}"


def a_role_is_not_written_out(template: Template) -> Iterator[str]:
    for name, function in functions(template).items():
        role = referred(function["Properties"].get("Role"))
        if role not in of_type(template, "AWS::IAM::Role"):
            yield f"{name} has no role of its own: SAM would attach policies on every resource"
        if "Policies" in function["Properties"]:
            yield f"{name} names policies that its role does not show"
    for name, role in of_type(template, "AWS::IAM::Role").items():
        if role["Properties"].get("ManagedPolicyArns"):
            yield f"{name} has a policy whose statements are not in this template"


def an_iam_resource_has_a_name(template: Template) -> Iterator[str]:
    for name, resource in of_type(template, "AWS::IAM::Role", "AWS::IAM::ManagedPolicy").items():
        if resource["Properties"].keys() & {"RoleName", "ManagedPolicyName"}:
            yield f"{name} is named, so deploying needs more than CAPABILITY_IAM"


def logs_are_kept_for_ever(template: Template) -> Iterator[str]:
    for name, function in functions(template).items():
        logging = function["Properties"].get("LoggingConfig", {})
        group = target_of(template, logging.get("LogGroup"))
        if group.get("RetentionInDays") != {"Ref": "LogRetentionDays"}:
            yield f"{name} does not log to a group that forgets"


def an_alarm_is_of_no_use(template: Template) -> Iterator[str]:
    for name, alarm in of_type(template, "AWS::CloudWatch::Alarm").items():
        properties = alarm["Properties"]
        if not 0 < len(properties.get("AlarmDescription", "")) <= ALARM_DESCRIPTION_LENGTH_MAX:
            yield f"{name} does not say what to do"
        if properties.get("AlarmActions") != [{"Ref": "AlarmsTopic"}]:
            yield f"{name} tells nobody"
        if properties.get("TreatMissingData") != "notBreaching":
            yield f"{name} takes a quiet stack for a broken one"


def something_has_no_alarm(template: Template) -> Iterator[str]:
    watched = {
        (alarm["Properties"]["MetricName"], referred(dimension["Value"]) or dimension["Value"])
        for alarm in of_type(template, "AWS::CloudWatch::Alarm").values()
        for dimension in alarm["Properties"]["Dimensions"]
    }
    needed = {("CompareAndSetRetries", "debit_runs")}
    for name in functions(template):
        needed |= {("Errors", name), ("Throttles", name)}
    for name in of_type(template, "AWS::DynamoDB::Table"):
        needed |= {("ReadThrottleEvents", name), ("WriteThrottleEvents", name)}
    consumed = {referred(source["Queue"]) for _, source in event_sources(template, "SQS")}
    for name in of_type(template, "AWS::SQS::Queue"):
        age = "ApproximateAgeOfOldestMessage"
        needed.add((age if name in consumed else "ApproximateNumberOfMessagesVisible", name))
    needed |= {("IteratorAge", name) for name, _ in event_sources(template, "DynamoDB")}
    yield from (f"{name} has no alarm for {metric}" for metric, name in sorted(needed - watched))


def outputs_differ_from_the_contract(template: Template) -> Iterator[str]:
    outputs = {name: output["Value"] for name, output in template["Outputs"].items()}
    if outputs != OUTPUTS:
        yield f"the outputs are {outputs}"


def something_is_not_described(template: Template) -> Iterator[str]:
    described = chain(template["Parameters"].items(), template["Outputs"].items())
    yield from (f"{name} has no description" for name, d in described if not d.get("Description"))


def a_variable_names_no_resource(template: Template) -> Iterator[str]:
    for name, function in functions(template).items():
        variables = function["Properties"]["Environment"]["Variables"]
        for variable, value in variables.items():
            for ending, resource_type in TYPE_BEHIND_VARIABLE.items():
                if variable.endswith(ending) and referred(value) not in of_type(
                    template, resource_type
                ):
                    yield f"{variable} of {name} names no {resource_type}"


def the_layer_is_built_for_another_runtime(template: Template) -> Iterator[str]:
    layer = template["Resources"]["SharedLayer"]
    built_for = {"BuildMethod": {"Ref": "Runtime"}, "BuildArchitecture": {"Ref": "Architecture"}}
    if layer["Metadata"] != built_for:
        yield "the layer does not follow the runtime and architecture of the functions"


# The template keeps them.


def test_a_message_stays_hidden_for_six_timeouts_and_the_batching_window(
    template: Template,
) -> None:
    assert list(visibility_is_too_short(template)) == []


def test_every_consumer_can_give_back_a_part_of_a_batch(template: Template) -> None:
    assert list(batches_are_all_or_nothing(template)) == []


def test_every_consumed_queue_has_a_dead_letter_queue_of_its_own(template: Template) -> None:
    assert list(a_queue_has_no_dead_letter_queue(template)) == []


def test_every_stream_consumer_sets_its_failures_aside(template: Template) -> None:
    assert list(a_stream_failure_is_dropped(template)) == []


def test_no_table_can_lose_data_by_a_deployment(template: Template) -> None:
    assert list(a_table_can_lose_data(template)) == []


def test_every_queue_and_topic_is_encrypted(template: Template) -> None:
    assert list(messages_lie_in_the_clear(template)) == []


def test_every_queue_and_topic_refuses_plain_http(template: Template) -> None:
    assert list(plain_http_is_accepted(template)) == []


def test_no_statement_has_a_wildcard_action_or_an_unscoped_resource(template: Template) -> None:
    assert list(a_permission_is_too_wide(template)) == []


def test_every_permission_of_a_function_is_in_the_template(template: Template) -> None:
    assert list(a_role_is_not_written_out(template)) == []


def test_deploying_needs_no_capability_but_iam(template: Template) -> None:
    assert list(an_iam_resource_has_a_name(template)) == []


def test_every_function_logs_to_a_group_with_retention(template: Template) -> None:
    assert list(logs_are_kept_for_ever(template)) == []


def test_every_alarm_tells_somebody_what_to_do(template: Template) -> None:
    assert list(an_alarm_is_of_no_use(template)) == []


def test_every_function_table_and_queue_is_watched(template: Template) -> None:
    assert list(something_has_no_alarm(template)) == []


def test_the_outputs_are_those_of_the_contract(template: Template) -> None:
    assert list(outputs_differ_from_the_contract(template)) == []


def test_every_parameter_and_output_is_described(template: Template) -> None:
    assert list(something_is_not_described(template)) == []


def test_every_resource_that_a_function_is_told_of_exists(template: Template) -> None:
    assert list(a_variable_names_no_resource(template)) == []


def test_the_layer_follows_the_runtime_of_the_functions(template: Template) -> None:
    assert list(the_layer_is_built_for_another_runtime(template)) == []


def test_a_holder_of_send_events_may_send_events_and_nothing_else(template: Template) -> None:
    [statement] = template["Resources"]["SendEvents"]["Properties"]["PolicyDocument"]["Statement"]

    assert statement["Effect"] == "Allow"
    assert statement["Action"] == "sqs:SendMessage"
    assert referred(statement["Resource"]) == "AgentRunsQueue"


class NoManagedPolicies:
    """Stands in for the list of AWS managed policies, which none of the roles may need."""

    def load(self) -> dict[str, str]:
        return {}


def test_sam_adds_no_role_and_no_policy_of_its_own(
    template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with_code = load_template()
    with_code["Resources"]["SharedLayer"]["Properties"]["ContentUri"] = "s3://bucket/layer"
    for function in functions(with_code).values():
        function["Properties"]["CodeUri"] = "s3://bucket/function"

    translated = transform(with_code, {}, NoManagedPolicies())

    iam = ("AWS::IAM::Role", "AWS::IAM::ManagedPolicy", "AWS::IAM::Policy")
    assert of_type(translated, *iam) == of_type(template, *iam)


# The guards can fail.

REMOVED = object()

DEBIT_RUNS: Path = ("Resources", "DebitRuns", "Properties")
AGENT_RUNS: Path = (*DEBIT_RUNS, "Events", "AgentRuns", "Properties")
ANNOUNCE: Path = ("Resources", "Announce", "Properties")
CHANGES: Path = (*ANNOUNCE, "Events", "AccountChanges", "Properties")
QUEUE: Path = ("Resources", "AgentRunsQueue", "Properties")
DEAD_LETTERS: Path = ("Resources", "AgentRunsDeadLetterQueue", "Properties")
LEDGER: Path = ("Resources", "LedgerTable")
DEBIT_RUNS_ROLE: Path = ("Resources", "DebitRunsRole", "Properties")
RECEIVE: Path = (*DEBIT_RUNS_ROLE, "Policies", 0, "PolicyDocument", "Statement", 0)
COMMIT: Path = (*DEBIT_RUNS_ROLE, "Policies", 0, "PolicyDocument", "Statement", 2)
QUEUE_POLICY: Path = ("Resources", "AgentRunsQueuePolicy", "Properties", "PolicyDocument")
TOPIC_POLICY: Path = ("Resources", "AlarmsTopicPolicy", "Properties", "PolicyDocument")
KEY: Path = ("Resources", "TopicsKey", "Properties")
SEND_EVENTS: Path = ("Resources", "SendEvents", "Properties")
ALARM: Path = ("Resources", "ContentionAlarm", "Properties")

BROKEN: list[tuple[Rule, Path, Any]] = [
    (visibility_is_too_short, (*QUEUE, "VisibilityTimeout"), 239),
    (visibility_is_too_short, (*DEBIT_RUNS, "Timeout"), 31),
    (visibility_is_too_short, ("Parameters", "BatchingWindowSeconds", "MaxValue"), 61),
    (batches_are_all_or_nothing, (*AGENT_RUNS, "FunctionResponseTypes"), REMOVED),
    (batches_are_all_or_nothing, (*CHANGES, "FunctionResponseTypes"), []),
    (a_queue_has_no_dead_letter_queue, (*QUEUE, "RedrivePolicy"), REMOVED),
    (a_queue_has_no_dead_letter_queue, ("Resources", "AgentRunsDeadLetterQueue"), REMOVED),
    (a_queue_has_no_dead_letter_queue, (*QUEUE, "MessageRetentionPeriod"), FOURTEEN_DAYS),
    (a_queue_has_no_dead_letter_queue, (*QUEUE, "QueueName", "Fn::Sub"), "renamed"),
    (a_queue_has_no_dead_letter_queue, (*DEAD_LETTERS, "MessageRetentionPeriod"), 345600),
    (a_queue_has_no_dead_letter_queue, (*DEAD_LETTERS, "RedriveAllowPolicy"), REMOVED),
    (a_stream_failure_is_dropped, (*CHANGES, "DestinationConfig"), REMOVED),
    (a_stream_failure_is_dropped, (*CHANGES, "MaximumRetryAttempts"), -1),
    (a_stream_failure_is_dropped, (*CHANGES, "MaximumRecordAgeInSeconds"), REMOVED),
    (a_stream_failure_is_dropped, (*CHANGES, "BisectBatchOnFunctionError"), False),
    (a_table_can_lose_data, (*LEDGER, "DeletionPolicy"), "Delete"),
    (a_table_can_lose_data, (*LEDGER, "UpdateReplacePolicy"), REMOVED),
    (a_table_can_lose_data, (*LEDGER, "Properties", "SSESpecification"), REMOVED),
    (a_table_can_lose_data, (*LEDGER, "Properties", "PointInTimeRecoverySpecification"), REMOVED),
    (a_table_can_lose_data, (*LEDGER, "Properties", "DeletionProtectionEnabled"), False),
    (a_table_can_lose_data, (*LEDGER, "Properties", "Tags"), []),
    (a_table_can_lose_data, ("Parameters", "DeletionProtection", "Default"), "false"),
    (messages_lie_in_the_clear, (*QUEUE, "SqsManagedSseEnabled"), False),
    (
        messages_lie_in_the_clear,
        ("Resources", "NoticesTopic", "Properties", "KmsMasterKeyId"),
        "alias/aws/sns",
    ),
    (messages_lie_in_the_clear, (*KEY, "EnableKeyRotation"), REMOVED),
    (plain_http_is_accepted, ("Resources", "AgentRunsQueuePolicy"), REMOVED),
    (plain_http_is_accepted, (*QUEUE_POLICY, "Statement", 0, "Effect"), "Allow"),
    (plain_http_is_accepted, (*TOPIC_POLICY, "Statement", 1, "Condition"), {}),
    (a_permission_is_too_wide, (*RECEIVE, "Action"), "sqs:*"),
    (a_permission_is_too_wide, (*RECEIVE, "Action"), ["sqs:Receive*"]),
    (a_permission_is_too_wide, (*RECEIVE, "Action"), REMOVED),
    (a_permission_is_too_wide, (*RECEIVE, "NotAction"), "sqs:PurgeQueue"),
    (a_permission_is_too_wide, (*RECEIVE, "Resource"), "*"),
    (a_permission_is_too_wide, (*RECEIVE, "Resource"), REMOVED),
    (a_permission_is_too_wide, (*RECEIVE, "Resource"), {"Fn::Sub": "arn:aws:sqs:::*"}),
    (a_permission_is_too_wide, (*COMMIT, "Condition", "Null"), REMOVED),
    (a_permission_is_too_wide, (*QUEUE_POLICY, "Statement", 0, "Effect"), "Allow"),
    (a_permission_is_too_wide, (*QUEUE_POLICY, "Statement", 0, "Action"), "sqs:*"),
    (a_permission_is_too_wide, (*TOPIC_POLICY, "Statement", 0, "Resource"), "*"),
    (a_permission_is_too_wide, (*KEY, "KeyPolicy", "Statement", 0, "Action"), "kms:*"),
    (
        a_permission_is_too_wide,
        (*KEY, "KeyPolicy", "Statement", 1, "Principal"),
        {"AWS": "*"},
    ),
    (
        a_permission_is_too_wide,
        (*SEND_EVENTS, "PolicyDocument", "Statement", 0, "Resource"),
        "*",
    ),
    (
        a_permission_is_too_wide,
        (*DEBIT_RUNS_ROLE, "AssumeRolePolicyDocument", "Statement", 0, "Action"),
        "sts:*",
    ),
    (a_role_is_not_written_out, (*DEBIT_RUNS, "Role"), REMOVED),
    (a_role_is_not_written_out, (*DEBIT_RUNS, "Policies"), ["AmazonSQSFullAccess"]),
    (a_role_is_not_written_out, (*DEBIT_RUNS_ROLE, "ManagedPolicyArns"), ["arn:aws:iam::aws:x"]),
    (an_iam_resource_has_a_name, (*SEND_EVENTS, "ManagedPolicyName"), "send-events"),
    (logs_are_kept_for_ever, (*ANNOUNCE, "LoggingConfig"), REMOVED),
    (
        logs_are_kept_for_ever,
        ("Resources", "AnnounceLogs", "Properties", "RetentionInDays"),
        REMOVED,
    ),
    (an_alarm_is_of_no_use, (*ALARM, "AlarmDescription"), ""),
    (an_alarm_is_of_no_use, (*ALARM, "AlarmActions"), []),
    (an_alarm_is_of_no_use, (*ALARM, "TreatMissingData"), REMOVED),
    (something_has_no_alarm, ("Resources", "ContentionAlarm"), REMOVED),
    (something_has_no_alarm, ("Resources", "EventsRefusedAlarm"), REMOVED),
    (something_has_no_alarm, ("Resources", "NoticesLateAlarm"), REMOVED),
    (something_has_no_alarm, ("Resources", "LedgerWriteThrottlesAlarm"), REMOVED),
    (outputs_differ_from_the_contract, ("Outputs", "LedgerTableName"), REMOVED),
    (outputs_differ_from_the_contract, ("Outputs", "Extra"), {"Value": "x"}),
    (
        outputs_differ_from_the_contract,
        ("Outputs", "AccountsTableName", "Value"),
        {"Ref": "LedgerTable"},
    ),
    (something_is_not_described, ("Parameters", "Runtime", "Description"), REMOVED),
    (something_is_not_described, ("Outputs", "LedgerTableName", "Description"), ""),
    (
        a_variable_names_no_resource,
        (*DEBIT_RUNS, "Environment", "Variables", "LEDGER_TABLE"),
        "ledger",
    ),
    (
        a_variable_names_no_resource,
        (*ANNOUNCE, "Environment", "Variables", "NOTICES_TOPIC_ARN"),
        {"Ref": "AgentRunsQueue"},
    ),
    (
        the_layer_is_built_for_another_runtime,
        ("Resources", "SharedLayer", "Metadata", "BuildMethod"),
        "python3.13",
    ),
]


def broken(path: Path, value: Any) -> Template:
    """The template with one value set, or removed, that the rules depend on."""
    template = load_template()
    node: Any = template
    for step in path[:-1]:
        node = node[step]
    if value is REMOVED:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return template


def name_of(part: object) -> str | None:
    if isinstance(part, tuple):
        return ".".join(str(step) for step in part[1:])
    return getattr(part, "__name__", "")


@pytest.mark.parametrize(("rule", "path", "value"), BROKEN, ids=name_of)
def test_a_broken_rule_is_noticed(rule: Rule, path: Path, value: Any) -> None:
    assert list(rule(broken(path, value))) != []


def test_every_rule_is_broken_once() -> None:
    signature = {"template": Template, "return": Iterator[str]}
    rules = {
        member
        for member in globals().values()
        if callable(member) and getattr(member, "__annotations__", None) == signature
    }

    assert {rule for rule, _, _ in BROKEN} == rules
