"""Sweeps on the embedded stack: from the message that begins one to the notice it leads to."""

import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agent_credits.aws.backoff import back_off
from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.aws.items import account_key
from agent_credits.commit.changes import GrantChange
from agent_credits.commit.write_protocol import commit
from agent_credits.values.principals import Principal
from agent_credits_cli.commands.sweep import begin
from agent_credits_cli.subscription import Watch, subscribed
from agent_credits_cli.target import Target, rows_of

SECONDS_MAX = 40.0
CREDIT = 1_000_000


@pytest.fixture
def notices(stack: Target) -> Iterator[Watch]:
    with subscribed(stack) as watched:
        yield watched


@pytest.fixture
def rows(stack: Target) -> DynamoDBRows:
    return rows_of(stack)


@pytest.fixture
def somebody(rows: DynamoDBRows) -> Principal:
    """An account that bought ten credits, which expire in three days."""
    principal = Principal("user", f"swept-{uuid.uuid4().hex[:8]}")
    now = datetime.now(UTC)
    expires_at = now + timedelta(days=3)
    bought = GrantChange(principal, "pack", "add_on", 10 * CREDIT, expires_at, "purchase")
    commit(rows, principal, [bought], now=now, pause=back_off, opens_account=True)
    return principal


def first_notice(notices: Watch, notice_type: str, principal: Principal) -> dict[str, Any]:
    """Wait for the notice of this type about the account; others may be published meanwhile."""
    ends_at = time.monotonic() + SECONDS_MAX
    while time.monotonic() < ends_at:
        for published in notices.receive(1):
            notice = published.notice
            if (notice["type"], notice["data"].get("principal")) == (notice_type, str(principal)):
                return notice
    raise AssertionError(f"no {notice_type} about {principal} within {SECONDS_MAX:.0f} s")


@pytest.fixture
def drifted(stack: Target, somebody: Principal) -> Iterator[Principal]:
    """The account without its grant; it is restored, because other tests verify the whole stack."""
    row = {"TableName": stack.outputs.accounts_table_name, "Key": account_key(somebody)}
    before = stack.dynamodb.get_item(**row)["Item"]["grants"]
    _set_grants(stack, somebody, {"S": "[]"})
    yield somebody
    _set_grants(stack, somebody, before)


def _set_grants(stack: Target, principal: Principal, grants: Any) -> None:
    stack.dynamodb.update_item(
        TableName=stack.outputs.accounts_table_name,
        Key=account_key(principal),
        UpdateExpression="SET grants = :grants",
        ExpressionAttributeValues={":grants": grants},
    )


def test_drift_is_announced_by_a_sweep_and_the_account_is_left_as_it_is(
    stack: Target, rows: DynamoDBRows, notices: Watch, drifted: Principal
) -> None:
    before = rows.read_account(drifted)

    begin(stack, "reconciliation")

    notice = first_notice(notices, "drift_found", drifted)
    (finding,) = notice["data"]["findings"]
    assert (finding["expected_credits"], finding["found_credits"]) == ("10", "0")
    assert rows.read_account(drifted) == before


def test_credits_that_expire_soon_are_announced_by_a_sweep(
    stack: Target, notices: Watch, somebody: Principal
) -> None:
    begin(stack, "expiring_credits")

    notice = first_notice(notices, "credits_expiring", somebody)

    assert notice["data"]["credits"] == "10"
