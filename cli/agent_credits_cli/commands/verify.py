"""`agent-credits verify`: recomputes every balance from the ledger, and reports any drift."""

from typing import Annotated, Final

import typer

from agent_credits_cli.accounts import principal_from
from agent_credits_cli.errors import CommandError
from agent_credits_cli.tables import AsJson, out, print_json
from agent_credits_cli.target import connect, rows_of
from agent_credits_cli.verification import verify_account, verify_all

DRIFT_EXIT_STATUS: Final = 1


def verify(
    context: typer.Context,
    principal: Annotated[
        str | None, typer.Argument(help="Verify only this account: user:<id> or team:<id>.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Recompute every balance from the ledger. The exit status is 1 on any drift."""
    rows = rows_of(connect(context))
    if principal is None:
        verified = verify_all(rows)
    else:
        verified = verify_account(rows, principal_from(principal), {})
        if verified.accounts == 0 and verified.is_clean:
            raise CommandError(
                f"{principal} has no account; `agent-credits verify` verifies all accounts"
            )
    if as_json:
        print_json(verified.to_json())
    else:
        for finding in verified.findings:
            out().print(str(finding), soft_wrap=True)
        out().print(str(verified), soft_wrap=True)
    if not verified.is_clean:
        raise typer.Exit(DRIFT_EXIT_STATUS)
