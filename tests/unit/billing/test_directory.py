import itertools
import threading
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import pytest

import agent_credits.billing.directory
from agent_credits.billing.directory import Directory
from agent_credits.billing.policy import BillingPolicy
from agent_credits.billing.teams import (
    CLOCK_SKEW_MAX,
    EVERYONE,
    SETTINGS_TTL,
    TENURE_NOTICE,
    Billing,
    Team,
    Tenure,
)
from agent_credits.events.agent_runs import Rejection
from agent_credits.values.errors import PolicyMissing, RowsUnavailable
from agent_credits.values.side_by_side import in_turn
from tests.memory_rows import MemoryRows
from tests.unit.builders import (
    ACME,
    ANA,
    BEN,
    NOW,
    OLGA,
    POLICY,
    TRIGGERS,
    parsed,
    settle,
    usage,
)


class ReadRows(MemoryRows):
    """Rows that record which settings were read."""

    def __init__(self) -> None:
        super().__init__()
        settle(self)
        self.reads: list[str] = []

    def read_team(self, team_id: str) -> Team | None:
        self.reads.append(f"team {team_id}")
        return super().read_team(team_id)

    def read_policy(self, version: str) -> BillingPolicy | None:
        self.reads.append(f"policy {version}")
        return super().read_policy(version)


def with_members(members: Iterable[str]) -> Team:
    return ACME.model_copy(update={"members": frozenset(members)})


def code(answer: Billing | Rejection) -> Any:
    assert isinstance(answer, Rejection)
    return answer.code


def test_settings_are_read_once_a_minute() -> None:
    rows = ReadRows()
    directory = Directory(rows)
    event = parsed(usage("e1"))

    directory.bill(event, NOW)
    directory.bill(event, NOW + SETTINGS_TTL - timedelta(microseconds=1))
    assert rows.reads == ["team acme", "policy 2025-11"]
    directory.bill(event, NOW + SETTINGS_TTL)

    assert rows.reads == ["team acme", "policy 2025-11", "team acme"]


def test_a_user_who_just_joined_is_not_rejected_by_cached_settings() -> None:
    rows = ReadRows()
    rows.teams["acme"] = with_members({"olga"})
    directory = Directory(rows)
    event = parsed(usage("e1"))
    assert code(directory.bill(event, NOW)) == "unknown_user"

    rows.teams["acme"] = ACME
    answer = directory.bill(event, NOW + timedelta(seconds=1))

    assert isinstance(answer, Billing)
    assert answer.principal == ANA


def test_a_team_that_was_just_created_is_not_rejected_by_cached_settings() -> None:
    rows = ReadRows()
    rows.teams.clear()
    directory = Directory(rows)
    event = parsed(usage("e1"))
    assert code(directory.bill(event, NOW)) == "unknown_team"

    rows.teams["acme"] = ACME

    assert isinstance(directory.bill(event, NOW), Billing)


def test_a_user_of_no_team_is_rejected_without_being_named() -> None:
    rejection = Directory(ReadRows()).bill(parsed(usage("e1", user="mallory")), NOW)

    assert rejection == Rejection(
        "unknown_user", "data.trigger.user_id is not a member of the team"
    )


@pytest.mark.parametrize("trigger", ["team_api_key", "schedule"])
def test_an_unattended_run_needs_no_member(trigger: str) -> None:
    rows = ReadRows()
    rows.teams["acme"] = with_members(set())

    answer = Directory(rows).bill(parsed(usage("e1", trigger=TRIGGERS[trigger])), NOW)

    assert isinstance(answer, Billing)


def test_an_enterprise_accepts_every_user() -> None:
    event = parsed(usage("e1", team="bigcorp", user="whoever"))

    assert isinstance(Directory(ReadRows()).bill(event, NOW), Billing)


def test_an_event_from_the_future_is_rejected_beyond_the_skew_of_clocks() -> None:
    directory = Directory(ReadRows())
    at_the_limit = parsed(usage("e1", time=NOW + CLOCK_SKEW_MAX))
    beyond = parsed(usage("e2", time=NOW + CLOCK_SKEW_MAX + timedelta(microseconds=1)))

    assert isinstance(directory.bill(at_the_limit, NOW), Billing)
    assert code(directory.bill(beyond, NOW)) == "from_the_future"


def test_a_missing_policy_is_raised_and_can_be_retried() -> None:
    rows = ReadRows()
    rows.policies.clear()

    with pytest.raises(PolicyMissing, match="policy '2025-11' is not applied"):
        Directory(rows).bill(parsed(usage("e1")), NOW)


@pytest.mark.parametrize("age", [timedelta(0), SETTINGS_TTL - timedelta(microseconds=1)])
def test_a_redelivery_bills_the_same_account_after_the_owner_changed(age: timedelta) -> None:
    rows = ReadRows()
    unaware = Directory(rows)
    unaware.bill(parsed(usage("warm-up", trigger=TRIGGERS["schedule"])), NOW - age)
    takes_over = Tenure(
        since=NOW + TENURE_NOTICE,
        kind="self_serve",
        owner="ben",
        policy_version=POLICY.version,
    )
    rows.teams["acme"] = ACME.model_copy(update={"tenures": (*ACME.tenures, takes_over)})
    # The latest event that a worker with old settings can bill.
    event = parsed(usage("e1", trigger=TRIGGERS["schedule"], time=NOW + CLOCK_SKEW_MAX))
    after = parsed(usage("e2", trigger=TRIGGERS["schedule"], time=NOW + TENURE_NOTICE))

    first = unaware.bill(event, NOW)
    again = Directory(rows).bill(event, NOW + timedelta(days=1))
    later = Directory(rows).bill(after, NOW + timedelta(days=1))

    assert isinstance(first, Billing)
    assert isinstance(later, Billing)
    assert first == again
    assert first.principal == OLGA
    assert later.principal == BEN


@pytest.mark.parametrize("began", [None, NOW - timedelta(hours=1)])
def test_a_run_that_says_when_it_began_is_billed_to_the_owner_of_then(
    began: datetime | None,
) -> None:
    rows = ReadRows()
    takes_over = Tenure(since=NOW, kind="self_serve", owner="ben", policy_version=POLICY.version)
    rows.teams["acme"] = ACME.model_copy(update={"tenures": (*ACME.tenures, takes_over)})
    started_at = {"started_at": began.isoformat()} if began else {}
    events = [
        parsed(usage(f"e{minutes}", trigger=TRIGGERS["schedule"], time=time, **started_at))
        for minutes in (-30, 0, 30)
        for time in [NOW + timedelta(minutes=minutes)]
    ]

    payers = [Directory(rows).bill(event, NOW + timedelta(hours=1)) for event in events]

    whole = [OLGA, OLGA, OLGA]
    assert [p.principal for p in payers] == (whole if began else [OLGA, BEN, BEN])  # type: ignore[union-attr]


LEFT = NOW + TENURE_NOTICE


def without_ana(*, everyone_before: bool = False) -> Team:
    who = EVERYONE if everyone_before else "ana"
    return with_members(["ben"]).model_copy(update={"former_members": ((who, LEFT),)})


@pytest.mark.parametrize("everyone_before", [False, True])
def test_what_a_member_used_before_leaving_is_billed_however_late_it_comes(
    everyone_before: bool,
) -> None:
    rows = ReadRows()
    before = Directory(rows).bill(parsed(usage("e1")), NOW)
    rows.teams["acme"] = without_ana(everyone_before=everyone_before)

    again = Directory(rows).bill(parsed(usage("e1")), NOW + timedelta(days=400))

    assert isinstance(again, Billing)
    assert again == before


def test_a_member_who_left_starts_no_run() -> None:
    rows = ReadRows()
    rows.teams["acme"] = without_ana()
    later = LEFT + timedelta(hours=1)

    begun_before = parsed(usage("e1", time=later, started_at=NOW.isoformat()))
    begun_after = parsed(usage("e2", time=LEFT))

    assert isinstance(Directory(rows).bill(begun_before, later), Billing)
    assert code(Directory(rows).bill(begun_after, later)) == "unknown_user"


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_credits.billing.directory, "TEAMS_CACHED_MAX", 2)
    rows = ReadRows()
    for number in range(3):
        rows.teams[f"team-{number}"] = ACME.model_copy(update={"team_id": f"team-{number}"})
    directory = Directory(rows)

    for number in (0, 1, 2, 2, 1, 0):
        directory.bill(parsed(usage("e1", team=f"team-{number}")), NOW)

    assert rows.reads.count("team team-0") == 2
    assert rows.reads.count("team team-2") == 1


class SlowTeams(ReadRows):
    """Rows whose first read of a team answers only once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.is_read = threading.Event()
        self.may_answer = threading.Event()

    def read_team(self, team_id: str) -> Team | None:
        team = super().read_team(team_id)
        if not self.is_read.is_set():
            self.is_read.set()
            assert self.may_answer.wait(timeout=10)
        return team


class Order:
    """Numbers in order; tells when so many were taken."""

    def __init__(self, numbers: int) -> None:
        self.all_asked = threading.Event()
        self._numbers = itertools.count()
        self._last = numbers - 1

    def __next__(self) -> int:
        number = next(self._numbers)
        if number == self._last:
            self.all_asked.set()
        return number


def test_threads_that_read_a_team_again_share_one_read_that_began_after_all_of_them_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = SlowTeams()
    directory = Directory(rows)
    order = Order(1 + 10)
    monkeypatch.setattr(directory, "_order", order)
    threads = [
        threading.Thread(target=directory.read_again, args=(["acme"], NOW)) for _ in range(10)
    ]

    threads[0].start()
    assert rows.is_read.wait(timeout=10)
    rows.teams["acme"] = ACME.model_copy(update={"members": frozenset({"olga"})})
    for thread in threads[1:]:
        thread.start()
    assert order.all_asked.wait(timeout=10)
    rows.may_answer.set()
    for thread in threads:
        thread.join(timeout=10)

    # The read that was under way has the settings from before they asked; the next one serves all.
    assert rows.reads == ["team acme", "team acme"]
    assert code(directory.bill(parsed(usage("e1")), NOW)) == "unknown_user"


def test_what_a_batch_needs_is_read_once_teams_before_their_policies() -> None:
    rows = ReadRows()
    directory = Directory(rows)
    events = [
        parsed(usage("e1")),
        parsed(usage("e2", user="ben")),
        parsed(usage("e3", team="bigcorp")),
    ]

    directory.read_ahead(events, NOW, in_turn)
    ahead = [*rows.reads]
    for event in events:
        assert isinstance(directory.bill(event, NOW), Billing)

    assert ahead == ["team acme", "team bigcorp", f"policy {POLICY.version}"]
    assert rows.reads == ahead


def test_a_team_that_cannot_be_read_ahead_fails_only_its_own_events() -> None:
    class NotBigcorp(ReadRows):
        def read_team(self, team_id: str) -> Team | None:
            if team_id == "bigcorp":
                raise RowsUnavailable("throttled")
            return super().read_team(team_id)

    directory = Directory(NotBigcorp())
    ours, theirs = parsed(usage("e1")), parsed(usage("e2", team="bigcorp"))

    directory.read_ahead([theirs, ours], NOW, in_turn)

    assert isinstance(directory.bill(ours, NOW), Billing)
    with pytest.raises(RowsUnavailable):
        directory.bill(theirs, NOW)
