"""When a commit asks for a reload, and when it does not."""

from datetime import timedelta

import pytest

from agent_credits.billing.teams import SETTINGS_TTL, Team
from agent_credits.ledger.grants import RELOAD_PREFIX
from agent_credits.ledger.reloads import DECLINE_HOLD, RELOAD_DEADLINE
from agent_credits.values.principals import Principal
from tests.dispositions import waiting
from tests.unit.builders import (
    ANA,
    BEN,
    MINUTE,
    ON,
    PACK_CENTS,
    RELOADING_ACME,
    finished,
    requested,
    usage,
)
from tests.unit.reload_world import ReloadWorld, short_world

OLGA = Principal("user", "olga")
OFF = RELOADING_ACME.model_copy(update={"auto_reload": None})


def world_with(credits: str = "150", team: Team = RELOADING_ACME) -> ReloadWorld:  # noqa: A002
    world = ReloadWorld(team=team)
    world.open_account(credits)
    return world


def test_falling_below_the_threshold_requests_a_reload_once() -> None:
    world = world_with("150")

    assert world.outcome(usage("e1", "51")) == "debited"
    assert world.outcome(usage("e2", "1")) == "debited"

    (request,) = world.requests
    assert request.reload_id.startswith(f"{RELOAD_PREFIX}{ANA}:")
    assert (request.team_id, request.principal) == ("acme", ANA)
    assert world.reload().state == "requested"
    assert world.reload().wanted_microcredits == 0
    assert [e.type for e in world.history()].count("reload.requested") == 1


def test_of_an_owner_who_pays_for_two_teams_each_team_s_settings_are_asked() -> None:
    """In one batch, the first team does not reload, and the second one does."""
    world = ReloadWorld(team=RELOADING_ACME)
    world.rows.teams["beta"] = OFF.model_copy(update={"team_id": "beta"})
    world.open_account("150", principal=OLGA)
    schedule = {"kind": "schedule", "schedule_id": "nightly"}

    world.deliver(
        usage("e1", "30", team="beta", trigger=schedule, run="run-1"),
        usage("e2", "30", team="acme", trigger=schedule, run="run-2"),
    )

    (request,) = world.requests
    assert (request.team_id, request.principal) == ("acme", OLGA)


def test_a_balance_exactly_on_the_threshold_requests_nothing() -> None:
    world = world_with("150")

    assert world.outcome(usage("e1", "50")) == "debited"

    assert world.requests == []
    assert world.account().reload is None


def test_an_event_that_finds_too_little_requests_a_reload_and_waits_undebited() -> None:
    world = world_with("150")

    batch = world.deliver(usage("e1", "200"))

    assert list(waiting(batch).values()) == [world.requests[0].reload_id]
    assert batch.failed_message_ids == list(waiting(batch))
    assert batch.outcomes == ()
    assert world.reload().wanted_microcredits == 200_000_000
    assert world.available() == 150
    assert not any(e.type == "agent_run.usage" for e in world.history())
    assert world.notices == []


def test_a_request_that_finds_too_little_waits_too() -> None:
    world = world_with("150")

    assert world.outcome(requested("e1", credits="151")) == "waiting"

    assert world.reload().wanted_microcredits == 151_000_000


def test_a_request_without_an_estimate_waits_if_the_pools_are_empty() -> None:
    world = world_with("150", team=OFF)
    world.deliver(usage("e0", "150"))
    world.apply(auto_reload=ON)
    world.later(SETTINGS_TTL)

    assert world.outcome(requested("e1", run="run-2")) == "waiting"
    assert world.reload().wanted_microcredits == 1


def test_a_second_short_event_joins_the_reload_under_way() -> None:
    world = world_with("150")
    world.deliver(usage("e1", "200"))

    batch = world.deliver(usage("e2", "300", run="run-2"))

    assert list(waiting(batch).values()) == [world.requests[0].reload_id]
    assert len(world.requests) == 1


def test_a_reload_covers_every_short_event_of_the_commit_that_requests_it() -> None:
    world = world_with("150")

    batch = world.deliver(usage("e1", "200"), usage("e2", "300", run="run-2"))

    assert len(waiting(batch)) == 2
    assert world.reload().wanted_microcredits == 500_000_000


def test_an_event_delivered_twice_in_one_batch_is_covered_once() -> None:
    world = world_with("150")

    batch = world.deliver(usage("e1", "200"), usage("e1", "200"))

    assert len(waiting(batch)) == 2
    assert world.reload().wanted_microcredits == 200_000_000


def test_an_event_that_the_pools_cover_does_not_wait_with_the_others() -> None:
    world = world_with("150")

    batch = world.deliver(usage("e1", "200"), usage("e2", "50", run="run-2"))

    assert len(waiting(batch)) == 1
    assert [o.result.entry.outcome for o in batch.outcomes] == ["debited"]
    assert len(world.requests) == 1


def test_no_second_reload_is_requested_while_one_is_under_way() -> None:
    world, _ = short_world()
    for number in range(10):
        world.later(MINUTE / 3)
        world.deliver(
            usage(f"e{number}", "1", run="small"), usage("e-short", "200", run="run-short")
        )

    assert len(world.requests) == 1


def test_another_reload_is_requested_only_once_the_first_has_failed() -> None:
    world, event = short_world()
    world.later(RELOAD_DEADLINE)
    entry = world.entry(event)
    assert entry.decline == "payment_unavailable"
    world.later(DECLINE_HOLD)

    assert world.outcome(usage("e-next", "200", run="run-next")) == "waiting"

    first, second = world.requests
    assert first.reload_id != second.reload_id


def test_auto_reload_is_off_by_default_and_the_run_fails_with_its_pools_exhausted() -> None:
    world = world_with("150", team=OFF)

    entry = world.entry(usage("e1", "200"))

    assert (entry.outcome, entry.decline) == ("insufficient", None)
    assert entry.drawn_microcredits == 150_000_000
    (notice,) = world.notices
    assert notice.data["cause"] == "pools_exhausted"
    assert notice.data["auto_reload"] == {"state": "off"}
    assert world.requests == []


def test_a_pool_that_the_run_may_not_draw_is_not_reloaded() -> None:
    other_pool = ON.model_copy(update={"pool": "contract"})
    world = world_with("150", team=RELOADING_ACME.model_copy(update={"auto_reload": other_pool}))

    assert world.outcome(usage("e1", "200")) == "insufficient"
    assert world.requests == []


def test_auto_reload_turned_on_a_second_ago_counts_before_the_first_run_fails() -> None:
    world = world_with("150", team=OFF)
    world.deliver(usage("e0", "1"))

    world.apply(auto_reload=ON)

    assert world.outcome(usage("e1", "200")) == "waiting"
    assert world.outcome(usage("e2", "1", run="run-2")) == "debited"


def test_auto_reload_turned_on_a_second_ago_counts_for_a_run_that_failed_before() -> None:
    world = world_with("150", team=OFF)
    assert world.outcome(usage("e1", "200", run="run-1")) == "insufficient"

    world.apply(auto_reload=ON)

    assert world.outcome(usage("e2", "200", run="run-1")) == "waiting"


def test_a_reload_that_lands_exactly_on_the_threshold_requests_no_other() -> None:
    """The cap affords one pack, which brings the balance from nothing to the threshold."""
    threshold = ON.model_copy(update={"threshold_microcredits": ON.pack_microcredits})
    team = RELOADING_ACME.model_copy(
        update={"auto_reload": threshold, "spend_cap_cents": PACK_CENTS}
    )
    world = world_with("150", team=team)
    world.deliver(usage("e1", "150"))
    world.resolve()
    assert world.available() == 400

    assert world.outcome(finished("e2")) == "finished"

    assert len(world.requests) == 1
    assert world.account().reload is None


def test_a_balance_that_stays_low_requests_a_reload_again_once_a_decline_no_longer_holds() -> None:
    world = world_with("150")
    world.payments.confirms[0] = "decline"
    world.deliver(usage("e1", "60"))
    world.resolve()
    world.deliver(usage("e2", "1"))
    assert len(world.requests) == 1

    world.later(DECLINE_HOLD)
    world.deliver(usage("e3", "1"))

    assert len(world.requests) == 2


def test_a_replay_of_recorded_events_requests_nothing() -> None:
    world = world_with("150", team=OFF)
    events = [usage("e1", "60"), usage("e2", "1"), finished("e3")]
    world.deliver(*events)
    world.apply(auto_reload=ON)
    world.later(SETTINGS_TTL)
    version = world.account().version

    world.deliver(*events)

    assert world.account().version == version
    assert world.requests == []


def test_two_teams_that_bill_one_account_in_one_batch_each_keep_their_settings() -> None:
    """The last of ana's events in the batch is of a team that does not reload."""
    world = world_with("150")
    world.rows.teams["other"] = OFF.model_copy(update={"team_id": "other"})

    world.deliver(usage("e1", "60"), finished("e2", run="run-2", team="other"))

    assert len(world.requests) == 1


def test_each_account_of_a_team_has_a_reload_of_its_own() -> None:
    world = world_with("150")
    world.open_account("150", BEN)

    world.deliver(usage("e1", "60"), usage("e2", "60", run="run-2", user="ben"))

    assert {request.principal for request in world.requests} == {ANA, BEN}
    assert len({request.reload_id for request in world.requests}) == 2


BREAKER = ON.model_copy(update={"reloads_max": 2, "window_minutes": 60})


def reloaded(world: ReloadWorld, times: int) -> None:
    for number in range(times):
        event = usage(f"e-loop-{number}", "400", run="loop")
        world.resolve_until_done(event)
        if world.account().reload is not None:
            world.resolve()
        world.later(MINUTE)


def looping_world() -> ReloadWorld:
    """Return a world in which a loop has used up the reloads of its window."""
    world = world_with("150", team=RELOADING_ACME.model_copy(update={"auto_reload": BREAKER}))
    reloaded(world, 2)
    assert len(world.payments.charges) == 2
    return world


def test_too_many_reloads_in_a_window_freeze_reloading_below_the_cap_and_are_announced_once() -> (
    None
):
    world = looping_world()
    assert world.spending.head_room(RELOADING_ACME.spend_cap_cents, "2025-11") > 0

    world.deliver(usage("e-low", "100", run="loop"))
    world.deliver(usage("e-lower", "1", run="loop"))
    entry = world.entry(usage("e-short", "400", run="loop"))

    assert entry.decline == "too_many_reloads"
    (notice,) = world.notices_of_type("auto_reload.frozen")
    assert notice.data["cause"] == "too_many_reloads"
    assert world.notices_of_type("auto_reload.declined") == []
    assert len(world.payments.charges) == 2
    assert len(world.requests) == 2


def test_a_frozen_account_reloads_again_after_the_window() -> None:
    world = looping_world()
    world.deliver(usage("e-low", "100", run="loop"))
    frozen_until = world.reload().until
    assert frozen_until == world.now + timedelta(minutes=60)

    world.now = frozen_until - MINUTE
    assert world.entry(usage("e-a", "400", run="run-a")).decline == "too_many_reloads"
    world.now = frozen_until

    assert world.outcome(usage("e-b", "400", run="run-b")) == "waiting"


def test_a_freeze_is_announced_even_if_the_balance_is_not_low() -> None:
    """Only the event is too large: the balance is above the threshold."""
    world = looping_world()
    world.grant("by-hand", "100")
    available = world.available()
    assert available >= 100

    entry = world.entry(requested("e-large", run="run-large", credits=str(available + 1)))

    assert entry.decline == "too_many_reloads"
    assert len(world.notices_of_type("auto_reload.frozen")) == 1


def test_an_account_can_freeze_a_second_time_later() -> None:
    world = looping_world()
    world.deliver(usage("e-low", "100", run="loop"))
    world.later(timedelta(hours=2))
    for number in range(8):
        event = usage(f"e-again-{number}", "300", run=f"again-{number}")
        world.resolve_until_done(event)

    assert len(world.notices_of_type("auto_reload.frozen")) == 2
    assert len({n.id for n in world.notices_of_type("auto_reload.frozen")}) == 2


@pytest.mark.parametrize("reloads_max", [1, 2, 5])
def test_no_window_has_more_reloads_than_allowed(reloads_max: int) -> None:
    settings = ON.model_copy(update={"reloads_max": reloads_max, "window_minutes": 60})
    team = RELOADING_ACME.model_copy(update={"auto_reload": settings, "spend_cap_cents": 10**9})
    world = world_with("150", team=team)
    for number in range(200):
        event = usage(f"e{number}", "300", run=f"run-{number}")
        world.resolve_until_done(event)
        world.later(2 * MINUTE)

    granted = [e.recorded_at for e in world.history() if e.type == "reload.granted"]
    assert len(granted) > reloads_max
    for start in granted:
        assert sum(start <= at < start + 60 * MINUTE for at in granted) <= reloads_max
