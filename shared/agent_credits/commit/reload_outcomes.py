"""What a reload does to the account that asked for it, once it was paid for or declined."""

from datetime import datetime

from msgspec.structs import replace

from agent_credits.commit.changes import ReloadDeclined, ReloadGranted
from agent_credits.ledger.accounts import RELOADS_REMEMBERED_MAX, Account
from agent_credits.ledger.entries import Entry, ReloadFacts
from agent_credits.ledger.grants import Grant


def grant_reload(account: Account, change: ReloadGranted, now: datetime) -> tuple[Account, Entry]:
    """Add the credits, even if the reload came too late and already counts as declined."""
    grant = Grant(
        id=change.reload_id,
        pool=change.pool,
        amount_microcredits=change.microcredits,
        remaining_microcredits=change.microcredits,
        granted_at=now,
        expires_at=None,
        cause="reload",
    )
    facts = ReloadFacts(
        change.reload_id, change.team_id, change.packs, change.price_cents, change.currency
    )
    entry = Entry.reload_granted(change.identity, change.payload_hash, grant, facts, now)
    granted = replace(
        account,
        grants=(*account.grants, grant),
        reload=None if _is_newest(account, change.reload_id) else account.reload,
        reloaded_at=(*account.reloaded_at, now)[-RELOADS_REMEMBERED_MAX:],
    )
    return granted, entry


def decline_reload(
    account: Account, change: ReloadDeclined, now: datetime
) -> tuple[Account, Entry]:
    """Keep the decline on the row, so that the events that wait fail with its cause."""
    facts = ReloadFacts(change.reload_id, change.team_id)
    entry = Entry.reload_declined(change.identity, facts, change.cause, now)
    reload = account.reload
    if reload is not None and _is_newest(account, change.reload_id):
        reload = replace(
            reload,
            state="declined",
            since=now,
            until=change.until,
            cause=change.cause,
            settings_version=change.settings_version,
        )
    return replace(account, reload=reload), entry


def _is_newest(account: Account, reload_id: str) -> bool:
    return account.reload is not None and account.reload.id == reload_id
