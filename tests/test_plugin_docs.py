"""docs/plugins.md: its examples are plugins that pass their checks and work together in a recommender; and what
docs/rules.md says of the rerankers that come with edgerec.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import Clock, Opener

import edgerec
from edgerec.checks import check_names, run_checks
from edgerec.checks.subjects import KINDS
from edgerec.config import load_config
from edgerec.errors import ConfigError
from edgerec.interfaces import Settings
from edgerec.plugins import Plugins

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "plugins.md").read_text("utf-8")
NAMED = re.compile(r'"""(\w+)\.py\b')


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


SOURCES = {found[1]: text for text in blocks("python") if (found := NAMED.match(text))}
"""The modules on the page, by name."""
BROUGHT = [
    ("updater", "towards"),
    ("updater", "mood"),
    ("source", "mood"),
    ("source", "lately"),
    ("reranker", "lottery"),
    ("filter", "twice"),
]


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ModuleType]]:
    """The page's modules, each in a file of its own, imported."""
    place = tmp_path_factory.mktemp("page")
    for name, text in SOURCES.items():
        assert name not in sys.modules
        (place / f"{name}.py").write_text(text, "utf-8")
    sys.path.insert(0, str(place))
    importlib.invalidate_caches()
    yield {name: importlib.import_module(name) for name in SOURCES}
    sys.path.remove(str(place))
    for name in SOURCES:
        del sys.modules[name]


def registered(modules: dict[str, ModuleType]) -> dict[tuple[str, str], Any]:
    """(kind, name) → factory of all that the modules bring."""
    plugins = Plugins(list(modules.values()))
    try:
        assert not plugins.broken
        return {
            (kind, name): factory
            for kind, of in KINDS.items()
            for one in getattr(plugins.manager.hook, of.hook).get_hookimpls()
            for name, factory in one.function().items()
        }
    finally:
        plugins.close()


def written() -> dict[str, Any]:
    """All configurations on the page that are not of packaging, joined."""
    import tomllib

    joined: dict[str, Any] = {}
    for text in blocks("toml"):
        joined |= {name: joined.get(name, {}) | section for name, section in tomllib.loads(text).items()}
    joined.pop("project")
    return joined


def test_the_page_has_an_example_of_every_kind(modules: dict[str, ModuleType]) -> None:
    assert set(registered(modules)) == set(BROUGHT)


@pytest.mark.parametrize(("kind", "name"), BROUGHT, ids=map(" ".join, BROUGHT))
def test_an_example_passes_its_checks(kind: str, name: str, modules: dict[str, ModuleType]) -> None:
    found = registered(modules)
    factory = found[kind, name]
    assert factory({}).name == name
    settings: Settings = written().get(f"{kind}s", {}).get(name, {})
    updater = found.get(("updater", name)) if kind == "source" else None
    results = run_checks(kind, factory, settings, updater=None if updater is None else lambda: updater({}))
    assert [(one.check, one.reason) for one in results if not one.ok] == []


def test_the_page_names_every_check() -> None:
    rows = dict(re.findall(r"^\| (all|updaters|sources|rerankers|event filters) \| (.*) \|$", PAGE, re.MULTILINE))
    told = {of: set(re.findall(r"`(\w+)`", text)) for of, text in rows.items()}
    for kind, of in (
        ("updater", "updaters"),
        ("source", "sources"),
        ("reranker", "rerankers"),
        ("filter", "event filters"),
    ):
        assert told["all"] | told[of] == set(check_names(kind)), of


def test_the_examples_work_together(opener: Opener, modules: dict[str, ModuleType], capsys: Any) -> None:
    config = written() | {
        "learning": {"updater": "towards"},
        "scenarios": {"home": {"rerankers": ["lottery"]}, "best": {}},
        "plugins": {"manners": {"most": 1, "adventurous": True}, "budget_ms": 5000},
    }
    load_config(config)
    rec = opener(plugins=["sgd", *modules.values()], config=config)
    assert rec.recommend(1)[0].item == "i59", "the least popular comes first where nothing is known of the user"
    for n, item in enumerate(("i7", "i8", "i9")):
        assert rec.record(item, at=1.7e9 + 60.0 * n).learned
    assert rec.record("i9", at=1.7e9 + 121.0).status == "quarantined"
    both = rec.record_many([edgerec.Event(item, at=1.7e9 + 500.0, group="g") for item in ("i1", "i2")])
    assert [(one.status, one.learned) for one in both] == [("stored", False)] * 2, "manners vetoes two at once"
    assert capsys.readouterr().out.splitlines().count("click stored") == 5
    parts = rec.explain("i9").parts
    assert parts["lately"] > 0
    assert parts["mood"] > 0
    page = rec.recommend(10, scenario="home")
    assert page[0].propensity == pytest.approx(1 / 20)
    assert all(one.score > 0 for one in page)
    assert page.degraded == ()
    assert rec.stats()["plugins"]["failures"] == {}
    assert rec.stats()["learning"]["updater"] == "towards"


def test_the_lottery_of_the_page_can_be_judged(opener: Opener, modules: dict[str, ModuleType], clock: Clock) -> None:
    rec = opener(plugins=["sgd", modules["lottery"]], config={"scenarios": {"home": {"rerankers": ["lottery"]}}})
    for _ in range(3):
        page = rec.recommend(5, scenario="home")
        clock.pass_days(1)
        rec.record(page[0].item, recommendation_id=page.id)
        clock.pass_days(1)
    found = rec.evaluate("home", logged="home")
    assert found.pages == 3
    assert found.ips.value == pytest.approx(found.logged.value) == pytest.approx(1.0), (
        "a policy is worth what it earned"
    )


def test_what_the_page_shows_of_trying_runs(
    modules: dict[str, ModuleType], bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    others = [text for text in blocks("python") if not NAMED.match(text)]
    assert len(others) == 2
    shown: dict[str, Any] = {}
    for text in others:
        exec(compile(text.replace("shop.edgerec", str(bundle_path)), "plugins.md", "exec"), shown)
    propensities = eval(capsys.readouterr().out.partition(" ()")[0])
    assert propensities == pytest.approx([1 / (30 - place) for place in range(5)])
    for name, count in (("TestLately", len(check_names("source"))), ("TestMoodSource", len(check_names("source")))):
        tests = [getattr(shown[name](), test) for test in dir(shown[name]) if test.startswith("test_")]
        assert len(tests) == count
        for test in tests:
            test()


RERANKERS = re.findall(r"^\| `(\w+)` \| [^|]+ \| (`.*) \|$", (DOCS / "rules.md").read_text("utf-8"), re.MULTILINE)


def test_the_rules_page_has_every_reranker_that_comes_along() -> None:
    plugins = Plugins(["diversity", "explore"])
    assert sorted(name for name, _ in RERANKERS) == plugins.names("reranker")
    plugins.close()


@pytest.mark.parametrize(("name", "told"), RERANKERS)
def test_the_rules_page_tells_a_reranker_s_constants_and_defaults(name: str, told: str) -> None:
    plugins = Plugins(["diversity", "explore"])
    (made,) = plugins.rerankers({name: {}})
    plugins.close()
    with pytest.raises(ConfigError) as refused:
        type(made)({"no such": 1})  # type: ignore[call-arg]
    known = str(refused.value.hint).removeprefix("known: ").split(", ")
    assert set(re.findall(r"`(\w+)`", told)) == set(known)
    for constant, default in re.findall(r"`(\w+)`[^·(]*\(([\d.]+)\)", told):
        assert getattr(made, constant) == float(default), constant
