"""Steps 1 and 2 of the write protocol for many commits together, in one round trip each.

Each commit then only decides and writes. For any one account the order is the same as without this:
its row, then the receipts, and its full page is flushed before the row is written. Time may pass
between what is read here and the commit, as it may between any two calls of a worker.
"""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from agent_credits.commit.changes import Change
from agent_credits.commit.rows import Rows
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Identity, Receipt
from agent_credits.values.principals import Principal


class Ahead(Struct, frozen=True):
    """What the first attempt of a commit starts from, instead of reading it.

    `receipts` has each identity that was looked up, with None where there is no receipt. `is_warm`:
    the row was cached by this worker, not read. If `flushes_ahead` tells so, the page is flushed.
    """

    row: Account
    receipts: Mapping[Identity, Receipt | None]
    is_warm: bool


def read_ahead(
    rows: Rows,
    changes_of: Mapping[Principal, Sequence[Change]],
    warm: Mapping[Principal, Account],
) -> dict[Principal, Ahead]:
    """Return what to start from for each account that exists. Raises what `rows` raises.

    `warm` are rows that this worker committed last; they are not read.
    """
    cold = [principal for principal in changes_of if principal not in warm]
    found = {**warm, **(rows.read_accounts_of(cold) if cold else {})}
    row_of = {principal: found[principal] for principal in changes_of if principal in found}
    wanted_of = {p: not_on_page(row, changes_of[p]) for p, row in row_of.items()}
    full = [row.page for p, row in row_of.items() if flushes_ahead(row, wanted_of[p])]
    wanted = list(dict.fromkeys(identity for of_row in wanted_of.values() for identity in of_row))
    receipts = rows.flush_and_read_receipts(full, wanted) if full else rows.read_receipts(wanted)
    return {
        p: Ahead(row, {i: receipts.get(i) for i in wanted_of[p]}, p in warm)
        for p, row in row_of.items()
    }


def not_on_page(row: Account, changes: Sequence[Change]) -> list[Identity]:
    """Return the identities to look up; those on the page are recorded and need no read."""
    on_page = {entry.identity for entry in row.entries}
    return list(dict.fromkeys(c.identity for c in changes if c.identity not in on_page))


def flushes_ahead(row: Account, wanted: Sequence[Identity]) -> bool:
    """Return whether to flush the page before knowing whether there is anything to commit.

    This saves a round trip, and is wasted only if the whole batch is a repeat. Events that wait for
    a reload are redelivered often, and usually have nothing to commit.
    """
    awaits_reload = row.reload is not None and row.reload.state == "requested"
    return row.page_is_full and bool(wanted) and not awaits_reload
