"""The account that a command names: its principal is parsed, and its row is read."""

from agent_credits.commit.rows import Rows
from agent_credits.ledger.accounts import Account
from agent_credits.values.principals import Principal, parse_principal
from agent_credits_cli.errors import CommandError


def principal_from(text: str) -> Principal:
    """Parse a principal of the command line. Raises `CommandError` if it is not one."""
    try:
        return parse_principal(text)
    except ValueError as error:
        raise CommandError(str(error)) from error


def existing_account(rows: Rows, principal: Principal) -> Account:
    """Return the account's row. Raises `CommandError` if there is no such account."""
    account = rows.read_account(principal)
    if account is None:
        raise CommandError(
            f"{principal} has no account; declare it in a file for `agent-credits apply`"
        )
    return account
