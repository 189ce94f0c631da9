"""A limit's row is compared with its accounts: drift is found, and no commit is taken for it."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import timedelta

import pytest
from msgspec.structs import replace

from agent_credits.aws.items import limit_key
from agent_credits.billing.teams import EVERYONE, FORMER_MEMBERS_MAX
from agent_credits.commit.together import commit_changes
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.limits import HELD_BUCKET, LimitKey, LimitRow
from agent_credits.notices.announcements import notice_of
from agent_credits.notices.notice import Notice
from agent_credits.sweeps.limit_rows import READS_MAX, verify_limit
from agent_credits.sweeps.reconciliation_sweep import ReconciliationSweep
from agent_credits.sweeps.sweep import Step
from agent_credits.values.errors import RowNotUnderstood
from agent_credits.values.principals import Principal
from agent_credits_cli.verification import Verified, verify_all
from tests.golden import assert_golden, email_of
from tests.memory_rows import MemoryRows
from tests.unit.builders import (
    ANA,
    BEN,
    MINUTE,
    NOW,
    finished,
    grant_change,
    pause,
    requested,
    usage,
)
from tests.unit.limit_world import LimitWorld, limit
from tests.unit.sweeps.sweep_fakes import MemorySweepQueue, Poller

CREDIT = 1_000_000
HOUR = 60 * MINUTE
DAY = timedelta(days=1)
OF_TEAM = LimitKey("acme", "team", "acme", "day")
OF_WEB = LimitKey("acme", "project", "web", "month")


class BusyRows(MemoryRows):
    """Accounts commit, or are listed late, while a verification reads."""

    def __init__(self) -> None:
        super().__init__()
        self.while_reading: Callable[[], None] = lambda: None
        self.unlisted: set[Principal] = set()
        self.not_understood: LimitKey | Principal | None = None
        self.lists = 0

    def read_accounts_of(self, principals: Collection[Principal]) -> Mapping[Principal, Account]:
        self.while_reading()
        if self.not_understood in principals:
            raise RowNotUnderstood(f"ACCOUNT#{self.not_understood}: KeyError")
        return super().read_accounts_of(principals)

    def read_limits(self, keys: Collection[LimitKey]) -> Mapping[LimitKey, LimitRow]:
        if self.not_understood in keys:
            raise RowNotUnderstood(f"LIMIT#{self.not_understood}: KeyError")
        return super().read_limits(keys)

    def list_accounts(self) -> Iterator[Account]:
        self.lists += 1
        for account in super().list_accounts():
            if account.principal not in self.unlisted or self.lists > 1:
                yield account


@pytest.fixture
def world() -> LimitWorld:
    """Two members who drew and reserve under a limit of their team and one of a project."""
    world = LimitWorld(limit("team", "50", "day"), limit("project", "100"), rows=BusyRows())
    world.rows.teams["acme"] = world.team
    world.send(usage("a-1", "5", run="run-a"), usage("b-1", "2", user="ben", run="run-b"))
    world.send(usage("a-2", "4", run="run-w", project_id="web"))
    reserving = {"credits": "3", "reserve": "estimate", "ttl_seconds": 7_200}
    world.send(
        requested("a-3", run="run-r", **reserving),
        requested("b-2", user="ben", run="run-s", **reserving),
    )
    return world


def rows_of(world: LimitWorld) -> BusyRows:
    assert isinstance(world.rows, BusyRows)
    return world.rows


def verified(world: LimitWorld) -> Verified:
    return verify_all(rows_of(world), clock=lambda: NOW)


def findings(world: LimitWorld) -> list[str]:
    return [str(finding) for finding in verified(world).findings]


def found_by_sweep(world: LimitWorld) -> list[str]:
    """Return what the daily reconciliation finds, with the accounts that the team names."""
    found = verify_limit(world.rows, OF_TEAM, NOW)
    assert found is not None
    return [str(finding) for finding in found]


def swept(rows: MemoryRows) -> Counter[str]:
    queue = MemorySweepQueue()
    queue.send([Step(sweep="reconciliation", day=NOW.date(), number=0)])
    return Poller(ReconciliationSweep(rows), queue, NOW).run()


def change_row(world: LimitWorld, key: LimitKey = OF_TEAM, **changes: object) -> None:
    world.rows.limits[key] = replace(world.rows.limits[key], **changes)


def change_count(world: LimitWorld, principal: Principal, **changes: object) -> None:
    account = world.rows.accounts[principal]
    counts = tuple(replace(c, **changes) if c.key == OF_TEAM else c for c in account.limit_counts)
    world.rows.accounts[principal] = replace(account, limit_counts=counts)


def test_untouched_limits_are_clean_and_counted(world: LimitWorld) -> None:
    result = verified(world)

    assert result.findings == ()
    assert (result.limits, result.to_json()["limits"]) == (2, 2)
    assert str(result).startswith("zero drift: 2 accounts, 7 entries, 2 limits of several accounts")
    assert found_by_sweep(world) == []
    assert swept(world.rows) == Counter(AccountsReconciled=2, LimitsReconciled=2)
    assert rows_of(world).observation_stream == []


OF_ROW = "team:acme, limit of team acme per day: "
IN_BUCKET = NOW + 2 * HOUR

TAMPERED: dict[str, tuple[Callable[[LimitWorld], None], str]] = {
    "a row that counts less": (
        lambda world: change_row(world, drawn_microcredits=CREDIT),
        "the limit's row counts 1 credit drawn, but its accounts count 11",
    ),
    "a row that counts more": (
        lambda world: change_row(world, drawn_microcredits=12 * CREDIT),
        "the limit's row counts 12 credits drawn, but its accounts count 11",
    ),
    "an account that counts less": (
        lambda world: change_count(world, BEN, drawn_microcredits=CREDIT),
        "the limit's row counts 11 credits drawn, but its accounts count 10",
    ),
    "an account that counts alone": (
        lambda world: change_count(world, BEN, spans_accounts=False),
        "the limit's row counts 11 credits drawn, but its accounts count 9",
    ),
    "a row of an earlier period": (
        lambda world: change_row(world, ends_at=NOW),
        ("user:ana counts 9 credits drawn in a period that the limit's row does not count"),
    ),
    "a row without what is reserved": (
        lambda world: change_row(world, held=()),
        (
            "the limit's row counts 0 credits reserved, but its accounts hold 6, or until other"
            " times"
        ),
    ),
    "a row on which a reservation ends early": (
        lambda world: change_row(world, held=((IN_BUCKET - HELD_BUCKET, 6 * CREDIT),)),
        (
            "the limit's row counts 6 credits reserved, but its accounts hold 6, or until other"
            " times"
        ),
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_tampering_is_found_by_the_command_and_by_the_sweep(world: LimitWorld, what: str) -> None:
    tamper, expected = TAMPERED[what]

    tamper(world)

    assert OF_ROW + expected in findings(world)
    assert OF_ROW + expected in found_by_sweep(world)


def test_a_row_that_is_gone_is_found_by_its_accounts(world: LimitWorld) -> None:
    del world.rows.limits[OF_WEB]

    expected = "counts 4 credits drawn in a period that the limit's row does not count"
    assert f"team:acme, limit of project web per month: user:ana {expected}" in findings(world)
    assert swept(world.rows) == Counter(AccountsDrifted=1, AccountsReconciled=1, LimitsReconciled=1)
    (notice,) = notices(world.rows)
    assert notice.data["findings"] == [
        {
            "place": "row",
            "text": "counts under the limit of project web per month, which has no row",
        }
    ]


def test_a_row_that_no_account_counts_under_is_found(world: LimitWorld) -> None:
    nobody = LimitKey("acme", "project", "api", "month")
    world.rows.limits[nobody] = LimitRow(nobody, NOW + DAY, 1, drawn_microcredits=CREDIT)

    assert findings(world) == [
        (
            "team:acme, limit of project api per month: the limit's row counts 1 credit drawn, but"
            " its accounts count 0"
        )
    ]


def test_what_the_period_or_an_expiry_leaves_behind_is_no_drift(world: LimitWorld) -> None:
    tomorrow = NOW + DAY
    world.send(usage("a-4", "1", run="run-x"), now=tomorrow)

    # Ben's account still has its count of yesterday, and his reservation.
    for now in (tomorrow, tomorrow + 40 * DAY):
        assert verify_all(world.rows, clock=lambda now=now: now).findings == ()


def test_a_reservation_that_expires_on_an_idle_account_is_no_drift(world: LimitWorld) -> None:
    for minutes in range(100, 140):
        now = NOW + minutes * MINUTE
        assert verify_limit(world.rows, OF_TEAM, now) == ()
        # Another account commits, and the row forgets what has expired.
        world.send(usage(f"b-{minutes}", "0.1", user="ben", run="run-b"), now=now)


def test_rows_that_were_read_long_after_the_visit_began_are_no_drift(world: LimitWorld) -> None:
    world.set_limits()
    tomorrow = NOW + DAY
    world.send(usage("a-4", "1", run="run-x"), usage("b-3", "1", user="ben"), now=tomorrow)

    # Both accounts have dropped their counts of the day before, and the limit's row has not moved.
    assert (world.drawn(OF_TEAM, ANA), world.drawn(OF_TEAM, BEN)) == ("none", "none")
    assert verify_limit(world.rows, OF_TEAM, NOW) == ()


@pytest.mark.parametrize("behind", [0, 4])
def test_what_expires_with_another_commit_of_its_account_is_no_drift(
    world: LimitWorld, behind: int
) -> None:
    reserving = {"credits": "3", "reserve": "estimate", "ttl_seconds": 181 * 60}
    world.send(requested("a-4", run="run-x", **reserving))
    now = NOW + 182 * MINUTE
    commit_changes(world.rows, ANA, [grant_change("g-2")], now=now, pause=pause)

    # Its time on the limit's row passes by itself, three minutes later. This clock may be behind.
    assert world.rows.limits[OF_TEAM].held_microcredits(now) == 3 * CREDIT
    assert world.account(ANA).reservations == ()
    assert verify_limit(world.rows, OF_TEAM, now - behind * MINUTE) == ()


def test_commits_while_the_rows_are_read_are_no_drift(world: LimitWorld) -> None:
    events = iter(range(READS_MAX - 1))

    def commit_once_more() -> None:
        for number in events:
            world.send(usage(f"more-{number}", "0.5", run="run-a"))
            return

    rows_of(world).while_reading = commit_once_more

    assert found_by_sweep(world) == []
    assert list(events) == []


def test_a_limit_that_moves_during_every_read_is_not_judged(world: LimitWorld) -> None:
    change_row(world, drawn_microcredits=CREDIT)
    numbers = iter(range(100))

    def move() -> None:
        version = world.rows.limits[OF_TEAM].version
        change_row(world, version=version + 1, drawn_microcredits=next(numbers))

    rows_of(world).while_reading = move

    result = verified(world)

    assert result.findings == ()
    assert result.limits == 1
    assert str(result).endswith(
        "; the limit of team acme per day changed too often to be compared, so verify again"
    )
    assert result.to_json()["limits_not_compared"] == ["team acme per day"]
    assert swept(world.rows)["LimitsNotCompared"] == 1


def test_an_account_that_counts_since_the_accounts_were_listed_is_no_drift(
    world: LimitWorld,
) -> None:
    world.rows.teams["acme"] = world.team.model_copy(update={"members": EVERYONE})
    rows_of(world).unlisted = {BEN}

    assert verified(world).findings == ()
    assert rows_of(world).lists == 2


def test_the_sweep_reads_owners_and_members_who_have_left(world: LimitWorld) -> None:
    left = (("ben", NOW),)
    world.rows.teams["acme"] = world.team.model_copy(
        update={"members": frozenset({"ana"}), "former_members": left}
    )
    assert found_by_sweep(world) == []

    tenure = world.team.tenures[0].model_copy(update={"owner": "ana"})
    world.rows.teams["acme"] = world.team.model_copy(
        update={"members": frozenset(), "former_members": left, "tenures": (tenure,)}
    )
    assert found_by_sweep(world) == []


@pytest.mark.parametrize(
    "settings",
    [
        {"members": EVERYONE},
        {"former_members": ((EVERYONE, NOW),)},
        {"former_members": tuple((f"user-{n}", NOW) for n in range(FORMER_MEMBERS_MAX))},
    ],
    ids=["everyone", "everyone before", "as many as are remembered"],
)
def test_the_sweep_leaves_limits_of_teams_that_do_not_name_all_members_to_the_command(
    world: LimitWorld, settings: dict[str, object]
) -> None:
    change_row(world, drawn_microcredits=CREDIT)
    world.rows.teams["acme"] = world.team.model_copy(update=settings)

    assert verify_limit(world.rows, OF_TEAM, NOW) is None
    assert swept(world.rows)["LimitsNotCompared"] == 2
    assert len(findings(world)) == 1


def test_limits_that_begin_or_cease_to_be_counted_are_compared_as_of_their_period(
    world: LimitWorld,
) -> None:
    world.send(finished("a-5", "error", run="run-a"), now=NOW + HOUR)
    assert world.row(OF_TEAM) == "6"
    world.set_limits()
    world.send(usage("a-6", "7", run="run-x"), now=NOW + HOUR)

    assert found_by_sweep(world) == []
    assert verified(world).findings == ()


def notices(rows: MemoryRows) -> list[Notice]:
    return [notice_of(observation) for observation in rows.observation_stream]


def test_drift_of_a_limit_is_announced_once_a_day(world: LimitWorld) -> None:
    change_row(world, drawn_microcredits=CREDIT)

    counted = [swept(world.rows), swept(world.rows)]

    assert counted == [Counter(AccountsReconciled=2, LimitsReconciled=1, AccountsDrifted=1)] * 2
    (notice,) = notices(world.rows)
    assert (notice.type, notice.severity, notice.team_id) == ("drift_found", "critical", "acme")
    assert notice.data["limit"] == {"scope": "team", "id": "acme", "period": "day"}
    assert_golden("drift/limit.txt", email_of(notice))


def test_a_limit_s_row_that_cannot_be_read_is_a_finding(world: LimitWorld) -> None:
    key = limit_key(OF_TEAM)["pk"]["S"]
    world.rows.unreadable.add(key)
    rows_of(world).not_understood = OF_TEAM

    # It is a finding once, and not one of each account that counts under it.
    expected = Counter(AccountsReconciled=2, LimitsReconciled=1, AccountsDrifted=1)
    assert swept(world.rows) == expected

    (notice,) = notices(world.rows)
    assert (notice.principal, notice.team_id) == (Principal("team", "acme"), "acme")
    assert notice.data["findings"] == [
        {"place": "row", "text": f"this version cannot read {key}: KeyError"}
    ]


def test_limits_of_an_account_that_cannot_be_read_are_not_compared(world: LimitWorld) -> None:
    world.rows.unreadable.add(f"ACCOUNT#{BEN}")
    rows_of(world).not_understood = BEN

    expected = Counter(AccountsReconciled=1, LimitsNotCompared=2, AccountsDrifted=1)
    assert swept(world.rows) == expected


def test_a_limit_is_visited_by_its_key(world: LimitWorld) -> None:
    sweep = ReconciliationSweep(world.rows)

    row = sweep.read_row(limit_key(OF_TEAM)["pk"]["S"])

    assert row == world.rows.limits[OF_TEAM]
    assert sweep.read_row(limit_key(replace(OF_TEAM, period="week"))["pk"]["S"]) is None
    assert sweep.read_row("ACCOUNT#user:ana") == world.rows.accounts[ANA]
