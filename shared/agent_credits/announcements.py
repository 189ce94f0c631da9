"""Which notices a commit gives rise to: derived from the row's old and new image alone.

What was committed is what is announced, because announcing does not depend on the code path that
committed. A further type of notice is a further function in `DERIVATIONS`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from agent_credits.accounts import Account
from agent_credits.ledger import Entry
from agent_credits.notices import Notice
from agent_credits.run_failures import insufficient_credits


@dataclass(frozen=True, slots=True)
class Commit:
    """One record of the change stream: the row before, none for a new account, and after."""

    old: Account | None
    new: Account

    @property
    def new_entries(self) -> tuple[Entry, ...]:
        """Return what the commit recorded: a page only grows, and page n+1 begins empty."""
        if self.old is None or self.old.page_number != self.new.page_number:
            return self.new.entries
        return self.new.entries[len(self.old.entries) :]


@dataclass(frozen=True, slots=True)
class NoticeSettings:
    """What the deployment says about notices; `problem_type_base_url` may be empty."""

    problem_type_base_url: str


Derivation = Callable[[Commit, NoticeSettings], Iterator[Notice]]


def _failed_runs(commit: Commit, settings: NoticeSettings) -> Iterator[Notice]:
    for entry in commit.new_entries:
        if entry.fails_run:
            yield insufficient_credits(commit.new, entry, settings.problem_type_base_url)


DERIVATIONS: tuple[Derivation, ...] = (_failed_runs,)


def notices_of(commit: Commit, settings: NoticeSettings) -> list[Notice]:
    return [notice for derive in DERIVATIONS for notice in derive(commit, settings)]
