"""`agent-credits report`: what a team's accounts hold and burn, and how long it lasts."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Annotated, Final

import typer

from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.billing.balance_reports import Burning, balance_report
from agent_credits.billing.payers import payers
from agent_credits.ledger.burn import burn_of, entries_since, first_day
from agent_credits.notices.balance_report import report_data, report_text
from agent_credits.values.principals import Principal
from agent_credits_cli.limits import limits_of_team
from agent_credits_cli.tables import AsJson, out, print_json, progress
from agent_credits_cli.target import connect, rows_of
from agent_credits_cli.teams import read_team_and_policy

# Fewer ledgers than this are read before anyone could read a progress bar.
PROGRESS_FROM: Final = 20


def report(
    context: typer.Context,
    team_id: Annotated[str, typer.Argument(metavar="TEAM", help="The team's id.")],
    as_json: AsJson = False,
) -> None:
    """Show what a team's accounts hold and burn, how long the credits last, and what was spent."""
    rows, now = rows_of(connect(context)), datetime.now(UTC)
    team, policy = read_team_and_policy(rows, team_id, now)
    day = now.astimezone(UTC).date()
    burning = _burning(rows, payers(team, policy, now), day)
    limits = limits_of_team(rows, team, policy, now).limits
    result = balance_report(team, policy, burning, day, now, limits)
    if as_json:
        print_json(report_data(result))
    else:
        out().print(report_text(result), end="", soft_wrap=True)


def _burning(rows: DynamoDBRows, principals: list[Principal], day: date) -> Iterator[Burning]:
    since = first_day(day)
    with progress(shown=len(principals) >= PROGRESS_FROM) as bar:
        task = bar.add_task("reading ledgers", total=len(principals))
        for principal in principals:
            row = rows.read_account(principal)
            if row is not None:
                entries = entries_since(row, rows.read_newest_pages(principal), since)
                yield Burning(row, burn_of(entries, since))
            bar.advance(task)
