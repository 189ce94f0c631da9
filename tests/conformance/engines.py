"""The engines behind the port to the rows, each with its own tables, removed afterwards."""

import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from unittest import mock

import boto3
import pytest

from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.billing.teams import Team
from agent_credits.commit.rows import Rows, TeamRows
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Page, Receipt
from agent_credits.ledger.limits import LimitRow
from agent_credits.notices.observations import Observation
from agent_credits.sweeps.balance_report_sweep import ReportRows
from agent_credits.sweeps.rows import (
    AccountsAndLimitsRows,
    AccountsRows,
    CheckpointRows,
    LedgerRows,
)
from tests.conformance.dynamodb_local import dynamodb_local, require_or_skip
from tests.conformance.ministack import ministack
from tests.integration.locked_moto import ENVIRONMENT, locked_moto
from tests.integration.stack_tables import create_tables
from tests.simulation.outside import StoredRows

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


class AllRows(
    Rows,
    TeamRows,
    ReportRows,
    LedgerRows,
    AccountsRows,
    AccountsAndLimitsRows,
    CheckpointRows,
    Protocol,
):
    """What a whole stack needs of its rows."""


@dataclass(frozen=True)
class Engine:
    """`is_concurrent`: threads may call concurrently; the rows in memory allow only one."""

    name: str
    rows: AllRows
    is_concurrent: bool = True


class Unwatched:
    """An observer of the simulator's rows that does nothing."""

    def account_committed(self, old: Account | None, new: Account) -> None: ...

    def together_committed(
        self,
        accounts: Sequence[tuple[Account | None, Account]],
        limits: Sequence[tuple[LimitRow | None, LimitRow]],
    ) -> None: ...

    def team_committed(self, old: Team | None, new: Team) -> None: ...

    def page_put(self, page: Page, there: Page | None) -> None: ...

    def receipt_put(self, receipt: Receipt, there: Receipt | None) -> None: ...

    def observation_put(self, observation: Observation) -> None: ...


@contextmanager
def in_memory(_: Path) -> Iterator[Engine]:
    yield Engine("memory", StoredRows(Unwatched()), is_concurrent=False)


@contextmanager
def on_moto(_: Path) -> Iterator[Engine]:
    with locked_moto(), _tables(boto3.client("dynamodb")) as rows:
        yield Engine("moto", rows)


@contextmanager
def on_dynamodb_local(_: Path) -> Iterator[Engine]:
    require_or_skip()
    with dynamodb_local() as endpoint_url, _emulated(endpoint_url) as rows:
        yield Engine("dynamodb_local", rows)


@contextmanager
def on_ministack(folder: Path) -> Iterator[Engine]:
    with ministack(folder) as endpoint_url, _emulated(endpoint_url) as rows:
        yield Engine("ministack", rows)


@contextmanager
def on_aws(_: Path) -> Iterator[Engine]:
    """The caller's own account and region, with two tables that cost a few cents at most."""
    with _tables(boto3.client("dynamodb")) as rows:
        yield Engine("aws", rows)


ENGINES: dict[str, Callable[[Path], AbstractContextManager[Engine]]] = {
    "memory": in_memory,
    "moto": on_moto,
    "dynamodb_local": on_dynamodb_local,
    "ministack": on_ministack,
    "aws": on_aws,
}
MARKS = {"ministack": pytest.mark.e2e, "aws": pytest.mark.aws}


@contextmanager
def _emulated(endpoint_url: str) -> Iterator[DynamoDBRows]:
    elsewhere = {name: v for name, v in os.environ.items() if not name.startswith("AWS_")}
    with mock.patch.dict("os.environ", elsewhere | ENVIRONMENT, clear=True):
        client = boto3.client("dynamodb", endpoint_url=endpoint_url)
        with _tables(client) as rows:
            yield rows


@contextmanager
def _tables(client: "DynamoDBClient") -> Iterator[DynamoDBRows]:
    tables = create_tables(client, f"conformance-{uuid.uuid4().hex[:8]}")
    try:
        yield DynamoDBRows(client, tables.accounts, tables.ledger)
    finally:
        for name in tables:
            client.delete_table(TableName=name)
