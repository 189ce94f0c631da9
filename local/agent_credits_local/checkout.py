"""The checkout that this command line runs from: its sources, and the tools that `make` installed.

The embedded stack needs both; commands that talk to AWS need neither.
"""

import hashlib
import platform
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent_credits_cli.errors import CommandError

# A deployed stack is up to date if these have not changed.
SOURCES: Final = ("template.yaml", "samconfig.toml", "functions", "shared")
ARCHITECTURES: Final = {
    "x86_64": "x86_64",
    "amd64": "x86_64",
    "arm64": "arm64",
    "aarch64": "arm64",
}


@dataclass(frozen=True)
class Checkout:
    root: Path

    @property
    def ministack_python(self) -> Path:
        return self.root / ".tools" / "ministack" / "bin" / "python"

    @property
    def ministack_command(self) -> Sequence[str]:
        return [str(self.ministack_python), "-m", "ministack"]

    @property
    def localstripe_python(self) -> Path:
        return self.root / ".tools" / "localstripe" / "bin" / "python"

    @property
    def localstripe_program(self) -> Path:
        return self.root / "tools" / "run_localstripe.py"

    @property
    def sam_folder(self) -> Path:
        """The folder of `sam`, and of the interpreter and the pip that `sam build` must find."""
        return self.root / ".tools" / "sam" / "bin"

    def require_tools(self) -> None:
        needed = (
            self.root / "template.yaml",
            self.ministack_python,
            self.localstripe_python,
            self.sam_folder / "sam",
        )
        for path in needed:
            if not path.exists():
                raise CommandError(
                    f"{path} is missing; run `make setup` in a checkout of Agent Credits"
                )

    def runtime(self) -> str:
        """The Lambda runtime to build for: the emulator runs functions on its own interpreter."""
        version = subprocess.run(
            [self.ministack_python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout.strip()
        return f"python{version}"

    def fingerprint(self) -> str:
        """A hash of everything that is deployed, so that nothing unchanged is deployed again."""
        digest = hashlib.sha256()
        for path in sorted(self._source_files()):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(self.root)} {len(content)}\n".encode())
            digest.update(content)
        return digest.hexdigest()

    def _source_files(self) -> Iterator[Path]:
        for name in SOURCES:
            source = self.root / name
            for path in (source, *source.rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts:
                    yield path


def this_checkout() -> Checkout:
    return Checkout(root=Path(__file__).resolve().parents[2])


def architecture() -> str:
    """The Lambda architecture of this machine: the emulator runs functions without a container."""
    machine = platform.machine().lower()
    if machine not in ARCHITECTURES:
        raise CommandError(
            f"Lambda does not support this machine's architecture, {machine}; use x86_64 or arm64"
        )
    return ARCHITECTURES[machine]
