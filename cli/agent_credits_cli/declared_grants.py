"""Declared grants as changes of an account: each is made exactly once."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from agent_credits.commit.changes import GrantChange
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Entry, Identity
from agent_credits.ledger.grants import GRANTS_MAX, Grant
from agent_credits.values.display import time_text
from agent_credits_cli.errors import CommandError
from agent_credits_cli.world import DeclaredGrant

# Planning a grant and recording it are less than this far apart.
SECONDS_TO_RECORD_MAX: Final = 3_600


def grant_changes(
    account: Account,
    grants: Sequence[DeclaredGrant],
    recorded: Mapping[Identity, Entry],
    now: datetime,
) -> list[GrantChange]:
    """Return the grants that are not recorded yet. Raises `CommandError` for an impossible one."""
    changes = []
    for grant in grants:
        change = grant_change(grant, now)
        entry = recorded.get(change.identity)
        if entry is None:
            _check_outlives(change, now)
            changes.append(change)
        elif entry.payload_hash != change.payload_hash or not _expires_alike(entry.grant, grant):
            raise changed_grant(change)
    if changes and len(account.grants) + len(changes) > GRANTS_MAX:
        raise CommandError(
            f"{account.principal} would hold more than {GRANTS_MAX} grants; merge some of them, or "
            "wait until older ones are used up"
        )
    return changes


def changed_grant(change: GrantChange) -> CommandError:
    return CommandError(
        f"grant {change.grant_id} of {change.principal} is already recorded with another pool, "
        "amount, cause or expiry, and a recorded grant never changes; give the new one another id"
    )


def grant_change(grant: DeclaredGrant, now: datetime) -> GrantChange:
    expires_at = grant.expires_at
    if grant.expires_in_days is not None:
        expires_at = now.replace(microsecond=0) + timedelta(days=grant.expires_in_days)
    return GrantChange(
        principal=grant.principal,
        grant_id=grant.id,
        pool=grant.pool,
        microcredits=grant.microcredits,
        expires_at=expires_at,
        cause=grant.cause,
    )


def _check_outlives(change: GrantChange, now: datetime) -> None:
    if change.expires_at is not None and change.expires_at <= now:
        raise CommandError(
            f"grant {change.grant_id} of {change.principal} expires before it is made, at "
            f"{time_text(change.expires_at)}; give it a later expires_at, or remove it"
        )


def _expires_alike(made: Grant | None, declared: DeclaredGrant) -> bool:
    """Return whether the grant was made with the declared expiry, which its hash leaves out."""
    if made is None or made.expires_at is None:
        return declared.expires_at is None and declared.expires_in_days is None
    if declared.expires_in_days is None:
        return declared.expires_at is not None and _seconds_apart(made, declared.expires_at) < 1
    # Days count from when it was made, plus or minus the time that recording it took.
    expected = made.granted_at + timedelta(days=declared.expires_in_days)
    return _seconds_apart(made, expected) < SECONDS_TO_RECORD_MAX


def _seconds_apart(made: Grant, expected: datetime) -> float:
    assert made.expires_at is not None, "only a grant that expires is compared"
    return abs((made.expires_at - expected).total_seconds())
