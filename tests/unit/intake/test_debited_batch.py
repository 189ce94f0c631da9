"""What a batch logs: every id once, on few lines, none longer than CloudWatch takes."""

import json
from typing import Any

from agent_credits.commit.changes import Waiting
from agent_credits.commit.write_protocol import CHANGES_PER_COMMIT_MAX
from agent_credits.intake.debited_batch import DebitedBatch, LogLine, Outcome
from agent_credits.intake.dispositions import Done, RetrySoon
from agent_credits.values.errors import Contended
from tests.memory_rows import MemoryRows
from tests.unit.builders import (
    ANA,
    BEN,
    body,
    finished,
    grant_change,
    open_account,
    sample_rows,
    usage,
)
from tests.unit.intake.test_debits import debit

LOG_EVENT_BYTES_MAX = 262_144


def funded() -> MemoryRows:
    rows = sample_rows()
    for principal in (ANA, BEN):
        open_account(rows, grant_change("g-1", credits="10", principal=principal))
    return rows


def lines(batch: DebitedBatch, *, per_event: bool = False) -> list[LogLine]:
    return list(batch.log_lines(per_event=per_event))


def fields_of(batch: DebitedBatch) -> list[dict[str, Any]]:
    return [dict(line.fields) for line in lines(batch)]


def test_a_commit_is_one_line_with_its_events_by_outcome_and_its_runs() -> None:
    rows = funded()
    debit(rows, body(usage("e0", run="run-0")))

    batch = debit(
        rows,
        body(usage("e0", run="run-0")),
        body(usage("e1"), usage("e2")),
        body(usage("e3", "50", run="run-2")),
        body(finished("e4", run="run-2")),
    )

    (line,) = lines(batch)
    assert (line.level, line.message) == ("info", "recorded")
    assert line.fields == {
        "principal": "user:ana",
        "version": 3,
        "run_ids": "run-0 run-1 run-2",
        "already_recorded": "e0",
        "debited": "e1 e2",
        "insufficient": "e3",
        "finished": "e4",
    }


def test_accounts_do_not_share_a_line() -> None:
    batch = debit(funded(), body(usage("e1")), body(usage("e2", user="ben")), body(usage("e3")))

    assert [(f["principal"], f["debited"]) for f in fields_of(batch)] == [
        ("user:ana", "e1 e3"),
        ("user:ben", "e2"),
    ]


def test_each_event_has_a_debug_line_of_its_own_only_where_it_is_asked_for() -> None:
    batch = debit(funded(), body(usage("e1")), body(usage("e2", "50")))

    of_events = [line for line in lines(batch, per_event=True) if line.level == "debug"]

    assert [(line.message, line.fields["event_id"]) for line in of_events] == [
        ("debited", "e1"),
        ("insufficient", "e2"),
    ]
    assert "debug" not in {line.level for line in lines(batch)}


def test_a_line_never_grows_past_what_cloudwatch_takes() -> None:
    # Of the characters that an id may contain, quotes and backslashes take two bytes in JSON.
    def longest(number: int) -> str:
        return f"{number:0>3}".ljust(128, '"')

    rows = sample_rows()
    open_account(rows, grant_change("g-1", credits="1000", principal=ANA))
    documents = [usage(longest(n), "1", run=longest(n)) for n in range(3 * CHANGES_PER_COMMIT_MAX)]
    batch = debit(rows, *(body(document) for document in documents))
    again = debit(rows, *(body(document) for document in documents))

    for each, outcome in ((batch, "debited"), (again, "already_recorded")):
        logged = fields_of(each)
        assert [len(fields[outcome].split()) for fields in logged] == [CHANGES_PER_COMMIT_MAX] * 3
        found = [event_id for fields in logged for event_id in fields[outcome].split()]
        assert found == [longest(n) for n in range(3 * CHANGES_PER_COMMIT_MAX)]
        assert 100_000 < max(len(json.dumps(f)) for f in logged) < LOG_EVENT_BYTES_MAX / 2


def test_messages_that_wait_for_one_reload_share_a_line() -> None:
    first, second = RetrySoon(Waiting("reload:user:ana:2")), RetrySoon(Waiting("reload:user:ben:4"))
    batch = DebitedBatch({"m0": first, "m1": Done(), "m2": second, "m3": first})

    assert [(line.level, line.message) for line in lines(batch)] == [("info", "waiting")] * 2
    assert fields_of(batch) == [
        {"reload_id": "reload:user:ana:2", "message_ids": "m0 m3"},
        {"reload_id": "reload:user:ben:4", "message_ids": "m2"},
    ]


def test_a_message_that_lost_every_race_is_an_error_and_does_not_wait() -> None:
    batch = DebitedBatch({"m0": RetrySoon(Contended("user:ana: lost 10 races in a row", 10))})

    (line,) = lines(batch)

    assert (line.level, line.message) == ("error", "postponed")
    assert line.fields["reason"] == "Contended: user:ana: lost 10 races in a row"


def test_no_line_of_an_event_is_put_together_unless_it_is_asked_for(monkeypatch) -> None:
    batch = debit(funded(), body(usage("e1")))
    monkeypatch.setattr(Outcome, "log_fields", property(lambda _: 1 / 0))

    assert len(lines(batch)) == 1
