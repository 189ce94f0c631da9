"""An account that a command names: read from the command line, and found in the stack."""

from agent_credits.commit.rows import Rows
from agent_credits.ledger.accounts import Account
from agent_credits.values.principals import Principal, parse_principal
from agent_credits_cli.errors import CommandError


def principal_from(text: str) -> Principal:
    """Read a principal from the command line. Raises `CommandError` for what is none."""
    try:
        return parse_principal(text)
    except ValueError as error:
        raise CommandError(str(error)) from error


def existing_account(rows: Rows, principal: Principal) -> Account:
    """Return the account as its row stands. Raises `CommandError` where there is none."""
    account = rows.read_account(principal)
    if account is None:
        raise CommandError(
            f"{principal} has no account; declare it in a file for `agent-credits apply`"
        )
    return account
