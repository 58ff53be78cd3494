"""A model that gives no numbers for some of its user's histories: pages go on, and no state takes them in."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
import pytest
from bundles import bundle_files, manifest_of, npy, write_zip
from conftest import START, Opener
from faults.invariants import has_learned
from onnx import TensorProto, helper, numpy_helper

import edgerec
from edgerec_plugins import sgd


@pytest.fixture
def fails_at_five(tmp_path: Path) -> Path:
    """A bundle whose encoder divides by the number of events less five."""
    files = bundle_files()
    model = onnx.load_from_string(files["encoder.onnx"])
    graph = model.graph
    next(node for node in graph.node if node.output[0] == "query").output[0] = "sound"
    graph.node.extend(
        [
            helper.make_node("Cast", ["mask"], ["counted"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", ["counted", "one"], ["count"], keepdims=1),
            helper.make_node("Sub", ["count", "five"], ["beyond"]),
            helper.make_node("Div", ["sound", "beyond"], ["query"]),
        ]
    )
    graph.initializer.append(numpy_helper.from_array(np.float32(5), "five"))
    files["encoder.onnx"] = model.SerializeToString()
    return write_zip(tmp_path / "five.edgerec", files, manifest_of(files, 60, 8))


@pytest.fixture
def overflows(tmp_path: Path) -> Path:
    """A bundle in which the scores of whoever touched item 7 are beyond float32 once squared."""
    files = bundle_files()
    vectors = np.load(io.BytesIO(files["items/vectors.npy"]))
    vectors[7] = 9e11
    files["items/vectors.npy"] = npy(vectors)
    return write_zip(tmp_path / "far.edgerec", files, manifest_of(files, 60, 8))


def sound(rec: edgerec.Recommender) -> bool:
    """Full pages of finite scores, finite states, and these are a replay's."""
    learned = rec._device.snapshot().learned
    arrays = [*learned.updater.values(), learned.progress.weights, learned.progress.guard, learned.progress.sums]
    scores = [one.score for one in rec.recommend(5)]
    return (
        len(scores) == 5
        and bool(np.isfinite(scores).all())
        and all(np.isfinite(array).all() for array in arrays)
        and has_learned(rec)
    )


def test_an_encoder_that_gives_infinities_for_one_history(opener: Opener, fails_at_five: Path) -> None:
    """The page is made without it and says so; with the next event it takes part again."""
    rec = opener(fails_at_five)
    for n in range(1, 8):
        rec.record(f"i{n}", "click", at=START + n)
        assert rec.recommend(5).degraded == (("encoder",) if n == 5 else ())
        assert sound(rec)


def test_scores_that_overflow_for_some_histories(opener: Opener, overflows: Path) -> None:
    """While such an item is among the last events, taste is left out, and named. It is not given up: what is learned
    follows from the events, whatever restarts lie between them."""
    items = [1, 2, 3, 7, *range(10, 20)]
    for number, item in enumerate(items):
        rec = opener(overflows, plugins=[sgd])
        rec.record(f"i{item}", "click", at=START + number)
        assert rec.recommend(5).degraded == (("taste",) if 7 in items[max(0, number - 7) : number + 1] else ())
        assert sound(rec)
        if number % 2:
            rec.close()
