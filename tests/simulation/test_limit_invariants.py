"""Each check of limits notices what it is there for: rows that the protocol never writes."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from agent_credits.billing.teams import Team
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Entry, Identity
from agent_credits.ledger.limits import LimitRow
from tests.simulation.invariants import Basis, Invariants, asked_in
from tests.simulation.violation import Violation
from tests.unit.builders import MINUTE, finished, requested, usage
from tests.unit.limit_world import LimitWorld, limit

Commit = tuple[Account, LimitRow | None]


class Followed:
    """A world whose commits the invariants follow, each as it is or as a test changes it."""

    def __init__(self, world: LimitWorld) -> None:
        self.world = world
        self.invariants = Invariants()
        self._accounts, self._limits = 0, 0
        self._follow(lambda commit: commit)

    def send(
        self,
        document: dict[str, Any],
        change: Callable[[Commit], Commit] = lambda commit: commit,
        billed_by: Team | None = None,
    ) -> None:
        identity = Identity("RUN", document["subject"], document["source"], document["id"])
        self.invariants.asked[identity] = asked_in(document)
        self.invariants.basis = Basis({identity: (billed_by or self.world.team,)})
        self.world.send(document)
        self._follow(change)

    def _follow(self, change: Callable[[Commit], Commit]) -> None:
        stream, limits = self.world.rows.stream, self.world.rows.limit_stream
        for old, new in stream[self._accounts :]:
            before, row = limits[self._limits] if self._limits < len(limits) else (None, None)
            new, row = change((new, row))
            if row is None:
                self.invariants.account_committed(old, new)
            else:
                self.invariants.together_committed([(old, new)], [(before, row)])
        self._accounts, self._limits = len(stream), len(limits)


def of_two_accounts() -> Followed:
    followed = Followed(LimitWorld(limit("team", "10")))
    followed.send(usage("u-1", "4"))
    followed.send(usage("u-2", "3", user="ben", run="run-2"))
    return followed


def last_entry(account: Account, **changes: Any) -> Account:
    *others, last = account.entries
    changed: Entry = replace(last, **changes)
    return replace(account, entries=(*others, changed))


def row_with(**changes: Any) -> Callable[[Commit], Commit]:
    return lambda commit: (commit[0], commit[1] and replace(commit[1], **changes))


def test_what_the_protocol_writes_breaks_nothing() -> None:
    followed = of_two_accounts()

    followed.send(usage("u-3", "9", run="run-3"))
    followed.send(requested("r-1", run="run-4", credits="1", reserve="estimate"))
    followed.send(finished("f-1", "error", user="ben", run="run-2"))
    followed.send(requested("r-2", run="run-5", credits="1", reserve="estimate"))

    assert followed.invariants.limited["refused by a shared limit"] == 2
    assert followed.invariants.limited["room given back"] == 1


def test_17_a_limit_is_never_passed() -> None:
    followed = of_two_accounts()
    as_declared = followed.world.team
    followed.world.set_limits(limit("team", "20"))

    with pytest.raises(Violation, match="a limit is never passed"):
        followed.send(usage("u-3", "4", run="run-3"), billed_by=as_declared)


def test_17_nothing_is_drawn_that_is_not_counted() -> None:
    followed = of_two_accounts()
    limits = followed.world.account().entries[-1].limits

    with pytest.raises(Violation, match="nothing is drawn under a limit that is not counted"):
        followed.send(
            usage("u-3", "1", run="run-3"),
            lambda commit: (last_entry(commit[0], limits=replace(limits, counted=())), commit[1]),
        )


@pytest.mark.parametrize(
    ("change", "violation"),
    [
        (row_with(drawn_microcredits=7_000_000), "limits' rows became"),
        (row_with(held=()), "limits' rows became"),
        (row_with(version=9), "a limit's version grows by one per commit"),
        (lambda commit: (commit[0], None), "a limit's row moves with the accounts"),
    ],
)
def test_18_a_limit_s_row_moves_with_its_accounts(
    change: Callable[[Commit], Commit], violation: str
) -> None:
    followed = of_two_accounts()
    followed.send(requested("r-1", run="run-3", credits="1", reserve="estimate"))

    with pytest.raises(Violation, match=violation):
        followed.send(usage("u-3", "0.5", run="run-4"), change)


def test_18_a_limit_s_row_that_nobody_had_to_move_is_noticed() -> None:
    followed = of_two_accounts()
    followed.world.set_limits()
    row = followed.world.rows.limits[next(iter(followed.world.rows.limits))]

    with pytest.raises(Violation, match="an account that moves no limit's row is written alone"):
        followed.send(usage("u-3", "1", run="run-3"), lambda commit: (commit[0], row))


def test_18_an_account_s_count_is_what_its_entries_say() -> None:
    followed = of_two_accounts()

    def uncounted(commit: Commit) -> Commit:
        return replace(commit[0], limit_counts=()), commit[1]

    with pytest.raises(Violation, match="is counted, not what the rules say"):
        followed.send(usage("u-3", "1", run="run-3"), uncounted)


def test_a_period_that_a_limit_does_not_have_is_noticed() -> None:
    followed = of_two_accounts()

    def another_period(commit: Commit) -> Commit:
        (count,) = commit[0].limit_counts
        later = replace(count, ends_at=count.ends_at + 5 * MINUTE)
        return replace(commit[0], limit_counts=(later,)), commit[1]

    with pytest.raises(Violation, match="is counted, not what the rules say"):
        followed.send(usage("u-3", "1", run="run-3"), another_period)


def test_time_that_runs_backwards_on_a_limit_s_row_is_noticed() -> None:
    followed = of_two_accounts()
    (shared,) = followed.invariants.limits.shared.values()
    shared.moved_at += timedelta(hours=1)

    with pytest.raises(Violation, match="time never runs backwards on a limit's row"):
        followed.send(usage("u-3", "1", run="run-3"))
