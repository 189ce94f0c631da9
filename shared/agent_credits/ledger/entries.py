"""The ledger's nouns. An entry is the immutable record of what one event did to an account.

Entries are on the account row's open page until the page is full. A full page is copied to the
ledger together with a receipt for each entry, and never changes again.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from msgspec import Struct

from agent_credits.ledger.grants import RELOAD_PREFIX, Grant
from agent_credits.ledger.reloads import DeclineCause
from agent_credits.values.principals import Payer, Principal

Realm = Literal["RUN", "GRANT", "RELOAD"]

# The source of entries that this system makes itself.
OWN_SOURCE = "/agent-credits"

EntryType = Literal[
    "agent_run.requested",
    "agent_run.usage",
    "agent_run.finished",
    "credits.granted",
    "credits.refilled",
    "credits.expired",
    "plan.changed",
    "reload.requested",
    "reload.granted",
    "reload.declined",
]
Outcome = Literal[
    "accepted",  # a request that the pools can cover; it takes nothing
    "debited",  # usage drawn in full
    "insufficient",  # too little: usage took what there was, the rest is the shortfall
    "waived",  # usage of a run that had already ended with a platform error
    "finished",  # the end of a run
    "returned",  # the end of a run with a platform error; its draws were returned
    "granted",
    "refilled",
    "expired",
    "changed",
    "reload_requested",
    "reload_declined",
]


class Identity(Struct, frozen=True):
    """What makes an event count once, forever: source, subject and id.

    The subject of a run's event is the run, that of any other event the principal.
    """

    realm: Realm
    subject: str
    source: str
    id: str


def run_identity(source: str, run_id: str, event_id: str) -> Identity:
    return Identity("RUN", run_id, source, event_id)


def grant_identity(principal: Principal, change_id: str) -> Identity:
    return Identity("GRANT", str(principal), OWN_SOURCE, change_id)


def reload_identity(principal: Principal, change_id: str) -> Identity:
    return Identity("RELOAD", str(principal), OWN_SOURCE, change_id)


def origin_identity(principal: Principal, grant_id: str) -> Identity:
    """Return the identity of the entry that made a grant."""
    if grant_id.startswith(RELOAD_PREFIX):
        return reload_identity(principal, grant_id)
    return grant_identity(principal, grant_id)


class ReloadFacts(Struct, frozen=True):
    """What a reload's entry records: whose settings requested it, and what was bought."""

    reload_id: str
    team_id: str
    packs: int = 0
    price_cents: int = 0
    currency: str = ""


class Draw(Struct, frozen=True):
    """What one event took from one grant, or what a `returned` entry gave back to it."""

    pool: str
    grant_id: str
    microcredits: int


class PoolBalance(Struct, frozen=True):
    pool: str
    available_microcredits: int


class RunContext(Struct, frozen=True):
    """Why a run's entry is on this account: the event's data, and who pays by the policy."""

    team_id: str
    trigger_kind: Literal["user", "team_api_key", "schedule"]
    trigger_id: str
    project_id: str | None
    event_time: datetime
    payer: Payer
    policy_version: str
    traceparent: str | None = None


class Entry(Struct, frozen=True):
    """The record of one event. `draws` plus `shortfall` equal `amount` for usage.

    `amount_microcredits`: what usage asked for, a request estimated, a grant added or lost.
    `pools_before`: of insufficient entries, what each pool of the order held before the event.
    `fails_run`: whether the run failed at this entry; true once per run.
    `decline`: why no reload helped, or the decline that this entry records.
    `grant`: of granted and refilled entries, the grant as it was made.
    """

    identity: Identity
    payload_hash: str
    type: EntryType
    outcome: Outcome
    recorded_at: datetime
    amount_microcredits: int = 0
    draws: tuple[Draw, ...] = ()
    shortfall_microcredits: int = 0
    run: RunContext | None = None
    pools_before: tuple[PoolBalance, ...] = ()
    fails_run: bool = False
    decline: DeclineCause | None = None
    reload: ReloadFacts | None = None
    grant: Grant | None = None
    plan_name: str | None = None

    @property
    def brings_credits(self) -> bool:
        """Return whether credits were added or returned."""
        return self.outcome in ("granted", "refilled") or (
            self.outcome == "returned" and bool(self.draws)
        )

    @property
    def drawn_microcredits(self) -> int:
        return sum(draw.microcredits for draw in self.draws)


class Page(Struct, frozen=True):
    """Consecutive entries of one account, in the order in which they were committed."""

    principal: Principal
    number: int
    entries: tuple[Entry, ...]


# The key has ten digits for the page number, more than an account can fill.
PAGES_MAX = 9_999_999_999


class Receipt(Struct, frozen=True):
    """Where an event's entry is, and the entry itself, so that one query returns a whole run."""

    principal: Principal
    page_number: int
    entry: Entry


def newest_team(entries: Sequence[Entry]) -> str | None:
    """Return the team of the newest entry that names one."""
    for entry in reversed(entries):
        if entry.run is not None:
            return entry.run.team_id
        if entry.reload is not None:
            return entry.reload.team_id
    return None
