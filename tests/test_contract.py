"""The hooks are what docs/plugins.md says they are, and each has a first-party user."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from edgerec import hookspecs
from edgerec.plugins import Plugins

PAGE = (Path(__file__).parent.parent / "docs" / "plugins.md").read_text()
HOOKS = {name: function for name, function in vars(hookspecs).items() if name.startswith("edgerec_")}


@pytest.mark.parametrize(("name", "function"), HOOKS.items(), ids=HOOKS)
def test_a_hook_is_documented_with_its_live_signature(name: str, function: Callable[..., object]) -> None:
    arguments = ", ".join(inspect.signature(function).parameters)
    assert f"### `{name}({arguments})`" in PAGE


def test_the_page_documents_no_hook_that_is_not_there() -> None:
    assert set(re.findall(r"### `(edgerec_\w+)\(", PAGE)) == set(HOOKS)


def test_the_picture_shows_every_hook() -> None:
    picture = PAGE.split("```")[3]
    assert set(re.findall(r"edgerec_\w+", picture)) == set(HOOKS)


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_has_a_first_party_user_and_a_test(name: str) -> None:
    users = [one.plugin_name for one in getattr(Plugins().manager.hook, name).get_hookimpls()]
    assert users
    section = PAGE.split(f"### `{name}(")[1].split("\n#")[0]
    told = re.findall(r"`(\w+)`", section.split("First-party:")[1])
    registered = Plugins().summary()["loaded"]
    names = {word for user in users for entry in registered[user] for word in (user, entry.split()[-1])}
    assert set(told) - {"forward", "spread"} <= names
    tests = Path(__file__).parent.glob("test_*.py")
    assert any(name in path.read_text() for path in tests if path.name != "test_contract.py")
