"""`agent-credits announcements`: changes that could not be announced, and announcing them now."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer

from agent_credits.notices.notice import iso
from agent_credits.values.display import count_text, shortened, time_text
from agent_credits_cli.conventions import Command
from agent_credits_cli.errors import CommandGroup
from agent_credits_cli.hints import as_typed
from agent_credits_cli.set_aside import SetAside, ids_of, keep_only, read, replay, row_of
from agent_credits_cli.tables import AsJson, out, print_json, tracked
from agent_credits_cli.target import Target, connect

REASON_CHARACTERS_SHOWN: Final = 200
KEPT_EXIT_STATUS: Final = 1
NOTHING_SET_ASIDE: Final = "No change is set aside; all were announced."
HELP: Final = "Look at changes that could not be announced, and announce them."

app = typer.Typer(cls=CommandGroup, no_args_is_help=True, help=HELP)


@dataclass(frozen=True, slots=True)
class Kept:
    """A record that stays set aside, and why."""

    id: str
    row: str
    reason: str


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay did: records announced, their notices, and what is still set aside."""

    records: int
    notices: int
    kept: tuple[Kept, ...]
    # By a fault that may pass, so that the rest is not tried in vain.
    stopped: bool


@app.callback()
def announcements() -> None:
    """Look at changes that could not be announced, and announce them."""


@app.command("list", cls=Command)
def list_set_aside(
    context: typer.Context,
    limit: Annotated[
        int, typer.Option(metavar="N", min=1, max=1_000, help="Show at most this many objects.")
    ] = 100,
    as_json: AsJson = False,
) -> None:
    """Show the changes that were set aside, oldest first, and why. Each is kept for 14 days."""
    target = connect(context)
    ids = ids_of(target)
    failures = [read(target, key) for key in ids[:limit]]
    if as_json:
        print_json([_to_json(failure) for failure in failures])
        return
    if not ids:
        out().print(NOTHING_SET_ASIDE)
    for failure in failures:
        out().print(_text(failure), soft_wrap=True)
    if len(ids) > limit:
        out().print(f"and {len(ids) - limit:,} more")


@app.command("replay", cls=Command)
def replay_set_aside(
    context: typer.Context,
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID...", help="Replay only these; all without any."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Announce what was set aside, by the version that is deployed now, oldest first.

    What was announced is removed, what still cannot be announced stays, and then the exit status is
    1. A notice has the same id as ever, so a consumer that has seen it drops it.
    """
    target = connect(context)
    replayed = replay_all(target, ids or ids_of(target))
    if as_json:
        print_json(
            {
                "announced": replayed.records,
                "notices": replayed.notices,
                "kept": [{"id": k.id, "row": k.row, "reason": k.reason} for k in replayed.kept],
            }
        )
    else:
        for line in _lines(replayed):
            out().print(as_typed(context, line), soft_wrap=True)
    if replayed.kept:
        raise typer.Exit(KEPT_EXIT_STATUS)


def replay_all(target: Target, ids: Sequence[str]) -> Replayed:
    """Announce the records in order; keep those that cannot be, and all behind a passing fault."""
    records = notices = 0
    kept: list[Kept] = []
    for key in tracked(ids, "replaying"):
        failure = read(target, key)
        remaining = list(failure.records)
        try:
            for record in failure.records:
                answer = replay(target, record)
                if answer.outcome == "announced":
                    remaining.remove(record)
                    records += 1
                    notices += answer.published
                    continue
                kept.append(Kept(failure.id, row_of(record), answer.reason))
                if answer.outcome == "not_now":
                    return Replayed(records, notices, tuple(kept), stopped=True)
        finally:
            # Also after Ctrl-C: what was announced need not be announced again.
            keep_only(target, failure, remaining)
    return Replayed(records, notices, tuple(kept), stopped=False)


def _lines(replayed: Replayed) -> list[str]:
    if not replayed.records and not replayed.kept:
        return [NOTHING_SET_ASIDE]
    changes = count_text(replayed.records, "change")
    lines = [f"Announced {changes}, with {count_text(replayed.notices, 'notice')}."]
    lines += [f"{kept.row} stays set aside: {_shown(kept.reason)}" for kept in replayed.kept]
    if replayed.stopped:
        lines.append("The rest was not tried. Once that has passed, run the command again.")
    elif replayed.kept:
        lines.append("Deploy a version that can announce them, and run the command again.")
    return lines


def _to_json(failure: SetAside) -> dict[str, Any]:
    return {
        "id": failure.id,
        "set_aside_at": iso(failure.set_aside_at),
        "condition": failure.condition,
        "reason": failure.reason,
        "rows": [row_of(record) for record in failure.records],
    }


def _text(failure: SetAside) -> str:
    rows = list(dict.fromkeys(row_of(record) for record in failure.records))
    changed = f"{count_text(len(failure.records), 'change')} of {', '.join(rows)}"
    return (
        f"{failure.id}  set aside {time_text(failure.set_aside_at)}\n"
        f"  {changed}\n"
        f"  {failure.condition}: {_shown(failure.reason) or 'no reason given'}"
    )


def _shown(reason: str) -> str:
    return shortened(reason, REASON_CHARACTERS_SHOWN)
