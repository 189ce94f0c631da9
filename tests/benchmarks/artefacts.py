"""What a deployment ships, laid out as on Lambda: the functions, their layer, and the runtime."""

import importlib.metadata
import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent_credits_cli.tables import err
from agent_credits_local.checkout import this_checkout
from agent_credits_local.deployment import Deployment
from agent_credits_local.emulator import HOST
from agent_credits_local.stack_state import StateFolder
from tests.template import load_template

ROOT = Path(__file__).parents[2]
LAYER = "SharedLayer"
LEAST = "Least"
LEAST_SOURCE = Path(__file__).parent / "references" / "least"
# Nothing is called while a stack is built.
NOWHERE = f"http://{HOST}:9"
BYTE_CODE_SECONDS_MAX = 120


@dataclass(frozen=True, slots=True)
class Artefacts:
    """A build, and beside it the packages that Lambda's runtime brings, with their byte code."""

    build: Path
    runtime: Path

    def path_of(self, logical_id: str) -> str:
        """Return what stands on a function's path: the function, the layer, then the runtime."""
        return f"{self.build / logical_id}:{self.build / LAYER / 'python'}:{self.runtime}"

    def zip_bytes(self, logical_id: str) -> int:
        """Return the size of the package that is uploaded for a layer or a function."""
        folder, archive = self.build / logical_id, io.BytesIO()
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for path in sorted(folder.rglob("*")):
                packed.write(path, path.relative_to(folder))
        return archive.tell()


def functions() -> dict[str, str]:
    """Return the logical id of each function in the template, by the function's name."""
    return {
        Path(resource["Properties"]["CodeUri"]).name: logical_id
        for logical_id, resource in load_template()["Resources"].items()
        if resource["Type"] == "AWS::Serverless::Function"
    }


def build_artefacts(folder: Path) -> tuple[Artefacts, Artefacts]:
    """Build what is here; return it with byte code, and as `sam build` leaves it."""
    state = StateFolder(folder / "sources")
    state.path.mkdir()
    Deployment(state, this_checkout(), NOWHERE, NOWHERE, NOWHERE, err()).build()
    # The yardstick is a function like any other: the same layer, the same runtime.
    shutil.copytree(LEAST_SOURCE, state.build / LEAST, ignore=shutil.ignore_patterns("__pycache__"))
    compiled = folder / "byte-code"
    shutil.copytree(state.build, compiled)
    runtime = folder / "runtime"
    _lay_out_runtime(runtime)
    # Whoever looks for the interpreter of the build finds the one that it was built with.
    path = f"{this_checkout().sam_folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    for command in (
        (sys.executable, str(ROOT / "tools" / "byte_code.py"), str(compiled)),
        (
            *(str(this_checkout().ministack_python), "-m", "compileall", "-q"),
            *("--invalidation-mode", "unchecked-hash", str(runtime)),
        ),
    ):
        subprocess.run(
            command,
            check=True,
            timeout=BYTE_CODE_SECONDS_MAX,
            env={"PATH": path},
            stdout=subprocess.DEVNULL,
        )
    return Artefacts(compiled, runtime), Artefacts(state.build, runtime)


def _lay_out_runtime(folder: Path) -> None:
    """Copy boto3 and what it needs, at this project's pins; its data is linked to."""
    for name in sorted(set(_with_requirements("boto3"))):
        for file in importlib.metadata.distribution(name).files or ():
            if ".." in file.parts or file.suffix == ".pyc":
                continue
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            if file.suffix == ".py":
                shutil.copyfile(file.locate(), target)
            else:
                target.symlink_to(file.locate())


def _with_requirements(name: str) -> Iterator[str]:
    yield name
    for requirement in importlib.metadata.requires(name) or ():
        if "extra ==" not in requirement:
            (required,) = re.findall(r"^[A-Za-z0-9_.-]+", requirement)
            yield from _with_requirements(required)
