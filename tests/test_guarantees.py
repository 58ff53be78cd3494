"""docs/guarantees.md names, for every promise and every fault, tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ("docs/guarantees.md",)
_TEST = re.compile(r"`(tests/\w+\.py)::(\w+)`")


def rows(page: str) -> list[str]:
    """The rows of every table of a page, but for heads and rules."""
    lines = (ROOT / page).read_text("utf-8").splitlines()
    heads = {n for n, line in enumerate(lines) if n + 1 < len(lines) and lines[n + 1].startswith("| ---")}
    return [line for n, line in enumerate(lines) if line.startswith("| ") and n not in heads and "| ---" not in line]


ROWS = [row for page in PAGES for row in rows(page)]


def names_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2:40])
def test_every_row_names_tests_that_exist(row: str) -> None:
    named = _TEST.findall(row)
    assert named, "a promise that nothing tries"
    for file, test in named:
        assert test in names_in(file), f"{file} has no {test}"


def test_the_page_has_rows() -> None:
    assert len(ROWS) > 40
