"""The conformance kit: every check catches what it is there for; what edgerec itself brings conforms."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import threading
from functools import partial
from pathlib import Path
from typing import Any

import broken_others as others
import broken_rounds as rounds
import broken_updaters as updaters
import numpy as np
import pytest
from broken_import import Imports

from edgerec.checks import check_names, conformance, run_checks
from edgerec.checks.running import CHECKS
from edgerec.errors import ConfigError, PluginError
from edgerec.types import Float32, Model, Profile, State
from edgerec_plugins.aggregation import Krum, Mean, Median, MultiKrum, TrimmedMean
from edgerec_plugins.diversity import METHODS, Diversity
from edgerec_plugins.explore import Epsilon, Softmax, Thompson
from edgerec_plugins.foldin import FoldIn
from edgerec_plugins.privacy import PER, Clip, Noise, Sample
from edgerec_plugins.quality import Quality
from edgerec_plugins.sgd import LOSSES, Sgd

TestSgd = conformance(Sgd, settings=[{"loss": loss} for loss in LOSSES])
TestFoldIn = conformance(FoldIn, settings=[{}, {"use_query": False, "alpha": 0.1}])
TestQuality = conformance(Quality, settings={"most": 3, "most_long": 6, "repeat_s": 2.0})
TestDiversity = conformance(Diversity, settings=[{"method": method} for method in METHODS])
TestEpsilon = conformance(Epsilon)
TestSoftmax = conformance(Softmax)
TestThompson = conformance(Thompson)
TestClip = conformance(Clip, settings=[{"per": per, "bound": bound} for per in PER for bound in (1.0, 0.1)])
TestSample = conformance(Sample, settings=[{"share": share} for share in (1.0, 0.5)])
TestNoise = conformance(Noise, settings=[{"per": per} for per in PER])
TestMean = conformance(Mean, xfail={"hostile_device": "a mean follows whoever is loudest"})
TestMedian = conformance(Median)
TestTrimmedMean = conformance(TrimmedMean)
TestKrum = conformance(Krum, settings=[{}, {"hostile": 9}])
TestMultiKrum = conformance(MultiKrum, settings=[{}, {"hostile": 4, "chosen": 3}])

# check, kind, what does it wrong, what is said of it
BROKEN: list[tuple[str, str, Any, str]] = [
    ("interface", "updater", updaters.NoSchema, "`schema` must be int, not '1'"),
    ("deterministic", "updater", updaters.Remembers, "update gives something else when it is asked again"),
    ("fresh_instance", "updater", updaters.Numbered, "another instance"),
    ("inputs_unchanged", "updater", updaters.InPlace, "read-only"),
    ("no_global_randomness", "updater", updaters.Draws, "draws from random$"),
    ("no_global_randomness", "updater", updaters.DrawsNumpy, "draws from numpy.random"),
    ("no_global_randomness", "updater", updaters.Entropy, "draws from os.urandom"),
    ("no_clock", "updater", updaters.Clock, "time.time in broken_updaters"),
    ("no_clock", "updater", updaters.Calendar, "datetime.now in broken_updaters"),
    ("no_network", "updater", updaters.Phones, "reaches out: socket.getaddrinfo"),
    ("no_forbidden_import", "updater", Imports, "imports requests"),
    ("time_budget", "updater", updaters.Slow, "update takes"),
    ("any_size", "updater", updaters.OneSize, "ValueError"),
    ("initial_state", "updater", updaters.StartsNan, "'best' in the first state is not finite"),
    ("initial_state", "updater", updaters.Halves, "half"),
    ("names_and_dtypes", "updater", updaters.Widens, "a step turned"),
    ("finite", "updater", updaters.TurnsNan, "after 20 steps 'best' is not finite"),
    ("state_survives_bytes", "updater", updaters.KeepsBeside, "stored and read again"),
    ("replay_identical", "updater", updaters.KnowsEvents, "end elsewhere"),
    ("bounded_step", "updater", updaters.Unbounded, "user vector: out of bounds"),
    ("state_size", "updater", updaters.Hoards, "1,200,"),
    ("user_vector", "updater", updaters.Doubles, "not float64"),
    ("user_vector", "updater", updaters.Sometimes, "at times only"),
    ("positive_event_raises", "updater", updaters.Backwards, "lowers its item"),
    ("negative_event_does_not_raise", "updater", updaters.LovesAll, "raises its item"),
    ("unknown_items", "updater", updaters.LastRow, "1 events of unknown items move"),
    ("migrate", "updater", updaters.Migrates, "changes it"),
    ("odd_values", "updater", updaters.Squares, "not finite"),
    ("no_memory", "source", others.LearningSource, "depends on what was asked before"),
    ("shape", "source", others.ShortSource, r"\(59,\) values for 60 items"),
    ("shape", "source", others.TwiceSource, "scored twice"),
    ("dtype", "source", others.DoubleSource, "not float64"),
    ("finite", "source", others.NanSource, "not finite"),
    ("statistics", "source", others.LyingSource, "mean is 0"),
    ("empty_history", "source", others.ExperiencedSource, "IndexError"),
    ("time_shift", "source", others.MorningSource, "more than the age"),
    ("from_slate", "reranker", others.Strangers, "not of the slate"),
    ("from_slate", "reranker", others.Repeats, "given twice"),
    ("fills_page", "reranker", others.Few, "3 of 20 candidates for 5"),
    ("small_slates", "reranker", others.Crowd, "ValueError"),
    ("empty_history", "reranker", others.ForRegulars, "IndexError"),
    ("propensity", "reranker", others.Percent, r"not in \(0, 1\]"),
    ("propensity_is_frequency", "reranker", others.Silent, "with propensity 1.000"),
    ("propensity_is_frequency", "reranker", others.Boasts, "with propensity 0.577"),
    ("verdict", "filter", others.Judge, "not True"),
    ("empty_earlier", "filter", others.Experienced, "IndexError"),
    ("no_memory", "filter", others.Tired, "depends on what was asked before"),
    ("no_global_randomness", "delta_filter", rounds.OwnChance, "draws from numpy.random"),
    ("no_memory", "delta_filter", rounds.Counting, "depends on what was asked before"),
    ("delta_form", "delta_filter", rounds.Signed, "another id"),
    ("delta_form", "delta_filter", rounds.Renames, "'bias2', 'prior2'"),
    ("delta_form", "delta_filter", rounds.WideDelta, r"not float64 \(60,\)"),
    ("delta_form", "delta_filter", rounds.Square, r"not float32 \(60, 1\)"),
    ("constant_size", "delta_filter", rounds.Telling, "sizes"),
    ("finite_delta", "delta_filter", rounds.Divides, "'bias' is not finite"),
    ("odd_delta", "delta_filter", rounds.Trusting, "of a delta with nan is not finite"),
    ("sent_twice", "transport", rounds.Answers, "not 200"),
    ("sent_twice", "transport", rounds.Once, "FileExistsError"),
    ("odd_id", "transport", rounds.Pathlike, "FileNotFoundError"),
    ("inputs_unchanged", "aggregator", rounds.InPlaceAggregator, "read-only"),
    ("no_memory", "aggregator", rounds.Momentum, "depends on what was asked before"),
    ("one_delta", "aggregator", rounds.Narrow, "float32"),
    ("one_delta", "aggregator", rounds.Several, r"\(2, 60\)"),
    ("one_delta", "aggregator", rounds.Lists, "not list"),
    ("finite_sum", "aggregator", rounds.Overflows, "not finite"),
    ("any_order", "aggregator", rounds.First, "another order"),
    ("equal_deltas", "aggregator", rounds.Sums, "equal deltas"),
    ("least", "aggregator", rounds.Undemanding, "takes 2 deltas"),
    ("least", "aggregator", rounds.Overdemanding, "IndexError"),
    ("least", "aggregator", rounds.Nothing, "takes 0 deltas"),
    ("hostile_device", "aggregator", rounds.Loud, "moves the delta by"),
]
SOUND = [
    ("updater", updaters.Sound),
    ("source", others.Source),
    ("source", others.SparseSource),
    ("reranker", others.Reranker),
    ("filter", others.Filter),
    ("delta_filter", rounds.DeltaFilter),
    ("transport", partial(rounds.Transport, {})),
    ("aggregator", rounds.Aggregator),
]


@pytest.mark.parametrize(("kind", "sound"), SOUND, ids=lambda one: getattr(one, "__name__", one))
def test_what_is_sound_passes_every_check(kind: str, sound: Any) -> None:
    results = run_checks(kind, lambda settings: sound())
    assert [(one.check, one.reason) for one in results if not one.ok] == []
    assert [one.check for one in results] == check_names(kind)


@pytest.mark.parametrize(
    ("check", "kind", "broken", "said"), BROKEN, ids=[f"{one[1]}-{one[0]}-{one[2].__name__}" for one in BROKEN]
)
def test_a_check_catches_what_it_is_there_for(check: str, kind: str, broken: Any, said: str) -> None:
    (result,) = run_checks(kind, lambda settings: broken(), only=[check])
    assert (result.check, result.ok) == (check, False)
    assert re.search(said, result.reason), result.reason


def test_every_check_is_shown_to_catch_something() -> None:
    shown = {check for check, *_ in BROKEN}
    assert {name for kind in CHECKS for name in check_names(kind)} == shown


def test_an_updater_that_exits_fails_and_ends_nothing() -> None:
    results = run_checks("updater", lambda settings: updaters.Exits(), only=["finite", "bounded_step"])
    assert [one.reason for one in results] == ["raises SystemExit: 3"] * 2
    with pytest.raises(AssertionError, match="SystemExit"):
        conformance(updaters.Exits)().test_finite()


def test_a_check_that_takes_too_long_is_left_to_itself() -> None:
    stop = threading.Event()

    class Hangs(updaters.Sound):
        def initial(self, model: Model) -> State:
            stop.wait(30)
            return super().initial(model)

    sound, hung = run_checks("updater", lambda settings: Hangs(), only=["interface", "finite"], seconds=1.0)
    stop.set()
    assert sound.ok
    assert "longer than 1000 ms" in hung.reason


def test_a_source_reads_the_state_of_its_updater() -> None:
    class Reads(others.Source):
        def values(self, profile: Profile, model: Model) -> Float32:
            state = profile.states.get("sound")
            return model.popularity if state is None else model.popularity + np.float32(np.inf)

    def failed(**options: Any) -> list[str]:
        results = run_checks("source", lambda settings: Reads(), only=["finite"], **options)
        return [one.check for one in results if not one.ok]

    assert failed() == []
    assert failed(updater=updaters.Sound) == ["finite"]
    assert failed(updater=updaters.Exits) == [], "its updater's failure is not the source's"


def test_a_class_a_factory_an_object_and_settings_are_taken() -> None:
    given: list[tuple[object, dict[str, Any]]] = [
        (updaters.Sound, {}),
        (updaters.Sound(), {}),
        (lambda: updaters.Sound(), {}),
        (partial(Sgd, {}), {}),
        (Sgd, {"settings": {"rate": 0.2}}),
        (others.Source, {}),
        (others.Reranker, {}),
        (others.Filter, {"kind": "filter"}),
    ]
    for one, options in given:
        conformance(one, **options)().test_deterministic()
    several = conformance(Sgd, settings=[{}, {"rate": "fast"}])
    several().test_finite_0()
    with pytest.raises(ConfigError, match="rate"):
        several().test_finite_1()


def test_what_cannot_be_checked_is_refused() -> None:
    class Both(updaters.Sound, others.Filter):
        pass

    refused: list[tuple[object, dict[str, Any], str]] = [
        (Both, {}, "fits updater and filter"),
        (object, {}, "none of the methods"),
        (3, {}, "cannot be checked"),
        (updaters.Sound, {"settings": []}, "no settings"),
        (updaters.Sound, {"kind": "oracle"}, "no checks of 'oracle'"),
        (updaters.Sound, {"xfail": {"astrology": "Mars"}}, "no check 'astrology'"),
        (updaters.Sound, {"xfail": {"shape": "is for sources"}}, "no check 'shape'"),
        (updaters.Sound, {"xfail": {"finite": " "}}, "does not say why"),
    ]
    for given, options, said in refused:
        with pytest.raises(PluginError, match=said):
            conformance(given, **options)
    with pytest.raises(PluginError, match="no check 'nothing'"):
        run_checks("updater", Sgd, only=["nothing"])


SUITE = """
from broken_updaters import Clock, Sound
from edgerec.checks import conformance

TestExpected = conformance(Clock, xfail={"no_clock": "tells the time"})
TestStrict = conformance(Sound, xfail={"no_clock": "was mended"})
TestPlain = conformance(Clock)
"""


def test_pytest_runs_the_checks_and_expected_failures_must_fail(tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE)
    command = [sys.executable, "-m", "pytest", "-rxf", "-p", "no:cacheprovider", "--tb=line", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, cwd=tmp_path)
    n = len(check_names("updater"))
    assert f"2 failed, {3 * n - 3} passed, 1 xfailed" in done.stdout, done.stdout
    assert "XFAIL test_suite.py::TestExpected::test_no_clock - tells the time" in done.stdout
    assert "no_clock passes, but was expected to fail (was mended)" in done.stdout
    assert "reads the clock: time.time in broken_updaters" in done.stdout


def test_checks_work_without_pytest() -> None:
    code = """
        import sys
        from edgerec.checks import conformance, run_checks
        from edgerec_plugins.sgd import Sgd
        assert all(one.ok for one in run_checks("updater", Sgd))
        wild = {"rate": 1e3, "max_step": 1e6, "max_norm": 1e6}
        mine = conformance(Sgd, settings=wild, xfail={"bounded_step": "is meant to be wild"})
        mine().test_bounded_step()
        assert "pytest" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
