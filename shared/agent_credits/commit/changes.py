"""What can change an account, and what results from it. Every change becomes an entry."""

from collections.abc import Mapping
from datetime import date, datetime

from msgspec import Struct, field

from agent_credits.billing.teams import Billing
from agent_credits.events.agent_runs import LedgerEvent, Rejection, payload_hash
from agent_credits.ledger.entries import (
    NO_PAYLOAD,
    OWN_SOURCE,
    Entry,
    Identity,
    grant_identity,
    reload_identity,
    run_identity,
)
from agent_credits.ledger.grants import Grant, GrantCause
from agent_credits.ledger.reloads import DeclineCause
from agent_credits.values.principals import Principal


class RunChange(Struct, frozen=True):
    """An agent-run event, billed to this account."""

    event: LedgerEvent
    billing: Billing

    @property
    def identity(self) -> Identity:
        return self.event.identity

    @property
    def payload_hash(self) -> str:
        return self.event.payload_hash


class GrantChange(Struct, frozen=True):
    """Credits put into a pool by hand; `grant_id` makes it safe to repeat."""

    principal: Principal
    grant_id: str
    pool: str
    microcredits: int
    expires_at: datetime | None
    cause: GrantCause

    @property
    def identity(self) -> Identity:
        return grant_identity(self.principal, self.grant_id)

    @property
    def payload_hash(self) -> str:
        # The expiry is left out: a grant declared to live "14 days" expires later each time it is
        # declared, and is still the same grant.
        return payload_hash([self.pool, self.microcredits, self.cause])


class PlanChange(Struct, frozen=True):
    """Another plan from the next refill on; what earlier plans granted does not change."""

    principal: Principal
    change_id: str
    plan_name: str
    pool: str
    microcredits: int
    anchor: date

    @property
    def identity(self) -> Identity:
        return grant_identity(self.principal, self.change_id)

    @property
    def payload_hash(self) -> str:
        return payload_hash([self.plan_name, self.pool, self.microcredits, self.anchor.isoformat()])


class ReloadGranted(Struct, frozen=True):
    """A reload that was paid for; its identity is the reload's, so it is granted once."""

    principal: Principal
    reload_id: str
    team_id: str
    pool: str
    microcredits: int
    packs: int
    price_cents: int
    currency: str

    @property
    def identity(self) -> Identity:
        return reload_identity(self.principal, self.reload_id)

    @property
    def payload_hash(self) -> str:
        return payload_hash([self.pool, self.microcredits, self.price_cents, self.currency])


class ReloadDeclined(Struct, frozen=True):
    """A reload that will not be paid for; `until` as in `reloads.Reload`."""

    principal: Principal
    reload_id: str
    team_id: str
    cause: DeclineCause
    until: datetime | None
    settings_version: int

    @property
    def identity(self) -> Identity:
        return reload_identity(self.principal, f"{self.reload_id}:declined")

    @property
    def payload_hash(self) -> str:
        # A reload is declined once, whatever cause the second of two workers found.
        return NO_PAYLOAD


class ReleaseChange(Struct, frozen=True):
    """An operator ends a run's reservation by hand; `change_id` makes it safe to repeat."""

    principal: Principal
    run_id: str
    change_id: str
    reason: str

    @property
    def identity(self) -> Identity:
        return run_identity(OWN_SOURCE, self.run_id, self.change_id)

    @property
    def payload_hash(self) -> str:
        return payload_hash([self.run_id, self.reason])


Change = RunChange | GrantChange | PlanChange | ReloadGranted | ReloadDeclined | ReleaseChange


class Recorded(Struct, frozen=True):
    """The change was decided now; its entry says how."""

    entry: Entry


class AlreadyRecorded(Struct, frozen=True):
    """A repeat. What was decided stays decided; this is the original entry."""

    entry: Entry


class Conflicting(Struct, frozen=True):
    """Another payload was recorded under this id, as this entry. Nothing was applied."""

    entry: Entry


class Waiting(Struct, frozen=True):
    """The event is not recorded: a reload that may cover it is under way. Ask again soon."""

    reload_id: str


class Unsure(Struct, frozen=True):
    """The event is not recorded: the account's row does not show what became of this run.

    Decide again with the run's past. If nothing is known of the run even so, its own event may
    still be in the queue: ask again soon.
    """

    run_id: str


# A rejection is a result too: the event contradicts what the account holds, and nothing is applied.
Result = Recorded | AlreadyRecorded | Conflicting | Waiting | Unsure | Rejection


class Past(Struct, frozen=True):
    """What a decision needs to know from this account's ledger, beyond its row.

    `recorded`: entries with the identities of the batch. `runs`: all entries of some runs.
    `grants`: the grants that those runs drew from, as they were made. `elsewhere`: those of the
    runs that have entries on other accounts.
    """

    recorded: Mapping[Identity, Entry] = field(default_factory=dict)
    runs: Mapping[str, tuple[Entry, ...]] = field(default_factory=dict)
    grants: Mapping[str, Grant] = field(default_factory=dict)
    elsewhere: frozenset[str] = frozenset()
