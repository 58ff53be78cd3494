"""What a page showed and the user passed over becomes negatives, corrected for position, and replays alike."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from conftest import Clock, Opener, same_state

from edgerec.errors import ConfigError
from edgerec.learning.exposed import passed_over

PAGE = [(f"i{n}", n + 1) for n in range(10)]


def test_what_stands_above_is_passed_over_and_what_stands_below_less_surely() -> None:
    """One of nine is drawn, clicked at place 4: the three above have weight 1, place j below 4/j."""
    drawn = Counter(passed_over(PAGE, "i3", f"e{n}", 1, ())[0] for n in range(20_000))
    weights = np.array([1, 1, 1, *(4 / place for place in range(5, 11))])
    expected = 20_000 * weights / weights.sum()
    found = np.array([drawn[item] for item, place in PAGE if place != 4])
    assert (np.abs(found - expected) < 4.5 * np.sqrt(expected)).all()


def test_the_event_decides_the_draw() -> None:
    first = passed_over(PAGE, "i3", "e", 4, ())
    assert first == passed_over(PAGE, "i3", "e", 4, ())
    assert len(set(first)) == 4
    assert "i3" not in first


def test_known_items_and_other_pages_give_nothing() -> None:
    assert passed_over(PAGE, "absent", "e", 4, ()) == []
    assert passed_over([], "i3", "e", 4, ()) == []
    assert set(passed_over(PAGE, "i3", "e", 20, {"i0", "i9"})) == {f"i{n}" for n in range(10)} - {"i0", "i3", "i9"}
    assert passed_over([("i3", 1)], "i3", "e", 4, ()) == []


def test_an_event_learns_against_what_its_page_showed(opener: Opener) -> None:
    seen = []

    class Spy:
        name, schema, item_space = "spy", 1, True

        def initial(self, model: object) -> dict[str, np.ndarray]:
            return {"n": np.zeros(())}

        def update(self, state: dict[str, np.ndarray], batch: object) -> dict[str, np.ndarray]:
            seen.append(batch.negatives.tolist())  # type: ignore[attr-defined]
            return state

        def user_vector(self, state: object) -> None:
            return None

        def migrate(self, state: dict[str, np.ndarray], old_schema: int) -> dict[str, np.ndarray]:
            return state

    from test_plugins import plugin

    mine = plugin(edgerec_updaters=lambda: {"spy": lambda settings: Spy()})
    config = {"learning": {"updater": "spy", "exposed_negatives": 3}}
    rec = opener(plugins=[mine], config=config)
    page = rec.recommend(10)
    shown = {int(r.item[1:]) for r in page}
    rec.record(page[5].item, "click", recommendation_id=page.id)
    rec.record(page[6].item, "click")
    with_page, without = seen
    assert set(with_page[0][:3]) <= shown - {int(page[5].item[1:])}
    assert json.loads(rec._device.events()[0].passed or "") == [f"i{row}" for row in with_page[0][:3]]
    assert rec._device.events()[1].passed is None
    assert not set(without[0]) <= shown


def test_replay_repeats_what_was_learned(opener: Opener, clock: Clock) -> None:
    rec = opener(config={"learning": {"exposed_negatives": 4}})
    for n in range(12):
        clock.pass_days(1)
        page = rec.recommend(10)
        rec.record(page[n % 5].item, "click", recommendation_id=page.id)
    snapshot = rec._device.snapshot()
    replayed = snapshot.engine.replay(rec._device.events(), obey=True)
    assert same_state(snapshot.learned, replayed.learned)


@pytest.mark.parametrize("value", [-1, 5000, "many"])
def test_a_setting_out_of_range(opener: Opener, value: object) -> None:
    with pytest.raises(ConfigError, match="exposed_negatives"):
        opener(config={"learning": {"exposed_negatives": value}})
