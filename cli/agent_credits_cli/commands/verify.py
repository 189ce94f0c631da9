"""`agent-credits verify`: recomputes balances and limits from the ledger, and reports any drift."""

from dataclasses import replace
from typing import Annotated, Final

import typer

from agent_credits_cli.accounts import principal_from
from agent_credits_cli.errors import CommandError
from agent_credits_cli.tables import AsJson, out, print_json
from agent_credits_cli.target import Target, connect, rows_of
from agent_credits_cli.verification import verify_account, verify_all

DRIFT_EXIT_STATUS: Final = 1
WHAT_TO_DO: Final = (
    "The two tables are not of one moment. Send no events to them before that is put right: see the"
    " guide `Restore the tables`. What follows from it is listed below."
)


def verify(
    context: typer.Context,
    principal: Annotated[
        str | None, typer.Argument(help="Verify only this account: user:<id> or team:<id>.")
    ] = None,
    accounts_table: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Verify this copy of AccountsTable, such as a restored one."
        ),
    ] = None,
    ledger_table: Annotated[
        str | None, typer.Option(metavar="NAME", help="The copy of LedgerTable that belongs to it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Recompute every balance from the ledger. The exit status is 1 on any drift.

    It also counts what was drawn under each limit, and compares a limit of several accounts with
    all of them, unless only one account is verified.

    Where the two tables are of two moments, as after a restore, it says which one is older.
    """
    rows = rows_of(_with_tables(connect(context), accounts_table, ledger_table))
    if principal is None:
        # Only a copy can lack an account whose pages are there.
        verified = verify_all(rows, with_page_owners=ledger_table is not None)
    else:
        verified = verify_account(rows, principal_from(principal), {})
        if verified.accounts == 0 and verified.is_clean:
            raise CommandError(
                f"{principal} has no account; `agent-credits verify` verifies all accounts"
            )
    if as_json:
        print_json(verified.to_json())
    else:
        for torn in verified.torn:
            out().print(str(torn), soft_wrap=True)
        if verified.torn:
            out().print(WHAT_TO_DO, "", sep="\n", soft_wrap=True)
        for finding in verified.findings:
            out().print(str(finding), soft_wrap=True)
        out().print(str(verified), soft_wrap=True)
    if not verified.is_clean:
        raise typer.Exit(DRIFT_EXIT_STATUS)


def _with_tables(target: Target, accounts_table: str | None, ledger_table: str | None) -> Target:
    if accounts_table is None and ledger_table is None:
        return target
    if accounts_table is None or ledger_table is None:
        raise CommandError(
            "a copy is verified with its counterpart: give both --accounts-table and --ledger-table"
        )
    tables = {"accounts_table_name": accounts_table, "ledger_table_name": ledger_table}
    return replace(target, outputs=target.outputs.model_copy(update=tables))
