"""The rows beside the account's own that a decision needs, and that its commit may move."""

from collections.abc import Collection, Mapping

from msgspec import Struct, field

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


ALONE = Beside()
NOTHING_BESIDE = NamesBeside()
