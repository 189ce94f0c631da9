"""`agent-credits grant`: puts credits into one account by hand, once however often repeated."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import pydantic
import typer

from agent_credits.aws.backoff import back_off
from agent_credits.billing.directory import SettingsRows
from agent_credits.billing.teams import Team
from agent_credits.ledger.accounts import Account
from agent_credits.notices.notice import format_money, iso
from agent_credits.payments.purchases import Bought, NotBought, Purchase, buy
from agent_credits.values.credits import format_credits
from agent_credits.values.errors import AccountTooLarge, Contended, RowsUnavailable, TeamMissing
from agent_credits.values.principals import Principal
from agent_credits_cli.accounts import existing_account, principal_from
from agent_credits_cli.declared_grants import grant_change, grant_changes
from agent_credits_cli.errors import CommandError
from agent_credits_cli.stack import OperatorRows, recorded_grants
from agent_credits_cli.steps import ChangeAccount, change_account
from agent_credits_cli.tables import AsJson, out, print_json
from agent_credits_cli.target import connect, rows_of
from agent_credits_cli.world import DeclaredGrant, reserved_prefix


def grant(
    context: typer.Context,
    principal: Annotated[str, typer.Argument(help="user:<id> or team:<id>")],
    pool: Annotated[str, typer.Option(help="The pool to put them into, such as add_on.")],
    amount: Annotated[str, typer.Option("--credits", help='How many, such as "250" or "12.5".')],
    grant_id: Annotated[
        str, typer.Option("--id", help="Makes a repeat harmless; yours to choose.")
    ],
    cause: Annotated[str, typer.Option(help="purchase, gift or contract")] = "purchase",
    expires_at: Annotated[
        str | None, typer.Option(help="An instant with its zone: 2027-01-31T00:00:00Z.")
    ] = None,
    expires_in_days: Annotated[int | None, typer.Option(help="So many days from now.")] = None,
    price_cents: Annotated[
        int | None,
        typer.Option(min=1, help="What it costs; counts towards the cap of --team."),
    ] = None,
    currency: Annotated[str, typer.Option(help="Of --price-cents, ISO 4217.")] = "usd",
    team: Annotated[
        str | None, typer.Option(help="Whose spend cap the price counts towards.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put credits into a pool of one account.

    With a price it is a purchase, refused where the team's spend cap leaves too little.

    A pool that no run of the account could draw is refused, as far as the account's team is known:
    for a team, and for a user with a recent run.
    """
    declared = declared_grant(
        {
            "principal": str(principal_from(principal)),
            "id": grant_id,
            "pool": pool,
            "credits": amount,
            "cause": cause,
            "expires_at": expires_at,
            "expires_in_days": expires_in_days,
        }
    )
    if (price_cents is None) != (team is None):
        raise CommandError("--price-cents and --team go together; give both or neither")
    target = connect(context)
    rows, now = rows_of(target), datetime.now(UTC)
    try:
        if team is not None and price_cents is not None:
            is_new, account = sell(rows, declared, Price(team, price_cents, currency.lower()), now)
        else:
            is_new, account = give(rows, declared, now)
    except (RowsUnavailable, Contended, AccountTooLarge) as error:
        raise CommandError(f"{target.name}: {error}; try again, a repeat is harmless") from error
    _print(declared, account, is_new=is_new, as_json=as_json)


def declared_grant(options: dict[str, Any]) -> DeclaredGrant:
    """Check the options as `apply` checks a grant in a file."""
    try:
        declared = DeclaredGrant.model_validate(options)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        option = str(first["loc"][0]).replace("_", "-")
        message = first["msg"].removeprefix("Value error, ")
        raise CommandError(f"--{option}: {message}; correct it") from error
    if declared.expires_at is not None and declared.expires_in_days is not None:
        raise CommandError("--expires-at and --expires-in-days exclude each other; leave one out")
    prefix = reserved_prefix(declared.id)
    if prefix is not None:
        raise CommandError(f"--id: ids that begin with {prefix!r} are reserved; choose another id")
    return declared


def give(rows: OperatorRows, declared: DeclaredGrant, now: datetime) -> tuple[bool, Account]:
    """Make the grant unless it was made; return whether it is new, and the account after it."""
    account = existing_account(rows, declared.principal)
    recorded = recorded_grants(rows, account, [declared.id])
    changes = grant_changes(account, [declared], recorded, now)
    if not changes:
        return False, account
    _check_drawn(rows, account, declared.pool, now)
    step = ChangeAccount(account, tuple(changes))
    return True, change_account(rows, step, now=now, pause=back_off)


@dataclass(frozen=True, slots=True)
class Price:
    """What a purchase costs, and the team whose cap it counts towards."""

    team_id: str
    cents: int
    currency: str


def sell(
    rows: OperatorRows, declared: DeclaredGrant, price: Price, now: datetime
) -> tuple[bool, Account]:
    """Make the grant as a purchase; return whether it is new, and the account after it."""
    principal = declared.principal
    account = existing_account(rows, principal)
    _check_drawn(rows, account, declared.pool, now)
    purchase = Purchase(price.team_id, grant_change(declared, now), price.cents, price.currency)
    try:
        bought = buy(rows, purchase, now, back_off)
    except TeamMissing as error:
        raise CommandError(f"--team: {error}; name the team whose cap it counts towards") from error
    match bought:
        case NotBought(has_other_terms=True):
            raise CommandError(f"{declared.id} was granted on other terms; choose another --id")
        case NotBought():
            left = format_money(bought.head_room_cents, price.currency)
            raise CommandError(
                f"spend_cap_reached: the cap of team {price.team_id} leaves {left} this month; "
                "raise it with `agent-credits apply`, or buy less"
            )
        case Bought():
            return bought.is_new, rows.read_account(principal) or account


def _check_drawn(rows: SettingsRows, account: Account, pool: str, now: datetime) -> None:
    team = _team_of(rows, account)
    if team is None:
        return
    pools = drawn_pools(rows, team, account.principal, now)
    if pools and pool not in pools:
        raise CommandError(
            f"no run of team {team.team_id} draws from pool {pool} when {account.principal} pays; "
            f"the pools are {', '.join(sorted(pools))}"
        )


def _team_of(rows: SettingsRows, account: Account) -> Team | None:
    """Return the team whose runs the account pays for, where one read tells it."""
    if account.principal.kind == "team":
        return rows.read_team(account.principal.id)
    team_ids = [entry.run.team_id for entry in account.entries if entry.run]
    team = rows.read_team(team_ids[-1]) if team_ids else None
    return team if team and team.has_member(account.principal.id) else None


def drawn_pools(
    rows: SettingsRows, team: Team, principal: Principal, now: datetime
) -> frozenset[str]:
    """Return the pools that the team's runs draw, now or under a tenure that is to come."""
    own = ("team",) if principal.kind == "team" else ("user", "owner")
    pools: set[str] = set()
    for tenure in (team.tenure_at(now), *(t for t in team.tenures if t.since > now)):
        policy = rows.read_policy(tenure.policy_version)
        for rule in policy.rules if policy else ():
            if rule.team == tenure.kind and rule.payer in own:
                pools.update(rule.pools)
    return frozenset(pools)


def _print(declared: DeclaredGrant, account: Account, *, is_new: bool, as_json: bool) -> None:
    held = next((grant for grant in account.grants if grant.id == declared.id), None)
    if as_json:
        print_json(
            {
                "principal": str(declared.principal),
                "id": declared.id,
                "granted": "now" if is_new else "already",
                "pool": declared.pool,
                "credits": format_credits(declared.microcredits),
                "remaining_credits": format_credits(held.remaining_microcredits if held else 0),
                "expires_at": iso(held.expires_at) if held and held.expires_at else None,
                "version": account.version,
            }
        )
        return
    what = f"{format_credits(declared.microcredits)} {declared.pool} credits as {declared.id}"
    if is_new:
        expiry = f", until {iso(held.expires_at)}" if held and held.expires_at else ""
        out().print(f"Granted {declared.principal} {what}{expiry}.", soft_wrap=True)
    else:
        left = format_credits(held.remaining_microcredits if held else 0)
        out().print(
            f"{declared.principal} was granted {what} already; {left} are left.", soft_wrap=True
        )
