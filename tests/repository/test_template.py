"""What template.yaml must keep. Each rule is a function that yields what breaks it, so that the
last test here can break every rule once and see that its guard notices.
"""

import importlib.metadata
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import pytest

from agent_credits.aws.cached_secret import SECRET_TTL
from agent_credits.aws.clients import CALLS
from agent_credits.aws.items import (
    ACCOUNT_PREFIX,
    EXPIRY_ATTRIBUTE,
    LIMIT_PREFIX,
    OBSERVED_PREFIX,
    TEAM_PREFIX,
)
from agent_credits.aws.run_queue import WAIT_SECONDS_LONGEST, wait_seconds
from agent_credits.ledger.reloads import (
    ASK_AGAIN_SECONDS,
    ASK_AGAIN_SECONDS_LONGEST,
    RELOAD_DEADLINE,
)
from agent_credits.payments.stripe_payments import CALL_TIMEOUT_SECONDS, CALLS_PER_ATTEMPT_MAX
from agent_credits.sweeps.sweep import STEP_ATTEMPTS_MAX, parse_sweep_message
from tests.permissions import OBJECTS_OF_BUCKET
from tests.template import Template, load_template, translate

OUTPUTS = {
    "AgentRunsQueueUrl": {"Ref": "AgentRunsQueue"},
    "AgentRunsDeadLetterQueueUrl": {"Ref": "AgentRunsDeadLetterQueue"},
    "ReloadsQueueUrl": {"Ref": "ReloadsQueue"},
    "ReloadsDeadLetterQueueUrl": {"Ref": "ReloadsDeadLetterQueue"},
    "SlackQueueUrl": {"Ref": "SlackQueue"},
    "SlackDeadLetterQueueUrl": {"Ref": "SlackDeadLetterQueue"},
    "SweepsQueueUrl": {"Ref": "SweepsQueue"},
    "SweepsDeadLetterQueueUrl": {"Ref": "SweepsDeadLetterQueue"},
    "StripeSecretArn": {"Fn::GetAtt": ["StripeSecret", "Id"]},
    "EventSignatures": {"Ref": "EventSignatures"},
    "EventSigningSecretArn": {"Fn::GetAtt": ["EventSigningSecret", "Id"]},
    "SlackSecretArn": {"Fn::GetAtt": ["SlackSecret", "Id"]},
    "NoticesTopicArn": {"Ref": "NoticesTopic"},
    "AnnounceFunctionName": {"Ref": "Announce"},
    "AnnounceFailuresBucketName": {"Ref": "AnnounceFailuresBucket"},
    "NoticesTableName": {"Ref": "NoticesTable"},
    "ProducersApiUrl": {"Fn::GetAtt": ["ProducersApi", "ApiEndpoint"]},
    "PeopleApiUrl": {"Fn::GetAtt": ["PeopleApi", "ApiEndpoint"]},
    "AccountsTableName": {"Ref": "AccountsTable"},
    "LedgerTableName": {"Ref": "LedgerTable"},
    "StackVersion": importlib.metadata.version("agent-credits"),
    "FunctionsRuntime": {"Ref": "Runtime"},
}
# Which rows concern somebody when they change.
ANNOUNCED_PREFIXES = (ACCOUNT_PREFIX, TEAM_PREFIX, OBSERVED_PREFIX, LIMIT_PREFIX)
# Calls of an API of this stack, all or some.
CALLS_OF_API = re.compile(
    r"arn:\$\{AWS::Partition\}:execute-api:\$\{AWS::Region\}:\$\{AWS::AccountId\}:"
    r"\$\{(\w+)\}/[\w/*]+"
)
# What may be lost with the stack: which notices were published, and which were posted to Slack.
TABLES_OF_NO_RECORD = {"NoticesTable", "SlackPostsTable"}
# No function reads it, and the one that writes it counts every fault.
COUNTED_BY_ITS_WRITER = {"NoticesTable": {("NoticesNotKept", "announce")}}
# For so long SQS drops a message whose deduplication id it has seen.
DEDUPLICATED_SECONDS = 300
FIRST_OF_MONTH = datetime(2026, 11, 1, tzinfo=UTC)
# Where what AWS generates is the key itself, and no placeholder for one.
SECRETS_MADE_BY_AWS = {"EventSigningSecret"}
DAYS_KEPT = 14
FOURTEEN_DAYS = DAYS_KEPT * 24 * 60 * 60
# The type of resource that a variable of this ending must name.
TYPE_BEHIND_VARIABLE = {
    "_TABLE": "AWS::DynamoDB::Table",
    "_QUEUE_URL": "AWS::SQS::Queue",
    "_TOPIC_ARN": "AWS::SNS::Topic",
    "_SECRET_ARN": "AWS::SecretsManager::Secret",
    "_BUCKET": "AWS::S3::Bucket",
}
# What Lambda counts, per mapping, of the records that it sets aside itself.
GIVEN_UP = "OnFailureDestinationDeliveredEventCount"
ALARM_DESCRIPTION_LENGTH_MAX = 1024

DEADLINE_SECONDS = int(RELOAD_DEADLINE.total_seconds())
# Receives that a message of AgentRunsQueue has left for faults, after waiting for a whole reload.
RECEIVES_FOR_FAULTS_MIN = 2
RECEIVES_FOR_FAULTS_USUAL = 5
# A message that is refused is received once a second or so until its receives are used up.
REJECTED_RECEIVES_MAX = 100
# The most that SQS takes for maxReceiveCount.
RECEIVES_COUNTED_MAX = 1_000
# For so long an open payment is asked about before it is the operator's.
ASKED_ABOUT_SECONDS_MIN = 4 * 60 * 60

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


def stream_mappings(template: Template) -> set[str]:
    """The logical ids that SAM gives to the mappings of streams."""
    return {
        name + event
        for name, function in functions(template).items()
        for event, source in function["Properties"].get("Events", {}).items()
        if source["Type"] == "DynamoDB"
    }


def referred(value: Any) -> str | None:
    """The logical id behind a Ref, a GetAtt or a bucket's objects, and None for anything else."""
    match value:
        case {"Ref": str(name)} | {"Fn::GetAtt": [str(name), *_]}:
            return name
        case {"Fn::Sub": str(text)} if objects := OBJECTS_OF_BUCKET.fullmatch(text):
            return objects[1]
        case {"Fn::Sub": str(text)} if calls := CALLS_OF_API.fullmatch(text):
            return calls[1]
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


def properties_of(template: Template, name: str) -> dict[str, Any]:
    properties: dict[str, Any] = template["Resources"][name]["Properties"]
    return properties


def permitted(template: Template, action: str, resource: str) -> dict[str, Any]:
    """Roles that may do it to the resource, each with the condition that its permission has."""
    return {
        path.split(".", 1)[0]: statement.get("Condition")
        for path, statement in statements(template)
        if statement["Effect"] == "Allow"
        and action in as_list(statement["Action"])
        and referred(statement.get("Resource")) == resource
    }


# What the code says, to which the template has to fit.


def aws_call_seconds_max() -> int:
    """How long one AWS call of AutoReload takes at worst, all its attempts together."""
    # Botocore's `max_attempts` would be those after the first.
    attempts = CALLS.retries["total_max_attempts"]
    seconds: int = attempts * (CALLS.connect_timeout + CALLS.read_timeout)
    return seconds


def receives_while_waiting() -> int:
    """How often an event is received until the reload that it waits for is past its deadline."""
    waited, receives = 0, 1
    while waited < DEADLINE_SECONDS:
        waited += wait_seconds(receives)
        receives += 1
    return receives


# The rules.


def visibility_is_too_short(template: Template) -> Iterator[str]:
    for name, source in event_sources(template, "SQS"):
        timeout = functions(template)[name]["Properties"]["Timeout"]
        window = largest(template, source.get("MaximumBatchingWindowInSeconds", 0))
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
        elif dead_letters.get("FifoQueue") != queue.get("FifoQueue"):
            yield f"the dead-letter queue of {name} is of another kind than its queue"
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
        if referred(failures.get("Destination")) not in of_type(template, "AWS::S3::Bucket"):
            # Into a queue or topic, Lambda sends where the records are, and not the records.
            yield f"{name} does not keep what its failures hold"
        for bound in ("MaximumRetryAttempts", "MaximumRecordAgeInSeconds"):
            if source.get(bound, -1) < 0:
                yield f"{name} has no {bound}: one bad record would block its shard for a day"
        if not source.get("BisectBatchOnFunctionError"):
            yield f"{name} sets a whole batch aside for one bad record"


def a_bucket_is_open_or_forgets_nothing(template: Template) -> Iterator[str]:
    for name, bucket in of_type(template, "AWS::S3::Bucket").items():
        properties = bucket["Properties"]
        rules = properties.get("LifecycleConfiguration", {}).get("Rules", [])
        encryption = properties.get("BucketEncryption", {})
        kept = {
            # A bucket that holds something cannot be deleted, and what it holds is still needed.
            "DeletionPolicy": bucket.get("DeletionPolicy") == "RetainExceptOnCreate",
            "UpdateReplacePolicy": bucket.get("UpdateReplacePolicy") == "Retain",
            "encryption": [
                rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"]
                for rule in encryption.get("ServerSideEncryptionConfiguration", [])
            ]
            == ["AES256"],
            "block of public access": list(
                properties.get("PublicAccessBlockConfiguration", {}).values()
            )
            == [True] * 4,
            "owner of every object": properties.get("OwnershipControls")
            == {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]},
            "lifetime": [
                (rule["Status"], rule.get("ExpirationInDays"), rule.get("Prefix", ""))
                for rule in rules
            ]
            == [("Enabled", DAYS_KEPT, "")],
            "Tags": bool(properties.get("Tags")),
        }
        yield from (f"{name} has no {guard}" for guard, is_kept in kept.items() if not is_kept)


def a_table_can_lose_data(template: Template) -> Iterator[str]:
    for name, table in of_type(template, "AWS::DynamoDB::Table").items():
        if name in TABLES_OF_NO_RECORD:
            continue
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


def a_permission_is_too_wide(template: Template) -> Iterator[str]:
    for path, statement in statements(template):
        if statement.keys() & {"NotAction", "NotResource", "NotPrincipal"}:
            yield f"{path} grants all but what it names"
        if statement["Effect"] == "Deny":
            continue  # A refusal cannot be too wide.
        for action in as_list(statement.get("Action", "*")):
            if "*" in action:
                yield f"{path} has the wildcard action {action}"
        if statement.get("Principal") in ("*", {"AWS": "*"}):
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
            yield f"{name} notifies nobody"
        if properties.get("TreatMissingData") != "notBreaching":
            yield f"{name} takes a quiet stack for a broken one"


def an_alarm_watches_other_stacks(template: Template) -> Iterator[str]:
    for name, alarm in of_type(template, "AWS::CloudWatch::Alarm").items():
        properties = alarm["Properties"]
        if properties["Namespace"].startswith("AWS/"):
            continue  # Its dimension is a resource of this stack.
        dimensions = {d["Name"]: d["Value"] for d in properties["Dimensions"]}
        # Those that the functions emit, and no others: CloudWatch would find no such metric.
        if dimensions.keys() != {"stack", "service"}:
            yield f"{name} watches a metric of {dimensions.keys()}"
        elif dimensions["stack"] != {"Ref": "AWS::StackName"}:
            yield f"{name} watches the stack {dimensions['stack']}"


def something_has_no_alarm(template: Template) -> Iterator[str]:
    watched = {
        (alarm["Properties"]["MetricName"], referred(dimension["Value"]) or dimension["Value"])
        for alarm in of_type(template, "AWS::CloudWatch::Alarm").values()
        for dimension in alarm["Properties"]["Dimensions"]
    }
    needed = {
        ("CompareAndSetRetries", "debit_runs"),
        ("MessagesPostponed", "debit_runs"),
        ("MessagesPostponed", "notify_slack"),
        ("ReloadsOpen", "auto_reload"),
        ("AccountsDrifted", "sweep"),
        ("TeamsNotReported", "sweep"),
        ("RecordsSetAside", "announce"),
        ("RequestsUndecided", "api"),
        ("RequestsFailed", "api"),
    }
    for name in functions(template):
        needed |= {("Errors", name), ("Throttles", name)}
    for name in of_type(template, "AWS::DynamoDB::Table"):
        throttles = {("ReadThrottleEvents", name), ("WriteThrottleEvents", name)}
        needed |= COUNTED_BY_ITS_WRITER.get(name, throttles)
    consumed = {referred(source["Queue"]) for _, source in event_sources(template, "SQS")}
    for name in of_type(template, "AWS::SQS::Queue"):
        age = "ApproximateAgeOfOldestMessage"
        needed.add((age if name in consumed else "ApproximateNumberOfMessagesVisible", name))
    for name, _ in event_sources(template, "DynamoDB"):
        needed |= {("IteratorAge", name), ("DestinationDeliveryFailures", name)}
    needed |= {(GIVEN_UP, mapping) for mapping in stream_mappings(template)}
    yield from (f"{name} has no alarm for {metric}" for metric, name in sorted(needed - watched))


def a_metric_of_a_mapping_is_not_emitted(template: Template) -> Iterator[str]:
    for name, source in event_sources(template, "DynamoDB"):
        if source.get("MetricsConfig") != {"Metrics": ["EventCount"]}:
            yield f"{name} does not count what Lambda gives up on"


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
        for variable, setting in variables.items():
            # What is set only under a condition is empty otherwise.
            value = setting["Fn::If"][1] if "Fn::If" in setting else setting
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


def a_secret_is_written_out(template: Template) -> Iterator[str]:
    for name, secret in of_type(template, "AWS::SecretsManager::Secret").items():
        generated = secret["Properties"].get("GenerateSecretString")
        if "SecretString" in secret["Properties"] or not generated:
            yield f"the template knows what {name} holds"
        elif name in SECRETS_MADE_BY_AWS and generated["SecretStringTemplate"] == "{}":
            continue
        elif "SecretStringTemplate" in generated or not generated.get("ExcludePunctuation"):
            # Letters and digits alone: nothing that begins with `sk_`.
            yield f"the placeholder of {name} could pass for a key"


def a_secret_is_lost_by_a_parameter(template: Template) -> Iterator[str]:
    for name, secret in of_type(template, "AWS::SecretsManager::Secret").items():
        if "Condition" in secret:
            yield f"what was put into {name} is deleted when a parameter turns it off"


def a_permission_is_not_its_own_functions(template: Template) -> Iterator[str]:
    keys = {"dynamodb:LeadingKeys": "false"}
    with_observations = {
        "ForAllValues:StringLike": {"dynamodb:LeadingKeys": ["ACCOUNT#*", "LIMIT#*", "OBSERVED#*"]},
        "Null": keys,
    }
    with_teams = {
        "ForAllValues:StringLike": {"dynamodb:LeadingKeys": ["ACCOUNT#*", "TEAM#*"]},
        "Null": keys,
    }
    of_api = {
        "ForAllValues:StringLike": {
            "dynamodb:LeadingKeys": [
                "ACCOUNT#*",
                "LIMIT#*",
                "TEAM#*",
                "AUDIT#*",
                "OBSERVED#*",
                "BURN#*",
            ]
        },
        "Null": keys,
    }
    of_sweeps = {
        "ForAllValues:StringLike": {
            "dynamodb:LeadingKeys": ["OBSERVED#*", "CHECKPOINT#*", "BURN#*", "SWEEP#*"]
        },
        "Null": keys,
    }
    expected = {
        ("sqs:SendMessage", "ReloadsQueue"): {"AnnounceRole": None, "ApiRole": None},
        ("sqs:SendMessage", "SweepsQueue"): {"SweepRole": None, "SweepSchedulesRole": None},
        ("sqs:ReceiveMessage", "SweepsQueue"): {"SweepRole": None},
        ("sqs:ReceiveMessage", "ReloadsQueue"): {"AutoReloadRole": None},
        ("sqs:ReceiveMessage", "AgentRunsQueue"): {"DebitRunsRole": None},
        ("secretsmanager:GetSecretValue", "StripeSecret"): {"AutoReloadRole": None},
        ("secretsmanager:GetSecretValue", "EventSigningSecret"): {"DebitRunsRole": None},
        ("secretsmanager:GetSecretValue", "SlackSecret"): {"NotifySlackRole": None},
        ("sqs:ReceiveMessage", "SlackQueue"): {"NotifySlackRole": None},
        ("sqs:SendMessage", "SlackQueue"): {
            "SlackQueuePolicy": {"ArnEquals": {"aws:SourceArn": {"Ref": "NoticesTopic"}}}
        },
        ("sns:Publish", "NoticesTopic"): {"AnnounceRole": None},
        ("dynamodb:PutItem", "AccountsTable"): {
            "DebitRunsRole": with_observations,
            "AutoReloadRole": with_teams,
            "ApiRole": of_api,
            "SweepRole": of_sweeps,
        },
        ("dynamodb:Scan", "AccountsTable"): {"SweepRole": None},
    }
    for (action, resource), roles in expected.items():
        if (found := permitted(template, action, resource)) != roles:
            yield f"{action} on {resource} is permitted to {found}"


def a_change_is_not_announced(template: Template) -> Iterator[str]:
    [(_, source)] = event_sources(template, "DynamoDB")
    patterns = [json.loads(f["Pattern"]) for f in source["FilterCriteria"]["Filters"]]
    expected = {
        "eventName": ["INSERT", "MODIFY"],
        "dynamodb": {"Keys": {"pk": {"S": [{"prefix": prefix} for prefix in ANNOUNCED_PREFIXES]}}},
    }
    if patterns != [expected]:
        yield f"the stream is filtered by {patterns}"


def a_row_of_money_may_be_removed(template: Template) -> Iterator[str]:
    removed = {
        name: table["Properties"]["TimeToLiveSpecification"]
        for name, table in of_type(template, "AWS::DynamoDB::Table").items()
        if "TimeToLiveSpecification" in table["Properties"] and name not in TABLES_OF_NO_RECORD
    }
    if removed != {"AccountsTable": {"AttributeName": EXPIRY_ATTRIBUTE, "Enabled": True}}:
        yield f"DynamoDB removes items by {removed}"


def an_event_does_not_survive_waiting(template: Template) -> Iterator[str]:
    receives = template["Parameters"]["MaxReceiveCount"]
    if properties_of(template, "AgentRunsQueue")["RedrivePolicy"]["maxReceiveCount"] != {
        "Ref": "MaxReceiveCount"
    }:
        yield "MaxReceiveCount is not what AgentRunsQueue counts to"
    waiting = receives_while_waiting()
    if receives["MinValue"] < waiting + RECEIVES_FOR_FAULTS_MIN:
        yield f"waiting takes {waiting} receives, and {receives['MinValue']} may be all there are"
    if receives["Default"] < waiting + RECEIVES_FOR_FAULTS_USUAL:
        yield f"waiting takes {waiting} receives, and {receives['Default']} are all there are"
    if str(waiting) not in receives["Description"]:
        yield f"the description does not say that waiting takes {waiting} receives"
    if receives["MaxValue"] > REJECTED_RECEIVES_MAX:
        yield "a refused message may come back for minutes before anybody hears of it"
    if properties_of(template, "AgentRunsQueue")["VisibilityTimeout"] <= WAIT_SECONDS_LONGEST:
        yield "an event that waits comes back later than one that failed"


def an_attempt_to_pay_is_cut_off(template: Template) -> Iterator[str]:
    timeout = properties_of(template, "AutoReload")["Timeout"]
    needed = CALLS_PER_ATTEMPT_MAX * CALL_TIMEOUT_SECONDS + aws_call_seconds_max()
    if timeout < needed:
        yield f"{needed} s of calls do not fit into {timeout} s"


def a_cut_off_attempt_is_repeated_too_late(template: Template) -> Iterator[str]:
    visibility = properties_of(template, "ReloadsQueue")["VisibilityTimeout"]
    timeout = properties_of(template, "AutoReload")["Timeout"]
    if visibility + timeout > DEADLINE_SECONDS:
        yield f"a second attempt ends after {visibility} s + {timeout} s: past the deadline"


def an_open_payment_is_given_up_early(template: Template) -> Iterator[str]:
    queue = properties_of(template, "ReloadsQueue")
    receives = queue["RedrivePolicy"]["maxReceiveCount"]
    if receives > RECEIVES_COUNTED_MAX:
        yield f"SQS counts to {RECEIVES_COUNTED_MAX} and not to {receives}"
    if receives * ASK_AGAIN_SECONDS < ASKED_ABOUT_SECONDS_MIN:
        yield f"an open payment is asked about {receives} times only"
    longest = max(queue["VisibilityTimeout"], ASK_AGAIN_SECONDS_LONGEST)
    if queue["MessageRetentionPeriod"] <= receives * longest:
        yield "a reload may be forgotten before it is set aside"


def several_reloads_wait_for_one(template: Template) -> Iterator[str]:
    for name, source in event_sources(template, "SQS"):
        if referred(source["Queue"]) == "ReloadsQueue" and source.get("BatchSize") != 1:
            yield f"{name} takes several reloads at once, and its timeout is for one"


def an_alarm_about_reloads_is_late(template: Template) -> Iterator[str]:
    late = properties_of(template, "ReloadsLateAlarm")
    if late["Threshold"] != DEADLINE_SECONDS:
        yield "ReloadsLateAlarm has another idea of the deadline than the code"
    is_open = properties_of(template, "ReloadsOpenAlarm")
    if is_open["Period"] * is_open["EvaluationPeriods"] >= DEADLINE_SECONDS:
        yield "ReloadsOpenAlarm comes when the runs have failed already"
    if is_open["Period"] <= ASK_AGAIN_SECONDS:
        yield "ReloadsOpenAlarm would see a minute in which nobody asked"


def a_sweep_forks_or_stops(template: Template) -> Iterator[str]:
    queue = properties_of(template, "SweepsQueue")
    timeout = properties_of(template, "Sweep")["Timeout"]
    if queue["VisibilityTimeout"] + timeout >= DEDUPLICATED_SECONDS:
        yield "a step that crashed sends the next one again when SQS no longer drops the repeat"
    if queue["RedrivePolicy"]["maxReceiveCount"] <= STEP_ATTEMPTS_MAX + 1:
        yield "a step that fails has no attempt left to be taken apart"
    for name, source in event_sources(template, "SQS"):
        if referred(source["Queue"]) == "SweepsQueue" and source.get("BatchSize") != 1:
            yield f"{name} takes several steps at once, and answers for one"
    for name, schedule in of_type(template, "AWS::Scheduler::Schedule").items():
        target = schedule["Properties"]["Target"]
        step = parse_sweep_message(target["Input"], FIRST_OF_MONTH)
        if target["SqsParameters"]["MessageGroupId"] != step.group:
            yield f"{name} begins a sweep beside the one of its kind that is under way"


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


def test_what_was_set_aside_is_safe_and_forgotten_in_time(template: Template) -> None:
    assert list(a_bucket_is_open_or_forgets_nothing(template)) == []


def test_lambda_counts_what_it_gives_up_on(template: Template) -> None:
    assert list(a_metric_of_a_mapping_is_not_emitted(template)) == []


def test_lambda_sets_aside_in_the_bucket_and_its_count_has_an_alarm(
    template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    translated = translate(template)["Resources"]
    (alarm,) = [
        resource["Properties"]
        for resource in translated.values()
        if resource["Type"] == "AWS::CloudWatch::Alarm"
        and resource["Properties"]["MetricName"] == GIVEN_UP
    ]

    (dimension,) = alarm["Dimensions"]
    assert dimension["Name"] == "EventSourceMappingUUID"
    mapping = translated[dimension["Value"]["Ref"]]
    assert mapping["Type"] == "AWS::Lambda::EventSourceMapping"
    assert mapping["Properties"]["DestinationConfig"] == {
        "OnFailure": {"Destination": {"Fn::GetAtt": ["AnnounceFailuresBucket", "Arn"]}}
    }
    assert mapping["Properties"]["MetricsConfig"] == {"Metrics": ["EventCount"]}


def test_no_table_can_lose_data_by_a_deployment(template: Template) -> None:
    assert list(a_table_can_lose_data(template)) == []


def test_every_queue_and_topic_is_encrypted(template: Template) -> None:
    assert list(messages_lie_in_the_clear(template)) == []


def test_no_statement_has_a_wildcard_action_or_an_unscoped_resource(template: Template) -> None:
    assert list(a_permission_is_too_wide(template)) == []


def test_every_permission_of_a_function_is_in_the_template(template: Template) -> None:
    assert list(a_role_is_not_written_out(template)) == []


def test_deploying_needs_no_capability_but_iam(template: Template) -> None:
    assert list(an_iam_resource_has_a_name(template)) == []


def test_every_function_logs_to_a_group_with_retention(template: Template) -> None:
    assert list(logs_are_kept_for_ever(template)) == []


def test_every_alarm_notifies_somebody_and_says_what_to_do(template: Template) -> None:
    assert list(an_alarm_is_of_no_use(template)) == []


def test_every_alarm_watches_its_own_stack(template: Template) -> None:
    assert list(an_alarm_watches_other_stacks(template)) == []


def test_every_function_table_and_queue_is_watched(template: Template) -> None:
    assert list(something_has_no_alarm(template)) == []


def test_the_outputs_are_those_of_the_contract(template: Template) -> None:
    assert list(outputs_differ_from_the_contract(template)) == []


def test_every_parameter_and_output_is_described(template: Template) -> None:
    assert list(something_is_not_described(template)) == []


def test_every_resource_that_a_variable_names_exists(template: Template) -> None:
    assert list(a_variable_names_no_resource(template)) == []


def test_the_layer_follows_the_runtime_of_the_functions(template: Template) -> None:
    assert list(the_layer_is_built_for_another_runtime(template)) == []


def test_no_parameter_deletes_a_secret(template: Template) -> None:
    assert list(a_secret_is_lost_by_a_parameter(template)) == []


def test_no_secret_is_written_out(template: Template) -> None:
    assert list(a_secret_is_written_out(template)) == []


def test_each_permission_is_the_one_functions_that_needs_it(template: Template) -> None:
    assert list(a_permission_is_not_its_own_functions(template)) == []


def test_changes_of_accounts_and_of_teams_are_announced(template: Template) -> None:
    assert list(a_change_is_not_announced(template)) == []


def test_only_observations_are_ever_removed(template: Template) -> None:
    assert list(a_row_of_money_may_be_removed(template)) == []


def test_an_event_survives_waiting_for_a_whole_reload_and_some_faults(template: Template) -> None:
    assert list(an_event_does_not_survive_waiting(template)) == []


def test_all_calls_of_an_attempt_to_pay_fit_into_its_timeout(template: Template) -> None:
    assert list(an_attempt_to_pay_is_cut_off(template)) == []


def test_an_attempt_that_was_cut_off_is_repeated_within_the_deadline(template: Template) -> None:
    assert list(a_cut_off_attempt_is_repeated_too_late(template)) == []


def test_an_open_payment_is_asked_about_for_hours_and_never_forgotten(template: Template) -> None:
    assert list(an_open_payment_is_given_up_early(template)) == []


def test_reloads_are_carried_out_one_at_a_time(template: Template) -> None:
    assert list(several_reloads_wait_for_one(template)) == []


def test_alarms_about_reloads_come_in_time(template: Template) -> None:
    assert list(an_alarm_about_reloads_is_late(template)) == []


def test_a_sweep_neither_forks_nor_stops(template: Template) -> None:
    assert list(a_sweep_forks_or_stops(template)) == []


def test_a_rotated_key_is_known_while_a_reload_can_still_succeed(template: Template) -> None:
    asked_again = SECRET_TTL.total_seconds() + ASK_AGAIN_SECONDS

    assert asked_again + properties_of(template, "AutoReload")["Timeout"] < DEADLINE_SECONDS


def test_the_figures_in_the_template_are_those_of_the_code() -> None:
    assert receives_while_waiting() == 14
    assert (CALLS_PER_ATTEMPT_MAX, CALL_TIMEOUT_SECONDS, aws_call_seconds_max()) == (4, 6, 12)
    assert (DEADLINE_SECONDS, ASK_AGAIN_SECONDS) == (300, 15)


def test_a_holder_of_send_events_may_send_events_and_nothing_else(template: Template) -> None:
    [statement] = template["Resources"]["SendEvents"]["Properties"]["PolicyDocument"]["Statement"]

    assert statement["Effect"] == "Allow"
    assert statement["Action"] == "sqs:SendMessage"
    assert referred(statement["Resource"]) == "AgentRunsQueue"


def test_sam_adds_no_role_and_no_policy_of_its_own(
    template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")

    translated = translate(template)

    iam = ("AWS::IAM::Role", "AWS::IAM::ManagedPolicy", "AWS::IAM::Policy")
    assert of_type(translated, *iam) == of_type(template, *iam)


# The guards can fail.

REMOVED = object()

DEBIT_RUNS: Path = ("Resources", "DebitRuns", "Properties")
AGENT_RUNS: Path = (*DEBIT_RUNS, "Events", "AgentRuns", "Properties")
ANNOUNCE: Path = ("Resources", "Announce", "Properties")
CHANGES: Path = (*ANNOUNCE, "Events", "AccountChanges", "Properties")
BUCKET: Path = ("Resources", "AnnounceFailuresBucket")
QUEUE: Path = ("Resources", "AgentRunsQueue", "Properties")
DEAD_LETTERS: Path = ("Resources", "AgentRunsDeadLetterQueue", "Properties")
ACCOUNTS: Path = ("Resources", "AccountsTable", "Properties")
LEDGER: Path = ("Resources", "LedgerTable")
DEBIT_RUNS_ROLE: Path = ("Resources", "DebitRunsRole", "Properties")
RECEIVE: Path = (*DEBIT_RUNS_ROLE, "Policies", 0, "PolicyDocument", "Statement", 0)
COMMIT: Path = (*DEBIT_RUNS_ROLE, "Policies", 0, "PolicyDocument", "Statement", 2)
QUEUE_POLICY: Path = ("Resources", "QueuesPolicy", "Properties", "PolicyDocument")
TOPIC_POLICY: Path = ("Resources", "AlarmsTopicPolicy", "Properties", "PolicyDocument")
KEY: Path = ("Resources", "TopicsKey", "Properties")
SEND_EVENTS: Path = ("Resources", "SendEvents", "Properties")
ALARM: Path = ("Resources", "ContentionAlarm", "Properties")
RELOADS: Path = ("Resources", "ReloadsQueue", "Properties")
AUTO_RELOAD: Path = ("Resources", "AutoReload", "Properties")
AUTO_RELOAD_ROLE: Path = ("Resources", "AutoReloadRole", "Properties")
SPENDING: Path = (*AUTO_RELOAD_ROLE, "Policies", 0, "PolicyDocument", "Statement", 2)
SECRET: Path = ("Resources", "StripeSecret", "Properties")
RECEIVES: Path = ("Parameters", "MaxReceiveCount")

SWEEPS: Path = ("Resources", "SweepsQueue", "Properties")
SWEEP: Path = ("Resources", "Sweep", "Properties")
DAILY: Path = ("Resources", "ReconciliationDaily", "Properties", "Target")

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
    (
        a_stream_failure_is_dropped,
        (*CHANGES, "DestinationConfig", "OnFailure", "Destination"),
        {"Fn::GetAtt": ["SweepsDeadLetterQueue", "Arn"]},
    ),
    (a_metric_of_a_mapping_is_not_emitted, (*CHANGES, "MetricsConfig"), REMOVED),
    (a_bucket_is_open_or_forgets_nothing, (*BUCKET, "DeletionPolicy"), "Delete"),
    (a_bucket_is_open_or_forgets_nothing, (*BUCKET, "UpdateReplacePolicy"), REMOVED),
    (a_bucket_is_open_or_forgets_nothing, (*BUCKET, "Properties", "BucketEncryption"), REMOVED),
    (
        a_bucket_is_open_or_forgets_nothing,
        (*BUCKET, "Properties", "PublicAccessBlockConfiguration", "BlockPublicPolicy"),
        False,
    ),
    (a_bucket_is_open_or_forgets_nothing, (*BUCKET, "Properties", "OwnershipControls"), REMOVED),
    (
        a_bucket_is_open_or_forgets_nothing,
        (*BUCKET, "Properties", "LifecycleConfiguration", "Rules", 0, "Status"),
        "Disabled",
    ),
    (
        a_bucket_is_open_or_forgets_nothing,
        (*BUCKET, "Properties", "LifecycleConfiguration", "Rules", 0, "ExpirationInDays"),
        REMOVED,
    ),
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
    (a_permission_is_too_wide, (*RECEIVE, "Action"), "sqs:*"),
    (a_permission_is_too_wide, (*RECEIVE, "Action"), ["sqs:Receive*"]),
    (a_permission_is_too_wide, (*RECEIVE, "Action"), REMOVED),
    (a_permission_is_too_wide, (*RECEIVE, "NotAction"), "sqs:PurgeQueue"),
    (a_permission_is_too_wide, (*RECEIVE, "Resource"), "*"),
    (a_permission_is_too_wide, (*RECEIVE, "Resource"), REMOVED),
    (a_permission_is_too_wide, (*RECEIVE, "Resource"), {"Fn::Sub": "arn:aws:sqs:::*"}),
    (a_permission_is_too_wide, (*COMMIT, "Condition", "Null"), REMOVED),
    (a_permission_is_too_wide, (*QUEUE_POLICY, "Statement", 0, "Effect"), "Allow"),
    (a_permission_is_too_wide, (*TOPIC_POLICY, "Statement", 0, "Action"), "sns:*"),
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
    (an_alarm_watches_other_stacks, (*ALARM, "Dimensions", 0), REMOVED),
    (an_alarm_watches_other_stacks, (*ALARM, "Dimensions", 0, "Value"), "agent-credits"),
    (something_has_no_alarm, ("Resources", "ContentionAlarm"), REMOVED),
    (something_has_no_alarm, ("Resources", "NoticesFailedAlarm"), REMOVED),
    (something_has_no_alarm, ("Resources", "ApiUndecidedAlarm"), REMOVED),
    (something_has_no_alarm, ("Resources", "NoticesGivenUpAlarm"), REMOVED),
    (something_has_no_alarm, ("Resources", "NoticesLostAlarm"), REMOVED),
    (something_has_no_alarm, ("Resources", "EventsDeadLetteredAlarm"), REMOVED),
    (something_has_no_alarm, ("Resources", "EventsPostponedAlarm"), REMOVED),
    (something_has_no_alarm, ("Resources", "SlackPostponedAlarm"), REMOVED),
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
        a_variable_names_no_resource,
        (*AUTO_RELOAD, "Environment", "Variables", "STRIPE_SECRET_ARN"),
        "sk_live_written_out",
    ),
    (visibility_is_too_short, (*RELOADS, "VisibilityTimeout"), 239),
    (visibility_is_too_short, (*AUTO_RELOAD, "Timeout"), 41),
    (
        a_queue_has_no_dead_letter_queue,
        ("Resources", "ReloadsDeadLetterQueue", "Properties", "FifoQueue"),
        REMOVED,
    ),
    (something_has_no_alarm, ("Resources", "ReloadsOpenAlarm"), REMOVED),
    (something_has_no_alarm, ("Resources", "ReloadsDeadLetteredAlarm"), REMOVED),
    (something_has_no_alarm, ("Resources", "ReloadsLateAlarm"), REMOVED),
    (
        a_secret_is_lost_by_a_parameter,
        ("Resources", "SlackSecret", "Condition"),
        "HasSlackNotices",
    ),
    (a_secret_is_written_out, (*SECRET, "SecretString"), "sk_live_written_out"),
    (a_secret_is_written_out, (*SECRET, "GenerateSecretString"), REMOVED),
    (a_secret_is_written_out, (*SECRET, "GenerateSecretString", "ExcludePunctuation"), False),
    (a_permission_is_not_its_own_functions, (*SPENDING, "Condition"), REMOVED),
    (
        a_permission_is_not_its_own_functions,
        (*COMMIT, "Condition", "ForAllValues:StringLike", "dynamodb:LeadingKeys"),
        ["ACCOUNT#*", "TEAM#*"],
    ),
    (
        a_permission_is_not_its_own_functions,
        (*SEND_EVENTS, "PolicyDocument", "Statement", 0, "Resource"),
        {"Fn::GetAtt": ["ReloadsQueue", "Arn"]},
    ),
    (a_change_is_not_announced, (*CHANGES, "FilterCriteria", "Filters"), []),
    (
        a_change_is_not_announced,
        (*CHANGES, "FilterCriteria", "Filters", 0, "Pattern"),
        '{"dynamodb": {"Keys": {"pk": {"S": [{"prefix": "ACCOUNT#"}]}}}}',
    ),
    (a_row_of_money_may_be_removed, (*ACCOUNTS, "TimeToLiveSpecification"), REMOVED),
    (
        a_row_of_money_may_be_removed,
        (*ACCOUNTS, "TimeToLiveSpecification", "AttributeName"),
        "version",
    ),
    (
        a_row_of_money_may_be_removed,
        (*LEDGER, "Properties", "TimeToLiveSpecification"),
        {"AttributeName": "expires_at", "Enabled": True},
    ),
    (an_event_does_not_survive_waiting, (*RECEIVES, "MinValue"), 15),
    (an_event_does_not_survive_waiting, (*RECEIVES, "Default"), 18),
    (an_event_does_not_survive_waiting, (*RECEIVES, "MaxValue"), 1_000),
    (an_event_does_not_survive_waiting, (*RECEIVES, "Description"), "some receives"),
    (an_event_does_not_survive_waiting, (*QUEUE, "RedrivePolicy", "maxReceiveCount"), 5),
    (an_event_does_not_survive_waiting, (*QUEUE, "VisibilityTimeout"), 30),
    (an_attempt_to_pay_is_cut_off, (*AUTO_RELOAD, "Timeout"), 35),
    (a_cut_off_attempt_is_repeated_too_late, (*AUTO_RELOAD, "Timeout"), 61),
    (a_cut_off_attempt_is_repeated_too_late, (*RELOADS, "VisibilityTimeout"), 300),
    (an_open_payment_is_given_up_early, (*RELOADS, "RedrivePolicy", "maxReceiveCount"), 900),
    (an_open_payment_is_given_up_early, (*RELOADS, "RedrivePolicy", "maxReceiveCount"), 1_001),
    (an_open_payment_is_given_up_early, (*RELOADS, "MessageRetentionPeriod"), 172_800),
    (
        several_reloads_wait_for_one,
        (*AUTO_RELOAD, "Events", "Reloads", "Properties", "BatchSize"),
        10,
    ),
    (
        an_alarm_about_reloads_is_late,
        ("Resources", "ReloadsLateAlarm", "Properties", "Threshold"),
        600,
    ),
    (
        an_alarm_about_reloads_is_late,
        ("Resources", "ReloadsOpenAlarm", "Properties", "EvaluationPeriods"),
        5,
    ),
    (
        an_alarm_about_reloads_is_late,
        ("Resources", "ReloadsOpenAlarm", "Properties", "Period"),
        10,
    ),
    (a_sweep_forks_or_stops, (*SWEEPS, "VisibilityTimeout"), 260),
    (a_sweep_forks_or_stops, (*SWEEPS, "RedrivePolicy", "maxReceiveCount"), 3),
    (a_sweep_forks_or_stops, (*SWEEP, "Events", "Sweeps", "Properties", "BatchSize"), 10),
    (a_sweep_forks_or_stops, (*DAILY, "SqsParameters", "MessageGroupId"), "another"),
    (something_has_no_alarm, ("Resources", "DriftAlarm"), REMOVED),
    (something_has_no_alarm, ("Resources", "TeamsNotReportedAlarm"), REMOVED),
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
