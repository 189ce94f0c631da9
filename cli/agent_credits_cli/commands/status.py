"""`agent-credits status`: queues, dead letters, sweeps, alarms and versions of a stack."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import typer

from agent_credits.notices.notice import iso
from agent_credits.sweeps.last_sweep import LastSweep
from agent_credits.values.display import count_text, time_text
from agent_credits_cli.hints import as_typed
from agent_credits_cli.stack_status import QueueStatus, StackStatus, Unknown, read_status
from agent_credits_cli.tables import AsJson, out, print_json, table
from agent_credits_cli.target import connect

ATTENTION_EXIT_STATUS: Final = 1
UNKNOWN: Final = "unknown"


def status(context: typer.Context, as_json: AsJson = False) -> None:
    """Show how the stack is doing: queues, dead letters, last sweeps, alarms and versions.

    The exit status is 1 if something needs attention: dead letters, changes that could not be
    announced, an alarm that rings, what a sweep found wrong, or something that cannot be read.
    """
    target = connect(context)
    found = read_status(target, datetime.now(UTC))
    if as_json:
        print_json(_to_json(found))
    else:
        _show(target.name, found)
        for sentence in found.attention:
            out().print(f"! {as_typed(context, sentence)}", soft_wrap=True)
        if not found.attention:
            out().print("Nothing needs attention.")
    if found.attention:
        raise typer.Exit(ATTENTION_EXIT_STATUS)


def _show(name: str, found: StackStatus) -> None:
    out().print(_versions_text(name, found), soft_wrap=True)
    queues = table("queue", ">waiting", ">in flight", ">delayed", ">oldest", ">dead letters")
    for one in found.queues:
        queues.add_row(one.queue.name, *_depth_texts(one), _oldest_text(one), _dead_text(one))
    out().print(queues)
    sweeps = table("sweep", "ended", "did")
    for sweep, last in found.sweeps.items():
        sweeps.add_row(sweep, *_sweep_texts(last))
    out().print(sweeps)
    alarms = found.alarms
    if isinstance(alarms, Unknown):
        out().print(f"Alarms: {UNKNOWN}.")
        return
    out().print(
        f"Alarms: {alarms.total}, of which {len(alarms.ringing)} ring and {alarms.without_data}"
        " have no data yet."
    )
    for alarm in alarms.ringing:
        since = f"{alarm.name}, since {time_text(alarm.since)}"
        out().print(f"\n{since}\n  {alarm.description}", soft_wrap=True)


def _versions_text(name: str, found: StackStatus) -> str:
    versions = found.versions
    if isinstance(versions, Unknown):
        return f"{name}: {UNKNOWN}"
    return (
        f"{name}: {versions.stack_state}, deployed {time_text(versions.deployed_at)}\n"
        f"versions: stack {versions.stack or UNKNOWN}, command line {versions.command_line},"
        f" functions on {versions.runtime or UNKNOWN}"
    )


def _depth_texts(one: QueueStatus) -> Iterator[str]:
    depth = one.depth
    if isinstance(depth, Unknown):
        return iter((UNKNOWN, UNKNOWN, UNKNOWN))
    return (f"{count:,}" for count in (depth.waiting, depth.in_flight, depth.delayed))


def _oldest_text(one: QueueStatus) -> str:
    if one.oldest_seconds is not None:
        return str(timedelta(seconds=one.oldest_seconds))
    is_empty = not isinstance(one.depth, Unknown) and one.depth.total == 0
    return "none" if is_empty else UNKNOWN


def _dead_text(one: QueueStatus) -> str:
    return UNKNOWN if isinstance(one.dead_letters, Unknown) else f"{one.dead_letters:,}"


def _sweep_texts(last: LastSweep | Unknown | None) -> tuple[str, str]:
    match last:
        case Unknown():
            return UNKNOWN, ""
        case None:
            return "never", ""
        case LastSweep():
            did = [f"visited {count_text(last.rows, 'row')}"]
            did += [f"{name} {count:,}" for name, count in sorted(last.counts.items())]
            if last.visits:
                did.append(f"{count_text(last.visits, 'row')} left to visits of their own")
            return time_text(last.ended_at), ", ".join(did)


def _to_json(found: StackStatus) -> dict[str, Any]:
    """Return the status with null for what is unknown; `attention` says why it is."""
    versions, alarms = found.versions, found.alarms
    return {
        "versions": None
        if isinstance(versions, Unknown)
        else {
            "command_line": versions.command_line,
            "stack": versions.stack,
            "runtime": versions.runtime,
            "stack_state": versions.stack_state,
            "deployed_at": iso(versions.deployed_at),
        },
        "queues": [_queue_to_json(one) for one in found.queues],
        "set_aside": None if isinstance(found.set_aside, Unknown) else found.set_aside,
        "sweeps": [
            {"sweep": name, "last": _sweep_to_json(last)} for name, last in found.sweeps.items()
        ],
        "alarms": None
        if isinstance(alarms, Unknown)
        else {
            "total": alarms.total,
            "without_data": alarms.without_data,
            "ringing": [
                {
                    "name": alarm.name,
                    "since": iso(alarm.since),
                    "description": alarm.description,
                }
                for alarm in alarms.ringing
            ],
        },
        "attention": list(found.attention),
    }


def _queue_to_json(one: QueueStatus) -> dict[str, Any]:
    depth = None if isinstance(one.depth, Unknown) else one.depth
    return {
        "queue": one.queue.name,
        "waiting": depth.waiting if depth else None,
        "in_flight": depth.in_flight if depth else None,
        "delayed": depth.delayed if depth else None,
        "oldest_seconds": one.oldest_seconds,
        "dead_letters": None if isinstance(one.dead_letters, Unknown) else one.dead_letters,
    }


def _sweep_to_json(last: LastSweep | Unknown | None) -> dict[str, Any] | None:
    if last is None or isinstance(last, Unknown):
        return None
    return {
        "day": last.day.isoformat(),
        "ended_at": iso(last.ended_at),
        "rows": last.rows,
        "rows_left_to_visits": last.visits,
        "counts": dict(last.counts),
    }
