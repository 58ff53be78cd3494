"""What the tests of data sets share: a small data set, files, and the commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
from click.testing import CliRunner, Result

from edgerec_tools.data_commands import data
from edgerec_tools.datasets import Dataset
from edgerec_tools.datasets.assemble import assemble
from edgerec_tools.datasets.storage import dumps


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(data, [str(each) for each in arguments])


def document(*arguments: str | Path) -> Any:
    result = run(*arguments, "--json")
    assert result.exception is None, result.output
    return json.loads(result.stdout)


def same(one: Dataset, other: Dataset) -> bool:
    return dumps(replace(one, name="")) == dumps(replace(other, name=""))


def text(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def small(**more: Any) -> Dataset:
    rows = {
        "user": ["u2", "u1", "u1", "u2", "u1"],
        "item": ["b", "a", "c", "a", "b"],
        "at": [5.0, 9.0, 9.0, 20.25, 30.0],
        "kind": ["click", "purchase", "purchase", "click", "rating"],
        "value": [None, 2.0, 1.0, None, 4.5],
        "group": ["s1", "x", "x", "s2", "y"],
    }
    return assemble("small", pl.DataFrame(rows), **more)
