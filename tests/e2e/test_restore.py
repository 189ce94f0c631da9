"""The guide to restoring, rehearsed on the embedded engine: both tables back to one moment.

The engine restores what a table holds now, and not at a moment of the past, so the moment is the
one of the call. It knows which settings a restored table lacks. Which ARN CloudFormation knows for
the stream afterwards, only AWS can answer, so the mapping follows by an explicit call here.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from agent_credits.aws.items import EXPIRY_ATTRIBUTE
from agent_credits_cli.main import app
from agent_credits_local import embedded_stack
from agent_credits_local.checkout import this_checkout
from agent_credits_local.payment_stand_in import CARD_THAT_PAYS
from agent_credits_local.stack_state import StateFolder
from agent_credits_local.target import LocalTarget, connect_to_local
from tests.e2e.reloading_team import ReloadingTeam, once, set_up_team
from tests.e2e.test_kept_stack import kept_by, reload_once_announced


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StateFolder]:
    folder = StateFolder(tmp_path_factory.mktemp("restored"))
    try:
        embedded_stack.up(folder, this_checkout(), port=0, console=Console(stderr=True))
        yield folder
    finally:
        embedded_stack.discard(folder)


@pytest.fixture
def target(folder: StateFolder) -> LocalTarget:
    return connect_to_local(folder)


@pytest.fixture
def team(target: LocalTarget) -> ReloadingTeam:
    return set_up_team(target, CARD_THAT_PAYS)


def verify(folder: StateFolder, accounts: str, ledger: str) -> Result:
    tables = ["--accounts-table", accounts, "--ledger-table", ledger]
    command = ["--state-dir", str(folder.path), "verify", *tables, "--json"]
    return CliRunner().invoke(app, command)


class Restore:
    """The steps of docs/how-to/restore.md, by the calls that its commands make."""

    def __init__(self, target: LocalTarget) -> None:
        self.dynamodb = target.dynamodb
        self.tables = (target.outputs.accounts_table_name, target.outputs.ledger_table_name)
        self.lambda_: Any = target.session.client(
            "lambda", endpoint_url=target.endpoint_url, config=target.config
        )

    def mappings(self, enabled: bool) -> None:
        for mapping in self.lambda_.list_event_source_mappings()["EventSourceMappings"]:
            self.lambda_.update_event_source_mapping(UUID=mapping["UUID"], Enabled=enabled)

    def copy(self, table: str, ending: str) -> str:
        name = f"{table}-{ending}"
        self.dynamodb.restore_table_to_point_in_time(
            SourceTableName=table, TargetTableName=name, UseLatestRestorableTime=True
        )
        self.dynamodb.get_waiter("table_exists").wait(TableName=name)
        return name

    def put_under_the_old_names(self, *copies: str) -> None:
        backups = [
            self.dynamodb.create_backup(TableName=copy, BackupName="restored") for copy in copies
        ]
        for table, backup in zip(self.tables, backups, strict=True):
            self.dynamodb.delete_table(TableName=table)
            self.dynamodb.get_waiter("table_not_exists").wait(TableName=table)
            self.dynamodb.restore_table_from_backup(
                TargetTableName=table, BackupArn=backup["BackupDetails"]["BackupArn"]
            )
            self.dynamodb.get_waiter("table_exists").wait(TableName=table)

    def settings(self) -> dict[str, Any]:
        accounts, ledger = self.tables
        described = self.dynamodb.describe_table(TableName=accounts)["Table"]
        ttl = self.dynamodb.describe_time_to_live(TableName=accounts)["TimeToLiveDescription"]
        return {
            "stream": described.get("StreamSpecification", {}).get("StreamEnabled", False),
            "ttl": ttl["TimeToLiveStatus"],
            "pitr": [
                self.dynamodb.describe_continuous_backups(TableName=table)[
                    "ContinuousBackupsDescription"
                ]["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"]
                for table in (accounts, ledger)
            ],
        }

    def set_again(self) -> None:
        accounts, _ = self.tables
        self.dynamodb.update_table(
            TableName=accounts,
            StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"},
        )
        self.dynamodb.update_time_to_live(
            TableName=accounts,
            TimeToLiveSpecification={"AttributeName": EXPIRY_ATTRIBUTE, "Enabled": True},
        )
        for table in self.tables:
            self.dynamodb.update_continuous_backups(
                TableName=table,
                PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True},
            )

    def forget_rows(self) -> None:
        """Have every function start again: a warm one remembers rows that were taken back."""
        for function in self.lambda_.list_functions()["Functions"]:
            variables = function["Environment"]["Variables"] | {"RESTORED_AT": "now"}
            self.lambda_.update_function_configuration(
                FunctionName=function["FunctionName"], Environment={"Variables": variables}
            )

    def follow_the_stream(self) -> tuple[str, str]:
        """Replace the mapping of the stream that is gone; return the old ARN and the new one."""
        (old,) = (
            mapping
            for mapping in self.lambda_.list_event_source_mappings()["EventSourceMappings"]
            if ":dynamodb:" in mapping["EventSourceArn"]
        )
        table = self.dynamodb.describe_table(TableName=self.tables[0])["Table"]
        self.lambda_.delete_event_source_mapping(UUID=old["UUID"])
        self.lambda_.create_event_source_mapping(
            FunctionName=old["FunctionArn"],
            EventSourceArn=table["LatestStreamArn"],
            StartingPosition="TRIM_HORIZON",
            BatchSize=old["BatchSize"],
            FilterCriteria=old["FilterCriteria"],
            FunctionResponseTypes=old["FunctionResponseTypes"],
        )
        return old["EventSourceArn"], table["LatestStreamArn"]


SET = {"stream": True, "ttl": "ENABLED", "pitr": ["ENABLED", "ENABLED"]}
NOT_SET = {"stream": False, "ttl": "DISABLED", "pitr": ["DISABLED", "DISABLED"]}


@pytest.mark.timeout(300)
def test_both_tables_go_back_to_one_moment_and_the_stack_continues(
    folder: StateFolder, target: LocalTarget, team: ReloadingTeam
) -> None:
    restore = Restore(target)
    team.use("before", amount="5")
    reload_once_announced(target, team, 1)
    once(lambda: not team.team.spending.reservations)
    accounts, ledger = (restore.copy(table, "copy") for table in restore.tables)
    then, spent_then = team.account, team.team.spending.spent_cents
    # What the restore takes back: usage that fills a page, and a second reload with its payment.
    after = [f"after-{number}" for number in range(10)]
    for number, run_id in enumerate(after, start=2):
        team.use(run_id, amount="35")
        team.usages_once_decided(number)
    reload_once_announced(target, team, 2)
    once(lambda: not team.team.spending.reservations)
    ledger_later = restore.copy(restore.tables[1], "later")
    announced = kept_by(target, team)

    restore.mappings(enabled=False)
    one_moment = verify(folder, accounts, ledger)
    ledger_newer = verify(folder, accounts, ledger_later)
    ledger_older = verify(folder, restore.tables[0], ledger)
    # A ledger that is too new is cut back, in the copy.
    newer_keys = json.loads(ledger_newer.stdout)["torn"][0]["newer_keys"]
    for key in newer_keys:
        target.dynamodb.delete_item(TableName=ledger_later, Key=key)
    cut_back = verify(folder, accounts, ledger_later)
    restore.put_under_the_old_names(accounts, ledger_later)
    left_out = restore.settings()
    restore.set_again()
    old_stream, new_stream = restore.follow_the_stream()

    assert (one_moment.exit_code, cut_back.exit_code) == (0, 0), one_moment.output
    assert [torn["older"] for torn in json.loads(ledger_newer.stdout)["torn"]] == ["AccountsTable"]
    assert [torn["older"] for torn in json.loads(ledger_older.stdout)["torn"]] == ["LedgerTable"]
    assert (ledger_newer.exit_code, ledger_older.exit_code) == (1, 1)
    assert (left_out, restore.settings()) == (NOT_SET, SET)
    assert old_stream != new_stream
    assert verify(folder, *restore.tables).exit_code == 0
    assert team.account == then
    # Stripe knows of both payments, and by whose purchase; the team's row only of the first.
    payments = target.payment_stand_in.payments(team.card.customer)
    assert [payment.status for payment in payments] == ["succeeded"] * 2
    purchases = {payment.metadata["purchase_id"] for payment in payments}
    assert len(purchases) == 2
    assert all(str(team.member) in purchase for purchase in purchases)
    assert team.team.spending.spent_cents == spent_then

    restore.forget_rows()
    restore.mappings(enabled=True)
    # What was recorded before the moment counts once, and what came after it once more.
    # The last one alone: a copy of DebitRuns that still held its row would take it for recorded.
    team.use(after[-1], amount="35")
    team.usages_once_decided(2)
    team.use("before", amount="5")
    team.use(*after, amount="35")
    entries = team.usages_once_decided(1 + len(after))

    assert {entry.identity.subject for entry in entries} == {"before", *after}
    # The new stream is announced, from the first change after the restore.
    once(lambda: len(kept_by(target, team)) > len(announced))
    assert verify(folder, *restore.tables).exit_code == 0
