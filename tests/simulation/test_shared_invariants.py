"""Each check of shared pools notices what it is there for: rows that the protocol never writes."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Draw, Entry
from tests.simulation.shared_invariants import SharedInvariants
from tests.simulation.violation import Violation
from tests.unit.builders import ANA, MINUTE, finished, requested, usage
from tests.unit.commit.test_shared_pools import TEAM, SharingWorld

Change = Callable[[Account], Account]
RESERVING = requested("r-1", run="run-1", credits="550", reserve="estimate")


def _as_it_is(account: Account) -> Account:
    return account


class Followed:
    """A world whose commits the invariants follow, each as it is or as a test changes it."""

    def __init__(self) -> None:
        self.world = SharingWorld()
        self.invariants = SharedInvariants()
        self._seen = 0
        self._follow(_as_it_is, _as_it_is)

    def send(
        self,
        document: dict[str, Any],
        of_payer: Change = _as_it_is,
        of_team: Change = _as_it_is,
    ) -> None:
        self.world.send(document)
        self._follow(of_payer, of_team)

    def send_alone(self, document: dict[str, Any]) -> None:
        """Follow the payer's row, without the team's that was written with it."""
        self.world.send(document)
        old, new = next(r for r in self.world.rows.stream[self._seen :] if r[1].principal == ANA)
        self.invariants.account_committed(old, new)

    def _follow(self, of_payer: Change, of_team: Change) -> None:
        written = self.world.rows.stream[self._seen :]
        self._seen += len(written)
        changed = [
            (old, of_team(new) if new.principal == TEAM else of_payer(new)) for old, new in written
        ]
        if any(old is None for old, _ in changed) or len(changed) == 1:
            for old, new in changed:
                self.invariants.account_committed(old, new)
        else:
            self.invariants.together_committed(changed, [])


def _last_entry(change: Callable[[Entry], Entry]) -> Change:
    return lambda row: replace(row, entries=(*row.entries[:-1], change(row.entries[-1])))


def test_what_is_right_is_not_complained_about() -> None:
    followed = Followed()

    followed.send(RESERVING)
    followed.send(usage("u-1", "530", run="run-1"))
    followed.send(finished("f-1", "error", run="run-1"))
    followed.send(usage("u-2", "510", run="run-2"))

    found = followed.invariants.shared
    assert (found["reserved"], found["drawn"], found["given back"]) == (1, 2, 1)


def test_19_a_draw_that_only_the_payer_records() -> None:
    followed = Followed()

    with pytest.raises(Violation, match="what is shared moves with the row of the team"):
        followed.send_alone(usage("u-1", "530"))


def test_19_a_team_that_gives_less_than_the_payer_receives() -> None:
    less = _last_entry(lambda entry: replace(entry, draws=(Draw("shared", "t-1", 29_999_999),)))

    def of_team(row: Account) -> Account:
        (grant,) = row.grants
        kept = replace(grant, remaining_microcredits=grant.remaining_microcredits + 1)
        return replace(less(row), grants=(kept,))

    with pytest.raises(Violation, match="what one account gave, another received"):
        Followed().send(usage("u-1", "530"), of_team=of_team)


def test_19_a_reservation_of_which_the_team_s_row_knows_another_end() -> None:
    def of_team(row: Account) -> Account:
        (held,) = row.reservations
        return replace(row, reservations=(replace(held, expires_at=held.expires_at + MINUTE),))

    with pytest.raises(Violation, match="a team's row holds what its payers' rows do"):
        Followed().send(RESERVING, of_team=of_team)


def test_19_a_grant_of_the_team_that_stands_on_the_payer_s_row_too() -> None:
    def of_payer(row: Account) -> Account:
        (lent,) = Followed().world.account(TEAM).grants
        return replace(row, grants=(*row.grants, replace(lent, id="shared:acme/t-1")))

    with pytest.raises(Violation, match="a grant stands on one row"):
        Followed().send(usage("u-1", "530"), of_payer=of_payer)


def test_3_an_entry_of_the_team_that_counts_twice() -> None:
    followed = Followed()
    followed.send(usage("u-1", "530"))
    first = followed.world.account(TEAM).entries[-1].identity
    again = _last_entry(lambda entry: replace(entry, identity=first))

    with pytest.raises(Violation, match="each event id has exactly one outcome"):
        followed.send(usage("u-2", "1"), of_team=again)


def test_1_a_grant_of_the_team_below_zero() -> None:
    def of_team(row: Account) -> Account:
        (grant,) = row.grants
        return replace(row, grants=(replace(grant, remaining_microcredits=-1),))

    with pytest.raises(Violation, match="no grant is below zero"):
        Followed().send(usage("u-1", "530"), of_team=of_team)
