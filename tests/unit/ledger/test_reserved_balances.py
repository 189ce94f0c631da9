"""What live reservations hold of each grant, beside what the grants hold for everyone."""

from datetime import timedelta

from agent_credits.ledger.accounts import reserved_by_grant
from tests.unit.builders import NOW
from tests.unit.reservation_world import ReservingWorld, requests


def test_what_reservations_hold_is_added_up_by_grant_as_long_as_they_live() -> None:
    world = ReservingWorld()
    world.send(*requests(2))

    assert reserved_by_grant(world.account, NOW) == {"g-1": 150_000_000}
    assert reserved_by_grant(world.account, NOW + timedelta(hours=1)) == {}
