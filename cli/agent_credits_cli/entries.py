"""The entries of an account, page by page, and how commands print one."""

from collections.abc import Iterator
from typing import Any, Protocol

from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import (
    NO_RESERVATION,
    Draw,
    Entry,
    Page,
    ReservationFacts,
    payers_commit,
)
from agent_credits.ledger.limits import NO_LIMITS
from agent_credits.notices.notice import iso
from agent_credits.values.credits import format_credits
from agent_credits.values.display import amount_text
from agent_credits.values.principals import Principal
from agent_credits_cli.limits import limit_facts_to_json


class PageRows(Protocol):
    """The rows that a ledger is read from; the tests implement them in memory."""

    def read_account(self, principal: Principal) -> Account | None: ...

    def read_pages(self, principal: Principal) -> Iterator[Page]: ...


def all_pages(rows: PageRows, row: Account) -> Iterator[Page]:
    """Yield an account's pages as of its row; a full page that is still on the row comes once."""
    for page in rows.read_pages(row.principal):
        if page.number >= row.page_number:
            break
        yield page
    yield row.page


def entry_to_json(entry: Entry) -> dict[str, Any]:
    """Return an entry as commands print it: credits as decimal strings, times as RFC 3339."""
    identity, run = entry.identity, entry.run
    document: dict[str, Any] = {
        "type": entry.type,
        "outcome": entry.outcome,
        "id": identity.id,
        "source": identity.source,
        "subject": identity.subject,
        "recorded_at": iso(entry.recorded_at),
        "credits": format_credits(entry.amount_microcredits),
        "draws": [
            {"pool": d.pool, "grant_id": d.grant_id, "credits": format_credits(d.microcredits)}
            for d in entry.draws
        ],
        "shortfall_credits": format_credits(entry.shortfall_microcredits),
        "fails_run": entry.fails_run,
    }
    if run is not None:
        document |= {
            "team_id": run.team_id,
            "trigger": {"kind": run.trigger_kind, "id": run.trigger_id},
            "project_id": run.project_id,
            "time": iso(run.event_time),
            "payer": run.payer,
            "policy_version": run.policy_version,
        }
    if entry.type in ("pool.drawn", "pool.returned"):
        payer, version = payers_commit(entry)
        document |= {"payer_principal": str(payer), "payer_version": version}
    if entry.grant is not None:
        document |= {"grant_id": entry.grant.id, "pool": entry.grant.pool}
    if entry.decline is not None:
        document |= {"decline": entry.decline}
    if entry.reload is not None:
        reload = entry.reload
        document |= {"reload_id": reload.reload_id, "team_id": reload.team_id}
        if entry.type == "reload.granted":
            document |= {
                "packs": reload.packs,
                "price_cents": reload.price_cents,
                "currency": reload.currency,
            }
    if entry.plan_name is not None:
        document |= {"plan": entry.plan_name}
    if entry.reservation != NO_RESERVATION:
        document |= {"reservation": _facts_to_json(entry.reservation)}
    if entry.limits != NO_LIMITS:
        document |= {"limits": limit_facts_to_json(entry.limits)}
    return document


def _facts_to_json(facts: ReservationFacts) -> dict[str, Any]:
    """Return what an entry records of reservations."""
    return {
        "parent_run_id": facts.parent_run_id,
        "moves": [
            {
                "run_id": move.run_id,
                "grant_id": move.grant_id,
                "credits": format_credits(move.microcredits),
            }
            for move in facts.moves
        ],
        "ended": [
            {
                "run_id": ended.run_id,
                "parent_run_id": ended.parent_run_id,
                "reserved_credits": format_credits(ended.reserved_microcredits),
                "drawn_credits": format_credits(ended.drawn_microcredits),
                "overdrawn_credits": format_credits(ended.overdrawn_microcredits),
            }
            for ended in facts.ended
        ],
        "overdrawn_credits": format_credits(facts.overdrawn_microcredits),
        "directive": facts.directive,
        "reserved_before_credits": format_credits(facts.reserved_before_microcredits),
        "reason": facts.reason,
    }


def draws_text(draws: tuple[Draw, ...]) -> str:
    """Return draws in one line: 2.5 plan (refill:2026-11-01) + 7.5 add_on (pack-1)."""
    return " + ".join(f"{amount_text(d.microcredits)} {d.pool} ({d.grant_id})" for d in draws)
