"""What one embedded stack keeps on disk: its folder, and the file that lists its processes."""

import contextlib
import fcntl
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pydantic
from pydantic import BaseModel, ConfigDict

from agent_credits_cli.errors import CommandError
from agent_credits_local.emulator import Emulator
from agent_credits_local.payment_stand_in import PaymentStandIn
from agent_credits_local.slack_stand_in import SlackStandIn


class StackState(BaseModel):
    """The content of `stack.json`. A stack without outputs was never deployed completely.

    `is_kept`: the stack was stopped and can be started again with all that it held. Without it, a
    stack that does not run was killed, and has lost everything.
    """

    model_config = ConfigDict(frozen=True)

    emulator: Emulator
    payment_stand_in: PaymentStandIn | None = None
    slack_stand_in: SlackStandIn | None = None
    fingerprint: str | None = None
    outputs: Mapping[str, str] = {}
    is_kept: bool = False

    @property
    def started(self) -> tuple[Emulator, ...]:
        """Every process that was started for the stack."""
        stand_ins = (self.payment_stand_in, self.slack_stand_in)
        return (self.emulator, *(stand_in for stand_in in stand_ins if stand_in is not None))

    def is_usable(self) -> bool:
        return (
            bool(self.outputs)
            and self.payment_stand_in is not None
            and self.slack_stand_in is not None
            and all(emulator.is_healthy() for emulator in self.started)
        )


@dataclass(frozen=True)
class StateFolder:
    """Each stack has its own folder, so that several can run side by side."""

    path: Path

    @property
    def stack_file(self) -> Path:
        return self.path / "stack.json"

    @property
    def emulator_log(self) -> Path:
        return self.path / "ministack.log"

    @property
    def payment_stand_in_log(self) -> Path:
        return self.path / "localstripe.log"

    @property
    def slack_stand_in_log(self) -> Path:
        return self.path / "slack.log"

    @property
    def issuer_key(self) -> Path:
        """The private key that signs tokens for this stack."""
        return self.path / "issuer.pem"

    @property
    def build(self) -> Path:
        return self.path / "build"

    @property
    def build_cache(self) -> Path:
        return self.path / "build-cache"

    @property
    def temporary(self) -> Path:
        """Where the emulator unpacks functions and layers."""
        return self.path / "tmp"

    @property
    def kept(self) -> Path:
        """Where the emulator saves its state."""
        return self.path / "kept"

    @property
    def payments(self) -> Path:
        """Where the payment stand-in saves its customers, cards and payments."""
        return self.path / "localstripe.pickle"

    def forget(self) -> None:
        """Remove what the stack held, but not its builds and logs."""
        self.stack_file.unlink(missing_ok=True)
        self.payments.unlink(missing_ok=True)
        shutil.rmtree(self.kept, ignore_errors=True)
        shutil.rmtree(self.temporary, ignore_errors=True)

    def log_of(self, tool: str) -> Path:
        return self.path / f"{tool.replace(' ', '-')}.log"

    def read(self) -> StackState | None:
        try:
            return StackState.model_validate_json(self.stack_file.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except pydantic.ValidationError as error:
            raise CommandError(
                f"{self.stack_file} is damaged, so the processes of the stack are unknown;"
                " stop the emulator by hand if it still runs, then remove that file"
            ) from error

    def write(self, state: StackState) -> None:
        # Replaced in one step, so that no reader ever sees half a file.
        draft = self.stack_file.with_suffix(".new")
        draft.write_text(state.model_dump_json(indent=2) + "\n")
        draft.replace(self.stack_file)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Let one command run at a time; the operating system frees the lock of one that dies."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            opened = (self.path / "lock").open("w")
        except OSError as error:
            raise CommandError(
                f"{self.path} cannot hold the local stack's state ({error.strerror});"
                " name a folder that can, with --state-dir"
            ) from error
        with opened as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise CommandError(
                    f"another command is using the local stack in {self.path};"
                    " wait for it to finish"
                ) from error
            yield
