"""`make kill-test SECONDS=600`: a replay on an embedded stack that is killed repeatedly.

Consumers are killed in the middle of a batch; the emulator is stopped, and is killed outright, and
started again. What is sent is sent as a producer would: again, whenever it is not known whether it
arrived. In the end every event has one outcome, and not a microcredit has drifted.

The emulator saves its state when it is stopped, all of it at one moment, and never else. So a kill
takes it back to its last stop, rows and queues alike, as if they were restored from a backup. It
does not save the records of the change stream, so nothing is said here about notices.
"""

import contextlib
import itertools
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console

from agent_credits.aws.backoff import back_off
from agent_credits_cli.messages import Message
from agent_credits_cli.run_queue import send_messages
from agent_credits_cli.stack import read_stack
from agent_credits_cli.steps import carry_out, plan_steps, utc_now
from agent_credits_cli.target import Target, rows_of
from agent_credits_cli.verification import verify_all
from agent_credits_demo.drain import drain, messages_in
from agent_credits_demo.replay_run import bills_of, misrecorded, packed, read_entries
from agent_credits_demo.trace import TRACE_FILE, Replay, ReplayOptions, plan_replay, read_trace
from agent_credits_local import embedded_stack
from agent_credits_local.checkout import this_checkout
from agent_credits_local.stack_state import StackState, StateFolder
from agent_credits_local.target import connect_to_local

# A killed consumer's messages come again after this, instead of after the template's minutes.
VISIBILITY_SECONDS: Final = 5
ROUND_SECONDS: Final = 20.0
EVENTS_PER_ROUND: Final = 3_000
# However short a round is, something is killed in it of each kind.
KILL_SECONDS_MAX: Final = 30.0
LOOK_EVERY_SECONDS: Final = 0.05
MEMBERS: Final = 20
PACK: Final = 10
MESSAGES_AT_ONCE: Final = 10
PAUSES_SECONDS: Final = (0.1, 1.0)
# Killing a consumer takes a second to recover from, everything else a few.
ACTS: Final = ("consumer killed",) * 6 + ("emulator stopped", "emulator killed")


@dataclass
class KilledRun:
    """What was done to the stack, and the problems found afterwards, if any."""

    seed: int
    events: int = 0
    sent: int = 0
    rounds: int = 0
    seconds: float = 0.0
    deaths: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"seed       {self.seed}: {self.rounds} rounds in {self.seconds:,.0f} s",
            f"events     {self.events:,}, sent {self.sent:,} times",
            *(f"  {count:>7,}  times {what}" for what, count in sorted(self.deaths.items())),
            *self.problems,
            "NOT exact"
            if self.problems
            else "Every event has one outcome, and nothing has drifted.",
        ]
        return "\n".join(lines)


@contextlib.contextmanager
def stack_to_kill(folder: StateFolder) -> Iterator[Target]:
    """Bring up a stack whose queue returns the messages of killed consumers within seconds."""
    console = Console(stderr=True)
    try:
        embedded_stack.up(folder, this_checkout(), port=0, console=console)
        target = connect_to_local(folder)
        target.sqs.set_queue_attributes(
            QueueUrl=target.outputs.agent_runs_queue_url,
            Attributes={"VisibilityTimeout": str(VISIBILITY_SECONDS)},
        )
        yield target
    finally:
        embedded_stack.discard(folder)


def run_kills(
    folder: StateFolder,
    target: Target,
    seconds: float,
    *,
    seed: int,
    events: int = EVENTS_PER_ROUND,
) -> KilledRun:
    """Kill processes for this long, in rounds, and verify the ledger after each."""
    run, randomness = KilledRun(seed), random.Random(seed)
    began = time.monotonic()
    while run.rounds == 0 or time.monotonic() < began + seconds:
        left = began + seconds - time.monotonic()
        replay = _planned(events, randomness.randrange(1_000_000))
        _run_round(folder, target, run, randomness, replay, min(left, ROUND_SECONDS))
        run.seconds = time.monotonic() - began
        if run.problems:
            break
    return run


def _run_round(
    folder: StateFolder,
    target: Target,
    run: KilledRun,
    randomness: random.Random,
    replay: Replay,
    seconds: float,
) -> None:
    rows, now = rows_of(target), datetime.now(UTC)
    steps = plan_steps(replay.world, read_stack(rows, replay.world), now)
    carry_out(rows, steps, clock=utc_now, pause=back_off)
    # From here on a kill goes back to no earlier than this.
    stop_and_start(folder)
    messages = packed(replay.deliveries, PACK)
    again_and_again = itertools.cycle(messages)

    def send(part: Sequence[Message]) -> None:
        send_messages(target.sqs, target.outputs.agent_runs_queue_url, part)
        run.sent += sum(message.events for message in part)

    _disturb(
        folder,
        run,
        randomness,
        lambda: send([*itertools.islice(again_and_again, MESSAGES_AT_ONCE)]),
        seconds,
    )
    # Whatever was not sent yet, and whatever a kill took back: a producer does not know which.
    send(messages)
    run.events += len(replay.events)
    run.rounds += 1
    run.problems += _problems_of(target, replay)


def _planned(events: int, seed: int) -> Replay:
    requests = read_trace(this_checkout().root / "data" / TRACE_FILE, events)
    return plan_replay(requests, ReplayOptions(secrets.token_hex(3), events, MEMBERS, seed))


def _disturb(
    folder: StateFolder,
    run: KilledRun,
    randomness: random.Random,
    feed: Callable[[], None],
    seconds: float,
) -> None:
    ends_at = time.monotonic() + seconds
    # One of each at least, however short the time is.
    acts = [*dict.fromkeys(ACTS)]
    while acts or time.monotonic() < ends_at:
        feed()
        time.sleep(randomness.uniform(*PAUSES_SECONDS))
        act = acts.pop(0) if acts else randomness.choice(ACTS)
        match act:
            case "consumer killed":
                run.deaths[act] += kill_a_consumer(folder, feed)
            case "emulator stopped":
                stop_and_start(folder)
                run.deaths[act] += 1
            case _:
                kill_and_start(folder)
                run.deaths[act] += 1


def _problems_of(target: Target, replay: Replay) -> Iterator[str]:
    left = drain(target, "draining the queue").left
    if left:
        yield f"{left} messages are left in the queue"
    rows = rows_of(target)
    entries = {principal: read_entries(rows, principal) for principal in replay.principals}
    yield from misrecorded(replay.events, entries)
    for bill in bills_of(replay, entries):
        if bill.is_wrong:
            yield f"{bill.principal}: the sums are not those of the trace"
    yield from map(str, verify_all(rows).findings)


def kill_a_consumer(folder: StateFolder, feed: Callable[[], None]) -> bool:
    """Kill a consumer while messages are in flight; return whether there was one."""
    target, ends_at = connect_to_local(folder), time.monotonic() + KILL_SECONDS_MAX
    while time.monotonic() < ends_at:
        running = consumers(_state_of(folder).emulator.pid)
        if running and in_flight(target) > 0:
            with contextlib.suppress(ProcessLookupError):
                os.kill(running[0], signal.SIGKILL)
                return True
        elif messages_in(target, target.outputs.agent_runs_queue_url) == 0:
            feed()
        time.sleep(LOOK_EVERY_SECONDS)
    return False


def stop_and_start(folder: StateFolder) -> None:
    """Stop the emulator, which saves its state, with its consumers; start it with that state."""
    state = _state_of(folder)
    state.emulator.stop_gently()
    embedded_stack.start_again(folder, state)


def kill_and_start(folder: StateFolder) -> None:
    """Kill the emulator alone, so that its consumers outlive it for a moment; start it again."""
    state = _state_of(folder)
    state.emulator.kill_alone()
    embedded_stack.start_again(folder, state)
    # What they had begun they may have finished, against an emulator that knows nothing of it.
    state.emulator.stop_workers()


def _state_of(folder: StateFolder) -> StackState:
    state = folder.read()
    assert state is not None, "the stack is up"
    return state


def in_flight(target: Target) -> int:
    attributes = target.sqs.get_queue_attributes(
        QueueUrl=target.outputs.agent_runs_queue_url,
        AttributeNames=["ApproximateNumberOfMessagesNotVisible"],
    )["Attributes"]
    return int(attributes["ApproximateNumberOfMessagesNotVisible"])


def consumers(emulator_pid: int) -> list[int]:
    """Return the processes that run `debit_runs`: children of the emulator that we started."""
    children = subprocess.run(
        ["/bin/ps", "-ww", "-o", "pid=,args=", "--ppid", str(emulator_pid)],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.splitlines()
    return [int(line.split()[0]) for line in children if "DebitRuns" in line]


def main(seconds: float) -> int:
    seed = secrets.randbelow(1_000_000)
    with tempfile.TemporaryDirectory() as path:
        folder = StateFolder(Path(path))
        with stack_to_kill(folder) as target:
            run = run_kills(folder, target, seconds, seed=seed)
    sys.stdout.write(f"{run}\n")
    return 1 if run.problems else 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
