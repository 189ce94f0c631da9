import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber
from msgspec.structs import replace

import agent_credits.aws.backoff
from agent_credits.aws.dynamodb_rows import (
    BATCH_GET_KEYS_MAX,
    BATCH_ROUNDS_MAX,
    BATCH_STATEMENTS_MAX,
    WORTH_REPEATING,
    DynamoDBRows,
)
from agent_credits.aws.items import (
    account_item,
    observation_item,
    observation_key,
    page_item,
    receipt_items,
    receipt_key,
)
from agent_credits.commit.write_protocol import commit
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Page
from agent_credits.values.errors import AgentCreditsError, RowNotUnderstood, RowsUnavailable
from tests.conformance.samples import full_account, model_provider_error
from tests.integration.stack_tables import StackTables
from tests.memory_rows import MemoryRows
from tests.unit.builders import (
    ACME,
    ANA,
    BEN,
    BIGCORP_TEAM,
    NOW,
    POLICY,
    finished,
    grant_change,
    history,
    open_account,
    pause,
    remaining_by_grant,
    remaining_on,
    run_changes,
    usage,
)

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


def page_of(count: int, number: int = 1) -> Page:
    """Return a page after a commit of this many events."""
    rows = MemoryRows()
    open_account(rows, grant_change("g-1", credits="10000"))
    changes = run_changes(*[usage(f"e{n}") for n in range(count)])
    account = commit(rows, ANA, changes, now=NOW, pause=pause).account
    return Page(ANA, number, account.entries[1:])


def test_an_observation_lies_in_the_table_whose_changes_are_announced(
    rows: DynamoDBRows, dynamodb: "DynamoDBClient", tables: StackTables
) -> None:
    observation = model_provider_error("run-1")

    rows.put_observation(observation, NOW)

    key = observation_key(observation)
    there = dynamodb.get_item(TableName=tables.accounts, Key=key)["Item"]
    assert there == observation_item(observation, NOW)


def test_lists_of_accounts_and_teams_exclude_observations(
    rows: DynamoDBRows,
) -> None:
    rows.put_observation(model_provider_error("run-1"), NOW)

    assert list(rows.list_accounts()) == []
    assert list(rows.list_teams()) == []


def test_a_missing_row_is_read_as_none(rows: DynamoDBRows) -> None:
    assert rows.read_account(ANA) is None
    assert rows.read_team("acme") is None
    assert rows.read_policy("1") is None
    assert list(rows.read_run("run-1")) == []
    assert rows.read_receipts([]) == {}


def test_a_row_is_written_only_over_the_version_before_it(rows: DynamoDBRows) -> None:
    first = full_account(ANA)
    second = replace(first, version=2)

    assert rows.compare_and_set(first) is None
    assert rows.compare_and_set(second) is None
    assert rows.compare_and_set(replace(second, grants=())) == second
    assert rows.compare_and_set(replace(first, grants=())) == second
    assert rows.compare_and_set(replace(first, version=4)) == second
    assert rows.read_account(ANA) == second


def test_only_one_can_open_an_account(rows: DynamoDBRows) -> None:
    winner = full_account(ANA)

    rows.compare_and_set(winner)

    assert rows.compare_and_set(Account(ANA, version=1)) == winner


def test_a_row_that_was_deleted_meanwhile_is_a_fault_and_no_commit(
    rows: DynamoDBRows, dynamodb: "DynamoDBClient", tables: StackTables
) -> None:
    rows.compare_and_set(Account(ANA, version=1))
    dynamodb.delete_item(TableName=tables.accounts, Key={"pk": {"S": "ACCOUNT#user:ana"}})

    with pytest.raises(AgentCreditsError):
        rows.compare_and_set(Account(ANA, version=2))


@pytest.mark.parametrize(
    "item",
    [
        {"version": {"N": "1"}},
        {"version": {"N": "1"}, "settings": {"S": '{"team_id": "acme", "colour": "red"}'}},
        {"version": {"N": "1"}, "settings": {"S": "{"}},
    ],
    ids=["attribute missing", "written by a later version", "not JSON"],
)
def test_a_row_that_cannot_be_read_raises_our_own_error(
    item: dict[str, Any], rows: DynamoDBRows, dynamodb: "DynamoDBClient", tables: StackTables
) -> None:
    # Any other error would end the whole invocation, and with it every neighbour in the batch.
    dynamodb.put_item(TableName=tables.accounts, Item={"pk": {"S": "TEAM#acme"}, **item})
    dynamodb.put_item(TableName=tables.accounts, Item={"pk": {"S": "ACCOUNT#user:ana"}, **item})

    with pytest.raises(AgentCreditsError):
        rows.read_team("acme")
    with pytest.raises(AgentCreditsError):
        rows.read_account(ANA)


def test_putting_a_policy_over_one_that_cannot_be_read_raises_our_own_error(
    rows: DynamoDBRows, dynamodb: "DynamoDBClient", tables: StackTables
) -> None:
    dynamodb.put_item(
        TableName=tables.accounts,
        Item={"pk": {"S": f"POLICY#{POLICY.version}"}, "policy": {"S": '{"colour": "red"}'}},
    )

    with pytest.raises(RowNotUnderstood, match=f"^POLICY#{POLICY.version}: ValidationError$"):
        rows.put_policy(POLICY)


@pytest.mark.parametrize(
    "count", [1, BATCH_STATEMENTS_MAX - 1, BATCH_STATEMENTS_MAX, BATCH_GET_KEYS_MAX + 1, 200]
)
def test_a_page_of_any_size_is_put_with_a_receipt_for_each_entry(
    count: int, rows: DynamoDBRows
) -> None:
    page = page_of(count)

    rows.put_page(page)

    receipts = rows.read_receipts([entry.identity for entry in page.entries])
    assert {i: r.entry for i, r in receipts.items()} == {e.identity: e for e in page.entries}
    assert {(r.principal, r.page_number) for r in receipts.values()} == {(ANA, 1)}
    assert list(rows.read_pages(ANA)) == [page]


def test_a_page_that_is_put_twice_is_the_same(
    rows: DynamoDBRows, dynamodb: "DynamoDBClient", tables: StackTables
) -> None:
    page = page_of(30)
    rows.put_page(page)
    once = dynamodb.scan(TableName=tables.ledger)["Items"]

    rows.put_page(page)

    again = dynamodb.scan(TableName=tables.ledger)["Items"]
    assert sorted(again, key=str) == sorted(once, key=str)
    assert len(once) == 31


def test_pages_come_back_oldest_first(rows: DynamoDBRows) -> None:
    for number in (10, 2, 1, 9):
        rows.put_page(page_of(1, number))

    assert [page.number for page in rows.read_pages(ANA)] == [1, 2, 9, 10]


def test_a_run_is_read_whole_and_alone(rows: DynamoDBRows) -> None:
    memory = MemoryRows()
    open_account(memory)
    changes = run_changes(usage("a"), usage("b"), usage("c", run="run-10"), finished("d"))
    account = commit(memory, ANA, changes, now=NOW, pause=pause).account
    rows.put_page(account.page)

    ids = [receipt.entry.identity.id for receipt in rows.read_run("run-1")]

    assert sorted(ids) == ["a", "b", "d"]


def test_settings_are_read_back_as_they_were_written(rows: DynamoDBRows) -> None:
    team = ACME.model_copy(update={"version": 1})

    assert rows.compare_and_set_team(team) is None
    assert rows.compare_and_set_team(team.model_copy(update={"plan": "build"})) == team
    assert rows.read_team("acme") == team


def test_a_policy_never_changes_once_it_is_there(rows: DynamoDBRows) -> None:
    other = POLICY.model_copy(update={"grace_days": 7})

    assert rows.put_policy(POLICY) == POLICY
    assert rows.put_policy(other) == POLICY
    assert rows.read_policy(POLICY.version) == POLICY


def test_lists_hold_only_their_own_kind(rows: DynamoDBRows) -> None:
    rows.put_policy(POLICY)
    for team in (ACME, BIGCORP_TEAM):
        rows.compare_and_set_team(team.model_copy(update={"version": 1}))
    for principal in (ANA, BEN):
        rows.compare_and_set(full_account(principal))

    assert {team.team_id for team in rows.list_teams()} == {"acme", "bigcorp"}
    assert {account.principal for account in rows.list_accounts()} == {ANA, BEN}


def test_every_read_is_strongly_consistent(rows: DynamoDBRows, dynamodb: "DynamoDBClient") -> None:
    reads: list[tuple[str, Any]] = []

    def note(params: dict[str, Any], model: Any, **_: Any) -> None:
        if model.name in {"GetItem", "Query", "Scan"}:
            reads.append((model.name, params.get("ConsistentRead")))
        if model.name == "BatchGetItem":
            tables = params["RequestItems"].values()
            reads.extend((model.name, table.get("ConsistentRead")) for table in tables)

    dynamodb.meta.events.register("provide-client-params.dynamodb", note)
    rows.read_account(ANA)
    rows.read_team("acme")
    rows.read_policy("1")
    rows.read_receipts([page_of(1).entries[0].identity])
    list(rows.read_run("run-1"))
    list(rows.read_pages(ANA))
    list(rows.list_accounts())

    assert len(reads) == 7
    assert all(consistent is True for _, consistent in reads)


def test_the_tables_and_memory_commit_the_same(
    rows: DynamoDBRows,
) -> None:
    memory = MemoryRows()
    documents = [usage(f"e{n}", "3.5", run=f"run-{n % 4}") for n in range(30)]
    documents.insert(12, finished("end-1", "error", run="run-1"))
    documents.append(finished("end-2", "error", run="run-2"))
    for port in (memory, rows):
        open_account(port, grant_change("g-1", credits="20"), grant_change("g-2", credits="30"))
        for start in range(0, len(documents), 3):
            changes = run_changes(*documents[start : start + 3])
            commit(port, ANA, changes, now=NOW, pause=pause)

    account = rows.read_account(ANA)

    assert account is not None
    assert remaining_on(account) == remaining_on(memory.accounts[ANA])
    entries = [e for page in rows.read_pages(ANA) for e in page.entries] + [*account.entries]
    assert [(e.identity, e.outcome) for e in entries] == [
        (e.identity, e.outcome) for e in history(memory, ANA)
    ]
    assert remaining_by_grant(entries) == remaining_on(account)


# What no emulator does: throttle, and leave a part of a batch undone.


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waits: list[float] = []
    monkeypatch.setattr(agent_credits.aws.backoff.time, "sleep", waits.append)
    return waits


@pytest.fixture
def stubbed(client: "DynamoDBClient") -> DynamoDBRows:
    return DynamoDBRows(client, "accounts", "ledger")


def receipts_asked_for(page: Page, *numbers: int) -> dict[str, Any]:
    keys = [receipt_key(page.entries[number].identity) for number in numbers]
    return {"ledger": {"Keys": keys, "ConsistentRead": True}}


def test_keys_that_were_left_unread_are_asked_for_again(
    stub: Stubber, stubbed: DynamoDBRows, waits: list[float]
) -> None:
    page = page_of(3)
    items = receipt_items(page)
    stub.add_response(
        "batch_get_item",
        {
            "Responses": {"ledger": [items[0]]},
            "UnprocessedKeys": receipts_asked_for(page, 1, 2),
        },
        {"RequestItems": receipts_asked_for(page, 0, 1, 2)},
    )
    stub.add_response(
        "batch_get_item",
        {"Responses": {"ledger": items[1:]}},
        {"RequestItems": receipts_asked_for(page, 1, 2)},
    )

    receipts = stubbed.read_receipts([entry.identity for entry in page.entries])

    assert len(receipts) == 3
    assert len(waits) == 1


def test_keys_that_stay_unread_are_a_fault_after_a_bounded_number_of_rounds(
    stub: Stubber, stubbed: DynamoDBRows, waits: list[float]
) -> None:
    page = page_of(1)
    for _ in range(BATCH_ROUNDS_MAX):
        unread = receipts_asked_for(page, 0)
        stub.add_response("batch_get_item", {"Responses": {}, "UnprocessedKeys": unread})

    with pytest.raises(RowsUnavailable, match="items not read in 8 rounds"):
        stubbed.read_receipts([page.entries[0].identity])

    assert max(waits) <= agent_credits.aws.backoff.LONGEST_SECONDS


def insertions(page: Page) -> list[dict[str, Any]]:
    """Return the statements that a page's items are inserted by, its receipts after itself."""
    return [
        {
            "Statement": f"""INSERT INTO "ledger" VALUE {{'pk': ?, 'sk': ?, {values}}}""",
            "Parameters": list(item.values()),
        }
        for item, values in [
            (page_item(page), "'entries': ?"),
            *((item, "'account': ?, 'page': ?, 'entry': ?") for item in receipt_items(page)),
        ]
    ]


def failed(code: str) -> dict[str, Any]:
    return {"Error": {"Code": code, "Message": "as DynamoDB puts it"}}


@pytest.mark.parametrize("code", sorted(WORTH_REPEATING))
def test_items_that_were_left_unwritten_are_put_again(
    code: str, stub: Stubber, stubbed: DynamoDBRows, waits: list[float]
) -> None:
    page = page_of(2)
    puts = insertions(page)
    stub.add_response(
        "batch_execute_statement",
        {"Responses": [{}, failed(code), failed(code)]},
        {"Statements": puts},
    )
    stub.add_response("batch_execute_statement", {"Responses": [{}, {}]}, {"Statements": puts[1:]})

    stubbed.put_page(page)

    assert len(waits) == 1


class Refusing:
    """A client that refuses what begins with a page, and takes its time for everything else."""

    def __init__(self) -> None:
        self.ended = 0
        self._refused = threading.Event()

    def batch_execute_statement(self, Statements: list[Any]) -> dict[str, Any]:  # noqa: N803
        if Statements[0]["Parameters"][1]["S"].startswith("PAGE#"):
            self._refused.set()
            raise ClientError({"Error": {"Code": "AccessDeniedException"}}, "BatchExecuteStatement")
        assert self._refused.wait(10)
        time.sleep(0.05)
        self.ended += 1
        return {"Responses": [{}] * len(Statements)}


def test_a_fault_is_raised_only_after_the_other_calls_of_its_batch_have_ended() -> None:
    client: Any = Refusing()

    with pytest.raises(RowsUnavailable, match="AccessDenied"):
        DynamoDBRows(client, "accounts", "ledger").put_page(page_of(2 * BATCH_STATEMENTS_MAX))

    assert client.ended == 2


def test_items_that_an_earlier_attempt_wrote_are_done(
    stub: Stubber, stubbed: DynamoDBRows, waits: list[float]
) -> None:
    page = page_of(2)
    answers = [failed("DuplicateItem"), {}, failed("DuplicateItem")]
    stub.add_response("batch_execute_statement", {"Responses": answers})

    stubbed.put_page(page)

    assert waits == []


@pytest.mark.parametrize("code", ["AccessDenied", "ValidationError", "ResourceNotFound"])
def test_an_item_that_can_never_be_written_is_a_fault_at_once(
    code: str, stub: Stubber, stubbed: DynamoDBRows, waits: list[float]
) -> None:
    stub.add_response("batch_execute_statement", {"Responses": [{}, failed(code)]})

    with pytest.raises(RowsUnavailable, match=f"{code}: as DynamoDB puts it"):
        stubbed.put_page(page_of(1))

    assert waits == []


def test_items_that_stay_unwritten_are_a_fault_after_a_bounded_number_of_rounds(
    stub: Stubber, stubbed: DynamoDBRows, waits: list[float]
) -> None:
    page = page_of(1)
    for left in (2, *[1] * (BATCH_ROUNDS_MAX - 1)):
        answers = [*[{}] * (left - 1), failed("ThrottlingError")]
        stub.add_response("batch_execute_statement", {"Responses": answers})

    with pytest.raises(RowsUnavailable, match="page not written in 8 rounds"):
        stubbed.put_page(page)

    assert len(waits) <= BATCH_ROUNDS_MAX


def test_a_run_of_many_events_is_read_over_all_pages_of_the_answer(
    stub: Stubber, stubbed: DynamoDBRows
) -> None:
    items = receipt_items(page_of(3))
    key = {"pk": items[1]["pk"], "sk": items[1]["sk"]}
    expected = {
        "TableName": "ledger",
        "ConsistentRead": True,
        "KeyConditionExpression": "pk = :pk AND begins_with(sk, :prefix)",
        "ExpressionAttributeValues": {":pk": {"S": "RUN#run-1"}, ":prefix": {"S": "EVENT#"}},
    }
    stub.add_response("query", {"Items": items[:2], "LastEvaluatedKey": key}, expected)
    stub.add_response("query", {"Items": items[2:]}, {**expected, "ExclusiveStartKey": key})

    assert [r.entry.identity.id for r in stubbed.read_run("run-1")] == ["e0", "e1", "e2"]


@pytest.mark.parametrize(
    "code", ["ThrottlingException", "InternalServerError", "RequestLimitExceeded"]
)
def test_a_fault_of_the_service_raises_rows_unavailable(
    code: str, stub: Stubber, stubbed: DynamoDBRows
) -> None:
    page = page_of(1)
    identity = page.entries[0].identity
    calls: list[tuple[str, Any]] = [
        ("get_item", lambda: stubbed.read_account(ANA)),
        ("get_item", lambda: stubbed.read_team("acme")),
        ("get_item", lambda: stubbed.read_policy("1")),
        ("batch_get_item", lambda: stubbed.read_receipts([identity])),
        ("query", lambda: list(stubbed.read_run("run-1"))),
        ("put_item", lambda: stubbed.compare_and_set(Account(ANA, version=1))),
        ("batch_execute_statement", lambda: stubbed.put_page(page)),
    ]
    for operation, call in calls:
        stub.add_client_error(operation, code)

        with pytest.raises(RowsUnavailable) as raised:
            call()

        assert raised.value.__cause__ is not None


def test_a_lost_race_returns_the_row_that_won(stub: Stubber, stubbed: DynamoDBRows) -> None:
    won = full_account(ANA, version=7)
    stub.add_client_error(
        "put_item",
        "ConditionalCheckFailedException",
        modeled_fields={"Item": account_item(won)},
        response_meta={},
    )

    assert stubbed.compare_and_set(Account(ANA, version=6)) == won
