"""Records: frozen dataclasses to everybody who looks, whatever makes them."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from collections.abc import Mapping
from typing import Any

import pytest

import edgerec
from edgerec.records import changed, field, record


@record
class Place:
    """A place."""

    name: str
    floor: int = 0
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"{self.name} {self.floor}"


def test_values_come_by_place_by_name_and_by_default() -> None:
    assert Place("a", 2) == Place(floor=2, name="a")
    assert Place("a").label == "a 0"
    assert Place("a") != Place("b")
    assert hash(edgerec.Receipt("e", "stored", True)) == hash(edgerec.Receipt("e", "stored", True))
    first, second = Place("a"), Place("a")
    assert first.notes == {}
    assert first.notes is not second.notes, "each record has a default of its own"


@pytest.mark.parametrize(
    ("values", "named"), [((), {}), (("a", 1, {}, 4), {}), (("a",), {"level": 1}), (("a",), {"name": "b"})]
)
def test_wrong_arguments_are_refused(values: tuple[Any, ...], named: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="Place"):
        Place(*values, **named)


def test_nothing_can_be_changed_or_added() -> None:
    place: Any = Place("a")
    for change in (lambda: setattr(place, "floor", 1), lambda: delattr(place, "floor"), lambda: setattr(place, "x", 1)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            change()
    assert not hasattr(place, "__dict__")


def test_copies() -> None:
    place: Any = Place("a", 1, {"k": [1]})
    assert changed(place, floor=2) == dataclasses.replace(place, floor=2) == Place("a", 2, {"k": [1]})
    with pytest.raises(TypeError, match="level"):
        changed(place, level=2)
    assert pickle.loads(pickle.dumps(place)) == copy.deepcopy(place) == place


def test_they_are_dataclasses_to_those_who_ask() -> None:
    made: Any = Place
    assert dataclasses.is_dataclass(made)
    assert [one.name for one in dataclasses.fields(made)] == ["name", "floor", "notes"]
    assert dataclasses.asdict(made("a", 1)) == {"name": "a", "floor": 1, "notes": {}}
    assert repr(made("a")) == "Place(name='a', floor=0, notes={})"
    assert list(inspect.signature(edgerec.Receipt).parameters) == ["event_id", "status", "learned", "rank", "flags"]


def test_they_match_by_place() -> None:
    match Place("a", 3):
        case Place(name, floor):
            assert (name, floor) == ("a", 3)
