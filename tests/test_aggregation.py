"""The aggregators: against plain loops, against hostile devices, and as the plugin platform hands them out."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgerec.deltas import DeltaError
from edgerec.errors import ConfigError, PluginError, PluginNotFound
from edgerec.hookspecs import hookimpl
from edgerec.isolation import PluginTimeout
from edgerec.plugins import Plugins
from edgerec.types import Float32
from edgerec_plugins import aggregation
from edgerec_plugins.aggregation import Krum, Mean, Median, MultiKrum, TrimmedMean, scores_of


def round_of(n: int, hostile: int = 0, d: int = 12, seed: int = 0) -> Float32:
    """Honest devices around 1, and hostile ones that agree on something else, the last ones."""
    random = np.random.default_rng(seed)
    rows = 1 + 0.1 * random.normal(size=(n, d))
    rows[n - hostile :] = -50 + 0.01 * random.normal(size=(hostile, d))
    return rows.astype(np.float32)


def loop_scores(rows: Float32, f: int) -> list[float]:
    """Blanchard et al. (2017), section 4, word by word."""
    scores = []
    for i in range(len(rows)):
        squares = [sum((float(a) - float(b)) ** 2 for a, b in zip(rows[i], other, strict=True)) for other in rows]
        del squares[i]
        scores.append(sum(sorted(squares)[: len(rows) - f - 2]))
    return scores


@pytest.mark.parametrize(("n", "f"), [(3, 0), (5, 1), (9, 3), (11, 2), (23, 10)])
def test_krum_is_what_the_paper_says(n: int, f: int) -> None:
    for seed in range(5):
        rows = round_of(n, f, seed=seed)
        scores = loop_scores(rows, f)
        np.testing.assert_allclose(scores_of(rows.astype(np.float64), n - f - 2), scores, rtol=1e-9)
        best = min(scores)
        near = [row for row, score in zip(rows, scores, strict=True) if score <= best * (1 + 1e-9)]
        assert any(np.array_equal(Krum({"hostile": f}).aggregate(rows), row) for row in near)
        m = max(1, n - f - 2)
        order = np.argsort(scores, kind="stable")
        if n > 2 * f + 3:  # else the two best may tie for the last place
            expected = rows[order[:m]].astype(np.float64).mean(axis=0)
            np.testing.assert_allclose(MultiKrum({"hostile": f}).aggregate(rows), expected, rtol=1e-9)


@pytest.mark.parametrize("f", [1, 2, 5, 10])
@pytest.mark.parametrize("make", [Krum, MultiKrum])
def test_krum_stays_with_the_honest(make: type[Krum], f: int) -> None:
    rows = round_of(2 * f + 3, f)
    given = make({"hostile": f}).aggregate(rows)
    assert np.abs(given - 1).max() < 0.5
    assert np.abs(Mean({}).aggregate(rows) - 1).max() > 5, "as a mean does not"


def test_krum_gives_a_delta_that_a_device_sent_and_multi_krum_joins_several() -> None:
    rows = round_of(15, 3)
    assert (Krum({"hostile": 3}).aggregate(rows) == rows[:12]).all(axis=1).any()
    one = MultiKrum({"hostile": 3, "chosen": 1}).aggregate(rows)
    assert np.array_equal(one, Krum({"hostile": 3}).aggregate(rows))
    spread = [np.abs(MultiKrum({"hostile": 3, "chosen": m}).aggregate(rows) - 1).mean() for m in (1, 10)]
    assert spread[1] < spread[0]


def test_two_that_are_nearest_to_each_other_tie_and_the_order_decides_nothing() -> None:
    rows = np.array([[0.0, 1.0], [0.5, 1.0], [9.0, 9.0]], np.float32)
    scores = loop_scores(rows, 0)
    assert scores[0] == scores[1] < scores[2]
    given = {Krum({"hostile": 0}).aggregate(rows[list(order)]).tobytes() for order in ((0, 1, 2), (1, 0, 2), (2, 1, 0))}
    assert len(given) == 1


def test_a_far_outlier_costs_no_precision() -> None:
    rows = round_of(9, 1)
    rows[-1] = 1e38
    given = scores_of(rows.astype(np.float64), 6)[:8]
    np.testing.assert_allclose(given, loop_scores(rows, 1)[:8], rtol=1e-9)


@pytest.mark.parametrize(
    ("n", "share", "cut"), [(1, 0.4, 0), (2, 0.4, 0), (5, 0.1, 1), (10, 0.1, 1), (11, 0.1, 2), (20, 0, 0)]
)
def test_median_and_trimmed_mean_are_what_a_loop_gives(n: int, share: float, cut: int) -> None:
    rows = round_of(n, d=7)
    trimmed, median = TrimmedMean({"share": share}).aggregate(rows), Median({}).aggregate(rows)
    for column in range(7):
        values = sorted(float(value) for value in rows[:, column])
        kept = values[cut : n - cut]
        assert trimmed[column] == pytest.approx(sum(kept) / len(kept), rel=1e-12)
        middle = (values[(n - 1) // 2] + values[n // 2]) / 2
        assert median[column] == pytest.approx(middle, rel=1e-12)


def test_the_median_and_the_trimmed_mean_bear_their_share_of_hostile_devices() -> None:
    rows = round_of(21, 2)
    rows[-2:] = 1e38
    assert np.abs(TrimmedMean({"share": 0.1}).aggregate(rows) - 1).max() < 0.5
    assert TrimmedMean({"share": 0.01}).aggregate(rows).max() > 1e30
    assert np.abs(Median({}).aggregate(round_of(21, 10)) - 1).max() < 0.5


def test_the_mean_is_summed_in_float64() -> None:
    rows = np.full((1001, 1), 1e-4, np.float32)
    rows[0] = 2.0**24
    assert Mean({}).aggregate(rows)[0] * 1001 == pytest.approx(2.0**24 + 1000 * float(np.float32(1e-4)), rel=1e-13)


@pytest.mark.parametrize("f", [0, 1, 4])
def test_krum_needs_two_f_and_three(f: int) -> None:
    krum = Krum({"hostile": f})
    assert krum.least == 2 * f + 3
    krum.aggregate(round_of(2 * f + 3))
    with pytest.raises(DeltaError, match=f"at least {2 * f + 3} are needed.*hostile ones"):
        krum.aggregate(round_of(2 * f + 2))
    many = MultiKrum({"hostile": f, "chosen": 20})
    assert many.least == 22 + f
    many.aggregate(round_of(22 + f))


def test_what_is_no_round_is_refused() -> None:
    hole = round_of(5)
    hole[2, 3] = np.nan
    for given, said in (
        (hole, "not finite"),
        (np.zeros(3, np.float32), r"\(n_devices, d\)"),
        (round_of(0), "at least 1"),
    ):
        with pytest.raises(DeltaError, match=said):
            Mean({}).aggregate(given)
    for make, settings in (
        (TrimmedMean, {"share": 0.5}),
        (Krum, {"hostile": -1}),
        (Krum, {"chosen": 2}),
        (Mean, {"a": 1}),
    ):
        with pytest.raises(ConfigError):
            make(settings)


def plugin_of(one: Any) -> SimpleNamespace:
    @hookimpl
    def edgerec_aggregators() -> dict[str, Any]:
        return {"foreign": lambda settings: one}

    return SimpleNamespace(__name__="foreign", edgerec_aggregators=edgerec_aggregators)


def test_aggregators_are_handed_out_by_name() -> None:
    plugins = Plugins([aggregation])
    assert plugins.names("aggregator") == ["krum", "mean", "median", "multi_krum", "trimmed_mean"]
    assert "aggregator krum" in plugins.summary()["loaded"][aggregation.__name__]
    assert plugins.aggregator("krum", {"hostile": 2}).least == 7
    with pytest.raises(PluginNotFound, match="no plugin registers an aggregator named 'oracle'"):
        plugins.aggregator("oracle", {})
    plugins.close()


def test_a_foreign_aggregator_is_checked_and_keeps_nobody_else_waiting() -> None:
    entered, leave = threading.Event(), threading.Event()

    class Slow:
        name, least = "foreign", 1

        def aggregate(self, deltas: Float32) -> Any:
            entered.set()
            leave.wait(30)
            return deltas

    plugins = Plugins([plugin_of(Slow())], budget_ms=20)
    one, failed = plugins.aggregator("foreign", {}), list[BaseException]()

    def aggregate() -> None:
        try:
            one.aggregate(round_of(3))
        except DeltaError as error:
            failed.append(error)

    thread = threading.Thread(target=aggregate)
    thread.start()
    assert entered.wait(30)
    assert plugins.isolation.call("source other", lambda: 3, seconds=30.0) == 3, "serving has its own thread"
    with pytest.raises(PluginTimeout):
        plugins.isolation.call("source other", leave.wait, 30)
    leave.set()
    thread.join(30)
    assert "gives (3, 12)" in str(failed[0])
    plugins.close()


def test_a_foreign_aggregator_says_how_many_it_needs() -> None:
    with pytest.raises(PluginError, match="lacks `least: int`"):
        Plugins([plugin_of(SimpleNamespace(name="foreign", aggregate=len))]).aggregator("foreign", {})
