"""Pairs of new items, counted in sketches, become neighbours: what was bought together, and little else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgerec.bundle.federated import BlockSpec
from edgerec.errors import DataError
from edgerec.federation.sketch import sketch
from edgerec_exporters.federation import pairs
from edgerec_exporters.federation.pairs import HALF_LIFE_DAYS, SMOOTHING, WEIGHT, Csr

DAY = 86_400.0
N = 40
SPEC = BlockSpec("pairs", "pair_sketch", 4096, 12.0, 0.125, None, 17, (3, 7))


def base() -> Csr:
    """Row 0 has the neighbour 1, row 2 the neighbours 3 and 4."""
    indptr = np.zeros(N + 1, np.int32)
    indptr[1:3], indptr[3:] = 1, 3
    return indptr, np.array([1, 3, 4], np.int32), np.array([0.5, 0.25, 0.75], np.float32)


def dense(csr: Csr) -> np.ndarray:
    indptr, ids, weights = csr
    out = np.zeros((N, N), np.float32)
    out[np.repeat(np.arange(N), np.diff(indptr)), ids] = weights
    return out


def counted(*rows: tuple[int, int], times: float = 20.0) -> np.ndarray:
    one, other = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    return sketch(SPEC, one, other).astype(np.float64) * times


def held(**counts: float) -> np.ndarray:
    out = np.zeros(N)
    for name, count in counts.items():
        out[int(name[1:])] = count
    return out


def test_an_item_becomes_a_neighbour_of_what_it_was_bought_with() -> None:
    known = pairs.begun(SPEC, N, 0.0, base()).after(counted((3, 10), (2, 7)), held(i10=50, i2=30, i3=20, i7=20), DAY)
    made, before = dense(known.neighbours(SPEC)), dense(base())
    assert made[10, 3] == pytest.approx(WEIGHT * 20 / (50 + SMOOTHING))
    assert made[2, 7] == pytest.approx(WEIGHT * 20 / (30 + SMOOTHING))
    made[10, 3] = made[2, 7] = 0
    assert np.array_equal(made, before)


def test_what_is_there_already_is_added_to() -> None:
    known = pairs.begun(SPEC, N, 0.0, base()).after(counted((2, 3)), held(i2=10), DAY)
    assert dense(known.neighbours(SPEC))[2, 3] == pytest.approx(0.25 + WEIGHT * 20 / (10 + SMOOTHING))


def test_what_does_not_stand_out_of_the_noise_is_left_out() -> None:
    noise = np.random.default_rng(0).normal(0, 5, SPEC.size)
    known = pairs.begun(SPEC, N, 0.0, base()).after(counted((3, 10), times=40.0) + noise, held(i10=50), DAY)
    made = dense(known.neighbours(SPEC)) - dense(base())
    assert made.argmax() == 10 * N + 3
    assert np.count_nonzero(made) < 10


def test_old_rounds_fade_and_the_base_does_not() -> None:
    first = pairs.begun(SPEC, N, 0.0, base()).after(counted((3, 10)), held(i10=50), 0.0)
    later = first.after(np.zeros(SPEC.size), np.zeros(N), HALF_LIFE_DAYS * DAY)
    assert later.sums == pytest.approx(first.sums / 2)
    assert later.held == pytest.approx(first.held / 2)
    assert later.base is first.base
    assert np.array_equal(dense(later.neighbours(SPEC)) > 0, dense(first.neighbours(SPEC)) > 0)


def test_nothing_counted_changes_nothing() -> None:
    made = pairs.begun(SPEC, N, 0.0, base()).neighbours(SPEC)
    assert all(np.array_equal(one, other) for one, other in zip(made, base(), strict=True))


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    known = pairs.begun(SPEC, N, 5.0, base()).after(counted((3, 10)), held(i10=50), DAY)
    pairs.save(tmp_path / "pairs-2.npz", known)
    again = pairs.load(tmp_path / "pairs-2.npz", SPEC, N)
    assert again is not None
    assert again.at == DAY
    assert np.array_equal(again.sums, known.sums)
    assert np.array_equal(dense(again.neighbours(SPEC)), dense(known.neighbours(SPEC)))
    assert pairs.load(tmp_path / "pairs-3.npz", SPEC, N) is None


def test_a_file_that_is_something_else_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"a\.npz"):
        pairs.load(tmp_path / "a.npz", SPEC, N)
    pairs.save(tmp_path / "b.npz", pairs.begun(SPEC, N, 0.0, base()))
    with pytest.raises(DataError, match="other blocks"):
        pairs.load(tmp_path / "b.npz", SPEC, N + 1)
