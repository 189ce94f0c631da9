"""The ledger's nouns. An entry is the immutable record of what one event did to an account.

Entries are on the account row's open page until the page is full. A full page is copied to the
ledger together with a receipt for each entry, and never changes again.

Each kind of entry has one constructor, which takes what that kind records, adds what follows from
it, and raises `InvariantViolated` for an entry that could never be right.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal, Self

from msgspec import Struct

from agent_credits.ledger.grants import (
    EXPIRY_PREFIX,
    RELOAD_PREFIX,
    RESERVATIONS_PREFIX,
    SHARED_PREFIX,
    Grant,
)
from agent_credits.ledger.limits import NO_LIMITS, LimitFacts
from agent_credits.ledger.reloads import DeclineCause, Reload
from agent_credits.values.errors import InvariantViolated, require
from agent_credits.values.principals import Payer, Principal, parse_principal

Realm = Literal["RUN", "GRANT", "RELOAD"]

# The source of entries that this system makes itself.
OWN_SOURCE = "/agent-credits"
# The hash of what has no payload, so that no repeat of it is ever a conflict.
NO_PAYLOAD = ""

# What the platform is to do with a run.
Directive = Literal["continue", "pause", "stop"]

EntryType = Literal[
    "agent_run.requested",
    "agent_run.extended",
    "agent_run.usage",
    "agent_run.finished",
    "agent_run.released",
    "credits.granted",
    "credits.refilled",
    "credits.expired",
    "reservations.expired",
    "pool.drawn",
    "pool.returned",
    "plan.changed",
    "reload.requested",
    "reload.granted",
    "reload.declined",
]
Outcome = Literal[
    "accepted",  # a request that the pools can cover; it takes nothing, or it reserves
    "extended",  # a reservation got more credits, more time or both
    "debited",  # usage drawn in full
    "insufficient",  # too little: usage took what there was, the rest is the shortfall
    "waived",  # usage of a run that had already ended with a platform error
    "finished",  # the end of a run
    "returned",  # the end of a run with a platform error; its draws were returned
    "released",  # what a reservation still held went back
    "reservations_expired",  # the same, because their time was over
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


def reservations_expiry_identity(principal: Principal, version: int) -> Identity:
    """Return the identity of the one entry of what expired by the commit of this version."""
    return grant_identity(principal, f"{RESERVATIONS_PREFIX}expired:{version}")


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


class Move(Struct, frozen=True):
    """Credits of a grant that were put into a run's reservation, or taken out of it if negative."""

    run_id: str
    grant_id: str
    microcredits: int


class EndedReservation(Struct, frozen=True):
    """The sums of a reservation at its end; see `reservations.Reservation`."""

    run_id: str
    parent_run_id: str | None
    reserved_microcredits: int
    drawn_microcredits: int
    overdrawn_microcredits: int = 0


class ReservationFacts(Struct, frozen=True):
    """What an entry records of reservations.

    A draw that a negative move accounts for was taken from a reservation; every other draw was
    taken from credits that nobody held. A move that no draw accounts for goes to or comes from
    what the grant holds for everyone.

    `parent_run_id`: of a request, the run whose reservation it reserves from.
    `ended`: the reservations that this event ended, or that had expired.
    `overdrawn_microcredits`: what a run with a reservation drew of credits that nobody held.
    `overruns`: whether its tree did so for the first time.
    `directive`: what the platform is told about the run from here on.
    `reserved_before_microcredits`: of insufficient entries, what the reservations of all runs held.
    `reason`: why an operator released the reservation.
    """

    moves: tuple[Move, ...] = ()
    ended: tuple[EndedReservation, ...] = ()
    parent_run_id: str | None = None
    overdrawn_microcredits: int = 0
    overruns: bool = False
    directive: Directive | None = None
    reserved_before_microcredits: int = 0
    reason: str | None = None


NO_RESERVATION = ReservationFacts()


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


class RunFacts(Struct, frozen=True):
    """What every entry of a run's event records, whatever its outcome."""

    identity: Identity
    payload_hash: str
    context: RunContext
    recorded_at: datetime


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
    reservation: ReservationFacts = NO_RESERVATION
    limits: LimitFacts = NO_LIMITS

    @classmethod
    def refilled(
        cls, principal: Principal, grant: Grant, plan_name: str, recorded_at: datetime
    ) -> Self:
        """The plan's credits for a new period."""
        _require_undrawn(grant)
        return cls(
            grant_identity(principal, grant.id),
            NO_PAYLOAD,
            "credits.refilled",
            "refilled",
            recorded_at,
            grant.amount_microcredits,
            grant=grant,
            plan_name=plan_name,
        )

    @classmethod
    def expired(
        cls,
        principal: Principal,
        grant: Grant,
        recorded_at: datetime,
        moves: tuple[Move, ...] = (),
    ) -> Self:
        """What a grant still held when it expired, with what `moves` gave back to it before."""
        if grant.expires_at is None or grant.is_live(recorded_at):
            raise InvariantViolated("a live grant does not expire")
        require(grant.remaining_microcredits > 0, "an empty grant has nothing that expires")
        # A grant that came back with a grace period expires again, at another time.
        expiry = f"{EXPIRY_PREFIX}{grant.id}@{int(grant.expires_at.timestamp())}"
        return cls(
            grant_identity(principal, expiry),
            NO_PAYLOAD,
            "credits.expired",
            "expired",
            recorded_at,
            grant.remaining_microcredits,
            grant=grant,
            reservation=ReservationFacts(moves) if moves else NO_RESERVATION,
        )

    @classmethod
    def granted(
        cls, identity: Identity, payload_hash: str, grant: Grant, recorded_at: datetime
    ) -> Self:
        """Credits put into a pool by hand."""
        _require_undrawn(grant)
        amount = grant.amount_microcredits
        return cls(
            identity, payload_hash, "credits.granted", "granted", recorded_at, amount, grant=grant
        )

    @classmethod
    def plan_changed(
        cls, identity: Identity, payload_hash: str, plan_name: str, recorded_at: datetime
    ) -> Self:
        """Another plan, from the next refill on."""
        return cls(
            identity, payload_hash, "plan.changed", "changed", recorded_at, plan_name=plan_name
        )

    @classmethod
    def reload_requested(cls, principal: Principal, reload: Reload, recorded_at: datetime) -> Self:
        """A reload that the account asks for; the amount is what the waiting events ask for."""
        require(reload.state == "requested", "a reload is requested while it is open")
        return cls(
            reload_identity(principal, f"{reload.id}:requested"),
            NO_PAYLOAD,
            "reload.requested",
            "reload_requested",
            recorded_at,
            reload.wanted_microcredits,
            reload=ReloadFacts(reload.id, reload.team_id),
        )

    @classmethod
    def reload_frozen(cls, principal: Principal, reload: Reload, recorded_at: datetime) -> Self:
        """A reload that the account declines by itself, because there were too many before it."""
        is_one_too_many = reload.state == "declined" and reload.cause == "too_many_reloads"
        require(is_one_too_many, "an account declines by itself only one reload too many")
        identity = reload_identity(principal, f"{reload.id}:declined")
        facts = ReloadFacts(reload.id, reload.team_id)
        return cls.reload_declined(identity, facts, "too_many_reloads", recorded_at)

    @classmethod
    def reload_declined(
        cls, identity: Identity, reload: ReloadFacts, cause: DeclineCause, recorded_at: datetime
    ) -> Self:
        """A reload that will not be paid for."""
        require(reload.packs == 0, "a declined reload buys nothing")
        return cls(
            identity,
            NO_PAYLOAD,
            "reload.declined",
            "reload_declined",
            recorded_at,
            decline=cause,
            reload=reload,
        )

    @classmethod
    def reload_granted(
        cls,
        identity: Identity,
        payload_hash: str,
        grant: Grant,
        reload: ReloadFacts,
        recorded_at: datetime,
    ) -> Self:
        """The credits of a reload that was paid for."""
        _require_undrawn(grant)
        require(reload.packs > 0, "a granted reload bought packs")
        require(grant.id == reload.reload_id, "a reload's grant is named after the reload")
        return cls(
            identity,
            payload_hash,
            "reload.granted",
            "granted",
            recorded_at,
            grant.amount_microcredits,
            grant=grant,
            reload=reload,
        )

    @classmethod
    def reservations_expired(
        cls, principal: Principal, version: int, facts: ReservationFacts, recorded_at: datetime
    ) -> Self:
        """What expired reservations still held; one entry of the commit that writes `version`."""
        require(len(facts.ended) > 0, "an expiry of reservations names what expired")
        return cls(
            reservations_expiry_identity(principal, version),
            NO_PAYLOAD,
            "reservations.expired",
            "reservations_expired",
            recorded_at,
            -sum(move.microcredits for move in facts.moves),
            reservation=facts,
        )

    @classmethod
    def pool_drawn(
        cls,
        principal: Principal,
        payer: Principal,
        version: int,
        draws: tuple[Draw, ...],
        facts: ReservationFacts,
        recorded_at: datetime,
    ) -> Self:
        """What the payer's commit of this version drew and reserved of this team's pools."""
        return cls(
            _pool_identity(principal, payer, version, "drawn"),
            NO_PAYLOAD,
            "pool.drawn",
            "debited",
            recorded_at,
            total_of(draws),
            draws,
            reservation=facts,
        )

    @classmethod
    def pool_returned(
        cls,
        principal: Principal,
        payer: Principal,
        version: int,
        draws: tuple[Draw, ...],
        recorded_at: datetime,
    ) -> Self:
        """What the payer's commit of this version gave back to this team's pools."""
        require(total_of(draws) > 0, "what is given back is more than nothing")
        return cls(
            _pool_identity(principal, payer, version, "returned"),
            NO_PAYLOAD,
            "pool.returned",
            "returned",
            recorded_at,
            total_of(draws),
            draws,
        )

    @classmethod
    def accepted(
        cls,
        facts: RunFacts,
        estimate_microcredits: int,
        reservation: ReservationFacts = NO_RESERVATION,
        limits: LimitFacts = NO_LIMITS,
    ) -> Self:
        """A request that the pools cover. It takes nothing, or it reserves the whole estimate."""
        if reservation.moves:
            put_in = _put_in(reservation, facts.identity.subject)
            require(put_in == estimate_microcredits, "a reservation holds the whole estimate")
        return cls._of_run(
            facts,
            "agent_run.requested",
            "accepted",
            estimate_microcredits,
            reservation=reservation,
            limits=limits,
        )

    @classmethod
    def extended(
        cls, facts: RunFacts, amount_microcredits: int, reservation: ReservationFacts
    ) -> Self:
        """A reservation that got the whole amount; of none, it got only more time."""
        put_in = _put_in(reservation, facts.identity.subject)
        require(put_in == amount_microcredits, "an extension puts in the whole amount")
        return cls._of_run(
            facts, "agent_run.extended", "extended", amount_microcredits, reservation=reservation
        )

    @classmethod
    def request_insufficient(
        cls,
        facts: RunFacts,
        amount_microcredits: int,
        *,
        entry_type: Literal["agent_run.requested", "agent_run.extended"] = "agent_run.requested",
        pools_before: tuple[PoolBalance, ...],
        fails_run: bool,
        decline: DeclineCause | None,
        parent_holds_microcredits: int | None = None,
        reservation: ReservationFacts = NO_RESERVATION,
        limits: LimitFacts = NO_LIMITS,
    ) -> Self:
        """A request or an extension that is not covered; one without an amount finds nothing.

        A child reserves from what its parent holds, whatever the pools hold. What a limit refuses
        finds the room under it, whatever else there is.
        """
        available = parent_holds_microcredits
        if limits.refused_by is not None:
            available = limits.refused_by.room_microcredits
        elif available is None:
            available = sum(pool.available_microcredits for pool in pools_before)
        is_covered = available >= max(amount_microcredits, 1)
        require(not is_covered, "a request that the pools cover is accepted")
        return cls._of_run(
            facts,
            entry_type,
            "insufficient",
            amount_microcredits,
            shortfall_microcredits=max(amount_microcredits - available, 0),
            pools_before=pools_before,
            fails_run=fails_run,
            decline=decline,
            reservation=reservation,
            limits=limits,
        )

    @classmethod
    def debited(
        cls,
        facts: RunFacts,
        amount_microcredits: int,
        draws: tuple[Draw, ...],
        reservation: ReservationFacts = NO_RESERVATION,
        limits: LimitFacts = NO_LIMITS,
    ) -> Self:
        """Usage that was drawn in full."""
        require(total_of(draws) == amount_microcredits, "debited usage was drawn in full")
        return cls._of_run(
            facts,
            "agent_run.usage",
            "debited",
            amount_microcredits,
            draws,
            reservation=reservation,
            limits=limits,
        )

    @classmethod
    def usage_insufficient(
        cls,
        facts: RunFacts,
        amount_microcredits: int,
        draws: tuple[Draw, ...],
        *,
        shortfall_microcredits: int,
        pools_before: tuple[PoolBalance, ...],
        fails_run: bool,
        decline: DeclineCause | None,
        reservation: ReservationFacts = NO_RESERVATION,
        limits: LimitFacts = NO_LIMITS,
    ) -> Self:
        """Usage that took all that its run may draw; the rest of it is the shortfall."""
        drawn = total_of(draws)
        require(
            drawn + shortfall_microcredits == amount_microcredits,
            "an event's draws plus its shortfall equal its amount",
        )
        require(shortfall_microcredits > 0, "usage that was drawn in full is debited")
        require(
            reservation != NO_RESERVATION
            or limits.refused_by is not None
            or drawn == sum(pool.available_microcredits for pool in pools_before),
            "usage falls short only after it has emptied the pools, or at a limit",
        )
        return cls._of_run(
            facts,
            "agent_run.usage",
            "insufficient",
            amount_microcredits,
            draws,
            shortfall_microcredits=shortfall_microcredits,
            pools_before=pools_before,
            fails_run=fails_run,
            decline=decline,
            reservation=reservation,
            limits=limits,
        )

    @classmethod
    def waived(cls, facts: RunFacts, amount_microcredits: int) -> Self:
        """Usage of a run that had already ended in a platform error; it takes nothing."""
        return cls._of_run(facts, "agent_run.usage", "waived", amount_microcredits)

    @classmethod
    def finished(cls, facts: RunFacts, reservation: ReservationFacts = NO_RESERVATION) -> Self:
        """The end of a run that keeps what it drew; its reservation is settled."""
        return cls._of_run(facts, "agent_run.finished", "finished", reservation=reservation)

    @classmethod
    def returned(
        cls,
        facts: RunFacts,
        draws: tuple[Draw, ...],
        reservation: ReservationFacts = NO_RESERVATION,
        limits: LimitFacts = NO_LIMITS,
    ) -> Self:
        """The end of a run in a platform error; `draws` is what goes back to each grant."""
        return cls._of_run(
            facts,
            "agent_run.finished",
            "returned",
            total_of(draws),
            draws,
            reservation=reservation,
            limits=limits,
        )

    @classmethod
    def released(cls, facts: RunFacts, reservation: ReservationFacts) -> Self:
        """The end of a reservation by the platform; the amount is what went back."""
        return cls._of_run(
            facts,
            "agent_run.released",
            "released",
            _went_back(reservation),
            reservation=reservation,
        )

    @classmethod
    def released_by_hand(
        cls,
        identity: Identity,
        payload_hash: str,
        reservation: ReservationFacts,
        recorded_at: datetime,
    ) -> Self:
        """The end of a reservation by an operator, who gave a reason."""
        require(reservation.reason is not None, "an operator gives a reason")
        return cls(
            identity,
            payload_hash,
            "agent_run.released",
            "released",
            recorded_at,
            _went_back(reservation),
            reservation=reservation,
        )

    @classmethod
    def _of_run(
        cls,
        facts: RunFacts,
        entry_type: EntryType,
        outcome: Outcome,
        amount_microcredits: int = 0,
        draws: tuple[Draw, ...] = (),
        shortfall_microcredits: int = 0,
        pools_before: tuple[PoolBalance, ...] = (),
        fails_run: bool = False,
        decline: DeclineCause | None = None,
        reservation: ReservationFacts = NO_RESERVATION,
        limits: LimitFacts = NO_LIMITS,
    ) -> Self:
        return cls(
            facts.identity,
            facts.payload_hash,
            entry_type,
            outcome,
            facts.recorded_at,
            amount_microcredits,
            draws,
            shortfall_microcredits,
            facts.context,
            pools_before,
            fails_run,
            decline,
            reservation=reservation,
            limits=limits,
        )

    @property
    def exhausts_account(self) -> bool:
        """Return whether the event found too little, even with what reservations may give back.

        What a limit refused says nothing about the pools.
        """
        if self.outcome != "insufficient" or self.limits.refused_by is not None:
            return False
        return not self.lacks_only_what_is_reserved

    @property
    def lacks_only_what_is_reserved(self) -> bool:
        """Return whether an insufficient entry would not be one if nothing were reserved.

        What reservations hold may come back.
        """
        available = sum(pool.available_microcredits for pool in self.pools_before)
        unburned = available + self.reservation.reserved_before_microcredits
        return unburned >= max(self.amount_microcredits, 1)

    @property
    def brings_credits(self) -> bool:
        """Return whether credits were added or returned."""
        return self.outcome in ("granted", "refilled") or (
            self.outcome == "returned" and bool(self.draws)
        )

    @property
    def drawn_microcredits(self) -> int:
        return total_of(self.draws)


def total_of(draws: Iterable[Draw]) -> int:
    """Return the microcredits of these draws or parts together."""
    return sum(draw.microcredits for draw in draws)


def pool_identities(principal: Principal, payer: Principal, version: int) -> tuple[Identity, ...]:
    """Return the identities of what a team's page may record of one commit of a payer."""
    return tuple(_pool_identity(principal, payer, version, what) for what in ("drawn", "returned"))


def payers_commit(entry: Entry) -> tuple[Principal, int]:
    """Return the payer and the version of its commit that an entry of a team's pool is of."""
    require(entry.type in ("pool.drawn", "pool.returned"), "only a pool's entry names a payer")
    payer, version, _ = entry.identity.id.removeprefix(SHARED_PREFIX).rsplit(":", 2)
    return parse_principal(payer), int(version)


def _pool_identity(principal: Principal, payer: Principal, version: int, what: str) -> Identity:
    return grant_identity(principal, f"{SHARED_PREFIX}{payer}:{version}:{what}")


def _put_in(reservation: ReservationFacts, run_id: str) -> int:
    return sum(move.microcredits for move in reservation.moves if move.run_id == run_id)


def _went_back(reservation: ReservationFacts) -> int:
    return -sum(move.microcredits for move in reservation.moves if move.microcredits < 0)


def _require_undrawn(grant: Grant) -> None:
    is_undrawn = grant.remaining_microcredits == grant.amount_microcredits
    require(is_undrawn, "nothing was drawn yet from a grant that is new")


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
