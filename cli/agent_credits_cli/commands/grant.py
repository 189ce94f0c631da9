"""`agent-credits grant`: puts credits into one account by hand; a repeat changes nothing."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, assert_never

import pydantic
import typer

from agent_credits.aws.backoff import back_off
from agent_credits.billing.directory import SettingsRows
from agent_credits.billing.payers import may_pay
from agent_credits.billing.teams import Team
from agent_credits.ledger.accounts import Account
from agent_credits.notices.notice import iso
from agent_credits.payments.purchases import ManualPurchase, NotBought, buy
from agent_credits.values.credits import format_credits
from agent_credits.values.display import amount_text, credits_text, money_text, time_text
from agent_credits.values.errors import AccountTooLarge, Contended, RowsUnavailable
from agent_credits.values.principals import Principal
from agent_credits_cli.accounts import existing_account, principal_from
from agent_credits_cli.declared_grants import grant_change, grant_changes
from agent_credits_cli.errors import CommandError
from agent_credits_cli.stack import OperatorRows, recorded_grants
from agent_credits_cli.steps import ChangeAccount, change_account
from agent_credits_cli.tables import AsJson, out, print_json
from agent_credits_cli.target import connect, rows_of
from agent_credits_cli.teams import teams_billing
from agent_credits_cli.world import DeclaredGrant, reserved_prefix


def grant(
    context: typer.Context,
    principal: Annotated[str, typer.Argument(help="user:<id> or team:<id>")],
    pool: Annotated[str, typer.Option(help="The pool that receives the credits, such as add_on.")],
    amount: Annotated[
        str, typer.Option("--credits", help="How many credits, such as 250 or 12.5.")
    ],
    grant_id: Annotated[
        str,
        typer.Option(
            "--id", help="An id of your choice. A repeat with the same id changes nothing."
        ),
    ],
    cause: Annotated[str, typer.Option(help="purchase, gift or contract.")] = "purchase",
    expires_at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="When they expire, with a zone: 2027-01-31T00:00:00Z."),
    ] = None,
    expires_in_days: Annotated[
        int | None, typer.Option(metavar="DAYS", help="In how many days they expire.")
    ] = None,
    price_cents: Annotated[
        int | None,
        typer.Option(
            metavar="CENTS", min=1, help="The price, which counts towards the cap of --team."
        ),
    ] = None,
    currency: Annotated[
        str | None,
        typer.Option(
            metavar="CODE", help="The currency of the price, ISO 4217. It must be the team's."
        ),
    ] = None,
    team: Annotated[
        str | None, typer.Option(help="The team whose spend cap the price counts towards.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put credits into a pool of one account.

    With a price, this is a purchase. It is refused if it exceeds what the team's spend cap leaves,
    if the price is not in the team's currency, or if no run of the team is billed to the account.

    The pool must be one that runs billed to the account draw from.
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
            is_new, account = sell(rows, declared, Price(team, price_cents, currency), now)
        else:
            is_new, account = give(rows, declared, now)
    except (RowsUnavailable, Contended, AccountTooLarge) as error:
        raise CommandError(f"{target.name}: {error}; run it again, a repeat is harmless") from error
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
    """Make the grant unless it exists; return whether it is new, and the account after it."""
    account = _account_to_grant(rows, declared.principal, now)
    recorded = recorded_grants(rows, account, [declared.id])
    changes = grant_changes(account, [declared], recorded, now)
    if not changes:
        return False, account
    teams = teams_billing(rows, account.principal, now)
    _check_drawn(rows, teams, account.principal, declared.pool, now)
    step = ChangeAccount(account, tuple(changes))
    return True, change_account(rows, step, now=now, pause=back_off)


def _account_to_grant(rows: OperatorRows, principal: Principal, now: datetime) -> Account:
    """Return the account, new if it is that of a team whose pools its members draw.

    Such an account has no plan, so its first grant opens it.
    """
    team = rows.read_team(principal.id) if principal.kind == "team" else None
    if team is None:
        return existing_account(rows, principal)
    account = rows.read_account(principal)
    if account is None and not drawn_pools(rows, team, principal, now):
        raise CommandError(_billed_to_none(principal))
    return account or Account(principal)


def _billed_to_none(principal: Principal) -> str:
    if principal.kind == "user":
        return (
            f"no run is billed to {principal}, who is in no team of this stack; declare the team "
            "in a file for `agent-credits apply`"
        )
    return (
        f"no run draws from {principal}: no rule of its policy has payer `team`, or names "
        "a pool `team:<pool>` behind those of another payer"
    )


@dataclass(frozen=True, slots=True)
class Price:
    """What a purchase costs, and whose cap it counts towards. No currency means the team's."""

    team_id: str
    cents: int
    currency: str | None = None


def sell(
    rows: OperatorRows, declared: DeclaredGrant, price: Price, now: datetime
) -> tuple[bool, Account]:
    """Make the grant as a purchase; return whether it is new, and the account after it."""
    principal = declared.principal
    account = _account_to_grant(rows, principal, now)
    team = rows.read_team(price.team_id)
    if team is None:
        raise CommandError(
            f"--team: there is no team {price.team_id!r}; name the team whose cap it counts towards"
        )
    if may_pay(principal, team, now):
        _check_drawn(rows, [team], principal, declared.pool, now)
    currency = price.currency.lower() if price.currency else team.currency
    grant = grant_change(declared, now)
    purchase = ManualPurchase(price.team_id, grant, price.cents, currency)
    bought = buy(rows, purchase, now, back_off)
    if isinstance(bought, NotBought):
        raise CommandError(_why_not(bought, purchase))
    return bought.is_new, rows.read_account(principal) or account


def _why_not(refused: NotBought, purchase: ManualPurchase) -> str:
    team = refused.team
    match refused.cause:
        case "other_terms":
            return f"{purchase.grant.grant_id} was granted on other terms; choose another --id"
        case "other_currency":
            return (
                f"--currency: team {team.team_id} pays in {team.currency}, and its cap cannot add "
                f"up {purchase.currency}; leave --currency out"
            )
        case "not_a_payer":
            return (
                f"--team: no run of team {team.team_id} is billed to {purchase.grant.principal}; "
                "name the team that the user is in"
            )
        case "spend_cap_reached":
            left = money_text(refused.head_room_cents, team.currency)
            return (
                f"spend_cap_reached: the cap of team {team.team_id} leaves {left} this month "
                f"({team.time_zone}); "
                "raise it with `agent-credits apply`, or buy less"
            )
        case _:
            assert_never(refused.cause)


def _check_drawn(
    rows: SettingsRows, teams: Iterable[Team], principal: Principal, pool: str, now: datetime
) -> None:
    pools = frozenset(p for team in teams for p in drawn_pools(rows, team, principal, now))
    if not pools:
        raise CommandError(_billed_to_none(principal))
    if pool not in pools:
        raise CommandError(
            f"no run draws from pool {pool} when {principal} pays; "
            f"the pools are {', '.join(sorted(pools))}"
        )


def drawn_pools(
    rows: SettingsRows, team: Team, principal: Principal, now: datetime
) -> frozenset[str]:
    """Return the pools that the team's runs draw, now or under a pending tenure."""
    pools: set[str] = set()
    for tenure in (team.tenure_at(now), *(t for t in team.tenures if t.since > now)):
        policy = rows.read_policy(tenure.policy_version)
        for rule in policy.rules if policy else ():
            if rule.team == tenure.kind:
                pools.update(rule.pools_drawn_of(principal))
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
    what = f"{credits_text(declared.microcredits)} in pool {declared.pool} as {declared.id}"
    if is_new:
        expiry = f", until {time_text(held.expires_at)}" if held and held.expires_at else ""
        out().print(f"Granted {declared.principal} {what}{expiry}.", soft_wrap=True)
    else:
        left = credits_text(held.remaining_microcredits if held else 0)
        reserved = sum(
            part.microcredits
            for reservation in account.reservations
            for part in reservation.parts
            if part.grant_id == declared.id
        )
        in_flight = f" and {amount_text(reserved)} reserved for runs in flight" if reserved else ""
        text = f"{declared.principal} was already granted {what}; {left} left{in_flight}."
        out().print(text, soft_wrap=True)
