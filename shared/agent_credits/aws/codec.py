"""How accounts, entries and settings are stored in a row: compact JSON, readable in the console.

DynamoDB bills items by the kilobyte, and a page is written twice: on the row, and when it is full.
So defaults and values that follow from others are left out, a grant is an array, and a large page
is compressed by columns, which puts similar values next to each other. The compression is LZMA,
because a page is mostly hexadecimal identifiers: it leaves 6 % less than deflate with a Huffman
table per column and 13 % less than plain deflate, for about 10 microseconds per entry.
"""

import json
import lzma
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any

from agent_credits.ledger.accounts import RUN_HASH_BYTES, ErroredRun, PlanSubscription
from agent_credits.ledger.entries import (
    NO_RESERVATION,
    Draw,
    EndedReservation,
    Entry,
    Identity,
    Move,
    PoolBalance,
    ReloadFacts,
    ReservationFacts,
    RunContext,
)
from agent_credits.ledger.grants import Grant
from agent_credits.ledger.limits import (
    NO_LIMITS,
    Counted,
    LimitCount,
    LimitFacts,
    LimitKey,
    LimitRow,
    LimitStanding,
)
from agent_credits.ledger.reloads import Reload
from agent_credits.ledger.reservations import TTL_DEFAULT, Reservation, ReservationTerms
from agent_credits.ledger.shared_pools import is_shared_pool
from agent_credits.ledger.thresholds import LowCredits, parse_threshold
from agent_credits.sweeps.checkpoint import ReservedByLedger

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_MILLISECOND = timedelta(milliseconds=1)
# Made once, because `json.dumps` would make a new encoder for each text.
_dumps = json.JSONEncoder(separators=(",", ":")).encode

# A page up to this size stays readable text. Compressing a larger one keeps a quiet row below 1 KB.
READABLE_BYTES_MAX = 600
# No entry's text is shorter than the names that every entry has. So the number of entries alone may
# show that a page is too long, without writing its text.
_ENTRY_BYTES_MIN = len(
    '{"type":"","outcome":"","realm":"","subject":"","source":"","id":"","at":0}'
)
# Part of the format of every page ever written. The dictionary is large enough for a whole page.
# The position within a word (pb) has no meaning in text.
_LZMA = [{"id": lzma.FILTER_LZMA1, "preset": 6, "dict_size": 1 << 18, "lc": 2, "lp": 0, "pb": 0}]
# A worker may serve this many accounts in turn before it packs a page twice.
PAGES_REMEMBERED_MAX = 256
# The bound on an unpacked page, far above what a row of 64 KB can hold.
_UNPACKED_BYTES_MAX = 4 * 1024 * 1024


@lru_cache(PAGES_REMEMBERED_MAX)
def pack_entries(entries: tuple[Entry, ...]) -> str | bytes:
    """Return a page's entries as text, or as compressed columns if the text is long.

    Results are cached, because a page is written on the row, and again when it is full.
    """
    rows = [entry_to_json(entry) for entry in entries]
    if len(rows) * _ENTRY_BYTES_MIN <= READABLE_BYTES_MAX:
        text = _dumps(rows)
        if len(text) <= READABLE_BYTES_MAX:
            return text
    names = sorted({name for row in rows for name in row})
    columns = {name: [row.get(name) for row in rows] for name in names}
    return _compressed(columns)


def unpack_entries(packed: str | bytes) -> tuple[Entry, ...]:
    """Read what `pack_entries` returned; raises ValueError, KeyError or TypeError for the rest."""
    if isinstance(packed, str):
        return tuple(entry_from_json(row) for row in _loads(packed))
    columns: dict[str, list[Any]] = _object(_decompressed(packed))
    rows = zip(*columns.values(), strict=True)
    return tuple(
        entry_from_json({k: v for k, v in zip(columns, row, strict=True) if v is not None})
        for row in rows
    )


def pack_entry(entry: Entry) -> str:
    return _dumps(entry_to_json(entry))


def unpack_entry(text: str) -> Entry:
    return entry_from_json(_loads(text))


def entry_to_json(entry: Entry) -> dict[str, Any]:
    """Return the entry with the names that it is stored under.

    `at` is in epoch seconds, `lag_ms` is how much earlier the event's own time is. The last draw
    has no amount: it is the entry's amount less its shortfall and the other draws.
    """
    run = entry.run
    named: dict[str, Any] = {
        "type": entry.type,
        "outcome": entry.outcome,
        "realm": entry.identity.realm,
        "subject": entry.identity.subject,
        "source": entry.identity.source,
        "id": entry.identity.id,
        "hash": entry.payload_hash,
        "at": _seconds(entry.recorded_at),
        "amount": entry.amount_microcredits,
        "draws": _draws_to_json(entry.draws),
        "shortfall": entry.shortfall_microcredits,
        "pools": [[p.pool, p.available_microcredits] for p in entry.pools_before],
        "fails_run": int(entry.fails_run),
        "decline": entry.decline,
        "reload": _reload_facts_to_json(entry.reload) if entry.reload else None,
        "grant": _grant_to_json(entry.grant) if entry.grant else None,
        "plan": entry.plan_name,
        **_reservation_facts_to_json(entry),
        **_limit_facts_to_json(entry),
    }
    if run is not None:
        named |= {
            "team": run.team_id,
            "trigger": [run.trigger_kind, run.trigger_id],
            "project": run.project_id,
            "lag_ms": _milliseconds(entry.recorded_at) - _milliseconds(run.event_time),
            "payer": run.payer,
            "policy": run.policy_version,
            "trace": run.traceparent,
        }
    return {name: value for name, value in named.items() if value}


def entry_from_json(row: dict[str, Any]) -> Entry:
    return Entry(
        identity=Identity(row["realm"], row["subject"], row["source"], row["id"]),
        payload_hash=row.get("hash", ""),
        type=row["type"],
        outcome=row["outcome"],
        recorded_at=_instant(row["at"]),
        amount_microcredits=row.get("amount", 0),
        draws=_draws_from_json(row),
        shortfall_microcredits=row.get("shortfall", 0),
        run=_run_from_json(row) if "team" in row else None,
        pools_before=tuple(PoolBalance(*pool) for pool in row.get("pools", ())),
        fails_run=bool(row.get("fails_run")),
        decline=row.get("decline"),
        reload=ReloadFacts(*row["reload"]) if "reload" in row else None,
        grant=_grant_from_json(row["grant"]) if "grant" in row else None,
        plan_name=row.get("plan"),
        reservation=_reservation_facts_from_json(row),
        limits=_limit_facts_from_json(row),
    )


def pack_grants(grants: Sequence[Grant]) -> str:
    """Return the grants as arrays: id, pool, amount, remaining, granted at, expires at, cause."""
    return _dumps([_grant_to_json(grant) for grant in grants])


def unpack_grants(text: str) -> tuple[Grant, ...]:
    return tuple(_grant_from_json(row) for row in _loads(text))


def pack_plan(plan: PlanSubscription) -> str:
    refilled_from = plan.refilled_from.isoformat() if plan.refilled_from else None
    return _dumps([plan.name, plan.pool, plan.microcredits, plan.anchor.isoformat(), refilled_from])


def unpack_plan(text: str) -> PlanSubscription:
    name, pool, microcredits, anchor, refilled_from = _loads(text)
    return PlanSubscription(
        name=name,
        pool=pool,
        microcredits=microcredits,
        anchor=date.fromisoformat(anchor),
        refilled_from=date.fromisoformat(refilled_from) if refilled_from else None,
    )


def pack_reservations(
    reservations: Sequence[Reservation],
    grants: Sequence[Grant],
    counts: Sequence[LimitCount] = (),
) -> str | bytes:
    """Return the reservations as text, or as compressed columns if the text is long.

    A part names its grant by its place among the account's grants, and a limit by the place of its
    count.
    """
    place = {grant.id: number for number, grant in enumerate(grants)}
    limit_place = {count.key: number for number, count in enumerate(counts)}
    rows = [
        [*_reservation_to_json(reservation, place), [limit_place[k] for k in reservation.limits]]
        for reservation in reservations
    ]
    text = _dumps([_without_defaults(row) for row in rows])
    if len(text) <= READABLE_BYTES_MAX:
        return text
    columns = list(zip(*rows, strict=True))
    return _compressed(columns)


def unpack_reservations(
    packed: str | bytes, grants: Sequence[Grant], counts: Sequence[LimitCount] = ()
) -> tuple[Reservation, ...]:
    if isinstance(packed, str):
        rows: Iterable[Any] = _loads(packed)
    else:
        rows = zip(*_loads(_decompressed(packed)), strict=True)
    return tuple(_reservation_from_json(row, grants, counts) for row in rows)


def pack_limit_counts(counts: Sequence[LimitCount]) -> str | bytes:
    """Return the counts as text, or as compressed columns if the text is long."""
    rows = [
        [
            *_limit_key_to_json(count.key),
            _seconds(count.ends_at),
            count.drawn_microcredits,
            int(count.spans_accounts),
            count.limit_microcredits,
            count.notified_percent,
            int(count.stops),
        ]
        for count in counts
    ]
    text = _dumps(rows)
    return text if len(text) <= READABLE_BYTES_MAX else _compressed(list(zip(*rows, strict=True)))


def unpack_limit_counts(packed: str | bytes) -> tuple[LimitCount, ...]:
    if isinstance(packed, str):
        rows: Iterable[Any] = _loads(packed)
    else:
        rows = zip(*_loads(_decompressed(packed)), strict=True)
    return tuple(
        LimitCount(
            key=limit_key_from_json(key),
            ends_at=_instant(ends_at),
            drawn_microcredits=drawn,
            spans_accounts=bool(spans),
            limit_microcredits=limit,
            notified_percent=notified,
            stops=bool(stops),
        )
        for *key, ends_at, drawn, spans, limit, notified, stops in rows
    )


def pack_limit_row(row: LimitRow) -> str:
    """Return what a limit's row counts; its key and its version are attributes of their own."""
    return _dumps(
        {
            "ends_at": _seconds(row.ends_at),
            "drawn": row.drawn_microcredits,
            "held": [[_seconds(until), microcredits] for until, microcredits in row.held],
            "limit": row.limit_microcredits,
            "notified": row.notified_percent,
            "stops": row.stops,
            "at": _seconds(row.moved_at),
        }
    )


def unpack_limit_row(key: LimitKey, version: int, text: str) -> LimitRow:
    counts = _object(text)
    return LimitRow(
        key=key,
        ends_at=_instant(counts["ends_at"]),
        version=version,
        drawn_microcredits=counts["drawn"],
        held=tuple((_instant(until), microcredits) for until, microcredits in counts["held"]),
        limit_microcredits=counts["limit"],
        notified_percent=counts["notified"],
        stops=counts["stops"],
        moved_at=_instant(counts["at"]),
    )


def pack_errored_runs(runs: Sequence[ErroredRun]) -> bytes:
    """Return each run as its hash and four bytes of epoch seconds."""
    return b"".join(run.run_hash + _seconds(run.ended_at).to_bytes(4) for run in runs)


def unpack_errored_runs(packed: bytes) -> tuple[ErroredRun, ...]:
    size = RUN_HASH_BYTES + 4
    if len(packed) % size:
        raise ValueError("errored runs are not as long as their format says")
    parts = (packed[start : start + size] for start in range(0, len(packed), size))
    return tuple(
        ErroredRun(part[:RUN_HASH_BYTES], _instant(int.from_bytes(part[RUN_HASH_BYTES:])))
        for part in parts
    )


def pack_reload(reload: Reload) -> str:
    return _dumps(
        [
            reload.id,
            reload.team_id,
            reload.pools,
            reload.state,
            reload.wanted_microcredits,
            reload.settings_version,
            _seconds(reload.since),
            _seconds(reload.until) if reload.until else None,
            reload.cause,
        ]
    )


def unpack_reload(text: str) -> Reload:
    reload_id, team_id, pools, state, wanted, settings_version, *times, cause = _loads(text)
    since, until = times
    return Reload(
        id=reload_id,
        team_id=team_id,
        pools=tuple(pools),
        state=state,
        wanted_microcredits=wanted,
        settings_version=settings_version,
        since=_instant(since),
        until=_instant(until) if until else None,
        cause=cause,
    )


def pack_low(low: LowCredits) -> str:
    return _dumps(
        [
            low.team_id,
            low.payer,
            low.pools,
            low.base_microcredits,
            [str(threshold) for threshold in low.notified],
            [str(threshold) for threshold in low.deferred],
            low.notified_at_version,
            low.decline,
            *([1] if low.is_shared else []),
        ]
    )


def unpack_low(text: str) -> LowCredits:
    team_id, payer, pools, base, notified, deferred, at_version, decline, *rest = _loads(text)
    return LowCredits(
        team_id=team_id,
        payer=payer,
        pools=tuple(pools),
        base_microcredits=base,
        notified=tuple(parse_threshold(threshold) for threshold in notified),
        deferred=tuple(parse_threshold(threshold) for threshold in deferred),
        notified_at_version=at_version,
        decline=decline,
        is_shared=rest == [1],
    )


def pack_instants(instants: Sequence[datetime]) -> str:
    return _dumps([_seconds(instant) for instant in instants])


def unpack_instants(text: str) -> tuple[datetime, ...]:
    return tuple(_instant(seconds) for seconds in _loads(text))


def pack_grant_ids(grant_ids: Iterable[str]) -> str:
    return _dumps(sorted(grant_ids))


def unpack_grant_ids(text: str) -> frozenset[str]:
    return frozenset(_loads(text))


def pack_reserved_by_ledger(reservations: Iterable[ReservedByLedger]) -> str:
    return _dumps(
        [
            [r.run_id, r.parent_run_id, r.by_grant, *map(_limit_key_to_json, r.limits)]
            for r in reservations
        ]
    )


def unpack_reserved_by_ledger(text: str) -> tuple[ReservedByLedger, ...]:
    return tuple(
        ReservedByLedger(
            run_id,
            parent,
            tuple((grant, held) for grant, held in by_grant),
            tuple(limit_key_from_json(key) for key in limits),
        )
        for run_id, parent, by_grant, *limits in _loads(text)
    )


def pack_by_day(microcredits_by_day: Mapping[date, int]) -> str:
    return _dumps({day.isoformat(): net for day, net in sorted(microcredits_by_day.items())})


def unpack_by_day(text: str) -> dict[date, int]:
    return {date.fromisoformat(day): net for day, net in _object(text).items()}


def _compressed(columns: object) -> bytes:
    return lzma.compress(_dumps(columns).encode(), lzma.FORMAT_RAW, filters=_LZMA)


def _decompressed(packed: bytes) -> bytes:
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_LZMA)
    try:
        return decompressor.decompress(packed, _UNPACKED_BYTES_MAX)
    except lzma.LZMAError as error:
        raise ValueError("columns are not compressed in their format") from error


# Behind the run, the parts, the expiry and what was reserved; the last are mostly at their default.
_RESERVATION_DEFAULTS: tuple[Any, ...] = (
    TTL_DEFAULT // _SECOND,
    0,
    "finish",
    0,
    0,
    0,
    "continue",
    None,
    [],
)


def _reservation_to_json(reservation: Reservation, place: Mapping[str, int]) -> list[Any]:
    terms = reservation.terms
    return [
        reservation.run_id,
        [_part_to_json(part, place) for part in reservation.parts],
        _seconds(reservation.expires_at),
        reservation.reserved_microcredits,
        terms.ttl // _SECOND,
        terms.step_microcredits,
        terms.overrun,
        terms.grace_microcredits,
        reservation.drawn_microcredits,
        reservation.overdrawn_microcredits,
        reservation.directive,
        reservation.parent_run_id,
    ]


def _part_to_json(part: Draw, place: Mapping[str, int]) -> list[Any]:
    # A grant of the team stands on the team's row.
    if is_shared_pool(part.pool):
        return [part.pool, part.grant_id, part.microcredits]
    return [place[part.grant_id], part.microcredits]


def _part_from_json(row: Sequence[Any], grants: Sequence[Grant]) -> Draw:
    if len(row) > 2:
        pool, grant_id, microcredits = row
        return Draw(pool, grant_id, microcredits)
    place, microcredits = row
    return Draw(grants[place].pool, grants[place].id, microcredits)


def _without_defaults(row: list[Any]) -> list[Any]:
    first = len(row) - len(_RESERVATION_DEFAULTS)
    while len(row) > first and row[-1] == _RESERVATION_DEFAULTS[len(row) - 1 - first]:
        row = row[:-1]
    return row


def _reservation_from_json(
    row: Sequence[Any], grants: Sequence[Grant], counts: Sequence[LimitCount]
) -> Reservation:
    run_id, parts, expires_at, reserved, *others = row
    others += _RESERVATION_DEFAULTS[len(others) :]
    ttl, step, overrun, grace, drawn, overdrawn, directive, parent, limits = others
    return Reservation(
        run_id=run_id,
        parent_run_id=parent,
        parts=tuple(_part_from_json(part, grants) for part in parts),
        reserved_microcredits=reserved,
        expires_at=_instant(expires_at),
        # Whether a run reserves was decided when it did.
        terms=ReservationTerms(True, step, timedelta(seconds=ttl), overrun, grace),
        drawn_microcredits=drawn,
        overdrawn_microcredits=overdrawn,
        directive=directive,
        limits=tuple(counts[place].key for place in limits),
    )


def limit_key_from_json(parts: Sequence[Any]) -> LimitKey:
    team_id, scope, limit_id, period = parts
    return LimitKey(team_id, scope, limit_id, period)


def _limit_key_to_json(key: LimitKey) -> list[Any]:
    return [key.team_id, key.scope, key.id, key.period]


def _limit_facts_to_json(entry: Entry) -> dict[str, Any]:
    """Return what an entry records of limits; what it drew under each is left out if it is all."""
    facts, drawn = entry.limits, entry.drawn_microcredits
    if facts is NO_LIMITS:
        return {}
    return {
        "counted": [
            [*_limit_key_to_json(c.key), _seconds(c.ends_at)]
            + ([] if c.microcredits == drawn else [c.microcredits])
            for c in facts.counted
        ],
        "standings": [
            [
                *_limit_key_to_json(s.key),
                s.limit_microcredits,
                int(s.stops),
                s.drawn_microcredits,
                s.held_microcredits,
                _seconds(s.resets_at) if s.resets_at else None,
                int(s.cannot_count),
            ]
            for s in facts.standings
        ],
    }


def _counted_from_json(row: list[Any], drawn: int) -> Counted:
    *key, ends_at = row[:5]
    (microcredits,) = row[5:] or (drawn,)
    return Counted(limit_key_from_json(key), _instant(ends_at), microcredits)


def _limit_facts_from_json(row: dict[str, Any]) -> LimitFacts:
    if "counted" not in row and "standings" not in row:
        return NO_LIMITS
    drawn = sum(part.microcredits for part in _draws_from_json(row))
    return LimitFacts(
        counted=tuple(_counted_from_json(found, drawn) for found in row.get("counted", ())),
        standings=tuple(
            LimitStanding(
                key=limit_key_from_json(key),
                limit_microcredits=limit,
                stops=bool(stops),
                drawn_microcredits=drawn_before,
                held_microcredits=held,
                resets_at=None if resets_at is None else _instant(resets_at),
                cannot_count=bool(cannot_count),
            )
            for *key, limit, stops, drawn_before, held, resets_at, cannot_count in row.get(
                "standings", ()
            )
        ),
    )


def _reservation_facts_to_json(entry: Entry) -> dict[str, Any]:
    """Return what an entry records of reservations; runs other than its own by name, that as 0.

    The moves of usage that drew only its own reservation follow from its draws.
    """
    facts = entry.reservation
    if facts is NO_RESERVATION:
        return {}
    own = entry.identity.subject
    moves: Any = [[_other(m.run_id, own), m.grant_id, m.microcredits] for m in facts.moves]
    return {
        "moves": 1 if facts.moves and facts.moves == _moves_of_draws(entry) else moves,
        "ended": [_ended_to_json(ended, own) for ended in facts.ended],
        "parent": facts.parent_run_id,
        "overdrawn": facts.overdrawn_microcredits,
        "overruns": int(facts.overruns),
        "directive": facts.directive,
        "reserved": facts.reserved_before_microcredits,
        "reason": facts.reason,
    }


_RESERVATION_NAMES = frozenset(
    {"moves", "ended", "parent", "overdrawn", "overruns", "directive", "reserved", "reason"}
)


def _reservation_facts_from_json(row: dict[str, Any]) -> ReservationFacts:
    if _RESERVATION_NAMES.isdisjoint(row):
        return NO_RESERVATION
    own = row["subject"]
    moves = row.get("moves", ())
    if moves == 1:
        moves = [[0, part.grant_id, -part.microcredits] for part in _draws_from_json(row)]
    return ReservationFacts(
        moves=tuple(Move(run or own, grant_id, amount) for run, grant_id, amount in moves),
        ended=tuple(_ended_from_json(ended, own) for ended in row.get("ended", ())),
        parent_run_id=row.get("parent"),
        overdrawn_microcredits=row.get("overdrawn", 0),
        overruns=bool(row.get("overruns")),
        directive=row.get("directive"),
        reserved_before_microcredits=row.get("reserved", 0),
        reason=row.get("reason"),
    )


def _ended_to_json(ended: EndedReservation, own: str) -> list[Any]:
    run = _other(ended.run_id, own)
    sums: list[Any] = [run, ended.reserved_microcredits, ended.drawn_microcredits]
    if ended.overdrawn_microcredits or ended.parent_run_id:
        sums += [ended.overdrawn_microcredits, ended.parent_run_id]
    return sums


def _ended_from_json(row: list[Any], own: str) -> EndedReservation:
    run, reserved, drawn, *others = row
    overdrawn, parent = others or (0, None)
    return EndedReservation(run or own, parent, reserved, drawn, overdrawn)


def _other(run_id: str, own: str) -> str | int:
    return 0 if run_id == own else run_id


def _moves_of_draws(entry: Entry) -> tuple[Move, ...]:
    own = entry.identity.subject
    return tuple(Move(own, part.grant_id, -part.microcredits) for part in entry.draws)


def _reload_facts_to_json(facts: ReloadFacts) -> list[Any]:
    return [facts.reload_id, facts.team_id, facts.packs, facts.price_cents, facts.currency]


def _run_from_json(row: dict[str, Any]) -> RunContext:
    kind, trigger_id = row["trigger"]
    return RunContext(
        team_id=row["team"],
        trigger_kind=kind,
        trigger_id=trigger_id,
        project_id=row.get("project"),
        event_time=_instant(row["at"], lag_ms=row.get("lag_ms", 0)),
        payer=row["payer"],
        policy_version=row["policy"],
        traceparent=row.get("trace"),
    )


def _draws_to_json(draws: Sequence[Draw]) -> list[list[str | int]]:
    rows: list[list[str | int]] = [[d.pool, d.grant_id, d.microcredits] for d in draws]
    return [*rows[:-1], *(row[:2] for row in rows[-1:])]


def _draws_from_json(row: dict[str, Any]) -> tuple[Draw, ...]:
    left = row.get("amount", 0) - row.get("shortfall", 0)
    draws: list[Draw] = []
    for pool, grant_id, *part in row.get("draws", ()):
        draws.append(Draw(pool, grant_id, part[0] if part else left))
        left -= draws[-1].microcredits
    return tuple(draws)


def _grant_to_json(grant: Grant) -> list[Any]:
    return [
        grant.id,
        grant.pool,
        grant.amount_microcredits,
        grant.remaining_microcredits,
        _seconds(grant.granted_at),
        _seconds(grant.expires_at) if grant.expires_at else None,
        grant.cause,
    ]


def _grant_from_json(row: list[Any]) -> Grant:
    grant_id, pool, amount, remaining, granted_at, expires_at, cause = row
    return Grant(
        id=grant_id,
        pool=pool,
        amount_microcredits=amount,
        remaining_microcredits=remaining,
        granted_at=_instant(granted_at),
        expires_at=None if expires_at is None else _instant(expires_at),
        cause=cause,
    )


def _seconds(instant: datetime) -> int:
    return (instant - _EPOCH) // _SECOND


def _milliseconds(instant: datetime) -> int:
    # Integer arithmetic: a float could change an instant by a millisecond when it is read back, and
    # a page that is written twice would not have the same bytes.
    return (instant - _EPOCH) // _MILLISECOND


def _instant(seconds: int, lag_ms: int = 0) -> datetime:
    try:
        return _EPOCH + timedelta(seconds=seconds, milliseconds=-lag_ms)
    except OverflowError as error:
        raise ValueError("an instant is outside the calendar") from error


def _loads(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("a row is nested too deeply") from error


def _object(text: str | bytes) -> dict[str, Any]:
    value = _loads(text)
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, not a {type(value).__name__}")
    return value
