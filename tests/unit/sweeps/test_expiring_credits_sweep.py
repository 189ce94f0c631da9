"""Paid credits that expire soon are announced once, in time, and only if any are left."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta, timezone
from typing import get_args

import pytest
from msgspec.structs import replace

from agent_credits.commit.changes import GrantChange, ReloadGranted
from agent_credits.commit.write_protocol import commit
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.grants import Grant, GrantCause
from agent_credits.notices.announcements import notice_of
from agent_credits.notices.notice import Notice
from agent_credits.notices.observations import (
    CreditsExpiring,
    observation_from_json,
    observation_to_json,
)
from agent_credits.sweeps.expiring_credits_sweep import ExpiringCreditsSweep
from agent_credits.sweeps.sweep import Step
from agent_credits.values.principals import Principal
from tests.golden import assert_golden, email_of
from tests.memory_rows import MemoryRows
from tests.unit.builders import (
    ANA,
    BEN,
    BIGCORP,
    NOW,
    commit_each,
    grant_change,
    open_account,
    pause,
    plan_change,
    run_change,
    settle,
    usage,
)
from tests.unit.sweeps.sweep_fakes import MemorySweepQueue, Poller

WEEK = timedelta(days=7)
SECOND = timedelta(seconds=1)
CREDIT = 1_000_000


@pytest.fixture
def rows() -> MemoryRows:
    rows = MemoryRows()
    settle(rows)
    return rows


def sweep(rows: MemoryRows, now: datetime = NOW, notice_period: timedelta = WEEK) -> Counter[str]:
    queue = MemorySweepQueue()
    queue.send([Step(sweep="expiring_credits", day=now.date(), number=0)])
    return Poller(ExpiringCreditsSweep(rows, notice_period), queue, now).run()


def announced(rows: MemoryRows) -> list[CreditsExpiring]:
    return [o for o in rows.observation_stream if isinstance(o, CreditsExpiring)]


def notices(rows: MemoryRows) -> list[Notice]:
    return [notice_of(observation) for observation in rows.observation_stream]


def hold(rows: MemoryRows, *grants: Grant, principal: Principal = ANA) -> None:
    rows.accounts[principal] = Account(principal, version=1, grants=grants)


def a_grant(
    grant_id: str = "pack",
    *,
    expires_at: datetime | None = NOW + timedelta(days=3),
    cause: GrantCause = "purchase",
    remaining: int = 10 * CREDIT,
    pool: str = "add_on",
) -> Grant:
    granted_at = NOW - timedelta(days=100)
    return Grant(grant_id, pool, 10 * CREDIT, remaining, granted_at, expires_at, cause)


@pytest.mark.parametrize(
    ("expires_in", "is_announced"),
    [
        (timedelta(0), False),
        (SECOND, True),
        (timedelta(days=3), True),
        (WEEK, True),
        (WEEK + SECOND, False),
        (-SECOND, False),
    ],
)
def test_credits_that_expire_within_the_notice_period_are_announced(
    rows: MemoryRows, expires_in: timedelta, is_announced: bool
) -> None:
    hold(rows, a_grant(expires_at=NOW + expires_in))

    sweep(rows)

    assert len(announced(rows)) == is_announced


@pytest.mark.parametrize(
    ("cause", "is_announced"),
    [("purchase", True), ("reload", True), ("contract", True), ("gift", False), ("refill", False)],
)
def test_only_paid_credits_are_announced(
    rows: MemoryRows, cause: GrantCause, is_announced: bool
) -> None:
    hold(rows, a_grant(cause=cause))

    sweep(rows)

    assert len(announced(rows)) == is_announced


def test_credits_that_are_used_up_or_never_expire_are_not_announced(rows: MemoryRows) -> None:
    hold(rows, a_grant("dry", remaining=0), a_grant("eternal", expires_at=None))

    assert sweep(rows) == Counter()

    assert announced(rows) == []


def test_grants_that_expire_on_one_day_are_one_notice_and_those_of_another_day_another(
    rows: MemoryRows,
) -> None:
    morning = datetime(2025, 11, 24, 6, 30, tzinfo=UTC)
    hold(
        rows,
        a_grant("late", expires_at=morning.replace(hour=23, minute=59), remaining=2 * CREDIT),
        a_grant("early", expires_at=morning, remaining=CREDIT // 2),
        a_grant("deal", expires_at=morning, cause="contract", pool="contract"),
        a_grant("next", expires_at=morning + timedelta(days=1)),
    )

    assert sweep(rows) == Counter(ExpiriesObserved=2)

    first, second = notices(rows)
    assert first.data["credits"] == "12.5"
    assert [grant["grant_id"] for grant in first.data["grants"]] == ["deal", "early", "late"]
    assert [n.data["expires_on"] for n in (first, second)] == ["2025-11-24", "2025-11-25"]


@pytest.mark.parametrize("cause", get_args(GrantCause))
def test_a_trial_is_announced_whatever_its_cause(rows: MemoryRows, cause: GrantCause) -> None:
    hold(rows, a_grant("welcome", pool="trial", cause=cause, remaining=499 * CREDIT))

    sweep(rows)

    (notice,) = notices(rows)
    assert (notice.data["principal"], notice.data["credits"]) == ("user:ana", "499")
    assert notice.email_text.startswith("ana, your trial credits expire on 2025-11-24")


def test_a_trial_that_is_used_up_or_never_expires_is_not_announced(rows: MemoryRows) -> None:
    hold(
        rows,
        a_grant("dry", pool="trial", cause="gift", remaining=0),
        a_grant("eternal", pool="trial", cause="gift", expires_at=None),
    )

    sweep(rows)

    assert notices(rows) == []


def test_paid_and_trial_credits_of_one_day_are_one_notice(rows: MemoryRows) -> None:
    hold(
        rows,
        a_grant("pack", remaining=10 * CREDIT),
        a_grant("welcome", pool="trial", cause="gift", remaining=5 * CREDIT),
        a_grant("bonus", cause="gift"),
    )

    sweep(rows)

    (notice,) = notices(rows)
    assert notice.data["credits"] == "15"
    assert "paid and trial credits of user:ana" in notice.email_subject.lower()
    # What to do about paid credits is still said.
    assert "Buy only what you will use: expired credits are not restored." in notice.data["fix"]


def test_several_sweeps_announce_an_expiry_once(rows: MemoryRows) -> None:
    hold(rows, a_grant(expires_at=NOW + WEEK))

    counted = [sweep(rows, NOW + timedelta(days=day)) for day in range(7)]

    assert counted == [Counter(ExpiriesObserved=1), *[Counter()] * 6]
    assert len(announced(rows)) == 1


def test_the_next_sweep_makes_up_for_a_missed_one(rows: MemoryRows) -> None:
    hold(rows, a_grant(expires_at=NOW + WEEK))

    sweep(rows, NOW + timedelta(days=6))

    assert len(announced(rows)) == 1


def test_using_some_credits_does_not_announce_the_rest_again(rows: MemoryRows) -> None:
    open_account(
        rows,
        GrantChange(ANA, "pack", "add_on", 10 * CREDIT, NOW + timedelta(days=3), "purchase"),
        GrantChange(ANA, "other", "add_on", 10 * CREDIT, NOW + timedelta(days=3), "purchase"),
    )
    sweep(rows)
    commit(rows, ANA, [run_change(usage("e-1", "12"))], now=NOW, pause=pause)

    sweep(rows, NOW + timedelta(hours=1))

    assert len(announced(rows)) == 1


def test_the_notice_period_is_the_deployments(rows: MemoryRows) -> None:
    hold(rows, a_grant(expires_at=NOW + timedelta(days=20)))

    sweep(rows, notice_period=timedelta(days=19))
    before = len(announced(rows))
    sweep(rows, notice_period=timedelta(days=20))

    assert (before, len(announced(rows))) == (0, 1)


@pytest.mark.parametrize(
    ("expires_at", "day"),
    [
        # An hour that comes twice in Berlin, and one that New York has not.
        (datetime(2026, 10, 25, 0, 30, tzinfo=UTC), date(2026, 10, 25)),
        (datetime(2026, 10, 25, 1, 30, tzinfo=UTC), date(2026, 10, 25)),
        (datetime(2027, 3, 14, 2, 30, tzinfo=timezone(timedelta(hours=-5))), date(2027, 3, 14)),
        (datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC), date(2026, 11, 30)),
        (datetime(2026, 12, 1, tzinfo=UTC), date(2026, 12, 1)),
        (datetime(2028, 2, 29, 12, tzinfo=UTC), date(2028, 2, 29)),
        (datetime(2026, 12, 31, 23, 30, tzinfo=timezone(timedelta(hours=-8))), date(2027, 1, 1)),
    ],
)
def test_a_day_of_expiry_is_in_utc_and_the_instant_is_exact(
    rows: MemoryRows, expires_at: datetime, day: date
) -> None:
    hold(rows, a_grant(expires_at=expires_at))

    sweep(rows, expires_at - WEEK - SECOND)
    too_early = len(announced(rows))
    sweep(rows, expires_at - WEEK)

    assert too_early == 0
    (observation,) = announced(rows)
    assert observation.expires_on == day
    assert observation.grants[0].expires_at == expires_at


def test_an_expiry_that_moved_is_announced_for_its_new_day(rows: MemoryRows) -> None:
    hold(rows, a_grant(expires_at=NOW + timedelta(days=3)))
    sweep(rows)
    # A run of the platform's fault was given back to it, with a grace period.
    hold(rows, a_grant(expires_at=NOW + timedelta(days=33)))

    sweep(rows, NOW + timedelta(days=30))

    assert [observation.expires_on.day for observation in announced(rows)] == [24, 24]
    assert len({notice.id for notice in notices(rows)}) == 2


def test_the_notice_names_the_team_of_the_newest_run(rows: MemoryRows) -> None:
    open_account(rows, GrantChange(ANA, "pack", "add_on", CREDIT, NOW + WEEK, "purchase"))
    commit(rows, ANA, [run_change(usage("e-1", "0.1"))], now=NOW, pause=pause)

    sweep(rows)

    assert [notice.team_id for notice in notices(rows)] == ["acme"]


def test_the_team_is_known_although_a_page_has_just_started(rows: MemoryRows) -> None:
    open_account(rows, GrantChange(ANA, "pack", "add_on", 90 * CREDIT, NOW + WEEK, "purchase"))
    commit_each(rows, *(run_change(usage(f"e-{n}", "0.1")) for n in range(7)))
    later = NOW + timedelta(minutes=10)
    commit(rows, ANA, [grant_change("more"), plan_change()], now=later, pause=pause)
    assert all(entry.run is None for entry in rows.accounts[ANA].entries)

    sweep(rows, later)

    assert [notice.team_id for notice in notices(rows)] == ["acme"]


def test_the_notice_names_the_team_that_reloaded(rows: MemoryRows) -> None:
    open_account(rows, GrantChange(ANA, "pack", "add_on", CREDIT, NOW + WEEK, "purchase"))
    reload = ReloadGranted(ANA, "reload:user:ana:1", "acme", "add_on", CREDIT, 1, 1_000, "usd")
    commit(rows, ANA, [reload], now=NOW, pause=pause)

    sweep(rows)

    assert [notice.team_id for notice in notices(rows)] == ["acme"]


def test_an_enterprise_account_names_its_team_and_an_unused_user_account_names_none(
    rows: MemoryRows,
) -> None:
    hold(rows, a_grant(cause="contract", pool="contract"), principal=BIGCORP)
    hold(rows, a_grant(), principal=BEN)

    sweep(rows)

    teams = {str(notice.principal): notice.team_id for notice in notices(rows)}
    assert teams == {"team:bigcorp": "bigcorp", "user:ben": ""}


def test_an_unreadable_row_is_counted_and_does_not_affect_the_others(rows: MemoryRows) -> None:
    hold(rows, a_grant(), principal=BEN)
    hold(rows, a_grant())
    rows.unreadable.add(f"ACCOUNT#{BEN}")

    assert sweep(rows) == Counter(ExpiriesObserved=1, AccountsUnreadable=1)

    assert [observation.principal for observation in announced(rows)] == [ANA]


def test_ten_thousand_accounts_are_announced_once_each(rows: MemoryRows) -> None:
    for number in range(10_000):
        hold(rows, a_grant(), principal=Principal("user", f"u{number}"))

    counts = sweep(rows)

    assert counts == Counter(ExpiriesObserved=10_000)
    assert len({observation.principal for observation in announced(rows)}) == 10_000


def test_a_sweep_changes_no_account(rows: MemoryRows) -> None:
    hold(rows, a_grant(), a_grant("expired", expires_at=NOW - WEEK))
    before = dict(rows.accounts)

    sweep(rows)

    assert rows.accounts == before
    assert rows.stream == []


def test_it_is_read_back_as_it_was_put(rows: MemoryRows) -> None:
    hold(rows, a_grant())
    sweep(rows)
    (observation,) = announced(rows)

    assert observation_from_json(observation_to_json(observation)) == observation


def test_the_emails_match_their_golden_files(rows: MemoryRows) -> None:
    hold(rows, a_grant(), replace(a_grant("pack-2", cause="reload"), remaining_microcredits=CREDIT))
    hold(rows, a_grant("deal", cause="contract", pool="contract"), principal=BIGCORP)
    for principal in (ANA, BIGCORP):
        ExpiringCreditsSweep(rows, WEEK).visit(rows.accounts[principal], NOW.date(), NOW)

    texts = [email_of(notice) for notice in notices(rows)]

    assert_golden("expiry/user.txt", texts[0])
    assert_golden("expiry/enterprise.txt", texts[1])


def test_the_emails_about_trials_address_the_person_or_the_team(rows: MemoryRows) -> None:
    trial = a_grant("welcome", pool="trial", cause="gift", remaining=499 * CREDIT)
    hold(rows, trial)
    hold(rows, trial, principal=BIGCORP)
    for principal in (ANA, BIGCORP):
        ExpiringCreditsSweep(rows, WEEK).visit(rows.accounts[principal], NOW.date(), NOW)

    texts = [email_of(notice) for notice in notices(rows)]

    assert_golden("expiry/trial_of_a_user.txt", texts[0])
    assert_golden("expiry/trial_of_a_team.txt", texts[1])


def test_what_a_team_bought_for_its_members_is_not_a_contract(rows: MemoryRows) -> None:
    hold(rows, a_grant(pool="shared"), principal=BIGCORP)

    sweep(rows)

    (notice,) = notices(rows)
    assert notice.data["fix"][1:] == [
        "Buy only what you will use: expired credits are not restored."
    ]
