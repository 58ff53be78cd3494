"""The gateway under load, as a table for docs/results/gateway.md.

    edgerec export retail.model --out retail.edgerec
    python -m edgerec_tools.studies.gateway_load.study retail.edgerec

A bundle without federated blocks gets some of the usual sizes, in a copy.
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from pathlib import Path

import click
import numpy as np

from edgerec.bundle import verify
from edgerec.bundle.federated import payload_size, read_federated
from edgerec_tools.studies.gateway_load.harness import Load, Outcome, run
from edgerec_tools.studies.gateway_load.hostile import EXPECTED

_SKETCH = 12_288


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--deltas", default=10_000, show_default=True)
@click.option("--clients", default=4, show_default=True, help="Processes of devices; one of attackers comes on top.")
@click.option("--threads", default=8, show_default=True, help="Connections of each.")
@click.option("--kills", default=2, show_default=True)
@click.option("--cycles", default=100, show_default=True, help="Times that the attackers go through all attacks.")
def main(bundle: Path, deltas: int, clients: int, threads: int, kills: int, cycles: int) -> None:
    """Puts the load on a gateway on loopback and prints what came of it."""
    with tempfile.TemporaryDirectory(prefix="edgerec-load-") as name:
        folder = Path(name)
        federated = _federated(bundle, folder / "load.edgerec")
        manifest = verify(federated)
        specs = read_federated(manifest.federated, manifest.n_items, manifest.scenarios).blocks
        done = run(Load(federated, folder, deltas, clients, threads, kills, cycles))
    click.echo("\n".join(_table(done, payload_size(specs))))
    click.echo("\n".join(_attacks(done)))
    if done.lost or done.twice or done.rows_wrong or not _refused(done):
        raise SystemExit("a delta was lost, counted twice or changed, or an attack had another answer")


def _federated(bundle: Path, out: Path) -> Path:
    if verify(bundle).federated:
        return bundle
    with zipfile.ZipFile(bundle) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "manifest.json":
                manifest = json.loads(data)
                manifest["federated"] = {"blocks": _blocks(manifest["n_items"])}
                data = json.dumps(manifest).encode()
            new.writestr(name, data)
    return out


def _blocks(n_items: int) -> list[dict[str, object]]:
    return [
        {"name": "popularity", "kind": "item_counts", "size": n_items, "bound": 4.0, "unit": 0.0625},
        {"name": "pairs", "kind": "pair_sketch", "size": _SKETCH, "bound": 12.0, "unit": 0.125, "seed": 17},
        {"name": "metrics", "kind": "metrics", "size": 32, "bound": 1.0, "unit": 2**-10},
    ]


def _table(done: Outcome, payload_bytes: int) -> list[str]:
    took, each = done.seconds - sum(done.down), 1000 * done.cpu_s / len(done.acknowledged)
    middle, most = np.percentile(done.latencies, [50, 99]) * 1000
    rows = {
        "bytes of a delta": f"{payload_bytes:,}",
        "deltas acknowledged": f"{len(done.acknowledged):,} ({_counts(done.statuses)})",
        "sent again, though acknowledged": _counts(done.again),
        "kills; down for": f"{len(done.down)}; {', '.join(f'{down:.1f} s' for down in done.down) or '-'}",
        "requests repeated because of them": f"{done.retries:,}",
        "rounds; deltas in each": f"{len(done.rounds)}; {', '.join(f'{len(ids):,}' for ids in done.rounds)}",
        "acknowledged and in no round": str(done.lost),
        "in two rounds, or twice in one": str(done.twice),
        "rows of a sample that differ from what was sent": str(done.rows_wrong),
        "hostile requests, all refused": f"{sum(sum(found.values()) for found in done.attacks.values()):,}",
        "time, without the kills": f"{took:.1f} s",
        "deltas a second": f"{len(done.acknowledged) / took:.0f}, each with its enrolment",
        "processor time of the gateway": f"{each:.1f} ms for each, with its starts",
        "latency of a delta, median and 99 %": f"{middle:.0f} ms, {most:.0f} ms",
        "store": f"{done.store_bytes / 1e6:.0f} MB",
        "load average of the machine meanwhile": f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores",
    }
    return ["| what | value |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items()), ""]


def _attacks(done: Outcome) -> list[str]:
    lines = ["| request | must get | got |", "| --- | --- | --- |"]
    for name, status in EXPECTED.items():
        lines.append(f"| {name} | {status} | {_counts(done.attacks.get(name, {}))} |")
    return lines


def _refused(done: Outcome) -> bool:
    return all(set(done.attacks.get(name, {})) == {status} for name, status in EXPECTED.items())


def _counts(found: dict[int, int]) -> str:
    return ", ".join(f"{count:,} × {status}" for status, count in sorted(found.items())) or "-"


if __name__ == "__main__":
    main()
