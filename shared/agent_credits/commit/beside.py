"""The rows beside the account's own that a decision needs, and that its commit may move."""

from collections.abc import Collection, Mapping, Sequence

from msgspec import Struct, field

from agent_credits.commit.changes import Change, RunChange
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Entry
from agent_credits.ledger.limits import LimitKey, LimitRow
from agent_credits.values.principals import Principal


class Beside(Struct, frozen=True):
    """Rows as they were read, each under its own version; None for one that does not exist.

    `pages`: the teams' entries as they were read, which a commit that starts a page leaves behind.
    As the result of a decision: the rows that it moves, with the versions that were read.
    """

    limits: Mapping[LimitKey, LimitRow | None] = field(default_factory=dict)
    shared: Mapping[Principal, Account | None] = field(default_factory=dict)
    pages: Mapping[Principal, tuple[Entry, ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.limits or self.shared)

    def with_moved(self, moved: "Beside") -> "Beside":
        """Return these rows with those that a decision moved, for the next decision."""
        return Beside(
            {**self.limits, **moved.limits},
            {**self.shared, **moved.shared},
            {**self.pages, **moved.pages},
        )

    def named(self, names: "NamesBeside") -> "Beside":
        """Return those of these rows that are named."""
        return Beside(
            {key: row for key, row in self.limits.items() if key in names.limits},
            {team: row for team, row in self.shared.items() if team in names.shared},
            {team: entries for team, entries in self.pages.items() if team in names.shared},
        )

    def lacks(self, names: "NamesBeside") -> "NamesBeside":
        """Return which of the rows named were not read."""
        return NamesBeside(
            frozenset(names.limits) - self.limits.keys(),
            frozenset(names.shared) - self.shared.keys(),
        )


class NamesBeside(Struct, frozen=True):
    """Names of rows beside the account's own."""

    limits: Collection[LimitKey] = frozenset()
    shared: Collection[Principal] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.limits or self.shared)

    def joined(self, more: "NamesBeside") -> "NamesBeside":
        return NamesBeside(
            frozenset((*self.limits, *more.limits)), frozenset((*self.shared, *more.shared))
        )


ALONE = Beside()
NOTHING_BESIDE = NamesBeside()


def moves_other_rows(changes: Sequence[Change]) -> bool:
    """Return whether the billing of these changes names rows beside the account's own."""
    return any(
        change.billing.lender is not None
        or any(limit.spans_accounts for limit in change.billing.limits)
        for change in changes
        if isinstance(change, RunChange)
    )
