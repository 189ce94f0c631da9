"""Adds byte code to what `sam build` built, so that a cold start need not compile what it imports.

    python tools/byte_code.py .aws-sam/build

SAM itself ships sources alone. Byte code is of use only to the very Python that made it: which one
the build is for, its compiled libraries tell, and that interpreter makes the byte code. It is valid
whatever the sources' times are, because a deployment package does not keep them, and the same bytes
come of the same sources, so that nothing unchanged is deployed again.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

# Where Lambda unpacks a layer and a function: what tracebacks will name.
LAYER_ROOT = "/opt"
FUNCTION_ROOT = "/var/task"
COMPILE_SECONDS_MAX = 600

_EXTENSION = re.compile(r"\.cpython-(?P<major>[0-9])(?P<minor>[0-9]+)-[^.]+\.so$")


def main(arguments: list[str]) -> int | str:
    """Return 0, or a sentence for whoever builds."""
    if len(arguments) != 1:
        return "usage: byte_code.py BUILD_FOLDER, which is .aws-sam/build unless you chose another"
    build = Path(arguments[0])
    if not (build / "template.yaml").is_file():
        return f"{build} holds no build; run `sam build` first"
    versions = built_for(build)
    if len(versions) != 1:
        return (
            f"{build} holds libraries for {', '.join(sorted(versions)) or 'no version of Python'};"
            " remove it and run `sam build` again"
        )
    (version,) = versions
    interpreter = shutil.which(f"python{version}")
    if interpreter is None:
        return f"the functions run on Python {version}, and there is no python{version} on the PATH"
    folders = sorted(path for path in build.iterdir() if path.is_dir())
    for folder in folders:
        root = LAYER_ROOT if (folder / "python").is_dir() else FUNCTION_ROOT
        compiled = subprocess.run(
            [
                *(interpreter, "-m", "compileall", "-q", "-f"),
                *("--invalidation-mode", "unchecked-hash"),
                *("-s", str(folder), "-p", root, str(folder)),
            ],
            timeout=COMPILE_SECONDS_MAX,
            check=False,
        )
        if compiled.returncode != 0:
            return f"python{version} cannot compile everything in {folder}; see above"
    sys.stdout.write(f"Byte code of Python {version} for {len(folders)} layers and functions\n")
    return 0


def built_for(build: Path) -> set[str]:
    """Return the versions of Python that the build's compiled libraries are for."""
    matches = [_EXTENSION.search(path.name) for path in build.rglob("*.so")]
    return {f"{match['major']}.{match['minor']}" for match in matches if match}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
