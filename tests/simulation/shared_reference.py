"""What a user's account must do that draws its team's pools after its own: one waterfall over both.

The rules are those of `reference`. Here is only what the two accounts have in common: for a commit,
the team's grants stand among the payer's own, and then go back. What the payer's reservations hold
of them is one reservation on the team's account for each tree, with the expiry of its root.
"""

from dataclasses import dataclass, field
from datetime import datetime

from tests.simulation.reference import (
    FOR_EVER,
    GRACE,
    Credits,
    Facts,
    Passing,
    Reference,
    Reserved,
    Terms,
)


@dataclass
class SharingReference(Reference):
    name: str = ""
    team_id: str = "acme"
    team: Reference = field(default_factory=lambda: Reference("team"))
    # Whether the team's grants stand among the payer's own.
    borrows: bool = False

    def pass_time(self, now: datetime) -> list[Passing]:
        self._give_back_to_the_team()
        self.team.pass_time(now)
        # Time is over on each account by itself. What a reservation held of the team's grants is
        # not the payer's to keep.
        for name in self.kept - self.held.keys():
            self.held[name] = Credits("", 0, FOR_EVER, now)
        passed = super().pass_time(now)
        self.held = {name: held for name, held in self.held.items() if not self._is_shared(name)}
        for name, made in self.team.made.items():
            self.made[self._shared(name)] = self._lent(made)
        for name, held in self.team.held.items():
            self.held[self._shared(name)] = self._lent(held)
        self.borrows = True
        return passed

    def end_commit(self, now: datetime) -> list[Passing]:
        expires = super().end_commit(now)
        self._give_back_to_the_team()
        return expires

    def _give_back(self, name: str, amount: int, now: datetime, policy: str, facts: Facts) -> bool:
        held = self.held.get(name)
        if not self._is_shared(name) or held is None or held.expires_at > now:
            return super()._give_back(name, amount, now, policy, facts)
        # A payer's reservation keeps the grant on the team's account past its expiry. What comes
        # back to it lapses there, with what else it holds.
        if self.made[name].expires_at + GRACE[policy] <= now:
            return False
        held.left += amount
        return True

    def _give_back_to_the_team(self) -> None:
        if not self.borrows:
            return
        self.borrows = False
        for shared in [name for name in self.held if self._is_shared(name)]:
            held, name = self.held.pop(shared), shared.partition("/")[2]
            pool = held.pool.removeprefix("team:")
            self.team.held[name] = Credits(pool, held.left, held.expires_at, held.granted_at)
        for run in [run for run in self.team.reserved if run.startswith(f"{self.name} ")]:
            del self.team.reserved[run]
        for run, reserved in self.reserved.items():
            parts = {
                name.partition("/")[2]: part
                for name, part in reserved.parts.items()
                if self._is_shared(name)
            }
            root = self._line(run)[-1]
            held_there = self.team.reserved.setdefault(
                f"{self.name} {root}", Reserved(None, Terms(), self.reserved[root].expires_at)
            )
            for name, part in parts.items():
                held_there.parts[name] = held_there.parts.get(name, 0) + part
        empty = [run for run, held_there in self.team.reserved.items() if not held_there.parts]
        for run in empty:
            del self.team.reserved[run]
        kept = self.team.kept
        self.team.held = {n: c for n, c in self.team.held.items() if c.left or n in kept}

    def _shared(self, name: str) -> str:
        return f"shared:{self.team_id}/{name}"

    def _is_shared(self, name: str) -> bool:
        return name.startswith(self._shared(""))

    @staticmethod
    def _lent(credits_of_team: Credits) -> Credits:
        pool, left = f"team:{credits_of_team.pool}", credits_of_team.left
        return Credits(pool, left, credits_of_team.expires_at, credits_of_team.granted_at)
