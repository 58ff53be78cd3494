"""The house stands as designed: rooms import only from floors below, and the device stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = [
    {"records", "log", "files"},
    {"types", "errors", "version"},
    {"deltas", "federation_settings"},
    {"interfaces", "config", "score_table", "off_policy", "topk"},
    {"hookspecs", "bundle", "store", "isolation", "discovery", "exposures"},
    {"history", "hooks", "shields"},
    {"serving", "learning", "plugins"},
    {"checks"},
    {"engine"},
    {"tidying", "golden", "event_rows", "trials", "participation"},
    {"device"},
    {"profile_file"},
    {"relearning", "catalogue_update", "pages", "recording"},
    {"lifecycle", "merging"},
    {"privacy", "probation"},
    {"recovery"},
    {"explanations", "statistics", "profile", "policy_evaluation", "console", "updates"},
    {"federation"},
    {"runtime", "options"},
    {"__init__"},
    {"doctor", "plugin_new", "update_commands", "sync_commands"},
    {"doctor_commands"},
    {"runtime_commands"},
    {"plugin_commands"},
    {"library_commands"},
    {"cli"},
    {"__main__"},
]
FLOOR_OF = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
DEVICE_IMPORTS = {"numpy", "onnxruntime", "sqlite_utils", "pluggy", "click"}
EXTRAS = {"updates": {"tuf"}, "profile_file": {"pyrage"}}
"""Rooms that may import more, on being asked to work: what an extra brings."""
PLUGIN_EXTRAS = {"gateway_client.py": {"urllib3", "cryptography"}}
HEAVY = {
    "torch",
    "onnx",
    "flwr",
    "matplotlib",
    "rich",
    "pandas",
    "polars",
    "plotly",
    "tuf",
    "securesystemslib",
    "cryptography",
    "urllib3",
    "starlette",
    "pyrage",
}


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT / "edgerec").parts
    return parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Every imported module, wherever in the file, under TYPE_CHECKING too; `from edgerec import x` is edgerec.x."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "edgerec":
            found |= {f"edgerec.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def rooms_of(path: Path) -> set[str]:
    """The rooms of edgerec that a file imports; the package's own face is `__init__`."""
    parts = [name.split(".") for name in imports_of(path)]
    return {part[1] if part[1:] and part[1] in FLOOR_OF else "__init__" for part in parts if part[0] == "edgerec"}


FREEZING = ROOT / "edgerec/_pyinstaller"
"""Runs where an app is frozen, not on a device."""
DEVICE_FILES = sorted(path for path in (ROOT / "edgerec").rglob("*.py") if FREEZING not in path.parents)


@pytest.mark.parametrize("path", DEVICE_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_from_floors_below(path: Path) -> None:
    room = room_of(path)
    for other in rooms_of(path) - {room}:
        assert FLOOR_OF[other] < FLOOR_OF[room], f"{room} imports {other}"


def test_every_room_has_a_floor() -> None:
    assert {room_of(path) for path in DEVICE_FILES} == set(FLOOR_OF)


def test_serving_and_learning_meet_only_from_the_engine_up() -> None:
    for path in DEVICE_FILES:
        if {"serving", "learning"} <= rooms_of(path):
            assert FLOOR_OF[room_of(path)] >= FLOOR_OF["engine"], path


@pytest.mark.parametrize("folder", ["edgerec", "plugins/edgerec_plugins"])
def test_the_device_side_depends_on_nothing_else(folder: str) -> None:
    for path in {*(ROOT / folder).rglob("*.py")} - {*FREEZING.glob("*.py")}:
        outside = {name.split(".")[0] for name in imports_of(path)} - sys.stdlib_module_names - DEVICE_IMPORTS
        if folder == "edgerec":
            outside -= EXTRAS.get(room_of(path), set())
        else:
            outside -= PLUGIN_EXTRAS.get(path.name, set())
        assert outside <= {"edgerec", "edgerec_plugins"}, path


def test_no_module_level_state() -> None:
    """A module of the device side holds constants and definitions, no instance that a recommender could share."""
    for path in DEVICE_FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and isinstance(node.value, (ast.List, ast.Dict, ast.Set)):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
                assert all(name == "__all__" or name.strip("_").isupper() for name in names), path


def test_no_file_grows_out_of_hand() -> None:
    for folder in ("edgerec", "plugins", "exporters", "tools"):
        for path in (ROOT / folder).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 370, path


SCRIPT = """
import sys
sys.modules["pandas"] = None  # sqlite_utils takes it where it finds it; whoever else tries is told
import edgerec
from pathlib import Path
eager = {"click", "sqlite_utils", "onnxruntime"} & set(sys.modules)
assert not eager, f"import edgerec brought {eager}"
bundle, state = sys.argv[1:3]
for _ in range(2):  # the second time nothing is left to migrate
    before = set(sys.modules)
    with edgerec.open(bundle, state) as rec:
        page = rec.recommend(3)
        rec.record(page[0].item, "click", recommendation_id=page.id)
        rec.recommend(3)
    late = {name.partition(".")[0] for name in set(sys.modules) - before}
heavy = set(sys.argv[3].split(",")) & {name.partition(".")[0] for name, module in sys.modules.items() if module}
assert not heavy, f"serving brought {heavy}"
assert not {"click", "sqlite_utils"} & late, late
"""


def test_serving_and_recording_load_nothing_heavy(bundle_path: Path, tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    subprocess.run([sys.executable, "-c", SCRIPT, str(bundle_path), state, ",".join(HEAVY)], check=True)


def test_opening_a_migrated_store_needs_no_sqlite_utils(bundle_path: Path, tmp_path: Path) -> None:
    script = (
        "import sys, edgerec\n"
        "with edgerec.open(sys.argv[1], sys.argv[2], plugins=['edgerec_plugins.sgd']) as rec:\n"
        "    rec.record(rec.recommend(1)[0].item)\n"
        "sys.exit('sqlite_utils' in sys.modules or 'click' in sys.modules)\n"
    )
    command = [sys.executable, "-c", script, str(bundle_path), str(tmp_path / "state")]
    subprocess.run(command, check=False)  # migrates
    subprocess.run(command, check=True)
