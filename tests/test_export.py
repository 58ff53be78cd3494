"""Exports: a trained model becomes a bundle that a device opens and that computes what PyTorch computes."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from edgerec.bundle import Retriever, load_bundle, verify
from edgerec.bundle.manifest import EventKind, Scenario
from edgerec.config import Config
from edgerec.engine import Engine
from edgerec.errors import ExportError
from edgerec.golden import check_golden
from edgerec.plugins import Plugins
from edgerec_exporters import bundle_writer, export_commands
from edgerec_exporters.bundle_writer import export
from edgerec_exporters.golden import tell_stories
from edgerec_exporters.int8 import block_size, build_retriever, quantise
from edgerec_exporters.onnx_export import export_encoder
from edgerec_exporters.parity import History, pad
from edgerec_plugins import sgd

LENGTH, DIM, KINDS = 12, 16, 2


class Bag(nn.Module):
    """A bag of item vectors, weighted by a learned decay of age and a factor per kind."""

    def __init__(self, dim: int = DIM) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.tensor(0.05))
        self.kind = nn.Parameter(torch.tensor([0.0, 0.3]))
        self.project = nn.Linear(dim, dim, bias=False)

    def forward(self, history: Tensor, age_days: Tensor, kind: Tensor, mask: Tensor) -> Tensor:
        weight = torch.exp(self.kind[kind] - self.decay * age_days) * mask
        pooled = (weight.unsqueeze(1) @ history).squeeze(1) / (weight.sum(1, keepdim=True) + 1e-6)
        return self.project(pooled)


class Plain(nn.Module):
    """Reads neither ages nor kinds."""

    def forward(self, history: Tensor, age_days: Tensor, kind: Tensor, mask: Tensor) -> Tensor:
        return (history * mask.unsqueeze(-1)).sum(1)


class Attention(nn.Module):
    """One causal self-attention block with positions."""

    def __init__(self, dim: int = DIM) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(LENGTH, dim) * 0.02)
        self.block = nn.TransformerEncoderLayer(dim, 2, 2 * dim, dropout=0.0, batch_first=True)

    def forward(self, history: Tensor, age_days: Tensor, kind: Tensor, mask: Tensor) -> Tensor:
        x = history + self.place
        return self.block(x)[:, -1] * mask.any(1, keepdim=True)


@dataclass(frozen=True)
class Made:
    """A trained model, made up."""

    encoder: nn.Module
    vectors: np.ndarray
    bias: np.ndarray
    popularity: np.ndarray
    negatives: np.ndarray
    neighbours: tuple[np.ndarray, np.ndarray, np.ndarray] | None
    items: list[str]
    titles: list[str]
    attributes: list[dict[str, Any]]
    histories: list[History]
    event_kinds: dict[str, EventKind] = field(
        default_factory=lambda: {"click": EventKind(1.0), "purchase": EventKind(2.0, True)}
    )
    history_length: int = LENGTH
    history_kinds: tuple[str, ...] = ("click", "purchase")
    scenarios: dict[str, Scenario] = field(
        default_factory=lambda: {"default": Scenario("hide", {"taste": 1.0, "neighbours": 0.5, "popular": 0.3})}
    )
    sources: dict[str, Any] = field(default_factory=lambda: {"neighbours": {"half_life_days": 30.0}})
    blend: dict[str, Any] = field(default_factory=dict)
    guard: dict[str, Any] = field(default_factory=dict)
    updater: str = "sgd"
    updaters: dict[str, Any] = field(default_factory=dict)
    federated: dict[str, Any] = field(default_factory=dict)
    n_negatives: int = 8
    n_replayed: int = 4
    n_rivals: int = 0
    learn_history: bool = False
    filters: dict[str, Any] = field(default_factory=dict)
    content: Any = None
    repeat: Any = None


def made(n_items: int = 400, n_histories: int = 120, *, seed: int = 0, encoder: nn.Module | None = None) -> Made:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    ids = np.concatenate([rng.choice(n_items, 4, replace=False) for _ in range(n_items)])
    histories = []
    for length in (1, 5, 30, *rng.integers(1, 2 * LENGTH, n_histories - 3)):
        age = np.sort(rng.exponential(40, length))[::-1].astype(np.float32)
        rows = rng.integers(0, n_items, length).astype(np.int32)
        histories.append(History(rows, age - age[-1], rng.integers(0, KINDS, length)))
    return Made(
        encoder=encoder or Bag(),
        vectors=(rng.standard_normal((n_items, DIM)) / 4).astype(np.float32),
        bias=(rng.standard_normal(n_items) * 0.1).astype(np.float32),
        popularity=np.log1p(rng.pareto(1.0, n_items) * 3).astype(np.float32),
        negatives=rng.integers(0, n_items, 256).astype(np.int32),
        neighbours=(
            np.arange(0, 4 * n_items + 1, 4, dtype=np.int32),
            ids.astype(np.int32),
            rng.random(len(ids)).astype(np.float32),
        ),
        items=[f"sku-{row}" for row in range(n_items)],
        titles=[f"Té № {row}" for row in range(n_items)],
        attributes=[{"price": row / 7, "tags": ["a"]} if row % 2 else {} for row in range(n_items)],
        histories=histories,
    )


@pytest.fixture(scope="module")
def trained() -> Made:
    return made()


@pytest.fixture(scope="module")
def converted(trained: Made) -> tuple[bytes, tuple[str, ...]]:
    return export_encoder(trained.encoder, LENGTH, DIM, KINDS)


@pytest.fixture
def _once(converted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch takes seconds to convert: tests about everything else share one conversion."""
    monkeypatch.setattr(bundle_writer, "export_encoder", lambda *_: converted)


once = pytest.mark.usefixtures("_once")


@pytest.fixture(scope="module")
def exported(trained: Made, converted: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("export") / "shop.edgerec"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle_writer, "export_encoder", lambda *_: converted)
        report = export(trained, out, name="shop", version=3, metrics={"ndcg@10": 0.07}, retrieve="int8")
    return out, report


def test_the_exported_file_is_a_sound_bundle_with_everything_in_it(
    exported: Any, trained: Made, tmp_path: Path
) -> None:
    out, report = exported
    manifest = verify(out)
    assert (manifest.name, manifest.version, manifest.metrics) == ("shop", 3, {"ndcg@10": 0.07})
    assert manifest.retrieval == {"kind": "int8", "candidates": 256}
    with load_bundle(out, tmp_path) as bundle:
        assert bundle.digest == report.digest
        np.testing.assert_array_equal(bundle.model.vectors, trained.vectors)
        np.testing.assert_array_equal(bundle.neighbours.ids, trained.neighbours[1])
        assert bundle.catalogue.items([7]) == [("sku-7", "Té № 7")]
        assert bundle.catalogue.attributes(7) == {"price": 1.0, "tags": ("a",)}


def test_the_report_tells_sizes_and_parity_and_is_json(exported: Any) -> None:
    out, report = exported
    told = json.loads(json.dumps(report.to_dict()))
    assert told["size"] == out.stat().st_size
    assert told["files"]["encoder.onnx"] > 0
    assert 0 < told["ratio_int8"] < 0.5
    assert told["float32"]["differing"] == 0
    assert told["float32"]["equal"] + told["float32"]["ties"] == told["float32"]["histories"] == 120
    assert told["int8"]["shipped"]
    assert told["int8"]["recall"] > 0.999
    assert told["int8"]["relative_ndcg"] > 0.99


def test_queries_on_the_device_equal_pytorchs(exported: Any, trained: Made, tmp_path: Path) -> None:
    with load_bundle(exported[0], tmp_path) as bundle, torch.no_grad():
        for past in trained.histories[:20]:
            inputs = pad([past], trained.vectors, LENGTH)
            expected = trained.encoder(*(torch.from_numpy(array) for array in inputs))[0].numpy()
            found = bundle.encoder.encode(bundle.model.vectors, past.rows, past.age_days, past.kinds)
            np.testing.assert_allclose(found, expected, atol=1e-6)


def test_golden_cases_cover_short_and_long_histories_and_hold(exported: Any, tmp_path: Path) -> None:
    with load_bundle(exported[0], tmp_path) as bundle:
        cases = bundle.golden["encoder"]
        assert [sum(case["mask"]) for case in cases] == [0, 1, LENGTH // 2, LENGTH]
        assert not any(cases[0]["query"])
        for case in cases:
            query = bundle.encoder(
                np.array([case["history"]], np.float32),
                np.array([case["age_days"]], np.float32),
                np.array([case["kind"]], np.int64),
                np.array([case["mask"]], np.bool_),
            )
            np.testing.assert_allclose(query[0], case["query"], atol=1e-6)


@once
def test_golden_stories_come_from_the_runtime_and_hold_when_told_again(trained: Made, tmp_path: Path) -> None:
    export(trained, tmp_path / "x.edgerec", name="shop", version=1, stories=tell_stories)
    with load_bundle(tmp_path / "x.edgerec", tmp_path / "data") as bundle:
        stories = bundle.golden["stories"]
        assert [len(told["events"]) for told in stories] == [0, 6, 15, 14]
        assert all(len(told["rankings"]["default"]["items"]) == 10 for told in stories)
        assert any(stories[1]["user_vector"])
        check_golden(Engine(bundle, Plugins([sgd]), Config()))


@once
def test_a_small_catalogue_ships_no_scan_but_reports_int8_all_the_same(trained: Made, tmp_path: Path) -> None:
    report = export(trained, tmp_path / "x.edgerec", name="shop", version=1)
    assert "retrieve.onnx" not in report.files
    assert report.ratio_int8 is None
    assert not report.int8.shipped
    assert report.int8.recall > 0.999


@once
def test_the_same_model_gives_the_same_bytes(trained: Made, converted: Any, tmp_path: Path) -> None:
    for name in ("a", "b"):
        export(trained, tmp_path / name, name="shop", version=1, created="2026-01-01T00:00:00Z")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert export_encoder(trained.encoder, LENGTH, DIM, KINDS) == converted


@once
def test_next_items_judge_int8_where_they_are_known(trained: Made, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    judged = [replace(past, targets=rng.integers(0, 400, 3).astype(np.int32)) for past in trained.histories]
    report = export(replace(trained, histories=judged), tmp_path / "x.edgerec", name="shop", version=1)
    assert report.int8.judged_by == "next items"
    assert report.int8.relative_ndcg > 0.99


@once
def test_a_bundle_that_differs_from_pytorch_is_not_written(trained: Made, tmp_path: Path) -> None:
    """The one conversion is of another encoder, as if the converter were at fault."""
    torch.manual_seed(9)
    other = Bag()
    (tmp_path / "x.edgerec").write_bytes(b"the old bundle")
    with pytest.raises(ExportError, match="differ from PyTorch"):
        export(replace(trained, encoder=other), tmp_path / "x.edgerec", name="shop", version=1)
    assert (tmp_path / "x.edgerec").read_bytes() == b"the old bundle"
    assert [path.name for path in tmp_path.iterdir()] == ["x.edgerec"]


@once
def test_a_scan_that_ranks_worse_is_not_shipped(trained: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_writer, "CANDIDATES", 10)
    coarse = replace(trained, vectors=trained.vectors.copy())
    coarse.vectors[0] = 60.0  # one outlier per column eats all of int8's levels
    with pytest.raises(ExportError, match="int8 scan loses"):
        export(coarse, tmp_path / "x.edgerec", name="shop", version=1, retrieve="int8")
    assert not list(tmp_path.iterdir())


@once
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"popularity": np.full(400, np.nan, np.float32)}, "not finite"),
        ({"items": ["same"] * 400}, "share the item id"),
        ({"titles": ["x" * 5000] * 400}, "title"),
        ({"negatives": np.array([400], np.int32)}, "lie outside"),
        ({"histories": []}, "no histories"),
        ({"scenarios": {"other": Scenario("hide", {"taste": 1.0})}}, "default"),
    ],
)
def test_what_a_device_would_refuse_is_not_written(
    trained: Made, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ExportError, match=reason):
        export(replace(trained, **change), tmp_path / "x.edgerec", name="shop", version=1)
    assert not list(tmp_path.iterdir())


@once
@pytest.mark.parametrize(
    ("options", "reason"),
    [({"retrieve": "fast"}, "retrieve"), ({"version": 0}, "version"), ({"name": ""}, "name")],
)
def test_impossible_requests_are_errors(trained: Made, tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ExportError, match=reason):
        export(trained, tmp_path / "x.edgerec", **{"name": "shop", "version": 1, **options})


def test_a_transformer_exports_too(tmp_path: Path) -> None:
    report = export(made(encoder=Attention()), tmp_path / "x.edgerec", name="shop", version=1)
    assert report.float32.differing == 0


def test_inputs_that_an_encoder_ignores_are_left_out(tmp_path: Path) -> None:
    report = export(made(encoder=Plain()), tmp_path / "x.edgerec", name="shop", version=1)
    assert report.float32.differing == 0
    with load_bundle(tmp_path / "x.edgerec", tmp_path) as bundle:
        assert bundle.manifest.encoder_inputs == ("history", "mask")


def test_an_encoder_that_cannot_be_exported_is_an_export_error() -> None:
    class Branching(Bag):
        def forward(self, history: Tensor, age_days: Tensor, kind: Tensor, mask: Tensor) -> Tensor:
            return history.sum(1) if float(history.sum()) > 0 else history.mean(1)

    with pytest.raises(ExportError, match="cannot export"):
        export_encoder(Branching(), LENGTH, DIM, KINDS)


def test_an_exported_model_names_no_file_of_the_machine_that_made_it(exported: Any) -> None:
    with zipfile.ZipFile(exported[0]) as archive:
        for name in archive.namelist():
            assert str(Path(__file__).parent).encode() not in archive.read(name)


@pytest.mark.parametrize("n_items", [1, 2, 7, 100, 257, 5000])
@pytest.mark.parametrize("candidates", [10, 256])
def test_the_scan_finds_the_best_items_of_any_catalogue(n_items: int, candidates: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(n_items)
    vectors = rng.standard_normal((n_items, 8)).astype(np.float32)
    bias, popularity = rng.standard_normal((2, n_items)).astype(np.float32)
    (tmp_path / "r.onnx").write_bytes(build_retriever(vectors, bias, popularity, candidates))
    retriever = Retriever(tmp_path / "r.onnx", n_items)
    queries = rng.standard_normal((6, 10)).astype(np.float32)
    batch = retriever(queries)
    assert batch.shape == (6, min(candidates, n_items))
    for query, rows in zip(queries, batch, strict=True):
        assert len(set(rows.tolist())) == len(rows)
        np.testing.assert_array_equal(retriever(query[None])[0], rows)  # a row does not depend on its batch
        scores = vectors @ query[:8] + query[8] * bias + query[9] * popularity
        best = np.argsort(-scores, kind="stable")[:10]
        found = len(np.intersect1d(best, rows)) / len(best)
        assert found == 1.0 if candidates == 256 else found >= 0.7


def test_bytes_times_scales_give_the_table_back_but_for_a_constant_per_column() -> None:
    rng = np.random.default_rng(0)
    table = (rng.standard_normal((500, 6)) * [1, 10, 0.1, 0, 5, 2] + [0, 50, 0, 3, -9, 0]).astype(np.float32)
    packed, scales = quantise(table)
    shift = table - packed * scales
    assert packed.min() >= -64
    assert packed.max() <= 64
    assert (np.ptp(shift, axis=0) <= scales * 1.001).all()


def test_blocks_are_powers_of_two_near_the_root() -> None:
    assert [block_size(n, 256) for n in (10, 256, 20_000, 100_000, 1_000_000)] == [1, 1, 8, 16, 64]


@once
@pytest.mark.parametrize("as_json", [True, False])
def test_the_command_writes_the_bundle_and_tells_about_it(
    as_json: bool, trained: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Named(Made):
        name = "shop"
        metrics: ClassVar[dict[str, float]] = {"ndcg@10": 0.07}

    module = ModuleType("edgerec_exporters.trained")
    module.load_trained = lambda path: Named(**vars(trained))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "edgerec_exporters.trained", module)
    out = tmp_path / "x.edgerec"
    arguments = ["model.pt", "--out", str(out), "--version", "2", *(["--json"] if as_json else [])]
    result = CliRunner().invoke(export_commands.export, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert verify(out).version == 2
    if as_json:
        assert json.loads(result.stdout)["float32"]["differing"] == 0
    else:
        assert "top-10 equals PyTorch's for" in result.stdout
        assert "int8 scan (not shipped)" in result.stdout


def test_the_commands_module_is_cheap_to_import() -> None:
    code = "import sys, edgerec_exporters.export_commands; print({'torch', 'onnx', 'onnxruntime'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
