"""The rows in DynamoDB: the calls behind the port of `rows.py`, and the operator's reads.

The ledger is written only by PartiQL's INSERT. It is the only write of DynamoDB that has its own
permission and cannot change an existing item: BatchWriteItem can also delete, and PutItem can
overwrite. So no function has the right to change a record.

Every loop over the unprocessed part of a batched call is bounded. What is still unprocessed after
that is a fault, and the messages go back to the queue.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from agent_credits.aws.backoff import back_off
from agent_credits.aws.items import (
    ACCOUNT_PREFIX,
    LIMIT_PREFIX,
    PAGE_PREFIX,
    TEAM_PREFIX,
    Item,
    account_from_item,
    account_item,
    account_key,
    audit_from_item,
    audit_item,
    audit_key,
    burn_count_from_item,
    burn_count_item,
    burn_count_key,
    checkpoint_from_item,
    checkpoint_item,
    checkpoint_key,
    is_limit_item,
    last_sweep_from_item,
    last_sweep_item,
    last_sweep_key,
    limit_key,
    limit_row_from_item,
    limit_row_item,
    observation_item,
    observation_key,
    page_from_item,
    page_item,
    page_key,
    pages_partition,
    policy_from_item,
    policy_item,
    policy_key,
    principal_of_key,
    receipt_from_item,
    receipt_items,
    receipt_key,
    run_partition,
    team_from_item,
    team_item,
    team_key,
)
from agent_credits.aws.threads import CALLS_AT_ONCE, Threads
from agent_credits.billing.policy import BillingPolicy
from agent_credits.billing.teams import Team
from agent_credits.commit.rows import LostTogether
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.burn_counts import BurnCount
from agent_credits.ledger.entries import PAGES_MAX, Identity, Page, Receipt
from agent_credits.ledger.limits import LimitKey, LimitRow
from agent_credits.sweeps.checkpoint import Checkpoint
from agent_credits.sweeps.last_sweep import LastSweep, SweepName
from agent_credits.sweeps.rows import Stretch, Unreadable
from agent_credits.values.errors import RowNotUnderstood, RowsUnavailable
from agent_credits.values.principals import Principal

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import (
        BatchStatementRequestTypeDef,
        BatchStatementResponseTypeDef,
    )

    from agent_credits.api.audit import AuditEntry
    from agent_credits.notices.observations import Observation

Result = TypeVar("Result")

# A call of the client with its repetitions; it returns the items that it read.
Call = Callable[[], list[Item]]

BATCH_GET_KEYS_MAX = 100
BATCH_STATEMENTS_MAX = 25
BATCH_ROUNDS_MAX = 8
RESULT_PAGES_MAX = 10_000

# DynamoDB's code for an item that exists already: an earlier attempt put it, or another worker that
# flushed the same page.
ALREADY_THERE = "DuplicateItem"
# Codes of a write that lost a race. They are compared, because botocore's classes of these errors
# would be made at each cold start, and twice if two threads use them first at the same time.
CONDITIONAL_CHECK_FAILED = "ConditionalCheckFailedException"
TRANSACTION_CANCELED = "TransactionCanceledException"
HELD_BY_A_TRANSACTION = "TransactionConflictException"
# Why a transaction was canceled, row by row.
NOT_TO_BLAME = "None"
CONDITION_FAILED = "ConditionalCheckFailed"
TRANSACTION_CONFLICT = "TransactionConflict"
# Error codes of one statement of a batch that may succeed when it is repeated.
WORTH_REPEATING = frozenset(
    {
        "InternalServerError",
        "ProvisionedThroughputExceeded",
        "RequestLimitExceeded",
        "ThrottlingError",
        "TransactionConflict",
    }
)


class DynamoDBRows:
    """Implements `Rows`, `TeamRows` and `ObservationRows` over the two tables."""

    def __init__(self, client: "DynamoDBClient", accounts_table: str, ledger_table: str) -> None:
        self._client = client
        self._accounts_table = accounts_table
        self._ledger_table = ledger_table
        self._side_by_side = Threads(CALLS_AT_ONCE)

    def read_account(self, principal: Principal) -> Account | None:
        item = self._read_row(account_key(principal))
        return _understood(account_from_item, item) if item else None

    def read_team(self, team_id: str) -> Team | None:
        item = self._read_row(team_key(team_id))
        return _understood(team_from_item, item) if item else None

    def read_policy(self, version: str) -> BillingPolicy | None:
        item = self._read_row(policy_key(version))
        return _understood(policy_from_item, item) if item else None

    def read_receipts(self, identities: Collection[Identity]) -> Mapping[Identity, Receipt]:
        return _receipts(self._side_by_side(self._gets_of_receipts(identities)))

    def read_run(self, run_id: str) -> Iterator[Receipt]:
        for item in self._query_prefix(run_partition(run_id), "EVENT#"):
            yield _understood(receipt_from_item, item)

    def read_pages(
        self, principal: Principal, first: int = 1, last: int = PAGES_MAX
    ) -> Iterator[Page]:
        if first > last:
            return
        for item in self._query_range(page_key(principal, first), page_key(principal, last)):
            yield _understood(page_from_item, item)

    def read_newest_pages(self, principal: Principal) -> Iterator[Page]:
        """Yield an account's full pages, newest first, and read only as many as are used."""
        items = self._all_pages(
            self._client.query,
            TableName=self._ledger_table,
            KeyConditionExpression="pk = :pk AND begins_with(sk, :prefix)",
            ExpressionAttributeValues={
                ":pk": pages_partition(principal),
                ":prefix": {"S": PAGE_PREFIX},
            },
            ScanIndexForward=False,
        )
        for item in items:
            yield _understood(page_from_item, item)

    def read_checkpoint(self, principal: Principal) -> Checkpoint | None:
        item = self._read_row(checkpoint_key(principal))
        return _understood(checkpoint_from_item, item) if item else None

    def put_checkpoint(self, checkpoint: Checkpoint) -> None:
        with _faults_as_rows_unavailable():
            self._client.put_item(TableName=self._accounts_table, Item=checkpoint_item(checkpoint))

    def read_accounts(self, after: str | None, rows_max: int) -> Stretch[Account]:
        return self._read_stretch([ACCOUNT_PREFIX], account_from_item, after, rows_max)

    def read_account_at(self, key: str) -> Account | Unreadable | None:
        item = self._read_row({"pk": {"S": key}})
        return _readable(account_from_item, item) if item else None

    def read_accounts_and_limits(
        self, after: str | None, rows_max: int
    ) -> Stretch[Account | LimitRow]:
        prefixes = [ACCOUNT_PREFIX, LIMIT_PREFIX]
        return self._read_stretch(prefixes, _account_or_limit_from_item, after, rows_max)

    def read_account_or_limit_at(self, key: str) -> Account | LimitRow | Unreadable | None:
        item = self._read_row({"pk": {"S": key}})
        return _readable(_account_or_limit_from_item, item) if item else None

    def read_teams(self, after: str | None, rows_max: int) -> Stretch[Team]:
        return self._read_stretch([TEAM_PREFIX], team_from_item, after, rows_max)

    def read_team_at(self, key: str) -> Team | Unreadable | None:
        item = self._read_row({"pk": {"S": key}})
        return _readable(team_from_item, item) if item else None

    def read_accounts_of(self, principals: Collection[Principal]) -> Mapping[Principal, Account]:
        keys = [account_key(principal) for principal in principals]
        items = self._batch_get_all(self._accounts_table, keys)
        accounts = [_understood(account_from_item, item) for item in items]
        return {account.principal: account for account in accounts}

    def read_limits(self, keys: Collection[LimitKey]) -> Mapping[LimitKey, LimitRow]:
        items = self._batch_get_all(self._accounts_table, [limit_key(key) for key in keys])
        rows = [_understood(limit_row_from_item, item) for item in items]
        return {row.key: row for row in rows}

    def read_burn_counts(self, principals: Collection[Principal]) -> Mapping[Principal, BurnCount]:
        keys = [burn_count_key(principal) for principal in principals]
        items = self._batch_get_all(self._accounts_table, keys)
        read = [_readable(burn_count_from_item, item) for item in items]
        # A count of another version is not needed: it only saves work, so the work is repeated.
        return {c.principal: c for c in read if not isinstance(c, Unreadable)}

    def put_burn_count(self, count: BurnCount) -> None:
        with _faults_as_rows_unavailable():
            self._client.put_item(TableName=self._accounts_table, Item=burn_count_item(count))

    def read_last_sweep(self, sweep: SweepName) -> LastSweep | None:
        item = self._read_row(last_sweep_key(sweep))
        return _understood(partial(last_sweep_from_item, sweep), item) if item else None

    def put_last_sweep(self, last: LastSweep) -> None:
        with _faults_as_rows_unavailable():
            self._client.put_item(TableName=self._accounts_table, Item=last_sweep_item(last))

    def list_accounts(self) -> Iterator[Account]:
        """Yield every account, in no order. Reads the whole table: for the operator only."""
        for item in self._scan(ACCOUNT_PREFIX):
            yield _understood(account_from_item, item)

    def list_teams(self) -> Iterator[Team]:
        """Yield every team, in no order. Reads the whole table: for the operator only."""
        for item in self._scan(TEAM_PREFIX):
            yield _understood(team_from_item, item)

    def list_limits(self) -> Iterator[LimitRow]:
        """Yield every limit's row, in no order. Reads the whole table: for the operator only."""
        for item in self._scan(LIMIT_PREFIX):
            yield _understood(limit_row_from_item, item)

    def list_page_owners(self) -> set[Principal]:
        """Return whose pages the ledger has. Reads the whole table: for the operator only."""
        items = self._all_pages(
            self._client.scan,
            TableName=self._ledger_table,
            FilterExpression="begins_with(pk, :prefix)",
            ExpressionAttributeValues={":prefix": {"S": ACCOUNT_PREFIX}},
            ProjectionExpression="pk",
        )
        return {principal_of_key(item["pk"]["S"]) for item in items}

    def compare_and_set(self, account: Account) -> Account | None:
        current = self._compare_and_set_row(account_item(account), account.version)
        return _understood(account_from_item, current) if current else None

    def compare_and_set_together(
        self, accounts: Sequence[Account], limits: Sequence[LimitRow]
    ) -> LostTogether | None:
        """Write the rows in one transaction, which is idempotent under the client's own token."""
        rows = [(account_item(account), account.version) for account in accounts]
        rows += [(limit_row_item(row), row.version) for row in limits]
        puts: list[Any] = [
            {
                "Put": {
                    "TableName": self._accounts_table,
                    "Item": item,
                    "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
                    **_is_one_version_older(version),
                }
            }
            for item, version in rows
        ]
        with _faults_as_rows_unavailable():
            try:
                self._client.transact_write_items(TransactItems=puts)
            except ClientError as fault:
                if _code_of(fault) != TRANSACTION_CANCELED:
                    raise
                return _lost_together(fault, len(accounts))
        return None

    def compare_and_set_team(self, team: Team) -> Team | None:
        """Write a team's row if the stored one is one version older; else return the stored one."""
        current = self._compare_and_set_row(team_item(team), team.version)
        return _understood(team_from_item, current) if current else None

    def compare_and_set_team_audited(self, team: Team, entry: "AuditEntry") -> Team | None:
        """Write a team's row and the entry of who changed it: both or neither."""
        # Nobody has changed the team since its row was read.
        nobody_has_changed = "version = :read_version"
        # The number is the row's count, so it is free if the row is as it was read.
        number_is_free = "attribute_not_exists(pk)"
        with _faults_as_rows_unavailable():
            try:
                self._client.transact_write_items(
                    TransactItems=[
                        {
                            "Put": {
                                "TableName": self._accounts_table,
                                "Item": team_item(team),
                                "ConditionExpression": nobody_has_changed,
                                "ExpressionAttributeValues": {
                                    ":read_version": {"N": str(team.version - 1)}
                                },
                            }
                        },
                        {
                            "Put": {
                                "TableName": self._accounts_table,
                                "Item": audit_item(entry),
                                "ConditionExpression": number_is_free,
                            }
                        },
                    ]
                )
            except ClientError as fault:
                if _code_of(fault) != TRANSACTION_CANCELED:
                    raise
                reasons = _reasons_of(fault)
                # Another reason, such as throttling, is a fault and no lost race.
                if not {_why(r) for r in reasons} & {CONDITION_FAILED, TRANSACTION_CONFLICT}:
                    raise
            else:
                return None
        newer = self.read_team(team.team_id)
        if newer is None:
            raise RowsUnavailable("a team's row is missing, although rows are never deleted")
        return newer

    def read_audit(self, team_id: str, numbers: Collection[int]) -> "list[AuditEntry]":
        keys = [audit_key(team_id, number) for number in numbers]
        items = self._batch_get_all(self._accounts_table, keys)
        return [_understood(audit_from_item, item) for item in items]

    def put_policy(self, policy: BillingPolicy) -> BillingPolicy:
        """Put a policy version unless it exists, and return the stored one, which never changes."""
        with _faults_as_rows_unavailable():
            try:
                self._client.put_item(
                    TableName=self._accounts_table,
                    Item=policy_item(policy),
                    ConditionExpression="attribute_not_exists(pk)",
                    ReturnValuesOnConditionCheckFailure="ALL_OLD",
                )
            except ClientError as fault:
                if _code_of(fault) != CONDITIONAL_CHECK_FAILED:
                    raise
                return _understood(policy_from_item, _item_that_is_there(fault))
        return policy

    def put_observation(self, observation: "Observation", now: datetime) -> bool:
        with _faults_as_rows_unavailable():
            try:
                self._client.put_item(
                    TableName=self._accounts_table,
                    Item=observation_item(observation, now),
                    ConditionExpression="attribute_not_exists(pk)",
                )
            except ClientError as fault:
                if _code_of(fault) != CONDITIONAL_CHECK_FAILED:
                    raise
                return False
        return True

    def has_observation(self, observation: "Observation") -> bool:
        return self._read_row(observation_key(observation)) is not None

    def put_page(self, page: Page) -> None:
        self._side_by_side(self._inserts_of([page]))

    def flush_and_read_receipts(
        self, pages: Collection[Page], identities: Collection[Identity]
    ) -> Mapping[Identity, Receipt]:
        inserts = self._inserts_of(pages)
        answers = self._side_by_side([*inserts, *self._gets_of_receipts(identities)])
        return _receipts(answers[len(inserts) :])

    def _inserts_of(self, pages: Collection[Page]) -> list[Call]:
        items = [item for page in pages for item in (page_item(page), *receipt_items(page))]
        return [partial(self._insert, chunk) for chunk in _chunks(items, BATCH_STATEMENTS_MAX)]

    def _gets_of_receipts(self, identities: Collection[Identity]) -> list[Call]:
        return self._gets(self._ledger_table, [receipt_key(identity) for identity in identities])

    def _read_row(self, key: Item) -> Item | None:
        with _faults_as_rows_unavailable():
            response = self._client.get_item(
                TableName=self._accounts_table, Key=key, ConsistentRead=True
            )
        return response.get("Item")

    def _compare_and_set_row(self, item: Item, version: int) -> Item | None:
        with _faults_as_rows_unavailable():
            try:
                self._client.put_item(
                    TableName=self._accounts_table,
                    Item=item,
                    ReturnValuesOnConditionCheckFailure="ALL_OLD",
                    **_is_one_version_older(version),
                )
            except ClientError as fault:
                code = _code_of(fault)
                if code == CONDITIONAL_CHECK_FAILED:
                    return _item_that_is_there(fault)
                if code != HELD_BY_A_TRANSACTION:
                    raise
                # A transaction is moving the row. That is a lost race, whether it commits or not.
                there = self._read_row({"pk": item["pk"]})
                if there is None:
                    raise RowsUnavailable("a transaction is opening the row") from fault
                return there
        return None

    def _batch_get_all(self, table: str, keys: Sequence[Item]) -> list[Item]:
        return [item for items in self._side_by_side(self._gets(table, keys)) for item in items]

    def _gets(self, table: str, keys: Sequence[Item]) -> list[Call]:
        return [partial(self._batch_get, table, c) for c in _chunks(keys, BATCH_GET_KEYS_MAX)]

    def _batch_get(self, table: str, keys: Sequence[Item]) -> list[Item]:
        items: list[Item] = []
        pending: Mapping[str, Any] = {table: {"Keys": list(keys), "ConsistentRead": True}}
        for attempt in range(BATCH_ROUNDS_MAX):
            with _faults_as_rows_unavailable():
                response = self._client.batch_get_item(RequestItems=pending)
            items += response["Responses"].get(table, [])
            pending = response.get("UnprocessedKeys", {})
            if not pending:
                return items
            back_off(attempt + 1)
        raise RowsUnavailable(f"items not read in {BATCH_ROUNDS_MAX} rounds")

    def _insert(self, items: Sequence[Item]) -> list[Item]:
        """Insert the items that do not exist yet. No two of them may have the same key."""
        pending = [_insertion(self._ledger_table, item) for item in items]
        for attempt in range(BATCH_ROUNDS_MAX):
            with _faults_as_rows_unavailable():
                response = self._client.batch_execute_statement(Statements=pending)
            pending = _to_repeat(pending, response["Responses"])
            if not pending:
                return []
            back_off(attempt + 1)
        raise RowsUnavailable(f"page not written in {BATCH_ROUNDS_MAX} rounds")

    def _query_range(self, first: Item, last: Item) -> Iterator[Item]:
        return self._all_pages(
            self._client.query,
            TableName=self._ledger_table,
            KeyConditionExpression="pk = :pk AND sk BETWEEN :first AND :last",
            ExpressionAttributeValues={
                ":pk": first["pk"],
                ":first": first["sk"],
                ":last": last["sk"],
            },
        )

    def _read_stretch(
        self,
        pk_prefixes: Sequence[str],
        read: Callable[[Item], Result],
        after: str | None,
        rows_max: int,
    ) -> Stretch[Result]:
        start: dict[str, Any] = {"ExclusiveStartKey": {"pk": {"S": after}}} if after else {}
        names = [f":prefix{number}" for number in range(len(pk_prefixes))]
        with _faults_as_rows_unavailable():
            response = self._client.scan(
                TableName=self._accounts_table,
                ConsistentRead=True,
                Limit=rows_max,
                FilterExpression=" OR ".join(f"begins_with(pk, {name})" for name in names),
                ExpressionAttributeValues={
                    name: {"S": prefix} for name, prefix in zip(names, pk_prefixes, strict=True)
                },
                **start,
            )
        last = response.get("LastEvaluatedKey")
        return Stretch(
            tuple((item["pk"]["S"], _readable(read, item)) for item in response["Items"]),
            end=last["pk"]["S"] if last else None,
        )

    def _query_prefix(self, partition: Item, sk_prefix: str) -> Iterator[Item]:
        return self._all_pages(
            self._client.query,
            TableName=self._ledger_table,
            KeyConditionExpression="pk = :pk AND begins_with(sk, :prefix)",
            ExpressionAttributeValues={":pk": partition, ":prefix": {"S": sk_prefix}},
        )

    def _scan(self, pk_prefix: str) -> Iterator[Item]:
        return self._all_pages(
            self._client.scan,
            TableName=self._accounts_table,
            FilterExpression="begins_with(pk, :prefix)",
            ExpressionAttributeValues={":prefix": {"S": pk_prefix}},
        )

    def _all_pages(self, call: Callable[..., Any], **request: Any) -> Iterator[Item]:
        for _ in range(RESULT_PAGES_MAX):
            with _faults_as_rows_unavailable():
                response = call(ConsistentRead=True, **request)
            yield from response["Items"]
            if "LastEvaluatedKey" not in response:
                return
            request["ExclusiveStartKey"] = response["LastEvaluatedKey"]
        raise RowsUnavailable(f"more than {RESULT_PAGES_MAX} pages of results")


def _account_or_limit_from_item(item: Item) -> Account | LimitRow:
    return limit_row_from_item(item) if is_limit_item(item) else account_from_item(item)


def _insertion(table: str, item: Item) -> "BatchStatementRequestTypeDef":
    values = ", ".join(f"'{name}': ?" for name in item)
    return {
        "Statement": f'INSERT INTO "{table}" VALUE {{{values}}}',
        "Parameters": list(item.values()),
    }


def _to_repeat(
    statements: Sequence["BatchStatementRequestTypeDef"],
    answers: Sequence["BatchStatementResponseTypeDef"],
) -> list["BatchStatementRequestTypeDef"]:
    """Return the statements that may succeed when repeated; raises if one never can."""
    again = []
    for statement, answer in zip(statements, answers, strict=True):
        code = answer.get("Error", {}).get("Code")
        if code in WORTH_REPEATING:
            again.append(statement)
        elif code not in (None, ALREADY_THERE):
            raise RowsUnavailable(f"page not written: {code}: {answer['Error'].get('Message')}")
    return again


def _receipts(answers: Sequence[Sequence[Item]]) -> Mapping[Identity, Receipt]:
    receipts = [_understood(receipt_from_item, item) for items in answers for item in items]
    return {receipt.entry.identity: receipt for receipt in receipts}


def _code_of(fault: ClientError) -> str:
    return fault.response["Error"]["Code"]


def _item_that_is_there(lost: ClientError) -> Item:
    # The answer to the failed write holds the stored item. The SDK's types leave it out.
    response: Mapping[str, Any] = lost.response
    if "Item" not in response:
        raise RowsUnavailable("a row is missing, although rows are never deleted") from lost
    return dict(response["Item"])


def _is_one_version_older(version: int) -> Mapping[str, Any]:
    """Return the condition under which a row of this version is written."""
    # For a new row: nobody has opened it since it was read as missing.
    nobody_opened_the_row = "attribute_not_exists(pk)"
    # For an existing row: nobody has committed since the row was read.
    nobody_has_committed = "version = :read_version"
    if version == 1:
        return {"ConditionExpression": nobody_opened_the_row}
    return {
        "ConditionExpression": nobody_has_committed,
        "ExpressionAttributeValues": {":read_version": {"N": str(version - 1)}},
    }


def _reasons_of(canceled: ClientError) -> list[Mapping[str, Any]]:
    """Return why a transaction was canceled, row by row. The SDK's types leave it out."""
    response: Mapping[str, Any] = canceled.response
    return list(response["CancellationReasons"])


def _why(reason: Mapping[str, Any]) -> str:
    return str(reason.get("Code", NOT_TO_BLAME))


def _lost_together(canceled: ClientError, accounts: int) -> LostTogether:
    """Read the reasons: those of the accounts first, then those of the limits."""
    reasons = _reasons_of(canceled)
    codes = {_why(reason) for reason in reasons}
    if not codes <= {NOT_TO_BLAME, CONDITION_FAILED, TRANSACTION_CONFLICT}:
        raise RowsUnavailable(str(canceled)) from canceled
    moved = [(place, r) for place, r in enumerate(reasons) if _why(r) == CONDITION_FAILED]
    if not all("Item" in reason for _, reason in moved):
        raise RowsUnavailable("a row is missing, although rows are never deleted") from canceled
    return LostTogether(
        tuple(_understood(account_from_item, r["Item"]) for n, r in moved if n < accounts),
        tuple(_understood(limit_row_from_item, r["Item"]) for n, r in moved if n >= accounts),
        conflicts=TRANSACTION_CONFLICT in codes,
    )


def _chunks(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _understood(read: Callable[[Item], Result], item: Item) -> Result:
    """Read an item. One that cannot be read, such as one of a newer version, affects only its
    own account."""
    try:
        return read(item)
    except (KeyError, ValueError, TypeError) as error:
        raise RowNotUnderstood(f"{item['pk']['S']}: {type(error).__name__}") from error


def _readable(read: Callable[[Item], Result], item: Item) -> Result | Unreadable:
    try:
        return _understood(read, item)
    except RowNotUnderstood as error:
        key = item["pk"]["S"]
        return Unreadable(key, principal_of_key(key), str(error))


@contextmanager
def _faults_as_rows_unavailable() -> Iterator[None]:
    try:
        yield
    except (BotoCoreError, ClientError) as fault:
        raise RowsUnavailable(str(fault)) from fault
