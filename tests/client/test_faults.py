"""What the client does when answers do not come: it repeats the same ids, and then says so."""

import json

import pytest

from agent_credits.values.credits import format_credits
from agent_credits_client import (
    NoAnswer,
    Options,
    ReloadPending,
    RunStopped,
    Unavailable,
    UsageNotReported,
)
from tests.client.world import Fault, World
from tests.unit.builders import ANA, RELOADING_ACME
from tests.unit.reservation_world import NO_STEP, policy

LOST = Fault("lost")
TIMEOUT = Fault("timeout")
NOT_SENT = Fault("not_sent")
BUSY = Fault("answer", status=503)
HTML = Fault("answer", status=200, text="<html>Please log in</html>")
CRASHED = Fault("answer", status=500, text='{"message": "Internal Server Error"}')
THROTTLED = Fault("answer", status=429, text='{"message": "Too Many Requests"}')

STRANGER = Fault("answer", status=200, text='{"message": "Hello"}')
REDIRECT = Fault("answer", status=302, headers={"Location": "https://elsewhere.example"}, text="")

EVERY_FAULT = [LOST, TIMEOUT, NOT_SENT, BUSY, HTML, CRASHED, THROTTLED, STRANGER, REDIRECT]
NAMES = ["lost", "timeout", "not sent", "503", "html", "500", "429", "stranger", "redirect"]
CALLS = ["/v1/reservations", "/v1/events", "/extend", "/settle"]


@pytest.mark.parametrize("part", CALLS)
@pytest.mark.parametrize("fault", EVERY_FAULT, ids=NAMES)
def test_a_call_that_gets_no_decision_is_repeated_and_counts_once(fault: Fault, part: str) -> None:
    world = World()
    world.faults = [Fault(fault.kind, part, fault.status, fault.headers, fault.text)] * 3

    with world.run(credits="75") as run:
        run.use("10")
        run.flush()
        run.extend("25")
        run.use("5")

    assert world.faults == []
    # To a client, a reservation whose answer was lost may be hours old.
    renewed = part == "/v1/reservations" and fault in (LOST, TIMEOUT)
    assert world.outcomes() == [
        ("accepted", "0"),
        *[("extended", "0")][:renewed],
        ("debited", "10"),
        ("extended", "0"),
        ("debited", "5"),
        ("finished", "0"),
    ]
    assert (world.available(), world.reserved()) == ("485", "0")


def test_a_repeat_has_the_ids_and_the_bytes_of_the_first_attempt() -> None:
    world = World()
    world.faults = [LOST, LOST]

    with world.run() as run:
        world.faults = [Fault("lost", "/v1/events")]
        run.use("10")

    reserves = [seen for seen in world.seen if seen.path == "/v1/reservations"]
    reports = [seen for seen in world.seen if seen.path == "/v1/events"]
    assert len(reserves) == 3
    assert len({(seen.key, json.dumps(seen.body)) for seen in reserves}) == 1
    assert [seen.body for seen in reports] == [reports[0].body] * 2


def test_attempts_are_bounded_and_their_pauses_double() -> None:
    world = World()
    world.faults = [BUSY] * 100
    options = Options(attempts_max=6, give_up_seconds=1_000)

    with pytest.raises(Unavailable, match="after 6 attempts: 503") as unavailable:
        world.run(options=options).start()

    assert len(world.faults) == 94
    assert world.clock.sleeps == [0.4, 0.8, 1.6, 3.2, 5.0]
    assert isinstance(unavailable.value.__cause__, NoAnswer)


def test_pauses_are_random_parts_of_the_longest() -> None:
    world = World()
    world.faults = [BUSY] * 2
    parts = iter([0.5, 0.25])

    world.credits(jitter=lambda: next(parts)).run(
        "run-1", team_id="acme", trigger={"kind": "user", "user_id": "ana"}, credits="1"
    ).start()

    assert world.clock.sleeps == [0.2, 0.2]


def test_the_time_of_all_attempts_is_bounded() -> None:
    world = World()
    world.faults = [BUSY] * 100

    with pytest.raises(Unavailable):
        world.run(options=Options(attempts_max=50, give_up_seconds=10)).start()

    assert sum(world.clock.sleeps) <= 10


def test_retry_after_is_honoured() -> None:
    world = World()
    world.faults = [Fault("answer", status=429, headers={"Retry-After": "7"})]

    world.run().start()

    assert world.clock.sleeps == [7.0]


def test_a_retry_after_that_is_longer_than_our_patience_ends_it_at_once() -> None:
    world = World()
    world.faults = [Fault("answer", status=503, headers={"Retry-After": "3600"})]

    with pytest.raises(Unavailable):
        world.run().start()

    assert world.clock.sleeps == []


def test_deny_starts_no_run_that_was_not_decided() -> None:
    world = World()
    world.faults = [NOT_SENT] * 100

    with pytest.raises(Unavailable), world.run(on_unavailable="deny"):
        pytest.fail("the block must not run")

    assert world.entries() == []


def test_allow_starts_the_run_without_a_reservation_and_reports_it_later() -> None:
    world = World()
    world.faults = [NOT_SENT] * 6

    with world.run(on_unavailable="allow") as run:
        assert (run.is_reserved, run.directive, world.reserved()) == (False, "continue", "0")
        run.use("10")

    assert world.outcomes() == [("debited", "10"), ("finished", "0")]
    assert world.available() == "490"


def test_allow_gives_back_what_a_request_whose_answers_were_lost_had_reserved() -> None:
    world = World()
    world.faults = [LOST] * 6

    with world.run(on_unavailable="allow") as run:
        assert (run.is_reserved, world.reserved()) == (False, "75")
        run.use("10")

    assert (world.available(), world.reserved()) == ("490", "0")


def test_an_outage_while_the_run_is_at_work_keeps_its_usage_until_it_is_over() -> None:
    world = World()

    with world.run(options=Options(flush_events=2)) as run:
        world.faults = [NOT_SENT] * 3
        for _ in range(8):
            run.use("1")
            world.clock.advance(20)
        assert world.faults == []

    assert world.drawn() == "8"
    assert (world.available(), world.reserved()) == ("492", "0")


@pytest.mark.parametrize(("on_unavailable", "raises"), [("deny", True), ("allow", False)])
def test_a_flush_without_an_answer_raises_unless_that_is_allowed(
    on_unavailable: str, raises: bool
) -> None:
    world = World()

    with world.run(on_unavailable=on_unavailable) as run:
        run.use("10")
        world.faults = [NOT_SENT] * 6
        if raises:
            with pytest.raises(Unavailable):
                run.flush()
        else:
            run.flush()
        assert world.faults == []

    assert world.drawn() == "10"


@pytest.mark.parametrize(
    "options",
    [
        {"attempts_max": 0},
        {"flush_events": 0},
        {"buffered_events_max": 0},
        {"timeout_seconds": 0},
    ],
)
def test_options_that_would_never_send_anything_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Options(**options)


def test_a_directive_whose_answer_was_lost_is_heard_from_the_repeat() -> None:
    world = World(policy=policy(**NO_STEP, overrun="stop"))

    with pytest.raises(RunStopped), world.run(credits="10") as run:
        run.use("15")
        world.faults = [Fault("lost", "/v1/events")]
        run.flush()

    assert world.faults == []


def test_a_directive_that_an_extension_has_lifted_since_is_not_heard_from_a_repeat() -> None:
    world = World(policy=policy(**NO_STEP, overrun="pause"))

    with world.run(credits="10", options=Options(flush_events=1)) as run:
        world.faults = [Fault("lost", "/v1/events")]
        run.use("15")
        run.extend("50")
        run.flush()
        assert run.directive == "continue"

    reports = [seen.body for seen in world.seen if seen.path == "/v1/events"]
    assert reports[0] == reports[1]
    assert world.drawn() == "10"


def test_usage_that_cannot_be_delivered_is_handed_to_the_caller_and_keeps_its_reservation() -> None:
    world = World()

    with pytest.raises(UsageNotReported, match="events: 2") as raised, world.run() as run:
        world.faults = [Fault("not_sent", "/v1/events")] * 100
        run.use("10")
        run.use("20")

    assert world.reserved() == "75"
    assert "/v1/reservations/run-1/settle" not in world.paths
    world.faults = []
    events = [dict(event) for event in raised.value.events]
    assert world.api.call("POST", "/v1/events", events).status == 200
    assert (world.drawn(), world.reserved()) == ("30", "45")


def test_allow_lets_a_run_that_is_done_be_done_though_its_usage_cannot_be_delivered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()

    with world.run(on_unavailable="allow") as run:
        world.faults = [NOT_SENT] * 100
        run.use("10")

    assert "usage of run run-1 is not reported; events: 1" in caplog.text
    assert [event["data"]["credits"] for event in run.unreported] == ["10"]


def test_the_error_of_a_block_is_never_replaced_by_one_of_the_end() -> None:
    world = World()

    with pytest.raises(ZeroDivisionError), world.run() as run:
        world.faults = [NOT_SENT] * 100
        run.use("10")
        raise ZeroDivisionError

    world.faults = []
    assert world.api.call("POST", "/v1/events", [*map(dict, run.unreported)]).status == 200
    assert world.drawn() == "10"


def test_what_is_kept_for_an_outage_is_bounded() -> None:
    world = World()
    run = world.run(options=Options(buffered_events_max=30)).start()
    world.faults = [NOT_SENT] * 1_000
    for _ in range(30):
        run.use("1")

    with pytest.raises(Unavailable, match="usage waits to be reported; events: 30"):
        run.use("1")

    world.faults = []
    run.end()
    assert world.drawn() == "30"


def test_events_of_a_batch_that_were_not_decided_are_sent_again_and_no_others() -> None:
    world = World()
    run = world.run().start()
    run.use("1")
    run.use("2")
    undecided = {"results": [{"status": 503}, {"status": 503}]}
    world.faults = [Fault("answer", "/v1/events", status=200, text=json.dumps(undecided))]

    run.end()

    assert world.drawn() == "3"
    assert world.clock.sleeps == [5.0]


class Reloading:
    """A world whose account waits for a reload; `resolve` says what comes of it."""

    def __init__(self, credits: str = "50") -> None:
        self.world = World(credits)
        self.world.api.rows.teams["acme"] = RELOADING_ACME
        self.asked = 0

    def grant_after(self, requests: int) -> None:
        def before(_: str) -> None:
            self.asked += 1
            if self.asked == requests:
                self.world.grant("g-reload", "400")

        self.world.before = before


def test_a_start_waits_for_a_reload_and_asks_again_as_it_was() -> None:
    reloading = Reloading()
    reloading.grant_after(4)
    world = reloading.world

    with world.run(credits="75") as run:
        assert run.is_reserved

    assert [seen.status for seen in world.seen[:4]] == [202, 202, 202, 201]
    assert len({json.dumps(seen.body) for seen in world.seen[:4]}) == 1
    assert world.clock.sleeps == [5.0] * 3


def test_a_start_waits_for_a_reload_no_longer_than_it_is_allowed_to() -> None:
    world = Reloading().world

    with pytest.raises(ReloadPending) as pending:
        world.run(credits="75", options=Options(reload_wait_seconds=20)).start()

    assert pending.value.reload_id == "reload:user:ana:2"
    assert sum(world.clock.sleeps) == 20


def test_an_outage_policy_of_allow_does_not_start_a_run_that_waits_for_credits() -> None:
    world = Reloading().world

    with pytest.raises(ReloadPending):
        world.run(credits="75", on_unavailable="allow").start()


def test_the_end_waits_for_usage_that_waits_for_a_reload() -> None:
    reloading = Reloading("80")
    world = reloading.world
    run = world.run(credits="75").start()
    reloading.asked = 0
    reloading.grant_after(3)
    run.use("90")

    run.end()

    assert world.drawn() == "90"
    assert format_credits(world.api.rows.accounts[ANA].grants[-1].amount_microcredits) == "400"
    assert world.reserved() == "0"


def test_the_end_does_not_wait_for_ever_for_usage_that_waits_for_a_reload() -> None:
    world = Reloading("80").world
    run = world.run(credits="75", options=Options(end_wait_seconds=30)).start()
    run.use("90")

    with pytest.raises(UsageNotReported):
        run.end()

    assert sum(world.clock.sleeps) <= 30
    assert world.reserved() == "75"
