"""The list of lines stays true: each stands in its file, and the docs show the list as it is."""

import ast

import pytest

from tests.guarantees.lines import LINES, Line, table
from tests.guarantees.mutants import ROOT, broken


@pytest.mark.parametrize("line", LINES, ids=[line.invariant for line in LINES])
def test_a_line_stands_once_and_what_is_left_without_it_is_python(line: Line) -> None:
    source = (ROOT / line.path).read_text()

    without = broken(source, line)

    assert ast.dump(ast.parse(without)) != ast.dump(ast.parse(source))


@pytest.mark.parametrize("line", LINES, ids=[line.invariant for line in LINES])
def test_a_line_s_test_is_there(line: Line) -> None:
    path, _, test = line.test.partition("::")
    name = test.partition("[")[0]

    assert f"def {name}(" in (ROOT / path).read_text()


def test_every_invariant_has_a_line() -> None:
    assert {line.invariant.split()[0] for line in LINES} == {str(n) for n in range(1, 20)}


def test_the_docs_show_the_list() -> None:
    assert table() in (ROOT / "docs" / "explanation" / "guarantees.md").read_text()
