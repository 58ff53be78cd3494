"""A gateway that is killed while real processes send deltas, sound ones and hostile ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from gateways import federated_bundle

from edgerec_tools.studies.gateway_load.harness import Load, Outcome, run
from edgerec_tools.studies.gateway_load.hostile import EXPECTED


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("load")
    bundle: Path = federated_bundle(folder / "load.edgerec")
    return run(Load(bundle, folder, deltas=300, clients=2, threads=4, kills=2, cycles=2))


def test_nothing_acknowledged_is_lost_and_nothing_counts_twice(outcome: Outcome) -> None:
    assert len(outcome.acknowledged) == 300
    assert set(outcome.statuses) <= {200, 201}
    assert len(outcome.down) == 2
    assert outcome.retries > 0, "the kills were noticed"
    assert len(outcome.rounds) == 3
    assert (outcome.lost, outcome.twice, outcome.rows_wrong) == (0, 0, 0)


def test_what_is_sent_again_is_known_even_after_its_round(outcome: Outcome) -> None:
    assert outcome.again == {200: 30}


def test_hostile_requests_are_refused_while_it_serves(outcome: Outcome) -> None:
    assert {name: set(found) for name, found in outcome.attacks.items()} == {
        name: {status} for name, status in EXPECTED.items()
    }
