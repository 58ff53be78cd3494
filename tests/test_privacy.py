"""The delta filters `clip`, `sample`, `noise`; the system's chance; how the plugin platform hands filters out."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgerec.deltas import Delta, DeltaError, SystemChance, filtered, sound
from edgerec.errors import ConfigError, PluginNotFound
from edgerec.hookspecs import hookimpl
from edgerec.interfaces import DeltaFilter, SecureChance
from edgerec.plugins import Plugins
from edgerec.records import changed
from edgerec.types import Float32
from edgerec_plugins import privacy
from edgerec_plugins.privacy import Clip, Noise, Sample

CHANCE = SystemChance()


def delta_of(scale: float = 1.0, seed: int = 0, sizes: tuple[int, int] = (400, 30)) -> Delta:
    random = np.random.default_rng(seed)
    blocks = {str(n): (random.normal(size=size) * scale).astype(np.float32) for n, size in enumerate(sizes)}
    return Delta("d", 1, blocks)


def norm(*blocks: Float32) -> float:
    """By another road than the code's: exact sums of Python's."""
    return math.sqrt(math.fsum(float(value) ** 2 for block in blocks for value in block))


@pytest.mark.parametrize("bound", [1e-3, 0.3, 1.0, 7.0])
def test_no_delta_is_longer_than_the_bound_and_a_shorter_one_stays(bound: float) -> None:
    clip = Clip({"bound": bound})
    for seed in range(50):
        long = clip.filter(delta_of(10.0, seed), CHANCE)
        assert norm(*long.blocks.values()) <= bound
        assert norm(*long.blocks.values()) == pytest.approx(bound, rel=1e-6)
    short = delta_of(bound / 1000)
    assert all(np.array_equal(block, short.blocks[name]) for name, block in clip.filter(short, CHANCE).blocks.items())


def test_clipping_keeps_the_direction() -> None:
    delta = delta_of(10.0)
    clipped = Clip({}).filter(delta, CHANCE)
    scale = 1 / norm(*delta.blocks.values())
    for name, block in clipped.blocks.items():
        np.testing.assert_allclose(block, delta.blocks[name] * scale, rtol=1e-6)


def test_every_block_may_have_a_bound_of_its_own() -> None:
    delta = Delta("d", 1, {"long": np.full(9, 3, np.float32), "short": np.full(4, 0.1, np.float32)})
    clipped = Clip({"per": "block"}).filter(delta, CHANCE).blocks
    assert norm(clipped["long"]) == pytest.approx(1.0, rel=1e-6)
    assert np.array_equal(clipped["short"], delta.blocks["short"])
    assert norm(*Clip({}).filter(delta, CHANCE).blocks.values()) <= 1


def test_a_sample_keeps_its_share_of_the_values_and_their_mean() -> None:
    n = 100_000
    made = Sample({"share": 0.2}).filter(Delta("d", 1, {"0": np.full(n, 2, np.float32)}), CHANCE).blocks["0"]
    assert set(made.tolist()) == {0.0, 10.0}
    assert abs((made > 0).mean() - 0.2) < 6 * math.sqrt(0.16 / n)
    whole = delta_of()
    same = Sample({"share": 1}).filter(whole, CHANCE).blocks
    assert all(np.array_equal(same[name], whole.blocks[name]) for name in whole.blocks)


def test_noise_has_the_standard_deviation_it_promises() -> None:
    n = 1_000_000
    zeros = Delta("d", 1, {"0": np.zeros(n - 1, np.float32), "1": np.zeros(1, np.float32)})
    made = Noise({"multiplier": 1.5, "bound": 0.2}).filter(zeros, CHANCE).blocks
    drawn = np.concatenate(list(made.values())).astype(np.float64) / 0.3
    # six standard errors: a sound one fails once in five hundred million runs
    assert abs(drawn.mean()) < 6 / math.sqrt(n)
    assert abs(drawn.std() - 1) < 6 / math.sqrt(2 * n)
    for reach in (1.0, 2.0, 3.0):
        share = math.erfc(reach / math.sqrt(2))
        assert abs((np.abs(drawn) > reach).mean() - share) < 6 * math.sqrt(share * (1 - share) / n)


def test_noise_is_another_one_on_every_call_and_whatever_the_seed() -> None:
    noise, delta = Noise({}), delta_of(1e-3)
    made = []
    for _ in range(3):
        np.random.seed(1)
        made.append(noise.filter(delta, CHANCE).blocks["0"])
    drawn = [one - delta.blocks["0"] for one in made]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert abs(np.corrcoef(drawn[one], drawn[other])[0, 1]) < 0.35, "seven standard errors"


def test_blocks_of_one_size_get_noise_of_their_own() -> None:
    made = Noise({}).filter(delta_of(0.0, sizes=(400, 400)), CHANCE).blocks
    assert abs(np.corrcoef(made["0"], made["1"])[0, 1]) < 0.35


@pytest.mark.parametrize("size", [0, 1, 2, 7])
def test_the_systems_chance_gives_as_many_numbers_as_are_asked_for(size: int) -> None:
    drawn = CHANCE.normal(size)
    assert drawn.shape == (size,)
    assert drawn.dtype == np.float64
    assert len(np.unique(drawn)) == size


def test_the_ends_of_the_systems_numbers_are_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    for byte in (b"\x00", b"\xff"):
        monkeypatch.setattr("os.urandom", lambda n, byte=byte: byte * n)
        assert np.isfinite(CHANCE.normal(4)).all()


def test_noise_refuses_what_is_longer_than_its_bound() -> None:
    clip, noise = Clip({"bound": 0.5}), Noise({"bound": 0.5})
    for seed in range(50):
        noise.filter(clip.filter(delta_of(10.0, seed), CHANCE), CHANCE)
    with pytest.raises(DeltaError, match="put clip"):
        noise.filter(delta_of(10.0), CHANCE)
    per_block = clip.filter(delta_of(10.0), CHANCE)
    two = changed(per_block, blocks={name: per_block.blocks["0"] for name in "ab"})
    Noise({"bound": 0.5, "per": "block"}).filter(two, CHANCE)
    with pytest.raises(DeltaError, match="a delta of length"):
        noise.filter(two, CHANCE)


@pytest.mark.parametrize("one", [Clip({}), Sample({}), Noise({})], ids=lambda one: one.name)
def test_a_delta_that_is_not_finite_or_of_the_wrong_form_is_refused(one: DeltaFilter) -> None:
    wrong: list[tuple[Any, str]] = [
        (np.array([np.nan], np.float32), "not finite"),
        (np.array([-np.inf], np.float32), "not finite"),
        (np.zeros(3), "not a float32"),
        (np.zeros((3, 1), np.float32), "one dimension"),
        ([0.0], "not a float32"),
    ]
    for block, said in wrong:
        with pytest.raises(DeltaError, match=said):
            one.filter(Delta("d", 1, {"0": block}), CHANCE)
    with pytest.raises(DeltaError, match="not a Delta but dict"):
        sound({})


def test_settings_out_of_range_are_refused() -> None:
    for make, settings in (
        (Clip, {"bound": 0}),
        (Clip, {"per": "item"}),
        (Sample, {"share": 0}),
        (Sample, {"share": 1.1}),
        (Noise, {"multiplier": 0}),
        (Noise, {"σ": 1}),
    ):
        with pytest.raises(ConfigError):
            make(settings)


def test_filters_come_in_the_configured_order_and_none_is_left_out() -> None:
    plugins = Plugins([privacy])
    assert plugins.names("delta_filter") == ["clip", "noise", "sample"]
    assert "delta_filter clip" in plugins.summary()["loaded"][privacy.__name__]
    for order in (["noise", "clip"], ["clip", "noise"]):
        assert [one.name for one in plugins.delta_filters({name: {} for name in order})] == order
    with pytest.raises(PluginNotFound, match="no plugin registers a delta filter named 'sketch'"):
        plugins.delta_filters({"clip": {}, "sketch": {}})
    with pytest.raises(ConfigError, match="bound"):
        plugins.delta_filters({"clip": {"bound": "tight"}, "noise": {}})
    plugins.close()


class Foreign:
    """A filter of somebody else's, that makes of a delta what it is told to."""

    name = "foreign"

    def __init__(self, change: dict[str, Any]) -> None:
        self.change = change

    def filter(self, delta: Delta, chance: SecureChance) -> Delta:
        chance.normal(2)
        return changed(delta, **self.change)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": "user-7"}, "changed the id"),
        ({"bundle_version": 9}, "changed the id, the bundle version"),
        ({"blocks": {}}, "names of the blocks"),
        ({"blocks": {"0": np.array([np.nan], np.float32), "1": np.zeros(1, np.float32)}}, "not finite"),
        ({}, None),
    ],
)
def test_what_a_foreign_filter_gives_is_checked_and_copied(change: dict[str, Any], said: str | None) -> None:
    @hookimpl
    def edgerec_delta_filters() -> dict[str, Any]:
        return {"foreign": lambda settings: Foreign(change)}

    plugins = Plugins([SimpleNamespace(__name__="foreign", edgerec_delta_filters=edgerec_delta_filters)])
    (one,), delta = plugins.delta_filters({"foreign": {}}), delta_of()
    if said is None:
        made = one.filter(delta, CHANCE)
        assert not np.shares_memory(made.blocks["0"], delta.blocks["0"])
        assert np.array_equal(made.blocks["0"], delta.blocks["0"])
    else:
        with pytest.raises(DeltaError, match=said):
            one.filter(delta, CHANCE)
    plugins.close()


def test_a_filter_may_change_sizes() -> None:
    delta = delta_of()
    sketched = changed(delta, blocks={name: block[:5] for name, block in delta.blocks.items()})
    assert [len(block) for block in filtered(delta, sketched).blocks.values()] == [5, 5]
