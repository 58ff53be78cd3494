"""Data sets: `retail` is built in, MovieLens is fetched, anything else is imported from a file.

All become the same columnar `Dataset` and are kept as one file each in the data home.
"""

from __future__ import annotations

import logging
import os
from importlib.resources import files
from pathlib import Path

from edgerec.errors import DataError
from edgerec_tools.datasets.dataset import Basket, Dataset
from edgerec_tools.datasets.storage import SUFFIX, read, read_header, write

__all__ = [
    "SUFFIX",
    "Basket",
    "Dataset",
    "data_home",
    "load",
    "locate",
    "read",
    "read_header",
    "retail_path",
    "retail_text_path",
    "write",
]

_log = logging.getLogger(__name__)


def retail_path() -> Path:
    """The built-in data set's file: Online Retail, Chen (2015), CC BY 4.0; see ATTRIBUTION.md beside it."""
    return Path(str(files(__name__) / "online_retail" / f"online_retail{SUFFIX}"))


def retail_text_path() -> Path:
    """Content vectors of the built-in data set's descriptions; scripts/build_online_retail_text.py makes them."""
    return retail_path().with_name("text.npz")


def data_home() -> Path:
    """Where fetched and imported data sets lie: $EDGEREC_DATA, else edgerec in $XDG_DATA_HOME or ~/.local/share."""
    chosen = os.environ.get("EDGEREC_DATA")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "edgerec"


def locate(name: str) -> Path | None:
    """The file of a data set known by name (`retail`, or one in the data home); None where there is none."""
    path = retail_path() if name == "retail" else data_home() / f"{name}{SUFFIX}"
    return path if os.sep not in name and path.is_file() else None


def load(name_or_path: str | os.PathLike[str]) -> Dataset:
    """A data set by name, or from a path: one of our files, a folder with one, or any file that can be imported.

    Raises DataError where there is none, or the file cannot be read.
    """
    known = locate(os.fspath(name_or_path))
    if known is not None:
        return read(known)
    path = Path(name_or_path)
    if path.is_dir():
        path = _only(path)
    if not path.is_file():
        raise DataError(
            f"there is no data set '{name_or_path}', nor a file of that name", hint=_advice(str(name_or_path))
        )
    if path.name.endswith(SUFFIX):
        return read(path)
    from edgerec_tools.datasets.importing import import_file

    dataset, report = import_file(path)
    for finding in report.findings:
        _log.warning("%s: %d rows %s: %s", path.name, finding.rows, finding.action, finding.name)
    return dataset


def _only(folder: Path) -> Path:
    """The data set in a folder that `data import --out` wrote to."""
    found = sorted(folder.glob(f"*{SUFFIX}"))
    if len(found) == 1:
        return found[0]
    names = f"name one of them: {', '.join(map(str, found))}" if found else "edgerec data import FILE --out FOLDER"
    raise DataError(f"the folder {folder} holds {len(found) or 'no'} data set{'s' * (len(found) > 1)}", hint=names)


def _advice(name: str) -> str:
    from edgerec_tools.datasets.movielens import SOURCES

    return f"run: edgerec data fetch {name}" if name in SOURCES else "see: edgerec data list"
