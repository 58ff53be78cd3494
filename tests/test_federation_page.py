"""docs/federation.md and docs/threat-model.md: their commands and settings exist, and what they point to is there."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest
from test_readme import parse

from edgerec.config import load_config
from edgerec_exporters.federation.settings import load_settings
from edgerec_exporters.gateway.settings import settings_of

DOCS = Path(__file__).parent.parent / "docs"
GUIDE = (DOCS / "federation.md").read_text("utf-8")
PAGES = (GUIDE, (DOCS / "threat-model.md").read_text("utf-8"))
COMMANDS = [shlex.split(line, comments=True)[1:] for line in re.findall(r"^    (edgerec .+)$", GUIDE, re.MULTILINE)]
TABLES = re.findall(r"^```toml\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)


def anchors(page: str) -> set[str]:
    """What links may name: headings in small letters, without punctuation, with hyphens."""
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_command_of_the_guide_exists(arguments: list[str]) -> None:
    parse(arguments)


def test_the_guide_goes_all_the_way() -> None:
    steps = [" ".join(arguments[:2]) for arguments in COMMANDS]
    for step in ("channel init", "gateway run", "round run", "round release", "round rollback"):
        assert step in steps


@pytest.mark.parametrize("number", range(len(TABLES)))
def test_settings_of_the_guide_are_settings(number: int) -> None:
    table = tomllib.loads(TABLES[number])
    if "federation" in table:
        assert load_config(table).federation is not None
    elif "gateway" in table:
        assert settings_of(table)
    else:
        assert load_settings(table)


def test_what_the_pages_point_to_is_there() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)\s]+)\)", page):
            file, _, anchor = link.partition("#")
            target = DOCS / file
            assert target.is_file(), link
            assert not anchor or anchor in anchors(target.read_text("utf-8")), link
        for test in re.findall(r"`(tests/\w+\.py)`", page):
            assert (DOCS.parent / test).is_file(), test


def test_the_picture_is_sound() -> None:
    assert ElementTree.parse(DOCS / "federation.svg").getroot().tag.endswith("svg")
