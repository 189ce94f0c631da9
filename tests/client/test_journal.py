"""What a run used is on disk before `use` returns, and counts once whoever delivers it."""

import json
import os
from pathlib import Path

import pytest

from agent_credits_client import (
    Conflict,
    InsufficientCredits,
    JournalDamaged,
    JournalInUse,
    Options,
    Run,
    RunEnded,
    UsageNotReported,
)
from agent_credits_client.journal import Journal
from tests.client.world import Fault, World, journal_files

RUN = {"source": "/platform/agents", "run_id": "run-1", "credits": "75"}


def drop(run: Run) -> None:
    """Do to a run what a kill does to its process: nothing is flushed, the lock is gone."""
    journal = run._core._journal
    assert journal is not None
    journal._file.close()


def test_usage_of_a_process_that_was_killed_is_reported_by_the_next_start(tmp_path: Path) -> None:
    world = World()
    killed = world.run(journals=tmp_path).start()
    killed.use("10")
    killed.use("20")
    drop(killed)
    assert world.drawn() == "0"

    with world.run(journals=tmp_path) as run:
        run.use("5")

    assert world.drawn() == "35"
    assert world.available() == "465"
    assert journal_files(tmp_path) == []


def test_usage_that_was_recorded_but_never_confirmed_counts_once(tmp_path: Path) -> None:
    world = World()
    killed = world.run(journals=tmp_path, options=Options(flush_events=1)).start()
    world.faults = [Fault("lost", "/v1/events")]
    killed.use("10")
    assert world.drawn() == "10"
    drop(killed)

    with world.run(journals=tmp_path) as run:
        run.use("10")

    reports = [seen for seen in world.seen if seen.path == "/v1/events"]
    assert reports[0].body == reports[1].body
    assert world.drawn() == "20"


def test_usage_is_on_the_disk_before_use_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []

    def fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr("agent_credits_client.journal.os.fsync", fsync)
    world = World()

    with world.run(journals=tmp_path) as run:
        run.use("10")
        (path,) = journal_files(tmp_path)
        assert synced[-1] == path.stat().st_size
        assert b'"credits":"10"' in path.read_bytes()


def test_usage_that_was_confirmed_is_not_sent_again(tmp_path: Path) -> None:
    world = World()
    killed = world.run(journals=tmp_path).start()
    killed.use("10")
    killed.flush()
    killed.use("20")
    drop(killed)

    with world.run(journals=tmp_path):
        pass

    reports = [seen.body for seen in world.seen if seen.path == "/v1/events"]
    assert [[e["data"]["credits"] for e in body] for body in reports] == [["10"], ["20"]]


def test_usage_of_two_processes_never_has_the_same_id(tmp_path: Path) -> None:
    world = World()
    for _ in range(3):
        killed = world.run(journals=tmp_path).start()
        killed.use("1")
        killed.flush()
        drop(killed)
    with world.run(journals=tmp_path) as run:
        run.use("1")

    ids = [e.identity.id for e in world.entries() if e.type == "agent_run.usage"]
    session = ids[0].split(":")[1]
    assert ids == [f"usage:{session}:{number}" for number in (1, 2, 3, 4)]


def test_without_a_journal_a_second_process_counts_on_under_ids_of_its_own() -> None:
    world = World()
    for credits in ("1", "2"):
        run = world.run().start()
        run.use(credits)
        run.flush()

    ids = [e.identity.id for e in world.entries() if e.type == "agent_run.usage"]
    assert len(set(ids)) == 2
    assert world.drawn() == "3"


def test_an_end_that_was_begun_is_finished_by_the_next_start(tmp_path: Path) -> None:
    world = World()

    class Broken(Exception):
        pass

    with (
        pytest.raises(Broken),
        world.run(journals=tmp_path, platform_errors=[Broken]) as run,
    ):
        run.use("10")
        world.faults = [Fault("not_sent")] * 1_000
        raise Broken
    assert world.reserved() == "75"
    world.faults = []

    with pytest.raises(RunEnded, match="its end is now recorded"):
        world.run(journals=tmp_path).start()

    assert world.entries()[-1].outcome == "returned"
    assert (world.available(), world.reserved()) == ("500", "0")
    assert journal_files(tmp_path) == []


def test_usage_that_could_not_be_delivered_stays_in_the_journal(tmp_path: Path) -> None:
    world = World()
    with pytest.raises(UsageNotReported), world.run(journals=tmp_path) as run:
        run.use("10")
        world.faults = [Fault("not_sent")] * 1_000

    (path,) = journal_files(tmp_path)
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["event"]["data"]["credits"] for record in kept if "event" in record] == ["10"]


def test_a_line_that_was_half_written_is_usage_that_nobody_was_told_is_kept(tmp_path: Path) -> None:
    world = World()
    killed = world.run(journals=tmp_path).start()
    killed.use("10")
    drop(killed)
    (path,) = journal_files(tmp_path)
    with path.open("ab") as file:
        file.write(b'{"event": {"id": "usage:')

    killed = world.run(journals=tmp_path).start()
    killed.use("5")
    drop(killed)
    with world.run(journals=tmp_path) as run:
        run.use("2")

    assert world.drawn() == "17"


@pytest.mark.parametrize("length", range(0, 60, 7))
def test_a_journal_whose_first_line_was_half_written_begins_again(
    length: int, tmp_path: Path
) -> None:
    world = World()
    drop(world.run(journals=tmp_path).start())
    (path,) = journal_files(tmp_path)
    path.write_bytes(path.read_bytes()[:length])

    with world.run(journals=tmp_path) as run:
        run.use("5")

    assert world.drawn() == "5"


@pytest.mark.parametrize("line", ["[]", "{}", "nonsense", '{"event": 1}', '{"delivered": 1}'])
def test_a_journal_that_is_none_is_left_alone_and_named(line: str, tmp_path: Path) -> None:
    world = World()
    drop(world.run(journals=tmp_path).start())
    (path,) = journal_files(tmp_path)
    before = path.read_text() + line + "\n"
    path.write_text(before)

    with pytest.raises(JournalDamaged, match=path.name):
        world.run(journals=tmp_path).start()

    assert path.read_text() == before


def test_a_run_is_the_work_of_one_process_at_a_time(tmp_path: Path) -> None:
    world = World()

    with world.run(journals=tmp_path) as run:
        with pytest.raises(JournalInUse):
            world.run(journals=tmp_path).start()
        run.use("10")

    assert world.drawn() == "10"


def test_a_run_is_continued_with_what_it_was_started_with(tmp_path: Path) -> None:
    world = World()
    drop(world.run(journals=tmp_path, credits="75").start())

    with pytest.raises(Conflict, match="started with another credits"):
        world.run(journals=tmp_path, credits="80").start()

    assert len(world.seen) == 1


def test_a_run_that_was_refused_leaves_no_journal(tmp_path: Path) -> None:
    world = World(credits="50")

    with pytest.raises(InsufficientCredits):
        world.run(journals=tmp_path).start()

    assert journal_files(tmp_path) == []


def test_a_run_that_is_left_keeps_its_journal(tmp_path: Path) -> None:
    world = World()
    run = world.run(journals=tmp_path).start()
    run.use("10")
    run.leave()

    assert len(journal_files(tmp_path)) == 1
    with world.run(journals=tmp_path):
        pass
    assert journal_files(tmp_path) == []
    assert world.drawn() == "10"


def test_runs_of_one_id_from_two_sources_have_journals_of_their_own(tmp_path: Path) -> None:
    mine = Journal.open(tmp_path, RUN, "a")
    theirs = Journal.open(tmp_path, {**RUN, "source": "/other"}, "b")

    assert mine.left.session == "a"
    assert theirs.left.session == "b"
    mine.close(is_settled=True)
    theirs.close(is_settled=True)
