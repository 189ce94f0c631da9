"""An account asks for a reload when an event finds too little, or when its balance falls low."""

from datetime import datetime

from msgspec.structs import replace

from agent_credits.billing.teams import Billing
from agent_credits.commit.changes import Waiting
from agent_credits.commit.decision_context import DecisionContext
from agent_credits.ledger.accounts import Account, available_microcredits
from agent_credits.ledger.entries import Entry
from agent_credits.ledger.grants import RELOAD_PREFIX
from agent_credits.ledger.reloads import RELOAD_DEADLINE, Reload, Standing, standing


def reload_standing(account: Account, billing: Billing, now: datetime) -> Standing:
    return standing(account.reload, account.reloaded_at, billing.reload, now)


def wait_for_reload(
    account: Account, billing: Billing, wanted_microcredits: int, context: DecisionContext
) -> tuple[Account, Waiting]:
    """Let an event wait for the reload under way, or for one that this commit requests."""
    requested = account.reload
    if requested is None or reload_standing(account, billing, context.now) == "able":
        requested = _request(billing, context)
    if requested.id == _next_id(context.row):
        # The reload that this commit requests covers every event of it that waits.
        wanted = requested.wanted_microcredits + wanted_microcredits
        requested = replace(requested, wanted_microcredits=wanted)
    return replace(account, reload=requested), Waiting(requested.id)


def reload_where_low(account: Account, billing: Billing, context: DecisionContext) -> Account:
    """Request a reload if the balance is below the threshold; on the threshold is not below it.

    If too many reloads were made recently, reloading freezes instead, and that is recorded once.
    """
    terms = billing.reload
    if terms is None:
        return account
    available = available_microcredits(account, billing.pools, context.now)
    if available >= terms.threshold_microcredits:
        return account
    match reload_standing(account, billing, context.now):
        case "able":
            return replace(account, reload=_request(billing, context))
        case "too_many_reloads":
            return freeze(account, billing, context)
        case _:
            return account


def freeze(account: Account, billing: Billing, context: DecisionContext) -> Account:
    """Freeze reloading for the window of its terms, unless it is already frozen."""
    terms = billing.reload
    if terms is None or _is_frozen(account, context.now):
        return account
    frozen = replace(
        _request(billing, context),
        state="declined",
        until=context.now + terms.window,
        cause="too_many_reloads",
    )
    return replace(account, reload=frozen)


def with_reload_recorded(account: Account, context: DecisionContext) -> Account:
    """Add the entry of the reload that this commit requests or freezes."""
    reload = account.reload
    if reload is None or reload.id != _next_id(context.row):
        return account
    kind = Entry.reload_requested if reload.state == "requested" else Entry.reload_frozen
    entry = kind(account.principal, reload, context.now)
    return replace(account, entries=(*account.entries, entry))


def _is_frozen(account: Account, now: datetime) -> bool:
    reload = account.reload
    return (
        reload is not None
        and reload.cause == "too_many_reloads"
        and reload.until is not None
        and now < reload.until
    )


def _request(billing: Billing, context: DecisionContext) -> Reload:
    if billing.reload is None:
        raise TypeError("only a team with auto-reload on requests a reload")
    return Reload(
        id=_next_id(context.row),
        team_id=billing.reload.team_id,
        pools=billing.reload.pools,
        state="requested",
        wanted_microcredits=0,
        settings_version=billing.reload.settings_version,
        since=context.now,
        until=context.now + RELOAD_DEADLINE,
    )


def _next_id(row: Account) -> str:
    # The version that this commit writes: no two reloads of an account share one.
    return f"{RELOAD_PREFIX}{row.principal}:{row.version + 1}"
