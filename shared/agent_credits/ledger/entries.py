"""The ledger's nouns: an entry is the immutable record of what one event did to an account.

Entries stand on the account row's open page until the page is full; a full page is copied to the
ledger, together with one receipt per entry, and never changes again.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from msgspec import Struct

from agent_credits.ledger.grants import RELOAD_PREFIX, Grant
from agent_credits.ledger.reloads import DeclineCause
from agent_credits.values.principals import Payer, Principal

Realm = Literal["RUN", "GRANT", "RELOAD"]

# The source of entries that the system makes itself.
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
    "waived",  # usage of a run that had already ended by the platform's fault
    "finished",  # the end of a run
    "returned",  # the end of a run by the platform's fault; its draws went back
    "granted",
    "refilled",
    "expired",
    "changed",
    "reload_requested",
    "reload_declined",
]


class Identity(Struct, frozen=True):
    """What makes an event count once, for ever: source, subject and id.

    For a run's event the subject is the run; for what is not a run it is the principal.
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
    """What a reload's entry records: whose settings, how much for how much, or why not."""

    reload_id: str
    team_id: str
    packs: int = 0
    price_cents: int = 0
    currency: str = ""


class Draw(Struct, frozen=True):
    """What one event took from one grant; of a `returned` entry, what it gave back to it."""

    pool: str
    grant_id: str
    microcredits: int


class PoolBalance(Struct, frozen=True):
    pool: str
    available_microcredits: int


class RunContext(Struct, frozen=True):
    """Why a run's entry is on this account: the event's own data and the policy's answer."""

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

    `amount_microcredits`: what usage asked for, a request estimated, a grant added, a grant lost.
    `pools_before`: of insufficient entries, what each pool of the order held before the event.
    `fails_run`: this is the entry at which the run failed; it is set once per run.
    `decline`: the decline of a reload that stood in the way, or that this entry records.
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
        """Tell whether there is more to draw after it: credits came, or came back."""
        return self.outcome in ("granted", "refilled") or (
            self.outcome == "returned" and bool(self.draws)
        )

    @property
    def drawn_microcredits(self) -> int:
        return sum(draw.microcredits for draw in self.draws)


class Page(Struct, frozen=True):
    """A full run of entries of one account, in the order they were committed."""

    principal: Principal
    number: int
    entries: tuple[Entry, ...]


# Ten digits of a key hold more pages than an account can fill.
PAGES_MAX = 9_999_999_999


class Receipt(Struct, frozen=True):
    """Where an event's entry is, and the entry itself, so that one query answers for a run."""

    principal: Principal
    page_number: int
    entry: Entry


def newest_team(entries: Sequence[Entry]) -> str | None:
    """Return the team that the newest of the entries was made for, if any names one."""
    for entry in reversed(entries):
        if entry.run is not None:
            return entry.run.team_id
        if entry.reload is not None:
            return entry.reload.team_id
    return None
