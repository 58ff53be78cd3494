"""The command: what it prints for people and for programs, and a code of its own for every kind of mistake."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import bundle_files, golden, manifest_of, tiny_bundle, write_zip
from click.testing import CliRunner, Result

import edgerec
from edgerec import console, errors
from edgerec.cli import ATTACHED, main
from edgerec.types import Page, Recommendation

Shell = Callable[..., Result]


@pytest.fixture
def shell(bundle_path: Path, tmp_path: Path) -> Shell:
    """Runs a command of the runtime on the small bundle and one user's folder."""

    def run(command: str, *arguments: object, bundle: Path = bundle_path, state: Path | None = None) -> Result:
        common = ["--bundle", bundle, "--state", state or tmp_path / "state"]
        return CliRunner().invoke(main, [str(each) for each in (*command.split(), *common, *arguments)])

    return run


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


def document(result: Result) -> Any:
    """The one JSON document on stdout."""
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return json.loads(result.stdout)


def printed(result: Result) -> str:
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    assert not result.stdout.lstrip().startswith("{")
    return result.stdout


# what is printed


def test_recommend_lists_rank_score_item_and_title(shell: Shell) -> None:
    lines = printed(shell("recommend", "-n", 3, "--where", "price_max=5", "--exclude", "i2")).splitlines()
    found = document(shell("recommend", "-n", 3, "--where", "price_max=5", "--exclude", "i2", "--json"))
    assert [line.split()[0] for line in lines] == ["1", "2", "3"]
    assert [line.split()[2] for line in lines] == [one["item"] for one in found["items"]]
    assert [one["rank"] for one in found["items"]] == [1, 2, 3]
    assert found["id"]
    assert "i2" not in {one["item"] for one in found["items"]}


def test_recommend_says_why_the_list_is_short(shell: Shell) -> None:
    assert "only 1 of 60 items may be served" in printed(shell("recommend", "--only", "i7"))
    empty = shell("recommend", "--where", "price_min=1000")
    assert "only 0 of 60" in printed(empty)
    assert document(shell("recommend", "--only", "i7", "--json"))["reason"]


def test_similar_lists_other_items(shell: Shell) -> None:
    assert len(printed(shell("similar", "i7", "-n", 4)).splitlines()) == 4
    found = document(shell("similar", "i7", "-n", 4, "--json"))
    assert "i7" not in {one["item"] for one in found["items"]}


def test_record_tells_what_became_of_the_event(shell: Shell) -> None:
    page = document(shell("recommend", "--json"))
    item = page["items"][2]["item"]
    done = document(shell("record", item, "--kind", "purchase", "--page", page["id"], "--event-id", "a", "--json"))
    assert done == {"event_id": "a", "status": "stored", "learned": True, "rank": 3, "flags": []}
    again = shell("record", item, "--kind", "purchase", "--page", page["id"], "--event-id", "a")
    assert printed(again) == "stored before; event a\n"
    assert printed(shell("record", "i9", "--event-id", "b")).startswith("stored, was at place ")
    unknown = shell("record", "gone", "--event-id", "c")
    assert printed(unknown) == (
        "stored, but the catalogue has no such item: it counts once a bundle brings it; event c\n"
    )
    late = shell("record", "i9", "--at", "2999-01-01T00:00:00Z", "--value", "2", "--group", "g")
    assert "its time is ahead of the clock" in printed(late)
    assert document(shell("stats", "--json"))["events"] == 4


def test_explain_adds_up(shell: Shell) -> None:
    shell("record", "i3", "--kind", "purchase")
    why = document(shell("explain", "i4", "--json"))
    assert sum(why["parts"].values()) == pytest.approx(why["score"], abs=1e-6)
    lines = printed(shell("explain", "i4")).splitlines()
    assert lines[0] == "i4  Item 4"
    assert f"score {why['score']:.3f}" in lines[1]
    assert sum(float(line.split()[0]) for line in lines[2:6]) == pytest.approx(why["score"], abs=0.003)
    assert any(line.endswith("purchase of i3") for line in lines[6:])
    assert "-0.000" not in printed(shell("explain", "i4", "--scenario", "reorder"))
    assert "not served: seen" in printed(shell("explain", "i3"))


RULES = """
[scenarios.home]
where = "price <= 5"
boosts = [{where = "new", by = 0.5}]
rerankers = ["diversity"]

[scenarios.lost]
rerankers = ["absent"]

[filters.quality]
repeat_s = 600
"""


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    (tmp_path / "rules.toml").write_text(RULES)
    return tmp_path / "rules.toml"


def test_explain_tells_what_rules_and_rerankers_did(shell: Shell, rules: Path) -> None:
    common = ("--config", rules, "--scenario", "home")
    shell("record", "i3", "--kind", "purchase")
    why = document(shell("explain", "i2", *common, "--json"))
    text = printed(shell("explain", "i2", *common))
    assert re.search(r"^ +\+0\.500  boost new$", text, re.MULTILINE), "what a rule adds has no weight"
    assert f"\n  diversity puts it at {why['reranked']['diversity']}\n" in text
    assert re.search(r"^ +[+-]\S+  taste \(weight 1\.000\)$", text, re.MULTILINE)
    left_out = printed(shell("explain", "i8", *common))
    assert left_out.splitlines()[1].startswith("not served: where price <= 5, score ")
    assert "diversity" not in left_out


def test_conditions_may_be_mixed_and_all_must_hold(shell: Shell) -> None:
    both = ("--where", 'colour=["red", "blue"]', "--where", "price <= 5 and 't1' in tags")
    found = document(shell("recommend", "-n", 60, *both, "--json"))["items"]
    wanted = {f"i{row}" for row in range(60) if row % 5 and row % 3 != 1 and row % 17 <= 4 and row % 4 == 1}
    assert {one["item"] for one in found} == wanted


def test_what_fails_or_is_missing_is_told(shell: Shell, rules: Path) -> None:
    assert "no plugin registers a reranker named 'absent'" in shell("stats", "--config", rules).stdout
    whole = Page("a1", (Recommendation("i1", "Item 1", 1, 0.5),), "home")
    assert len(console.page(whole).splitlines()) == 1
    partly = Page("a1", whole.items, "home", "only 1 left", ("source mood", "reranker lottery"))
    assert console.page(partly).splitlines()[1:] == [
        "(only 1 left)",
        "(made without source mood, reranker lottery: see `edgerec plugins list --state`)",
    ]
    stats = document(shell("stats", "--json"))
    stats["plugins"]["failures"] = {"source mood": {"failures": 3, "reason": "ValueError: no", "disabled": True}}
    assert "source mood: DISABLED after 3 failures, the last: ValueError: no" in console.statistics(stats)


def test_an_event_that_a_filter_sets_aside_is_told(shell: Shell, rules: Path) -> None:
    shell("record", "i3", "--at", "1700000000", "--config", rules)
    done = shell("record", "i3", "--at", "1700000001", "--config", rules)
    assert done.stdout.startswith("stored, but set aside by an event filter: nothing is learned from it; event ")


def test_stats_is_a_table_for_people(shell: Shell) -> None:
    shell("record", "i3", "--kind", "purchase")
    found = document(shell("stats", "--json"))
    text = printed(shell("stats"))
    assert "1 events" in text
    assert "updater sgd" in text
    for name, scenario in found["learning"]["scenarios"].items():
        assert re.search(rf"^{name} +events +hit@10 +NDCG@10", text, re.MULTILINE)
        for ranking in scenario["progressive"]:
            assert re.search(rf"^  {ranking} +1 +[01]\.\d{{4}}", text, re.MULTILINE)
    assert text.count("served") == len(found["learning"]["scenarios"])


def test_a_newer_bundle_is_installed_and_rolled_back(shell: Shell, tmp_path: Path) -> None:
    shell("record", "i3", "--kind", "purchase")
    newer = tiny_bundle(tmp_path / "newer.edgerec", version=2)
    assert printed(shell("install", newer)) == "version 2 runs (no trial, 1 events learned from)\n"
    assert printed(shell("rollback")) == "version 1 runs again\n"
    assert document(shell("install", newer, "--force", "--json"))["bundle"]["version"] == 2
    assert document(shell("rollback", "--json"))["version"] == 1


def test_bundles_are_looked_into(bundle_path: Path) -> None:
    text = printed(invoke("bundle", "info", bundle_path))
    assert "name: tiny\n" in text
    assert re.search(r"[\d,]+ bytes  encoder\.onnx", text)
    assert document(invoke("bundle", "info", bundle_path, "--json"))["n_items"] == 60
    assert printed(invoke("bundle", "verify", bundle_path)).endswith("tiny version 1 is sound\n")
    assert document(invoke("bundle", "verify", bundle_path, "--json")) == {
        "valid": True, "name": "tiny", "version": 1
    }  # fmt: skip


def test_plugins_and_data_sets_are_listed() -> None:
    assert "sgd: updater sgd\n" in printed(invoke("plugins", "list"))
    assert document(invoke("plugins", "list", "--json"))["loaded"]["sgd"] == ["updater sgd"]
    assert "retail" in printed(invoke("data", "list"))
    assert "retail" in {each["name"] for each in document(invoke("data", "list", "--json"))["datasets"]}


def test_help_lists_every_command_and_what_it_does() -> None:
    text = printed(invoke("-h"))
    for name in [*ATTACHED, "recommend", "record", "explain", "stats"]:
        assert re.search(rf"^  {name} +\w.+", text, re.MULTILINE), name
    assert "[" not in text.partition("Commands:")[2].replace("[not installed", "")
    assert invoke("--version").stdout == f"edgerec, version {edgerec.__version__}\n"


# mistakes


def refused(result: Result, code: int, message: str) -> None:
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    assert re.search(message, result.stderr), result.stderr
    assert result.exception is None or isinstance(result.exception, SystemExit)


@pytest.mark.parametrize(
    ("code", "arguments", "message"),
    [
        (2, ["recommend", "--stat", "x"], "No such option"),
        (2, ["recommend", "--seen", "maybe"], "not one of"),
        (2, ["recommend", "-n", "many"], "not a valid integer"),
        (2, ["similar"], "Missing argument 'ITEM'"),
        (40, ["recommend", "-n", "0"], "n = 0"),
        (40, ["similar", "i1", "-n", "-3"], "n = -3"),
        (42, ["recommend", "--where", "price_max"], "the catalogue has: .*price"),
        (40, ["recommend", "--where", "price <"], "."),
        (40, ["recommend", "--where", "price_max=cheap"], "needs a number"),
        (41, ["recommend", "--scenario", "home"], "the bundle has: default, reorder"),
        (41, ["explain", "i1", "--scenario", "home"], "no scenario"),
        (42, ["recommend", "--where", "prize_max=5"], "the catalogue has: .*price"),
        (43, ["similar", "absent"], "no item 'absent'"),
        (43, ["explain", "absent"], "no item 'absent'"),
        (31, ["record", "i1", "--kind", "buy"], "the bundle knows: click, purchase"),
        (32, ["record", "i1", "--value", "nan"], "not finite"),
        (32, ["record", "i1", "--at", "yesterday"], "is no time"),
        (32, ["record", "i1", "--at", "2026-11-24"], "names no zone"),
        (32, ["record", "x" * 257], "257 characters"),
        (24, ["rollback"], "no earlier bundle"),
        (60, ["stats", "--config", "absent.toml"], "no configuration file"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_a_mistake_is_an_exit_code_and_a_hint(
    shell: Shell, code: int, arguments: list[str], message: str, as_json: bool
) -> None:
    refused(shell(*arguments, *(["--json"] if as_json else [])), code, message)


def test_one_event_id_with_two_payloads_is_a_conflict(shell: Shell) -> None:
    shell("record", "i1", "--event-id", "a")
    refused(shell("record", "i2", "--event-id", "a"), 33, "another payload")


def test_what_would_be_lost_at_once_needs_a_folder(bundle_path: Path) -> None:
    for command in (["record", "i1"], ["rollback"], ["install", "new.edgerec"]):
        refused(invoke(*command, "--bundle", bundle_path), 40, "--state is missing")
    assert invoke("recommend", "--bundle", bundle_path).exit_code == 0


def test_a_folder_that_is_a_file_is_named(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    refused(shell("recommend", state=tmp_path / "file"), 2, "is a file")


@pytest.mark.parametrize("command", ["recommend", "stats", "bundle info", "bundle verify"])
def test_a_file_that_is_no_bundle_is_refused(shell: Shell, command: str, tmp_path: Path, bundle_path: Path) -> None:
    junk, newer = tmp_path / "orders.csv", tiny_bundle(tmp_path / "newer.edgerec", format=2)
    junk.write_text("user,item\n")
    for path, code, message in ((tmp_path / "none", 21, "hint"), (junk, 22, "not a zip"), (newer, 23, "format")):
        run = invoke(*command.split(), path) if " " in command else shell(command, bundle=path)
        refused(run, code, message)


def test_bundles_that_do_worse_than_they_say_or_than_what_runs_are_refused(shell: Shell, tmp_path: Path) -> None:
    files = bundle_files() | {"golden.json": golden({"query": [1.0] * 8})}
    wrong = write_zip(tmp_path / "wrong.edgerec", files, manifest_of(files, 60, 8, version=2))
    refused(invoke("bundle", "verify", wrong), 25, "something else than the exporter")
    refused(shell("install", wrong), 25, "something else than the exporter")
    refused(shell("install", tiny_bundle(tmp_path / "same.edgerec")), 24, "running already|not newer")
    refused(shell("install", tmp_path / "none"), 21, "no bundle")


def test_a_store_that_cannot_be_used_is_named(shell: Shell, tmp_path: Path) -> None:
    shell("record", "i1")
    store = next((tmp_path / "state").glob("edgerec.db"))
    with sqlite3.connect(store) as connection:
        newer = "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('edgerec', 'newer', '')"
        connection.execute(newer)
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    refused(shell("stats"), 52, "update edgerec")


def test_an_updater_that_nobody_registers_is_named(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text('[learning]\nupdater = "absent"\n')
    refused(shell("stats", "--config", tmp_path / "settings.toml"), 71, "registered: .*sgd")
    (tmp_path / "settings.toml").write_text("[learning\n")
    refused(shell("stats", "--config", tmp_path / "settings.toml"), 60, "settings.toml")


def test_a_command_of_an_absent_distribution_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "edgerec_tools.data_commands", None)
    refused(invoke("data", "list", "--json"), 90, "pip install edgerec-tools")


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    drawn = dict(re.findall(r"(\w+) +(\d+)\b", (errors.__doc__ or "").partition("\n")[2]))
    known = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.EdgeRecError)]
    assert {each.__name__: str(each.exit_code) for each in known}.items() <= drawn.items()
    assert len({each.exit_code for each in known}) == len(known)
    from edgerec_tools.simulate import SimulationError

    assert drawn["SimulationError"] == str(SimulationError.exit_code)


# processes


def test_the_module_is_the_command(bundle_path: Path, tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("edgerec")
    for arguments in (["-h"], ["recommend", "--bundle", bundle_path, "-n", "3"], ["bundle", "info", tmp_path / "none"]):
        runs = [
            subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, check=False)
            for command in ([sys.executable, "-m", "edgerec"], [script])
        ]
        assert runs[0].returncode == runs[1].returncode
        assert (runs[0].stdout, runs[0].stderr) == (runs[1].stdout, runs[1].stderr)
        assert "Traceback" not in runs[0].stderr


def test_a_reader_that_leaves_early_is_no_error_to_be_traced(bundle_path: Path) -> None:
    command = f"'{sys.executable}' -m edgerec bundle info '{bundle_path}' --json | head -n 1"
    run = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("{\n", "")
