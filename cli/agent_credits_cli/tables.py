"""How commands print: tables for people, JSON for programs, progress on stderr for both."""

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final, TypeVar

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

# More than anybody reads; `itertools` refuses some larger numbers.
LIMIT_MAX: Final = 1_000_000_000

# A pipe has no width, and rich's default for a pipe is too narrow for these tables.
WIDTH_IN_A_PIPE: Final = 120

# From this many things on, the work takes long enough to show a progress bar.
TRACKED_FROM: Final = 100

Thing = TypeVar("Thing")


def out() -> Console:
    """Return a console that prints text as it is: an id may look like markup."""
    width = None if sys.stdout.isatty() else WIDTH_IN_A_PIPE
    return Console(width=width, markup=False, emoji=False, highlight=False)


def err() -> Console:
    return Console(stderr=True, markup=False, emoji=False, highlight=False)


def table(*headings: str, title: str | None = None) -> Table:
    """Return an empty table; a heading that begins with ">" heads a column of numbers."""
    empty = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for heading in headings:
        justify: Any = "right" if heading.startswith(">") else "left"
        empty.add_column(heading.removeprefix(">"), justify=justify, overflow="fold")
    return empty


def progress(*, shown: bool = True) -> Progress:
    """Return a progress bar that counts; without a terminal it prints one line at the end."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=err(),
        disable=not shown,
    )


def tracked(things: Sequence[Thing], title: str) -> Iterator[Thing]:
    """Yield the things, behind a progress bar where there are many."""
    if len(things) < TRACKED_FROM:
        yield from things
        return
    with progress() as bar:
        yield from bar.track(things, description=title)


def print_json(document: object) -> None:
    typer.echo(json.dumps(document, indent=2))


def print_json_line(document: object) -> None:
    """Print one line of NDJSON and flush it, so that a reader of long output need not wait."""
    typer.echo(json.dumps(document))
    sys.stdout.flush()
