"""PostgreSQL: the rows of the accounts are locked, read, and written with the entries.

Once per event, or once for all events of a batch, whichever accounts they are of; accounts are then
locked in one order, so that no two workers wait for each other.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from tests.benchmarks.design import Done
from tests.benchmarks.references.events import Pools, Usage, accounts_of, draw, read_usage
from tests.benchmarks.workloads import Workload

POOLS = ("trial", "plan", "add_on")
EVENTS_PER_TRANSACTION_MAX = 100

CREATE = """
CREATE TABLE accounts (
  account text PRIMARY KEY, version bigint NOT NULL,
  trial bigint NOT NULL, plan bigint NOT NULL, add_on bigint NOT NULL
);
CREATE TABLE entries (
  run text, source text, id text, account text NOT NULL, version bigint NOT NULL,
  at timestamptz NOT NULL, team text NOT NULL, trigger text NOT NULL, payer text NOT NULL,
  policy text NOT NULL, amount bigint NOT NULL, draws jsonb NOT NULL, hash text NOT NULL,
  PRIMARY KEY (run, source, id)
);
CREATE INDEX by_account ON entries (account, version);
"""
LOCK = """
SELECT account, version, trial, plan, add_on FROM accounts
WHERE account = ANY(%s) ORDER BY account FOR UPDATE
"""
RECORDED = """
SELECT run, source, id FROM entries
WHERE (run, source, id) IN (SELECT * FROM unnest(%s::text[], %s::text[], %s::text[]))
"""
INSERT = """
INSERT INTO entries
SELECT * FROM unnest(
  %s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::timestamptz[], %s::text[],
  %s::text[], %s::text[], %s::text[], %s::bigint[], %s::jsonb[], %s::text[]
)
"""
UPDATE = """
UPDATE accounts SET version = new.version, trial = new.trial, plan = new.plan, add_on = new.add_on
FROM unnest(%s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[])
  AS new (account, version, trial, plan, add_on)
WHERE accounts.account = new.account
"""


@dataclass(frozen=True)
class RowLocks:
    name: str
    title: str
    events_per_transaction: int

    def create(self, store: "psycopg.Connection[Any]", suffix: str, workload: Workload) -> None:
        store.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(suffix)))
        _choose(store, suffix)
        store.execute(CREATE)
        rows = [
            (account, 1, *(pools[pool] for pool in POOLS))
            for account, pools in accounts_of(workload)
        ]
        with store.cursor() as cursor:
            cursor.executemany("INSERT INTO accounts VALUES (%s, %s, %s, %s, %s)", rows)

    def drop(self, store: "psycopg.Connection[Any]", suffix: str) -> None:
        store.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(suffix)))

    def worker(
        self, store: "psycopg.Connection[Any]", suffix: str, workload: Workload
    ) -> "Locking":
        _choose(store, suffix)
        return Locking(store, workload, self.events_per_transaction)


LOCK_PER_EVENT = RowLocks("postgres-1", "PostgreSQL, a transaction per event", 1)
LOCK_PER_BATCH = RowLocks(
    "postgres-100", "PostgreSQL, a transaction per 100 events", EVENTS_PER_TRANSACTION_MAX
)


class Locking:
    def __init__(
        self, store: "psycopg.Connection[Any]", workload: Workload, events_per_transaction: int
    ) -> None:
        self._store = store
        self._team = workload.team
        self._events_per_transaction = events_per_transaction

    def learn_settings(self) -> None:
        """Read nothing: the reference designs are given the settings."""

    def debit(self, bodies: Sequence[str]) -> Done:
        events, size = read_usage(bodies, self._team), self._events_per_transaction
        return Done(
            sum(
                self._transaction(events[start : start + size])
                for start in range(0, len(events), size)
            )
        )

    def _transaction(self, events: Sequence[Usage]) -> int:
        accounts = sorted({usage.account for usage in events})
        unique = {_identity(usage): usage for usage in events}
        # Two round trips: the statements of each are sent together and answered together.
        with self._store.pipeline(), self._store.transaction():
            locked = self._store.execute(LOCK, [accounts])
            # This one runs when the locks are had: their holders may have recorded some of these.
            found = self._store.execute(RECORDED, _columns(list(unique)))
            versions: dict[str, int] = {}
            pools: dict[str, Pools] = {}
            for account, version, *held in locked.fetchall():
                versions[account] = version + 1
                pools[account] = dict(zip(POOLS, held, strict=True))
            recorded = set(found.fetchall())
            entries = []
            for identity, usage in unique.items():
                if identity in recorded:
                    continue
                account = usage.account
                draws, pools[account] = draw(
                    pools[account], usage.billing.pools, usage.event.data.credits
                )
                entries.append(_entry(usage, draws, versions[account]))
            if entries:
                self._store.execute(INSERT, _columns(entries))
                rows = [
                    (account, versions[account], *(pools[account][pool] for pool in POOLS))
                    for account in accounts
                ]
                self._store.execute(UPDATE, _columns(rows))
        return len(entries)


def _identity(usage: Usage) -> tuple[str, str, str]:
    return usage.event.subject, usage.event.source, usage.event.id


def _entry(usage: Usage, draws: Pools, version: int) -> tuple[Any, ...]:
    event = usage.event
    return (
        *_identity(usage),
        usage.account,
        version,
        event.time,
        event.data.team_id,
        event.data.trigger.kind,
        usage.billing.payer,
        usage.billing.policy_version,
        event.data.credits,
        json.dumps(draws),
        event.payload_hash,
    )


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _choose(store: "psycopg.Connection[Any]", suffix: str) -> None:
    store.execute(sql.SQL("SET search_path TO {}").format(sql.Identifier(suffix)))
