"""The README: its code runs, its commands exist, its paths lead somewhere, its figures are the recorded ones."""

from __future__ import annotations

import csv
import re
import shlex
from contextlib import suppress
from pathlib import Path

import click
import pytest

from edgerec.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
DEMO_BUNDLE = "demo/retail.edgerec"
ARMS = {"frozen": "model and profile frozen", "personalised": "learning on the device", "central/ease-weekly": "EASE"}


def section(title: str) -> str:
    return re.split(r"^## ", README.partition(f"## {title}\n")[2], flags=re.MULTILINE)[0]


def table(text: str) -> list[list[str]]:
    """Cells of the rows below a table's rule."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def commands(program: str) -> list[list[str]]:
    """Arguments of every command line of one program, in code blocks and in the running text."""
    blocks = re.findall(rf"^    ({program} .+)$", README, re.MULTILINE)
    inline = re.findall(rf"`({program} [^`]+)`", README)
    return [shlex.split(line, comments=True)[1:] for line in [*blocks, *inline]]


def parse(arguments: list[str]) -> None:
    """As far as click goes without running anything. Raises UsageError where a command or an option is unknown."""
    command: click.Command = main
    context = click.Context(main, info_name="edgerec", **main.context_settings)
    while isinstance(command, click.Group) and not arguments[0].startswith("-"):
        name, found, arguments = command.resolve_command(context, arguments)
        assert found is not None, name
        command, context = found, click.Context(found, parent=context, info_name=name)
    with suppress(click.exceptions.Exit):  # -h ends here
        command.make_context(command.name, list(arguments), parent=context.parent)


def test_it_begins_with_what_it_is_and_two_commands() -> None:
    paragraph, block = README.split("\n\n")[1:3]
    assert len(re.findall(r"\.(?= |$)", paragraph.replace("\n", " "))) == 3
    assert [line.split("#")[0].strip() for line in block.splitlines()] == ["make demo", "make test"]
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target, *_ in commands("make"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


@pytest.mark.parametrize("number", range(len(re.findall(r"^```python$", README, re.MULTILINE))))
def test_its_python_runs(
    number: int, bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)[number]
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace(DEMO_BUNDLE, str(bundle_path)), "README.md", "exec"), {"__name__": "readme"})
    printed = capsys.readouterr().out
    if DEMO_BUNDLE in code:
        assert len(printed.splitlines()) == 12
        assert {path.name for path in tmp_path.iterdir()} == {"state"}


@pytest.mark.parametrize("arguments", commands("edgerec"), ids=" ".join)
def test_its_commands_exist(arguments: list[str]) -> None:
    parse(arguments)


def test_an_unknown_option_would_be_found() -> None:
    for arguments in (["recommend", "--bundle", "x", "--top", "5"], ["data", "download", "x"], ["recomend"]):
        with pytest.raises(click.UsageError):
            parse(arguments)


def test_its_paths_exist() -> None:
    named = set(re.findall(r"`((?:[\w.-]+/)+[\w.-]+)`", README)) | set(re.findall(r"\]\(([^):]+)\)", README))
    made = {path for path in named if path.startswith("demo/")}  # by make demo
    assert made == {"demo/report.html"}
    assert len(named) > 15
    assert sorted(path for path in named - made if not (ROOT / path).exists()) == []


def test_every_promise_names_a_test() -> None:
    promises = table(section("What it promises"))
    assert len(promises) >= 5
    for promise, tried in promises:
        files = re.findall(r"`(tests/[^`]+)`", tried)
        assert files, promise
        assert all((ROOT / file).is_file() for file in files), promise


def test_its_figures_are_those_of_the_last_run() -> None:
    with (ROOT / "docs/results/test-runs.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["data"] == "retail" and row["period"] == "test"]
    # of one model: that of the last run with the frozen arm, whatever was run of other seeds since
    model = [row["remark"] for row in rows if row["arm"] == "frozen"][-1]
    recorded = {row["arm"]: row for row in [*rows, *(one for one in rows if one["remark"] == model)]}
    shown = {row[0]: row[1:] for row in table(README.partition("## ")[0])}
    for arm, label in ARMS.items():
        ((novel, every),) = [cells for name, cells in shown.items() if name.startswith(label)]
        if arm in recorded:
            figures = [float(re.findall(r"\.\d{4}", cell)[0]) for cell in (novel, every)]
            assert figures == [round(float(recorded[arm][f"{view}_ndcg@10"]), 4) for view in ("novel", "all")], arm
    assert {"frozen", "personalised"} <= set(recorded)
