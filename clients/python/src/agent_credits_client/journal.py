"""A run's journal: what it used, on disk before `use` returns, until the service has it.

One file per run, only ever appended to. A process that is killed leaves it behind, and the next one
that starts the same run sends what is left: the same events, byte for byte, so each counts once.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from agent_credits_client.errors import Conflict, JournalDamaged, JournalInUse

VERSION: Final = 1
_OPENINGS_MAX: Final = 10


@dataclass(slots=True)
class Left:
    """What an earlier process left. `finish`: the event of an end that was begun."""

    session: str
    sequence: int = 0
    events: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    finish: Mapping[str, Any] | None = None


class Journal:
    """The journal of one run, held by one process at a time."""

    def __init__(self, path: Path, file: BinaryIO, left: Left) -> None:
        self._path = path
        self._file = file
        self.left = left

    @classmethod
    def open(cls, folder: Path, run: Mapping[str, Any], session: str) -> "Journal":
        """Open the journal of this run, or begin one under the name of this session.

        `run` is what the run is requested with; a later start must request the same. Raises
        `Conflict`, `JournalInUse` or `JournalDamaged`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(f"{run['source']}\0{run['run_id']}".encode()).hexdigest()[:40]
        path = folder / f"{name}.jsonl"
        file = _locked(path)
        try:
            left = _read(path, file, run)
            journal = cls(path, file, left or Left(session))
            if left is None:
                journal._append({"version": VERSION, "session": session, "run": run})
                _sync_folder(folder)
        except BaseException:
            file.close()
            raise
        return journal

    def used(self, event: Mapping[str, Any]) -> None:
        """Keep an event. Once this returns, the event survives the process."""
        self._append({"event": event})

    def delivered(self, ids: Iterable[str]) -> None:
        """Keep what need not be sent again. If a crash loses it, it is, and counts once."""
        self._append({"delivered": list(ids)}, is_durable=False)

    def finished(self, event: Mapping[str, Any]) -> None:
        """Keep how the run ended, so that its next start ends it likewise."""
        self._append({"finish": event})

    def close(self, *, is_settled: bool) -> None:
        """Let go of the journal. One of a settled run is removed."""
        if is_settled:
            self._path.unlink(missing_ok=True)
        self._file.close()

    def _append(self, record: Mapping[str, Any], *, is_durable: bool = True) -> None:
        self._file.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")
        self._file.flush()
        if is_durable:
            os.fsync(self._file.fileno())


def _locked(path: Path) -> BinaryIO:
    """Open the file and lock it. The lock ends with the process, however that ends."""
    # Here, so that all but journals works on Windows.
    import fcntl

    for _ in range(_OPENINGS_MAX):
        file = path.open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise JournalInUse(f"another process is at work on the run of {path}") from None
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
        # Between the two lines above, whoever held it settled the run and removed it.
        file.close()
    raise JournalInUse(f"{path} was removed each time it was opened")


def _read(path: Path, file: BinaryIO, run: Mapping[str, Any]) -> Left | None:
    file.seek(0)
    content = file.read()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        # The process was killed while it wrote this line, so `use` never returned for it.
        file.truncate(end)
    lines = content[:end].splitlines()
    if not lines:
        return None
    try:
        header, *records = [json.loads(line) for line in lines]
        if header["version"] != VERSION:
            raise JournalDamaged(f"{path} is of version {header['version']}, not {VERSION}")
        left = Left(header["session"])
        for record in records:
            _apply(record, left)
    except (ValueError, KeyError, TypeError) as error:
        raise JournalDamaged(f"{path} is not a journal of this package: {error!r}") from error
    if header["run"] != run:
        differing = sorted(k for k in {*run, *header["run"]} if run.get(k) != header["run"].get(k))
        detail = f"the run was started with another {', '.join(differing)}"
        raise Conflict(409, {"error": "conflicting", "detail": detail})
    return left


def _apply(record: Mapping[str, Any], left: Left) -> None:
    match record:
        case {"event": event}:
            left.sequence += 1
            left.events[event["id"]] = event
        case {"delivered": ids}:
            for event_id in ids:
                left.events.pop(event_id, None)
        case {"finish": event}:
            left.finish = event
        case _:
            raise KeyError("a record of no known kind")


def _sync_folder(folder: Path) -> None:
    """Make a new file's name survive a crash of the machine, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
