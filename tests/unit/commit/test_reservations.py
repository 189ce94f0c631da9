"""Reservations: credits for runs in flight, made and drawn on the one path of an account."""

import random
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_credits.aws.items import ROW_BYTES_MAX, account_item, item_bytes
from agent_credits.billing.policy import BillingPolicy
from agent_credits.billing.teams import bill
from agent_credits.commit.changes import ReleaseChange, RunChange
from agent_credits.commit.write_protocol import commit
from agent_credits.ledger.accounts import PAGE_ENTRIES_FULL
from agent_credits.ledger.entries import Receipt
from agent_credits.ledger.grants import GRANTS_MAX
from agent_credits.ledger.reservations import (
    CHILDREN_MAX,
    RESERVATIONS_MAX,
    RUN_ID_BYTES_MAX,
    TREE_DEPTH_MAX,
)
from agent_credits.values.credits import format_credits, parse_credits
from agent_credits.values.errors import InvariantViolated
from tests.unit.builders import (
    ACME,
    ANA,
    BEN,
    MINUTE,
    NOW,
    POLICY,
    RELOADING_ACME,
    finished,
    grant_change,
    history,
    open_account,
    parsed,
    pause,
    requested,
    usage,
)
from tests.unit.reservation_world import (
    HOUR,
    NO_STEP,
    RESERVING,
    ReservingWorld,
    extended,
    policy,
    released,
    requests,
)

VISIBLE = [chr(code) for code in range(0x21, 0x7F)]
POLICY_GRACE = timedelta(days=POLICY.grace_days)


def test_of_twenty_runs_of_75_credits_exactly_six_start_against_500() -> None:
    world = ReservingWorld()

    outcomes = world.outcomes(*requests(20))

    assert (outcomes.count("accepted"), outcomes.count("insufficient")) == (6, 14)
    assert (world.available(), world.reserved()) == ("50", "450")


def test_after_three_runs_settle_as_many_start_as_what_they_left_can_hold() -> None:
    world = ReservingWorld()
    world.send(*requests(6))
    for number in (1, 2, 3):
        world.send(usage(f"u-{number}", "10", run=f"run-{number}"))
        world.send(finished(f"f-{number}", run=f"run-{number}"))

    outcomes = world.outcomes(*requests(10, first=7))

    # 50 were left, and 3 runs gave back 65 each: 245 hold three more.
    assert outcomes.count("accepted") == 3
    assert (world.available(), world.reserved()) == ("20", "450")


def test_a_redelivered_request_reserves_once() -> None:
    world = ReservingWorld()
    world.send(*requests(1))

    world.send(*requests(1), now=NOW + MINUTE)

    assert world.reserved() == "75"


def test_usage_draws_its_own_reservation_and_settling_gives_the_rest_back() -> None:
    world = ReservingWorld()
    world.send(*requests(1))

    world.send(usage("u-1", "30"))
    assert (world.available(), world.left("run-1")) == ("425", "45")

    assert world.outcomes(finished("f-1")) == ["finished"]
    assert (world.available(), world.reserved()) == ("470", "0")


def test_a_run_with_a_default_estimate_extends_by_it_as_it_draws_past_it() -> None:
    world = ReservingWorld()
    world.send(requested("r-1"))
    assert world.left("run-1") == "75"

    assert world.outcomes(usage("u-1", "100")) == ["debited"]

    assert (world.left("run-1"), world.available()) == ("50", "350")


def test_a_run_never_draws_what_another_run_reserved() -> None:
    world = ReservingWorld(credits="100")
    world.send(*requests(1))

    assert world.outcomes(requested("r-9", run="run-9", reserve="none", credits="20")) == [
        "accepted"
    ]
    assert world.outcomes(usage("u-9", "60", run="run-9")) == ["insufficient"]

    assert (world.available(), world.left("run-1")) == ("0", "75")


def test_a_reservation_that_expires_gives_back_without_any_commit() -> None:
    world = ReservingWorld()
    world.send(*requests(2))

    later = NOW + HOUR
    assert (world.available(later), world.reserved(later)) == ("500", "0")
    world.send(usage("u-1", "10"), now=later)

    assert world.account.reservations == ()
    (entry,) = [e for e in history(world.rows, ANA) if e.outcome == "reservations_expired"]
    assert [ended.run_id for ended in entry.reservation.ended] == ["run-1", "run-2"]
    assert world.available(later) == "490"


def test_usage_and_extensions_renew_a_reservation() -> None:
    world = ReservingWorld()
    world.send(*requests(2))

    world.send(usage("u-1", "1"), now=NOW + 50 * MINUTE)
    world.send(extended("e-2", run="run-2", ttl_seconds=7_200), now=NOW + 50 * MINUTE)
    later = NOW + 100 * MINUTE

    assert world.reserved(later) == "149"
    assert world.reserved(NOW + 120 * MINUTE) == "75"


def test_a_part_of_an_expired_grant_is_good_until_its_reservation_ends_and_lapses_then() -> None:
    world = ReservingWorld(credits="0")
    expiring = grant_change("g-1", credits="100", expires_at=NOW + 10 * MINUTE)
    open_account(world.rows, expiring, grant_change("g-2", credits="100"))
    world.send(*requests(1))

    later = NOW + 20 * MINUTE
    assert world.outcomes(usage("u-1", "30"), now=later) == ["debited"]
    (used,) = [e for e in history(world.rows, ANA) if e.outcome == "debited"]
    assert [part.grant_id for part in used.draws] == ["g-1"]
    world.send(finished("f-1"), now=later + MINUTE)

    assert world.available(later) == "100"
    (lapsed,) = [e for e in history(world.rows, ANA) if e.outcome == "expired"]
    assert format_credits(lapsed.amount_microcredits) == "70"


def test_a_run_draws_of_a_grant_that_expired_pages_ago_and_fails_in_one_batch() -> None:
    world = ReservingWorld(credits="0")
    expiring = grant_change("g-1", credits="100", expires_at=NOW + 10 * MINUTE)
    open_account(world.rows, expiring)
    world.send(*requests(1))
    for number in range(2 * PAGE_ENTRIES_FULL):
        world.send(usage(f"e-{number}", "0", run="another"))

    later = NOW + 20 * MINUTE
    found = world.outcomes(usage("u-1", "30"), finished("f-1", "error"), now=later)

    assert found == ["debited", "returned"]
    assert world.available(later) == "30"


def test_what_a_failed_run_returns_to_an_expired_grant_is_good_for_the_grace_alone() -> None:
    world = ReservingWorld(credits="0")
    expiring = grant_change("g-1", credits="200", expires_at=NOW + 10 * MINUTE)
    open_account(world.rows, expiring)
    world.send(*requests(2))
    world.send(usage("u-1", "30"))

    later = NOW + 20 * MINUTE
    world.send(finished("f-1", "error"), now=later)

    # 50 that nobody held lapse, and 45 of the failed run's reservation; the 30 it drew are back.
    assert (world.available(later), world.left("run-2")) == ("30", "75")
    (lapsed,) = [e for e in history(world.rows, ANA) if e.outcome == "expired"]
    assert format_credits(lapsed.amount_microcredits) == "95"


def test_a_grant_that_a_reservation_keeps_past_its_grace_gets_no_second_one() -> None:
    world = ReservingWorld(credits="0")
    expires_at = NOW + 10 * MINUTE
    open_account(world.rows, grant_change("g-1", credits="200", expires_at=expires_at))
    plain = {"reserve": "none"}
    world.send(requested("r-1", **plain), usage("u-1", "30"))
    world.send(requested("r-2", run="run-2", **plain), usage("u-2", "30", run="run-2"))
    world.send(finished("f-1", "error"), now=NOW + 20 * MINUTE)
    grace_ends = expires_at + POLICY_GRACE

    world.send(
        requested("r-3", run="run-3", credits="20", reserve="estimate"),
        now=grace_ends - 10 * MINUTE,
    )
    world.send(finished("f-2", "error", run="run-2"), now=grace_ends + 10 * MINUTE)

    assert history(world.rows, ANA)[-1].draws == ()
    assert (world.available(grace_ends + 10 * MINUTE), world.left("run-3")) == ("0", "20")


def test_a_child_reserves_from_its_parent_and_returns_what_it_leaves() -> None:
    world = ReservingWorld()
    world.send(*requests(1))

    child = requested("r-2", run="run-2", credits="40", parent_run_id="run-1")
    assert world.outcomes(child) == ["accepted"]
    assert (world.available(), world.left("run-1"), world.left("run-2")) == ("425", "35", "40")

    world.send(usage("u-2", "15", run="run-2"), finished("f-2", run="run-2"))
    assert (world.available(), world.left("run-1")) == ("425", "60")


def test_a_child_never_reserves_more_than_its_parent_holds() -> None:
    world = ReservingWorld()
    world.send(*requests(1))

    child = requested("r-2", run="run-2", credits="80", parent_run_id="run-1")

    assert world.outcomes(child) == ["insufficient"]
    assert world.left("run-1") == "75"


def test_a_child_that_draws_past_its_own_draws_its_line_of_parents_then_what_nobody_holds() -> None:
    world = ReservingWorld(
        policy(overrun="stop", grace_microcredits=parse_credits("5"), reserve="estimate")
    )
    world.policy = policy("1", overrun="stop", grace_microcredits=parse_credits("5"))
    world.send(requested("r-1", credits="50"))
    world.send(requested("r-2", run="run-2", credits="10", parent_run_id="run-1"))
    world.send(requested("r-3", run="run-3", credits="10"))

    assert world.outcomes(usage("u-2", "55", run="run-2")) == ["debited"]

    # The root's step let it extend: 10 of its own, 40 of the parent, 5 more in steps of 1.
    assert (world.left("run-1"), world.left("run-2"), world.left("run-3")) == ("0", "0", "10")
    assert world.available() == "435"


def test_a_parent_that_ends_closes_its_tree() -> None:
    world = ReservingWorld()
    world.send(*requests(1))
    world.send(requested("r-2", run="run-2", credits="40", parent_run_id="run-1"))
    world.send(requested("r-3", run="run-3", credits="10", parent_run_id="run-2"))

    world.send(finished("f-1"))

    assert (world.account.reservations, world.available()) == ((), "500")
    ended = history(world.rows, ANA)[-1].reservation.ended
    assert [end.run_id for end in ended] == ["run-1", "run-2", "run-3"]


def test_a_commit_that_would_lose_what_a_reservation_held_is_never_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = ReservingWorld()
    world.send(*requests(1))
    before = world.account
    monkeypatch.setattr("agent_credits.ledger.ends._with_parts", lambda account, _: account)

    with pytest.raises(InvariantViolated, match="available, reserved, burned or expired"):
        world.send(finished("f-1"))

    assert world.account == before


def test_a_child_at_work_keeps_its_parents_from_expiring() -> None:
    world = ReservingWorld()
    world.send(*requests(1))
    world.send(requested("r-2", run="run-2", credits="40", parent_run_id="run-1"))

    world.send(usage("u-2", "1", run="run-2"), now=NOW + 50 * MINUTE)

    assert world.reserved(NOW + 100 * MINUTE) == "74"


def test_under_finish_a_run_may_draw_all_that_nobody_holds() -> None:
    world = ReservingWorld(policy(**NO_STEP, overrun="finish"))
    world.send(requested("r-1", credits="75", reserve="estimate"))

    assert world.outcomes(usage("u-1", "100")) == ["debited"]

    facts = history(world.rows, ANA)[-1].reservation
    assert (facts.overruns, facts.directive) == (True, "continue")
    assert format_credits(facts.overdrawn_microcredits) == "25"


@pytest.mark.parametrize("overrun", ["pause", "stop"])
def test_under_pause_and_stop_a_run_draws_at_most_its_grace(overrun: str) -> None:
    terms = {**NO_STEP, "overrun": overrun, "grace_microcredits": parse_credits("10")}
    world = ReservingWorld(policy(**terms))
    world.send(requested("r-1", credits="75", reserve="estimate"))

    assert world.outcomes(usage("u-1", "80"), usage("u-2", "20")) == ["debited", "insufficient"]

    first, second = history(world.rows, ANA)[-2:]
    assert (first.reservation.overruns, second.reservation.overruns) == (True, False)
    assert format_credits(second.shortfall_microcredits) == "15"
    assert (world.available(), world.directive("run-1")) == ("415", overrun)


def test_a_child_that_may_draw_what_its_parent_holds_is_told_to_continue() -> None:
    world = ReservingWorld(policy(**NO_STEP, overrun="stop"))
    world.send(requested("r-1", credits="75", reserve="estimate"))
    world.send(requested("r-2", run="run-2", credits="10", parent_run_id="run-1"))
    world.send(usage("u-2", "10", run="run-2"))

    assert world.outcomes(extended("e-2", run="run-2", credits="66")) == ["insufficient"]

    assert history(world.rows, ANA)[-1].reservation.directive == "continue"


def test_a_child_is_told_what_its_root_is_told_whatever_its_own_policy_says() -> None:
    world = ReservingWorld(policy(**NO_STEP, overrun="stop"), credits="75")
    world.send(requested("r-1", credits="75", reserve="estimate"))
    world.policy = policy(**NO_STEP, overrun="pause")
    world.send(requested("r-2", run="run-2", credits="75", parent_run_id="run-1"))
    world.send(usage("u-2", "75", run="run-2"))

    assert world.outcomes(extended("e-2", run="run-2", credits="1")) == ["insufficient"]

    assert history(world.rows, ANA)[-1].reservation.directive == "stop"


def test_an_extension_lets_a_paused_run_go_on() -> None:
    world = ReservingWorld(policy(**NO_STEP, overrun="pause"))
    world.send(requested("r-1", credits="75", reserve="estimate"))
    world.send(usage("u-1", "80"))
    assert world.directive("run-1") == "pause"

    assert world.outcomes(extended("e-1", credits="20")) == ["extended"]

    assert (world.directive("run-1"), world.left("run-1")) == ("continue", "20")


def test_a_release_gives_back_what_is_left_and_keeps_what_was_used() -> None:
    world = ReservingWorld()
    world.send(*requests(1))

    assert world.outcomes(usage("u-1", "5"), released("x-1")) == ["debited", "released"]

    assert (world.available(), world.account.reservations) == ("495", ())


def test_an_operator_releases_a_reservation_with_a_reason() -> None:
    world = ReservingWorld()
    world.send(*requests(1))

    change = ReleaseChange(ANA, "run-1", "release:1", "its worker is gone")
    commit(world.rows, ANA, [change], now=NOW, pause=pause)
    commit(world.rows, ANA, [change], now=NOW, pause=pause)
    world.check()

    entry = history(world.rows, ANA)[-1]
    assert (entry.outcome, entry.reservation.reason) == ("released", "its worker is gone")
    assert (world.available(), world.account.version) == ("500", 3)


def test_a_request_that_finds_too_little_available_waits_for_the_reload() -> None:
    world = ReservingWorld(credits="120")
    world.team = RELOADING_ACME

    assert world.outcomes(*requests(2)) == ["accepted", "waiting"]

    assert world.account.reload is not None
    assert format_credits(world.account.reload.wanted_microcredits) == "75"


def test_a_request_of_a_run_that_ended_pages_ago_buys_nothing() -> None:
    world = ReservingWorld(credits="20")
    world.send(finished("f-1"))
    world.send(*(usage(f"u-{n}", "0.5", run="run-2") for n in range(PAGE_ENTRIES_FULL)))
    world.send(usage("u-last", "0.5", run="run-2"))
    world.team = RELOADING_ACME

    assert world.outcomes(requested("r-1")) == ["run_ended"]

    assert world.account.reload is None


def test_an_account_is_exhausted_only_when_even_the_reserved_credits_would_not_do() -> None:
    world = ReservingWorld(credits="100")
    world.send(*requests(2))
    assert not world.account.is_exhausted

    world.send(requested("r-9", run="run-9", credits="101"))
    assert world.account.is_exhausted


def nested(depth: int) -> list[dict[str, Any]]:
    return [
        requested(
            f"r-{level}",
            run=f"run-{level}",
            credits="75",
            **({"parent_run_id": f"run-{level - 1}"} if level > 1 else {}),
        )
        for level in range(1, depth + 1)
    ]


def test_each_contradiction_is_rejected_by_its_own_name_and_changes_nothing() -> None:
    world = ReservingWorld()
    world.send(*requests(1))
    world.send(requested("r-2", run="run-2", credits="5", parent_run_id="run-1"))
    world.send(requested("r-3", run="run-3", credits="5"), finished("f-3", run="run-3"))
    before = world.account

    def code(document: dict[str, Any]) -> str:
        (outcome,) = world.outcomes(document)
        assert world.account == before
        return outcome

    assert code(requested("r-1b", credits="75")) == "already_reserved"
    assert code(requested("r-4", run="run-4", parent_run_id="run-4")) == "circular_parents"
    assert code(requested("r-5", credits="5", parent_run_id="run-2")) == "circular_parents"
    assert code(requested("r-6", run="run-6", credits="0")) == "no_estimate"
    assert code(requested("r-7", run="run-7", parent_run_id="run-3")) == "run_ended"
    assert code(requested("r-8", run="run-8", parent_run_id="nobody")) == "unsure"
    assert code(extended("e-3", run="run-3", credits="1")) == "run_ended"
    assert code(extended("e-9", run="run-9", credits="1")) == "unsure"
    assert code(finished("f-3b", run="run-3")) == "run_ended"
    assert code(released("x-3", run="run-3")) == "run_ended"


def test_a_reservation_made_between_the_reads_of_row_and_ledger_is_not_taken_for_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = ReservingWorld()
    read_run = world.rows.read_run

    def another_worker_comes_first(run_id: str) -> Iterator[Receipt]:
        monkeypatch.setattr(world.rows, "read_run", read_run)
        world.send(*requests(1))
        world.send(*(usage(f"u-{n}", "1", run="run-2") for n in range(PAGE_ENTRIES_FULL)))
        world.send(usage("u-last", "1", run="run-2"))
        yield from read_run(run_id)

    monkeypatch.setattr(world.rows, "read_run", another_worker_comes_first)

    assert world.outcomes(extended("e-1", credits="5")) == ["extended"]
    assert world.left("run-1") == "80"


def test_a_reservation_that_expired_cannot_be_extended() -> None:
    world = ReservingWorld()
    world.send(*requests(1))
    later = NOW + HOUR

    assert world.outcomes(extended("e-1", credits="1"), now=later) == ["reservation_ended"]


def test_a_run_whose_reservation_expired_still_finishes_once() -> None:
    world = ReservingWorld()
    world.send(*requests(1))
    later = NOW + HOUR

    assert world.outcomes(finished("f-1"), now=later) == ["finished"]
    assert world.outcomes(finished("f-1b"), now=later) == ["run_ended"]


def test_a_parent_that_is_billed_to_another_account_is_named_so() -> None:
    world = ReservingWorld()
    open_account(world.rows, grant_change("g-b", credits="500", principal=BEN))
    event = parsed(requested("r-b", run="run-b", credits="10", user="ben"))
    commit(world.rows, BEN, [RunChange(event, bill(event, ACME, RESERVING))], now=NOW, pause=pause)
    world.rows.put_page(world.rows.accounts[BEN].page)

    outcomes = world.outcomes(requested("r-1", credits="1", parent_run_id="run-b"))

    assert outcomes == ["parent_billed_elsewhere"]


def test_a_tree_is_bounded_in_depth_and_width() -> None:
    world = ReservingWorld()
    world.send(*nested(TREE_DEPTH_MAX))
    below = requested("r-d", run="run-d", credits="1", parent_run_id=f"run-{TREE_DEPTH_MAX}")
    assert world.outcomes(below) == ["tree_too_deep"]

    world = ReservingWorld()
    world.send(requested("r-0", run="run-0", credits="300"))
    children = [
        requested(f"c-{n}", run=f"child-{n}", credits="1", parent_run_id="run-0")
        for n in range(CHILDREN_MAX + 1)
    ]
    assert world.outcomes(*children)[-2:] == ["accepted", "too_many_children"]


def test_an_account_holds_a_bounded_number_of_reservations_on_a_row_below_its_ceiling() -> None:
    world = ReservingWorld()
    for start in range(0, RESERVATIONS_MAX, 100):
        world.send(*requests(100, credits="0.5", first=start))

    assert world.outcomes(*requests(1, credits="0.5", first=RESERVATIONS_MAX)) == [
        "too_many_reservations"
    ]


def test_reservations_with_the_longest_ids_leave_room_on_the_row_for_200_grants() -> None:
    chance = random.Random(1)
    world = ReservingWorld(credits="0")
    packs = [grant_change(f"{n:0>36}", credits="1") for n in range(GRANTS_MAX)]
    open_account(world.rows, *packs)
    ids = ["".join(chance.choices(VISIBLE, k=128)) for _ in range(RUN_ID_BYTES_MAX // 128 + 1)]

    outcomes: list[str] = []
    for start in range(0, len(ids), 10):
        some = ids[start : start + 10]
        outcomes += world.outcomes(
            *(requested(f"r-{run}"[:128], run=run, credits="0.000001") for run in some)
        )

    assert outcomes == ["accepted"] * (len(ids) - 1) + ["too_many_reservations"]
    assert item_bytes(account_item(world.account)) < ROW_BYTES_MAX
    assert world.outcomes(usage("u-1", "2", run=ids[0]), finished("f-1", run=ids[0]))[-1] == (
        "finished"
    )


events = st.one_of(
    st.builds(
        lambda n, c, p, r: requested(
            f"r-{n}",
            run=f"run-{n}",
            credits=str(c),
            reserve=r,
            **({"parent_run_id": f"run-{p}"} if p and r == "estimate" else {}),
        ),
        st.integers(1, 6),
        st.integers(1, 90),
        st.integers(0, 6),
        st.sampled_from(["estimate", "estimate", "none"]),
    ),
    st.builds(
        lambda n, i, c: usage(f"u-{n}-{i}", str(c), run=f"run-{n}"),
        st.integers(1, 6),
        st.integers(1, 4),
        st.integers(0, 80),
    ),
    st.builds(
        lambda n, i, c: extended(f"e-{n}-{i}", credits=str(c), run=f"run-{n}"),
        st.integers(1, 6),
        st.integers(1, 3),
        st.integers(1, 60),
    ),
    st.builds(
        lambda n, s: finished(f"f-{n}", s, run=f"run-{n}"),
        st.integers(1, 6),
        st.sampled_from(["ok", "error", "cancelled"]),
    ),
    st.builds(lambda n: released(f"x-{n}", run=f"run-{n}"), st.integers(1, 6)),
)
batches = st.lists(
    st.tuples(st.integers(0, 40), st.lists(events, min_size=1, max_size=5)),
    min_size=1,
    max_size=12,
)
overruns = st.sampled_from(
    [
        policy("20"),
        policy(**NO_STEP),
        policy(**NO_STEP, overrun="stop", grace_microcredits=parse_credits("7")),
        policy("15", overrun="pause", grace_microcredits=parse_credits("7")),
    ]
)


@given(overruns, batches)
@settings(max_examples=300, deadline=None)
def test_whatever_happens_each_grant_is_available_reserved_burned_or_expired(
    terms: BillingPolicy, minutes_and_events: list[tuple[int, list[dict[str, Any]]]]
) -> None:
    world = ReservingWorld(terms, credits="0")
    expiring = grant_change("g-1", credits="60", expires_at=NOW + timedelta(minutes=45))
    open_account(world.rows, expiring, grant_change("g-2", "plan", "60"), now=NOW)
    now = NOW
    for minutes, documents in minutes_and_events:
        now += timedelta(minutes=minutes)
        world.send(*documents, now=now)
    ends = [end.run_id for e in history(world.rows, ANA) for end in e.reservation.ended]
    begins = [
        e.identity.subject
        for e in history(world.rows, ANA)
        if e.outcome == "accepted" and e.reservation.moves
    ]
    live = [reservation.run_id for reservation in world.account.reservations]
    assert sorted(ends + live) == sorted(begins), "each reservation ends exactly once"
