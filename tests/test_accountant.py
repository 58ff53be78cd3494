"""The budget: known values, what the journal says after kills, and who may take part in what."""

from __future__ import annotations

import math
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerec.errors import ConfigError, MissingDistribution
from edgerec_exporters.federation.accountant import epsilon_of, most_loss, noise_multiplier_for, with_multiplier
from edgerec_exporters.federation.journal import BEGUN, DAY, DONE, BudgetSpent, Journal, JournalError, loss_of
from edgerec_exporters.federation.settings import PrivacySettings, RoundSettings

DELTA = 1e-5


def private(rounds: int = 3, **changes: object) -> PrivacySettings:
    made = RoundSettings(privacy=PrivacySettings("central", 8.0, DELTA, rounds, **changes))  # type: ignore[arg-type]
    return with_multiplier(made).privacy


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.db"


# what a round costs


@pytest.mark.parametrize("multiplier", [0.7, 1.0, 2.5, 10.0])
@pytest.mark.parametrize("rounds", [1, 10, 365])
def test_epsilon_is_that_of_the_rounds_composed_one_by_one(multiplier: float, rounds: int) -> None:
    accountant = RdpAccountant()
    accountant.compose(dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(multiplier), rounds))
    assert epsilon_of(rounds / multiplier**2, DELTA) == pytest.approx(accountant.get_epsilon(DELTA), rel=1e-9)


@pytest.mark.parametrize("multiplier", [0.7, 1.0, 2.5, 10.0])
def test_epsilon_lies_between_the_exact_one_and_the_classical_bound(multiplier: float) -> None:
    """Balle & Wang (2018), theorem 8, is exact for one Gaussian; ρ + 2√(ρ ln 1/δ) is Bun & Steinke (2016), 1.3."""
    found = epsilon_of(1 / multiplier**2, DELTA)
    rho = 1 / (2 * multiplier**2)
    assert found <= rho + 2 * math.sqrt(rho * math.log(1 / DELTA))
    assert _delta(multiplier, found) <= DELTA
    exact = PLDAccountant().compose(dp_accounting.GaussianDpEvent(multiplier)).get_epsilon(DELTA)
    assert exact <= found <= 1.2 * exact


def _delta(multiplier: float, epsilon: float) -> float:
    """δ of one Gaussian of sensitivity 1: Balle & Wang (2018), theorem 8."""

    def phi(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    a, b = 1 / (2 * multiplier), epsilon * multiplier
    return phi(a - b) - math.exp(epsilon) * phi(-a - b)


def test_a_value_from_the_literature() -> None:
    """σ = 1, δ = 1e-5: ε = 4.377 exactly (Balle & Wang 2018), 4.728 by Rényi divergence (Canonne et al. 2020)."""
    assert epsilon_of(1.0, DELTA) == pytest.approx(4.728, abs=0.002)
    assert _delta(1.0, 4.377) == pytest.approx(DELTA, rel=0.01)


def test_no_loss_costs_nothing() -> None:
    assert epsilon_of(0.0, DELTA) == 0


@given(epsilon=st.floats(0.1, 20), delta=st.sampled_from([1e-8, 1e-5, 1e-3]), rounds=st.integers(1, 500))
@settings(max_examples=25, deadline=None)
def test_the_multiplier_that_is_found_keeps_the_budget_and_hardly_more(
    epsilon: float, delta: float, rounds: int
) -> None:
    multiplier = noise_multiplier_for(epsilon, delta, rounds)
    assert epsilon_of(rounds / multiplier**2, delta) <= epsilon * (1 + 1e-9)
    assert epsilon_of(rounds / (multiplier * 0.999) ** 2, delta) > epsilon * 0.999
    assert rounds / multiplier**2 == pytest.approx(most_loss(epsilon, delta), rel=1e-9)


@pytest.mark.parametrize(
    "wrong", [(0, DELTA, 1), (-1, DELTA, 1), (8, 0, 1), (8, 1, 1), (math.inf, DELTA, 1), (8, DELTA, 0)]
)
def test_an_impossible_budget_is_an_error(wrong: tuple[float, float, int]) -> None:
    with pytest.raises(ConfigError, match="budget"):
        noise_multiplier_for(*wrong)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "dp_accounting"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(MissingDistribution, match=r"edgerec-exporters\[federation\]"):
        epsilon_of(1.0, DELTA)


def test_a_given_multiplier_stays_and_none_is_needed_without_privacy() -> None:
    assert with_multiplier(RoundSettings()).privacy.multiplier is None
    given_ = RoundSettings(privacy=PrivacySettings("central", multiplier=7.0))
    assert with_multiplier(given_) is given_
    assert loss_of(given_.privacy) == pytest.approx(1 / 49)
    with pytest.raises(JournalError, match="no noise multiplier"):
        loss_of(PrivacySettings("central"))


# the journal


def begin(journal: Journal, name: str, privacy: PrivacySettings, day: float, keys: list[str] | None = None) -> None:
    journal.begin(name, bundle=1, candidate=2, at=day * DAY, privacy=privacy, keys=keys)


def test_a_key_may_take_part_so_often_and_not_once_more(path: Path) -> None:
    privacy = private(rounds=3)
    with Journal(path) as journal:
        for turn in range(3):
            assert journal.able(["a", "b"], privacy, turn * DAY) == [True, True]
            begin(journal, str(turn), privacy, turn, ["a", "b"] if turn else ["a"])
        spent = journal.spent(privacy, 3 * DAY)
        assert spent["rounds"] == 3
        assert spent["epsilon"] == pytest.approx(8.0, rel=1e-4)
        assert spent["left"] == pytest.approx(0.0, abs=1e-3)
        assert journal.able(["a", "b", "new"], privacy, 3 * DAY) == [False, True, True]
        with pytest.raises(BudgetSpent, match=r"1 of 2 keys more than ε = 8 at δ = 1e-05.*more than 3 in 365 days"):
            begin(journal, "3", privacy, 3, ["a", "b"])
        assert len(journal.rounds()) == 3  # nothing of it was spent
        begin(journal, "3", privacy, 3, ["b", "new"])


def test_a_multiplier_that_is_too_small_ends_the_budget_earlier(path: Path) -> None:
    privacy = private(rounds=10, multiplier=noise_multiplier_for(8.0, DELTA, 2))
    with Journal(path) as journal:
        begin(journal, "1", privacy, 1, ["a"])
        begin(journal, "2", privacy, 2, ["a"])
        assert journal.able(["a"], privacy, 3 * DAY) == [False]


def test_where_nobody_knows_who_took_part_a_round_counts_for_all(path: Path) -> None:
    privacy = private(rounds=3)
    with Journal(path) as journal:
        begin(journal, "1", privacy, 1)
        begin(journal, "2", privacy, 2, ["a"])
        begin(journal, "3", privacy, 3)
        assert journal.able(["a", "b"], privacy, 4 * DAY) == [False, True]
        with pytest.raises(BudgetSpent, match="cost everyone"):
            begin(journal, "4", privacy, 4)
        assert journal.spent(privacy, 4 * DAY)["rounds"] == 3


def test_a_budget_is_for_a_period_and_a_clock_that_went_back_brings_nothing(path: Path) -> None:
    privacy = private(rounds=1, period_days=30.0)
    with Journal(path) as journal:
        begin(journal, "1", privacy, 100, ["a"])
        assert journal.able(["a"], privacy, 129 * DAY) == [False]
        assert journal.able(["a"], privacy, 131 * DAY) == [True]
        with pytest.raises(BudgetSpent):
            begin(journal, "2", privacy, 20, ["a"])  # as if it were before the first
        begin(journal, "2", privacy, 131, ["a"])
        assert journal.spent(privacy, 131 * DAY)["rounds"] == 1


def test_a_round_is_begun_once(path: Path) -> None:
    privacy = private()
    with Journal(path) as journal:
        for _ in range(3):
            one = journal.begin("1", bundle=4, candidate=5, at=9.0, privacy=privacy, ids=["x", "y"], keys=["a", "b"])
        assert (one.status, one.bundle, one.candidate, one.devices, one.everyone) == (BEGUN, 4, 5, 2, False)
        assert journal.ids("1") == ["x", "y"]
        assert journal.senders("1") is not None
        assert "a" not in (journal.senders("1") or [])
        with pytest.raises(JournalError, match="other noise"):
            journal.begin("1", bundle=4, candidate=5, at=9.0, privacy=PrivacySettings())
        with pytest.raises(JournalError, match="went into another one"):
            journal.begin("2", bundle=4, candidate=5, at=9.0, privacy=privacy, ids=["z", "y"], keys=["a", "b"])
        assert journal.counted() == {"x", "y"}
        journal.end("1", DONE, {"devices": 2})
        assert journal.round("1").report == {"devices": 2}
        journal.end("1", "published")
        assert journal.round("1").report == {"devices": 2}
        with pytest.raises(JournalError, match="no round 'x'"):
            journal.round("x")


def test_local_rounds_are_accounted_too(path: Path) -> None:
    privacy = PrivacySettings("local", multiplier=4.0, most_rounds=100)
    with Journal(path) as journal:
        begin(journal, "1", privacy, 1, ["a"])
        begin(journal, "2", privacy, 2, ["a"])
        assert journal.spent(privacy, 3 * DAY)["epsilon"] == pytest.approx(epsilon_of(2 / 16, DELTA))


def test_without_privacy_nothing_is_spent(path: Path) -> None:
    with Journal(path) as journal:
        for turn in range(100):
            begin(journal, str(turn), PrivacySettings(), turn, ["a"])
        assert journal.able(["a"], PrivacySettings(), 0.0) == [True]
        assert journal.spent(PrivacySettings(), 0.0) == {"epsilon": 0.0, "left": 8.0, "rounds": 0.0}


def test_keys_are_not_in_the_file(path: Path) -> None:
    with Journal(path) as journal:
        begin(journal, "1", private(), 1, ["some-enrolled-key"])
    assert all(b"some-enrolled-key" not in file.read_bytes() for file in path.parent.iterdir())


def test_a_file_that_is_no_journal_or_a_newer_one_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database, and long enough to be seen as none" * 20)
    with pytest.raises(JournalError, match="no journal of rounds"):
        Journal(tmp_path / "text.db")
    with Journal(tmp_path / "newer.db"):
        pass
    newer = sqlite3.connect(tmp_path / "newer.db")
    newer.execute("PRAGMA user_version=9")
    newer.close()
    with pytest.raises(JournalError, match="schema 9"):
        Journal(tmp_path / "newer.db")


KILLED = """
import sys, time
from pathlib import Path
from edgerec_exporters.federation.journal import Journal
from edgerec_exporters.federation.settings import PrivacySettings
privacy = PrivacySettings("central", multiplier=1000.0, most_rounds=10**5)
with Journal(Path(sys.argv[1])) as journal:
    for turn in range(10**6):
        name = f"{sys.argv[2]}-{turn}"
        journal.begin(name, bundle=1, candidate=2, at=float(turn), privacy=privacy, ids=[name], keys=["a"])
        print(name, flush=True)  # the release: whoever reads this has seen the result
"""


def test_a_kill_between_journal_and_release_never_undercounts(path: Path) -> None:
    """Real processes, killed at any moment: all that was released is in the journal, with its delta and its loss."""
    released: list[str] = []
    random = np.random.default_rng(0)
    for number in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(path), str(number)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(int(random.integers(1, 30))):
            released.append(process.stdout.readline().strip())
        os.kill(process.pid, signal.SIGKILL)
        released += process.stdout.read().split("\n")[:-1]
        process.stdout.close()
        process.wait()
    with Journal(path) as journal:
        rounds = {one.id for one in journal.rounds()}
        assert set(released) <= rounds
        assert len(rounds) <= len(released) + 6  # at most the one that each kill interrupted
        assert journal.counted() == rounds
        spent = journal.spent(PrivacySettings("central", multiplier=1000.0), 0.0)
        assert spent["rounds"] == len(rounds)
