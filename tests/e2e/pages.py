"""Pages whose commands are run as written: the tutorial, and the first steps of the README.

A fence of `sh` is run; the fence of `text` that follows shows what it prints. A line of `…` stands
for any number of lines. Times, ports and generated names differ from run to run and are compared by
their form. What is titled "second terminal" runs beside the rest, and prints from time to time.

`make tutorial` runs them and writes what they print.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

ROOT: Final = Path(__file__).parents[2]
TUTORIAL: Final = ROOT / "docs" / "tutorial" / "index.md"
README: Final = ROOT / "README.md"
PAGES: Final = (TUTORIAL, README)

SECOND_TERMINAL: Final = ' title="second terminal"'
FENCE: Final = re.compile(
    rf"^```(?P<kind>sh|text)(?P<title>{SECOND_TERMINAL})?\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
ANY_LINES: Final = "…"

# These only read, so they are asked again until what they wait for has happened.
READS: Final = re.compile(
    r"agent-credits (account|reservations|explain|ledger|team|report|verify) "
)
MASKS: Final = (
    (re.compile(r"\d{4}-\d{2}-\d{2}[ T]\d{2}:\d{2}(:\d{2})?"), "<time>"),
    (re.compile(r"\d{4}-\d{2}-\d{2}"), "<day>"),
    (re.compile(r"\d{4}-\d{2}\b"), "<month>"),
    (re.compile(r"127\.0\.0\.1:\d+"), "<address>"),
)

SHELL: Final = "/bin/bash"
# The longest is to build and deploy.
COMMAND_SECONDS_MAX: Final = 300
SETTLES_SECONDS_MAX: Final = 60
LOOK_EVERY_SECONDS: Final = 0.5
# An output that has not changed for this long is what the page shall show.
SETTLED_AFTER_SECONDS: Final = 6


@dataclass(frozen=True)
class Fence:
    """A block of the page: `sh` to run, or `text` that was printed; `span` is its text's place."""

    kind: str
    is_beside: bool
    text: str
    span: tuple[int, int]


def fences(page: str) -> list[Fence]:
    return [
        Fence(found["kind"], found["title"] is not None, found["text"], found.span("text"))
        for found in FENCE.finditer(page)
    ]


def masked(text: str) -> list[str]:
    """Return the lines as they are compared: without what differs from run to run."""
    for pattern, mask in MASKS:
        text = pattern.sub(mask, text)
    return [line.rstrip() for line in text.strip().splitlines()]


def shows(shown: str, printed: str) -> bool:
    """Tell whether a page shows what was printed."""
    lines = [".*" if line == ANY_LINES else re.escape(line) for line in masked(shown)]
    return re.fullmatch("\n".join(lines), "\n".join(masked(printed)), re.DOTALL) is not None


class Terminal:
    """Where the commands of one page run: this checkout, and a stack of its own."""

    def __init__(self, state_path: Path, beside: IO[str]) -> None:
        # What an outer `make` tells an inner one would make that print where it works.
        own = {name: text for name, text in os.environ.items() if not name.startswith("MAKE")}
        self._environment = {**own, "AGENT_CREDITS_STATE_DIR": str(state_path)}
        self._beside = beside
        self._beside_until = 0
        self._processes: list[subprocess.Popen[str]] = []

    def run(self, script: str) -> tuple[int, str]:
        """Run the lines of a fence; return the exit status of the first that fails, and stdout."""
        ran = subprocess.run(
            [SHELL, "-euc", script],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            timeout=COMMAND_SECONDS_MAX,
            check=False,
        )
        return ran.returncode, ran.stdout

    def start_beside(self, script: str) -> None:
        process = subprocess.Popen(
            [SHELL, "-euc", f"exec {script}"],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._beside,
            text=True,
            # A script's background jobs ignore Ctrl-C, and what they start ignores it too. This
            # command ends by nothing else.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self._processes.append(process)

    def printed_beside(self) -> str:
        """Return what the second terminal has printed since it was last looked at."""
        return Path(self._beside.name).read_text()[self._beside_until :]

    def look_away(self, printed: str) -> None:
        self._beside_until += len(printed)

    def close(self) -> None:
        """Do what the page says last: end the second terminal, and take the stack down."""
        for process in self._processes:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=COMMAND_SECONDS_MAX)
        self.run("make down")


@contextmanager
def terminal(state_path: Path) -> Iterator[Terminal]:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as beside:
        opened = Terminal(state_path, beside)
        try:
            yield opened
        finally:
            opened.close()


def run_page(page: str, at: Terminal, is_done: Callable[[str, str, float], bool]) -> str:
    """Run a page from top to bottom, and return it with what was printed in place of what it shows.

    `is_done` is given what a fence shows, what was printed now, and for how many seconds the same
    was printed; it says whether to go on. Raises CalledProcessError where a command fails.
    """
    found = fences(page)
    rewritten, end = "", 0
    for fence, following in zip(found, [*found[1:], None], strict=True):
        if fence.kind == "sh" and fence.is_beside:
            at.start_beside(fence.text)
            continue
        shown = following.text if following and following.kind == "text" else ""
        if fence.kind == "sh":
            printed = _printed_by(fence.text, shown, at, is_done)
            if not following or following.kind != "text" or following.is_beside:
                continue
            target = following
        elif fence.is_beside:
            printed = _settled(at.printed_beside, fence.text, is_done)
            at.look_away(printed)
            target = fence
        else:
            continue
        start, stop = target.span
        rewritten += page[end:start] + _as_shown(target.text, printed)
        end = stop
    return rewritten + page[end:]


def _printed_by(
    script: str, shown: str, at: Terminal, is_done: Callable[[str, str, float], bool]
) -> str:
    if READS.search(script):

        def read() -> str:
            status, output = at.run(script)
            return output if status == 0 else ""

        return _settled(read, shown, is_done)
    status, output = at.run(script)
    if status != 0:
        raise subprocess.CalledProcessError(status, script, output)
    return output


def _settled(
    look: Callable[[], str], shown: str, is_done: Callable[[str, str, float], bool]
) -> str:
    """Read until it is done, or time is up; return what was read last."""
    began_at = changed_at = time.monotonic()
    seen = look()
    while time.monotonic() < began_at + SETTLES_SECONDS_MAX:
        if seen and is_done(shown, seen, time.monotonic() - changed_at):
            break
        time.sleep(LOOK_EVERY_SECONDS)
        now = look()
        if now != seen:
            seen, changed_at = now, time.monotonic()
    return seen


def _as_shown(shown: str, printed: str) -> str:
    """Return what the page is to show; what leaves lines out stays, if it is still right."""
    if shows(shown, printed):
        return shown
    if ANY_LINES in shown.splitlines():
        raise ValueError(f"this no longer shows what is printed; write it again:\n{shown}")
    lines = [line.rstrip() for line in printed.splitlines()]
    return "\n".join(lines).strip("\n") + "\n"


def main() -> None:
    for path in PAGES:
        with tempfile.TemporaryDirectory() as folder, terminal(Path(folder)) as opened:
            page = run_page(
                path.read_text(),
                opened,
                lambda _shown, _printed, same_for: same_for >= SETTLED_AFTER_SECONDS,
            )
        path.write_text(page)
        sys.stdout.write(f"Wrote {path.relative_to(ROOT)}; read the difference.\n")


if __name__ == "__main__":
    main()
