"""`agent-credits team`: a team's settings, who pays for its runs, and what its payers hold."""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer

from agent_credits.api.audit import AuditEntry
from agent_credits.api.teams import audit_answer, newest_changes
from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.billing.limit_standings import CurrentLimit
from agent_credits.billing.payers import payers
from agent_credits.billing.policy import BillingPolicy
from agent_credits.billing.spend_cap import month_of
from agent_credits.billing.teams import Team, Tenure
from agent_credits.ledger.reloads import Reload
from agent_credits.notices.limit_words import current_limit_to_json
from agent_credits.notices.notice import iso
from agent_credits.values.credits import format_credits
from agent_credits.values.display import amount_text, count_text, money_text, time_text
from agent_credits.values.principals import Principal
from agent_credits_cli.hints import as_typed
from agent_credits_cli.holdings import Holdings, holdings_at
from agent_credits_cli.limits import LISTED_MAX, limits_of_team, limits_table
from agent_credits_cli.tables import AsJson, out, print_json, progress, table
from agent_credits_cli.target import connect, rows_of
from agent_credits_cli.team_settings import (
    NO_CAP,
    alerts_text,
    auto_reload_text,
    payment_text,
)
from agent_credits_cli.teams import read_team_and_policy

# Fewer accounts than this are read before anyone could read a progress bar.
PROGRESS_FROM: Final = 50

# A principal, and what it holds; None where it has no account.
Funds = tuple[Principal, Holdings | None]
# A principal and the reload it waits for, or was declined.
Asking = tuple[Principal, Reload]


def team(
    context: typer.Context,
    team_id: Annotated[str, typer.Argument(metavar="TEAM", help="The team's id.")],
    as_json: AsJson = False,
) -> None:
    """Show a team's settings, who pays since when, what the payers hold, and its limits."""
    rows, now = rows_of(connect(context)), datetime.now(UTC)
    found, policy = read_team_and_policy(rows, team_id, now)
    funds = list(_funds(rows, payers(found, policy, now), policy, now))
    limits = limits_of_team(rows, found, policy, now).limits
    audit = newest_changes(rows, found)
    if as_json:
        print_json(_to_json(found, funds, limits, audit, now))
    else:
        _show(found, funds, audit, now)
        _show_limits(context, team_id, limits, now)


def _funds(
    rows: DynamoDBRows, principals: list[Principal], policy: BillingPolicy, now: datetime
) -> Iterator[Funds]:
    with progress(shown=len(principals) >= PROGRESS_FROM) as bar:
        task = bar.add_task("reading accounts", total=len(principals))
        for principal in principals:
            row = rows.read_account(principal)
            yield principal, holdings_at(row, policy, now) if row else None
            bar.advance(task)


def _to_json(
    team: Team,
    funds: list[Funds],
    limits: Sequence[CurrentLimit],
    audit: Sequence[AuditEntry],
    now: datetime,
) -> dict[str, Any]:
    return {
        "team_id": team.team_id,
        "version": team.version,
        "plan": team.plan,
        "time_zone": team.time_zone,
        "members": "*" if team.members == "*" else sorted(team.members),
        "alerts": team.alerts.model_dump(mode="json"),
        "limits": [current_limit_to_json(limit) for limit in limits],
        "tenures": [
            tenure.model_dump(mode="json") | {"state": _state(team, tenure, now)}
            for tenure in team.tenures
        ],
        "payers": [
            {
                "principal": str(principal),
                "available_credits": held and format_credits(held.available_microcredits),
                "reserved_credits": held and format_credits(held.reserved_microcredits),
                "reload": _reload_to_json(held.account.reload) if held else None,
            }
            for principal, held in funds
        ],
        "spending": _spending_to_json(team, now),
        "audit": [audit_answer(entry).model_dump(mode="json") for entry in audit],
        "at": iso(now),
    }


def _reload_to_json(reload: Reload | None) -> dict[str, Any] | None:
    if reload is None:
        return None
    return {
        "reload_id": reload.id,
        "state": reload.state,
        "cause": reload.cause,
        "since": iso(reload.since),
        "until": iso(reload.until) if reload.until else None,
    }


def _spending_to_json(team: Team, now: datetime) -> dict[str, Any]:
    month, spending = month_of(now, team.time_zone), team.spending
    return {
        "month": month,
        "spent_cents": spending.spent_in(month),
        "reserved_cents": spending.reserved_in(month),
        "spend_cap_cents": team.spend_cap_cents,
        "head_room_cents": spending.head_room(team.spend_cap_cents, month),
        "auto_reload": team.auto_reload.model_dump(mode="json") if team.auto_reload else None,
        "payment_method": team.payment.name if team.payment else None,
        "declines_in_a_row": spending.declines_in_a_row,
        "suspended_payment_method": spending.suspended_payment_method,
        "reservations": [r.model_dump(mode="json") for r in spending.reservations],
        "recent": [p.model_dump(mode="json") for p in spending.recent],
    }


def _show_spending(team: Team, reloads: list[Asking], now: datetime) -> None:
    month, spending = month_of(now, team.time_zone), team.spending
    spent, reserved, left, cap = (
        money_text(cents, team.currency)
        for cents in (
            spending.spent_in(month),
            spending.reserved_in(month),
            spending.head_room(team.spend_cap_cents, month),
            team.spend_cap_cents,
        )
    )
    under_cap = f"{left} left of the cap of {cap}" if team.spend_cap_cents else NO_CAP
    out().print(
        f"spend in {month} ({team.time_zone}): {spent} spent, {reserved} reserved, {under_cap}",
        soft_wrap=True,
    )
    out().print(f"auto-reload: {auto_reload_text(team.auto_reload)}")
    out().print(f"payment: {payment_text(team.payment)}")
    if spending.suspended_payment_method is not None:
        out().print(
            f"suspended: {spending.suspended_payment_method} was declined too often; "
            "change the payment method"
        )
    states = table("payer", "reload", "state", "until", title="reloads")
    for principal, reload in reloads:
        until = time_text(reload.until) if reload.until else "the settings change"
        states.add_row(str(principal), reload.id, reload.cause or reload.state, until)
    purchases = table("ended", "purchase", "outcome", ">price", title="last purchases")
    for purchase in spending.recent:
        price = money_text(purchase.price_cents, purchase.currency)
        purchases.add_row(
            time_text(purchase.ended_at), purchase.purchase_id, purchase.outcome, price
        )
    for listing in (states, purchases):
        if listing.row_count:
            out().print(listing)


def _show_audit(audit: Sequence[AuditEntry]) -> None:
    changes = table("time", "who", "change", "before", "after", title="changes through the API")
    for entry in audit:
        for change in entry.changes:
            texts = (_value_text(change.before), _value_text(change.after))
            changes.add_row(time_text(entry.time), entry.who, change.field, *texts)
    if changes.row_count:
        out().print(changes)


def _value_text(value: object) -> str:
    return "" if value is None else json.dumps(value)


def _show(team: Team, funds: list[Funds], audit: Sequence[AuditEntry], now: datetime) -> None:
    members = "every user" if team.members == "*" else count_text(len(team.members), "member")
    out().print(f"{team.team_id}: plan {team.plan}, {members}, time zone {team.time_zone}")
    out().print(f"alerts: {alerts_text(team.alerts)}")
    tenures = table("since", "kind", "owner", "policy", "state", title="who pays")
    for tenure in team.tenures:
        tenures.add_row(
            _since_text(team, tenure),
            tenure.kind,
            tenure.owner,
            tenure.policy_version,
            _state(team, tenure, now),
        )
    out().print(tenures)
    credits_of = table("payer", ">available", ">reserved")
    for principal, held in funds:
        if held is None:
            credits_of.add_row(str(principal), "no account", "")
        else:
            credits_of.add_row(
                str(principal),
                amount_text(held.available_microcredits),
                amount_text(held.reserved_microcredits),
            )
    out().print(credits_of)
    asking = [
        (principal, held.account.reload)
        for principal, held in funds
        if held is not None and held.account.reload is not None
    ]
    _show_spending(team, asking, now)
    _show_audit(audit)


def _show_limits(
    context: typer.Context, team_id: str, limits: Sequence[CurrentLimit], now: datetime
) -> None:
    if not limits:
        return
    out().print(limits_table(limits[:LISTED_MAX], now, title="limits"))
    if len(limits) > LISTED_MAX:
        more = count_text(len(limits) - LISTED_MAX, "more limit")
        out().print(as_typed(context, f"and {more}: see `agent-credits limits {team_id}`"))


def _since_text(team: Team, tenure: Tenure) -> str:
    first, *later = team.tenures
    if tenure is first and later and later[0].since <= first.since:
        return "before that"
    return time_text(tenure.since)


def _state(team: Team, tenure: Tenure, now: datetime) -> str:
    if tenure is team.tenure_at(now):
        return "current"
    return "pending" if tenure.since > now else "past"
