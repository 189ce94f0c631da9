"""Byte code for what `sam build` built: for the right Python, always valid, always the same."""

import importlib.util
import marshal
import sys
from pathlib import Path
from types import CodeType

import pytest

from tools.byte_code import main

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
TAG = f"cpython-{sys.version_info.major}{sys.version_info.minor}"
SOURCE = "def is_pool(name):\n    return name in {'plan', 'add_on', 'trial', 'contract', 'gift'}\n"

# In a byte-code file: after the magic number, bits that say when it is valid; then the hash.
FLAGS = slice(4, 8)
ALWAYS_VALID = (1).to_bytes(4, "little")
CODE = slice(16, None)


@pytest.fixture(autouse=True)
def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Python of the functions, alone on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    link = folder / f"python{VERSION}"
    # A script instead of a link, by which a venv's Python would not find its own libraries.
    link.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    link.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return link


@pytest.fixture
def build(tmp_path: Path) -> Path:
    build = tmp_path / "build"
    layer = build / "SharedLayer" / "python" / "domain"
    function = build / "DebitRuns"
    for folder in (layer, function):
        folder.mkdir(parents=True)
    (build / "template.yaml").write_text("Resources: {}\n")
    (layer / "pools.py").write_text(SOURCE)
    (layer / f"core.{TAG}-x86_64-linux-gnu.so").touch()
    (function / "app.py").write_text(SOURCE)
    return build


def byte_code_of(source: Path) -> bytes:
    return (source.parent / "__pycache__" / f"{source.stem}.{TAG}.pyc").read_bytes()


def test_byte_code_is_valid_whatever_the_times_of_the_sources_are(build: Path) -> None:
    answer = main([str(build)])

    assert answer == 0
    for source in build.rglob("*.py"):
        byte_code = byte_code_of(source)
        assert byte_code[:4] == importlib.util.MAGIC_NUMBER
        assert byte_code[FLAGS] == ALWAYS_VALID


def test_byte_code_names_the_files_by_where_lambda_unpacks_them(build: Path) -> None:
    main([str(build)])

    code = {
        source.name: marshal.loads(byte_code_of(source)[CODE])  # noqa: S302 - it was just made here.
        for source in build.rglob("*.py")
    }
    assert all(isinstance(c, CodeType) for c in code.values())
    assert code["pools.py"].co_filename == "/opt/python/domain/pools.py"
    assert code["app.py"].co_filename == "/var/task/app.py"


def test_the_same_sources_give_the_same_bytes(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = sorted(build.rglob("*.py"))
    made = []
    for seed in ("1", "2", "3"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        main([str(build)])
        made.append([byte_code_of(source) for source in sources])

    assert made[0] == made[1] == made[2]


def test_a_folder_without_a_build_is_rejected(tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == f"{tmp_path} holds no build; run `sam build` first"


def test_a_build_for_a_python_that_is_not_there_is_rejected(build: Path, interpreter: Path) -> None:
    interpreter.unlink()

    answer = main([str(build)])

    assert str(answer).endswith(f"there is no python{VERSION} on the PATH")
    assert list(build.rglob("*.pyc")) == []


def test_a_build_for_two_pythons_is_rejected(build: Path) -> None:
    (build / "DebitRuns" / "old.cpython-39-x86_64-linux-gnu.so").touch()

    answer = main([str(build)])

    assert f"holds libraries for {', '.join(sorted(['3.9', VERSION]))};" in str(answer)
    assert list(build.rglob("*.pyc")) == []


def test_a_source_that_does_not_compile_is_rejected(build: Path) -> None:
    (build / "DebitRuns" / "app.py").write_text("def handler(:\n")

    assert "cannot compile everything" in str(main([str(build)]))
