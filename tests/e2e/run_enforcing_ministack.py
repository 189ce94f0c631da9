"""Runs MiniStack so that it enforces IAM, put right where it asks otherwise than AWS does.

`run_enforcing_ministack.py FILE ACTIONS` writes each question that a role's request raised into the
file, a line of JSON each: who asked for which action on which resource, the answer, and the
request, so that it can be made again. ACTIONS is a JSON object: the actions that IAM asks for where
they are not called like the operation. The program runs on its own in .tools/ministack, at a pinned
version; what is put right here fails at the start if that version has moved it.

What MiniStack asks otherwise:

- batches of SQS by names that IAM does not know;
- statements of PartiQL by the operation that carries them, without their table;
- calls to a stream or a log group without the stream, or with the group's name alone;
- `dynamodb:LeadingKeys` and `aws:PrincipalIsAWSService`, not at all.

It also takes every request for one over TLS, which the loopback of one machine does without.
"""

import contextvars
import json
import os
import re
import sys

from ministack import app
from ministack.core import iam_actions, iam_evaluator
from ministack.services import dynamodb, dynamodb_streams

TRANSACTIONS = {"dynamodb:TransactWriteItems", "dynamodb:TransactGetItems"}
STATEMENTS = {"dynamodb:ExecuteStatement", "dynamodb:BatchExecuteStatement"}
STATEMENT = re.compile(r'(INSERT)\s+INTO\s+"([^"]+)"|(SELECT)\b.*?\bFROM\s+"([^"]+)"', re.DOTALL)
QUERIED_KEY = re.compile(r"^\s*(#?\w+)\s*=\s*(:\w+)")

# The request that is being answered.
asking = contextvars.ContextVar("asking", default=None)
as_it_comes = {
    "action": iam_actions.extract_iam_action,
    "condition_key": iam_evaluator._resolve_condition_key,
    "enforce": iam_evaluator.enforce,
    "origin": app.pin_request_origin,
    "resource": iam_actions.extract_resource_arn,
    "table_context": iam_actions.dynamodb_service_context,
    "transaction": iam_actions.dynamodb_transaction_checks,
}


def action_of(service, method, path, headers, body, query_params):
    """Return the action of a request, and remember the request."""
    kept = {name: headers[name] for name in ("content-type", "x-amz-target") if name in headers}
    asking.set(
        {"method": method, "path": path, "headers": kept, "body": body.decode(errors="replace")}
    )
    action = as_it_comes["action"](service, method, path, headers, body, query_params)
    # The emulator checks each item of a transaction by itself.
    return action if action in TRANSACTIONS else action_of_operation.get(action, action)


def resource_of(service, method, path, headers, body, query_params, region, account_id):
    """Return the ARN that a request is about."""
    arn = as_it_comes["resource"](
        service, method, path, headers, body, query_params, region, account_id
    )
    if service == "dynamodbstreams":
        asked = json.loads(body)
        if "ShardIterator" in asked:
            return dynamodb_streams._decode_iterator(asked["ShardIterator"])["arn"]
        if "TableName" in asked:
            return dynamodb_streams._enabled_stream_info(asked["TableName"])["StreamArn"]
        return asked.get("StreamArn", "*")
    if service == "logs" and arn != "*":
        return f"{arn}:log-stream:{json.loads(body).get('logStreamName', '')}"
    return arn


def checks_of_statements(action, body, region, account_id):
    """Return the action and the table of each statement of PartiQL, or of a transaction's items."""
    if action not in STATEMENTS:
        return as_it_comes["transaction"](action, body, region, account_id)
    asked = json.loads(body)
    checks = []
    for statement in asked.get("Statements", [asked]):
        verb, table = filter(None, STATEMENT.match(statement["Statement"]).groups())
        arn = iam_actions._dynamodb_table_arn(table, region, account_id)
        checks.append((f"dynamodb:PartiQL{verb.capitalize()}", arn))
    return checks


def table_context(body):
    """Return the condition keys of a request to DynamoDB, with those of the items it names."""
    context = as_it_comes["table_context"](body)
    keys = sorted(set(leading_keys(json.loads(body or b"{}"))))
    return {**context, "dynamodb:LeadingKeys": keys} if keys else context


def leading_keys(asked):
    for item in asked.get("TransactItems", ()):
        for part in item.values():
            yield from leading_keys(part)
    items = asked.get("RequestItems")
    for table, requests in items.items() if items else [(asked.get("TableName"), asked)]:
        if table not in dynamodb._tables:
            continue
        (key,) = [k for k in dynamodb._tables[table]["KeySchema"] if k["KeyType"] == "HASH"]
        name = key["AttributeName"]
        if "KeyConditionExpression" in requests:
            attribute, value = QUERIED_KEY.match(requests["KeyConditionExpression"]).groups()
            named = requests.get("ExpressionAttributeNames", {}).get(attribute, attribute)
            assert named == name, f"the query does not begin with {name}"
            yield from requests["ExpressionAttributeValues"][value].values()
            continue
        named = requests.get("Keys", [requests.get("Key") or requests.get("Item") or {}])
        for item in named:
            if name in item:
                yield from item[name].values()


def condition_key(key, context):
    if key.lower() == "aws:principalisawsservice":
        return str(context.principal_type == "Service").lower()
    return as_it_comes["condition_key"](key, context)


def pin_origin(source_ip, _is_over_tls):
    as_it_comes["origin"](source_ip, True)


def enforce(access_key_id, iam_action, service, region, resource_arn="*", service_context=None):
    refusal = as_it_comes["enforce"](
        access_key_id, iam_action, service, region, resource_arn, service_context
    )
    caller = iam_evaluator.caller_arn()
    if ":assumed-role/" in caller:
        question = {
            "role": caller.split("/")[1],
            "action": iam_action,
            "arn": resource_arn,
            "is_allowed": refusal is None,
            "request": asking.get(),
        }
        # One write, so that no two lines are mixed.
        os.write(answers, json.dumps(question).encode() + b"\n")
    return refusal


if __name__ == "__main__":
    action_of_operation = json.loads(sys.argv.pop())
    answers = os.open(sys.argv.pop(), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    iam_actions.extract_iam_action = action_of
    iam_actions.extract_resource_arn = resource_of
    iam_actions.dynamodb_transaction_checks = checks_of_statements
    iam_actions.dynamodb_service_context = table_context
    iam_evaluator._resolve_condition_key = condition_key
    iam_evaluator.enforce = enforce
    iam_evaluator._request_origin = contextvars.ContextVar("origin", default=("127.0.0.1", True))
    app.pin_request_origin = pin_origin
    app.AUTH = True
    app.main()
