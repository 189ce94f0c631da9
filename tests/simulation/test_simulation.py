"""A fixed budget of histories for continuous integration; `make simulate` runs many more."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.simulation import simulate
from tests.simulation.faults import CALL_FAULTS, OTHER_FAULTS, TOGETHER_FAULTS
from tests.simulation.history import Failed, Report, run_history
from tests.simulation.mutants import (
    LIMITING_MUTANTS,
    MUTANTS,
    RESERVING_MUTANTS,
    SHARING_MUTANTS,
)
from tests.simulation.simulate import parse_seeds
from tests.simulation.workers import Parts

# How long histories take says something about the machine; this ends those that never end.
pytestmark = pytest.mark.timeout(1_200)

HISTORIES = 50
# Histories that come far enough for every mutant to do its damage in one of them.
RESERVING_SEEDS = range(100, 130)
LIMITED_HISTORIES = 24
LIMITED_SEEDS = (396, 401, 406, *range(390, 410))
# Histories whose users draw much of what their teams share.
SHARING_SEEDS = (604, 608, 612, 613, 614, 624, 629)
TELLING_SEEDS = (58, 32, 1, 3, 10, 12, 7, *range(14, 60))

FOUND_SEEDS = [
    int(line.split()[0])
    for line in (Path(__file__).parent / "found_seeds.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


def run_histories(parts: Parts, seeds: Iterable[int] = TELLING_SEEDS) -> None:
    for seed in seeds:
        run_history(seed, parts)


def test_no_history_breaks_an_invariant_and_every_fault_and_change_is_among_them() -> None:
    faults: Counter[str] = Counter()
    applied: Counter[str] = Counter()
    reserved: Counter[str] = Counter()

    # Half of them below 100, where no run reserves.
    for seed in range(100 - HISTORIES // 2, 100 + HISTORIES // 2):
        report = run_history(seed)
        faults += report.faults
        applied += report.applied
        reserved += report.reserved

    assert applied.keys() >= {"kind", "policy", "owner", "members", "time zone", "spend cap"}
    kinds = {kind for kinds in CALL_FAULTS.values() for kind in kinds} | {*OTHER_FAULTS}
    assert faults.keys() == kinds
    assert reserved.keys() >= {"made", "made under a parent's", "drawn", "extended", "settled"}
    assert reserved.keys() >= {
        "released",
        "released by hand",
        "expired",
        "closed with its parent's",
    }
    assert reserved.keys() >= {"drawn past its end", "a run told to pause", "a run told to stop"}


def test_no_history_passes_a_limit_and_every_fault_of_transactions_is_among_them() -> None:
    faults: Counter[str] = Counter()
    limited: Counter[str] = Counter()

    # Half of them below 400, where runs reserve.
    for seed in range(400 - LIMITED_HISTORIES // 2, 400 + LIMITED_HISTORIES // 2):
        report = run_history(seed)
        faults += report.faults
        limited += report.limited

    assert faults.keys() >= {*TOGETHER_FAULTS}
    assert limited.keys() >= {
        "counted",
        "drawn up to a limit",
        "refused by a limit",
        "refused by a shared limit",
        "room given back",
        "another period of a shared limit",
        "several accounts in one transaction",
        "several limits in one transaction",
    }


def test_what_a_team_s_shared_pool_gave_its_users_received_in_every_history() -> None:
    faults: Counter[str] = Counter()
    shared: Counter[str] = Counter()

    for seed in SHARING_SEEDS:
        report = run_history(seed)
        faults += report.faults
        shared += report.shared

    assert faults.keys() >= {*TOGETHER_FAULTS}
    assert shared.keys() == {
        "drawn",
        "given back",
        "reserved",
        "a payer's reservation ended",
        "expired on the payer's row",
        "expired on the team's row",
        "several payers in one transaction",
        "several teams in one transaction",
    }


@pytest.mark.parametrize("seed", FOUND_SEEDS)
def test_what_was_found_once_stays_away(seed: int) -> None:
    run_history(seed)


@pytest.mark.parametrize("seed", [13, 113, 313])
def test_a_seed_replays_exactly(seed: int) -> None:
    first, again = run_history(seed), run_history(seed)

    assert first == again


@pytest.mark.parametrize("name", MUTANTS)
def test_the_simulator_notices(name: str) -> None:
    with pytest.raises(Failed, match=r"seed \d+: Violation: .+"):
        run_histories(MUTANTS[name])


@pytest.mark.parametrize("name", RESERVING_MUTANTS)
def test_the_simulator_notices_where_runs_reserve(name: str) -> None:
    with pytest.raises(Failed, match=r"seed \d+: Violation: .+"):
        run_histories(RESERVING_MUTANTS[name], RESERVING_SEEDS)


@pytest.mark.parametrize("name", LIMITING_MUTANTS)
def test_the_simulator_notices_where_limits_hold(name: str) -> None:
    with pytest.raises(Failed, match=r"seed \d+: Violation: .+"):
        run_histories(LIMITING_MUTANTS[name], LIMITED_SEEDS)


@pytest.mark.parametrize("name", SHARING_MUTANTS)
def test_the_simulator_notices_where_teams_share_pools(name: str) -> None:
    with pytest.raises(Failed, match=r"seed \d+: Violation: .+"):
        run_histories(SHARING_MUTANTS[name], SHARING_SEEDS)


@pytest.mark.parametrize(
    ("wanted", "seeds"), [("3", [1, 2, 3]), ("7..9", [7, 8, 9]), ("=42", [42])]
)
def test_seeds_are_chosen_by_number_by_range_or_alone(wanted: str, seeds: list[int]) -> None:
    assert list(parse_seeds(wanted)) == seeds


def test_a_run_stops_at_a_violation_and_prints_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(simulate, "_reports", lambda _: (r for r in (report(1), "seed 2: broken")))

    assert simulate.main("3") == 1

    assert capsys.readouterr().out == "seed 2: broken\n"


def test_a_run_that_is_interrupted_says_how_far_it_came(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def reports(_: range) -> Iterator[Report]:
        yield report(1)
        yield report(2)
        raise KeyboardInterrupt

    monkeypatch.setattr(simulate, "_reports", reports)

    assert simulate.main("5") == 130

    printed = capsys.readouterr().out
    assert "seeds      1..2, each a history of its own" in printed
    assert "faults     8\n" in printed
    assert "applied    2 changes of teams meanwhile\n" in printed


def report(seed: int) -> Report:
    return Report(
        seed,
        steps=10,
        events=2,
        commits=3,
        faults=Counter({"throttled": 4}),
        applied=Counter({"kind": 1}),
    )
