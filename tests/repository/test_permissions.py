"""Each role allows what its function's code calls, and nothing else: derived from the code."""

import pytest

from tests.permissions import ROOT, Permission, allowed, called
from tests.template import Template, load_template

FUNCTIONS = [
    name
    for name, resource in load_template()["Resources"].items()
    if resource["Type"] == "AWS::Serverless::Function"
]
RUN_QUEUE = ROOT / "shared" / "agent_credits" / "aws" / "run_queue.py"
ROWS = ROOT / "shared" / "agent_credits" / "aws" / "dynamodb_rows.py"
ANNOUNCE = ROOT / "functions" / "announce" / "app.py"

# What the code could call and never does, by function, with the reason that its data gives.
NEVER_CALLED: dict[str, dict[Permission, str]] = {
    "AutoReload": {
        ("dynamodb:Query", "LedgerTable"): (
            "a commit reads a run only for a change of a run, and these are purchases"
        ),
    },
}


@pytest.fixture
def template() -> Template:
    return load_template()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_role_allows_what_its_function_calls(template: Template, function: str) -> None:
    missing = called(template, function) - allowed(template, function)

    # Exactly: what is excused here without need would hide the next one.
    assert missing == NEVER_CALLED.get(function, {}).keys()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_role_allows_nothing_that_its_function_does_not_call(
    template: Template, function: str
) -> None:
    spare = allowed(template, function) - called(template, function)

    assert spare == set()


def test_what_is_derived_is_what_the_functions_are_known_to_call(template: Template) -> None:
    debits, announces = called(template, "DebitRuns"), called(template, "Announce")

    assert {
        ("dynamodb:GetItem", "AccountsTable"),
        ("dynamodb:PutItem", "AccountsTable"),
        ("dynamodb:BatchGetItem", "LedgerTable"),
        ("dynamodb:PartiQLInsert", "LedgerTable"),
        ("sqs:ChangeMessageVisibility", "AgentRunsQueue"),
    } <= debits
    assert {("sns:Publish", "NoticesTopic"), ("kms:Decrypt", "TopicsKey")} <= announces
    # What only the operator's command line calls.
    assert ("dynamodb:Scan", "AccountsTable") not in debits


# A call more or less in the code, and the permission that it needs.
CHANGES_OF_CODE: list[tuple[str, str, str, Permission]] = [
    (
        "DebitRuns",
        "self._client.change_message_visibility_batch(",
        "self._client.purge_queue(",
        ("sqs:PurgeQueue", "AgentRunsQueue"),
    ),
    (
        "DebitRuns",
        "response = self._client.get_item(",
        "response = self._client.update_item(",
        ("dynamodb:UpdateItem", "AccountsTable"),
    ),
    (
        "AutoReload",
        'INSERT INTO "{table}"',
        'DELETE FROM "{table}"',
        ("dynamodb:PartiQLDelete", "LedgerTable"),
    ),
]


@pytest.mark.parametrize(("function", "text", "instead", "needed"), CHANGES_OF_CODE)
def test_a_call_without_its_permission_is_noticed(
    template: Template, function: str, text: str, instead: str, needed: Permission
) -> None:
    sources = {path: path.read_text() for path in (RUN_QUEUE, ROWS)}
    changed = {path: source.replace(text, instead) for path, source in sources.items()}
    assert changed != sources

    missing = called(template, function, changed) - allowed(template, function)

    assert missing == {needed} | NEVER_CALLED.get(function, {}).keys()


def test_a_permission_whose_call_is_gone_is_noticed(template: Template) -> None:
    source = ANNOUNCE.read_text()
    changed = source.replace("ReloadQueue(sqs_client()", "ReloadQueue(client()")
    assert changed != source

    spare = allowed(template, "Announce") - called(template, "Announce", {ANNOUNCE: changed})

    assert spare == {("sqs:SendMessage", "ReloadsQueue")}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_each_statement_of_a_role_is_needed_and_none_is_spare(function: str) -> None:
    template = load_template()
    needed, excused = called(template, function), NEVER_CALLED.get(function, {}).keys()
    role = template["Resources"][function]["Properties"]["Role"]["Fn::GetAtt"][0]
    statements = template["Resources"][role]["Properties"]["Policies"][0]["PolicyDocument"][
        "Statement"
    ]

    for number in range(len(statements)):
        taken = statements.pop(number)
        assert needed - allowed(template, function) - excused, f"{taken['Sid']} is not needed"
        statements.insert(number, taken)
    statements.append({**statements[0], "Action": "any:ThingMore"})
    assert {action for action, _ in allowed(template, function) - needed} == {"any:ThingMore"}
