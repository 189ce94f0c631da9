"""Batches of the size that SQS accepts in one call."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

Entry = TypeVar("Entry")

BATCH_ENTRIES_MAX = 10


def in_batches(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    for start in range(0, len(entries), BATCH_ENTRIES_MAX):
        yield entries[start : start + BATCH_ENTRIES_MAX]
