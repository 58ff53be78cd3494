"""Filter expressions: they mean what a plain reading of each item gives, and nothing else gets in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import catalogue_lines
from hypothesis import given
from hypothesis import strategies as st

import edgerec
from edgerec.bundle.catalogue import Catalogue, Flags, Labels, Numbers, Tags
from edgerec.errors import RequestError, UnknownAttribute
from edgerec.serving.expressions import MAX_LENGTH, compile_filter

N = 60
ITEMS: list[dict[str, Any]] = [line["attributes"] for line in catalogue_lines(N)]


@pytest.fixture(scope="module")
def catalogue(bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return edgerec.load_bundle(bundle_path, tmp_path_factory.mktemp("cache")).catalogue


def rows(test: Callable[[dict[str, Any]], bool]) -> list[int]:
    """Rows of the items with attributes (every fifth has none) that meet a test."""
    return [row for row, item in enumerate(ITEMS) if item and test(item)]


@pytest.mark.parametrize(
    ("text", "test"),
    [
        ("price <= 5", lambda i: i["price"] <= 5),
        ("5 >= price", lambda i: i["price"] <= 5),
        ("price < 3.5", lambda i: i["price"] < 3.5),
        ("price > -1", lambda i: True),
        ("price == 3.5", lambda i: i["price"] == 3.5),
        ("price != 3.5", lambda i: i["price"] != 3.5),
        ("price in (1.5, 2.5)", lambda i: i["price"] in (1.5, 2.5)),
        ("2 <= price < 6", lambda i: 2 <= i["price"] < 6),
        ("price >= price", lambda i: True),
        ("price != price", lambda i: False),
        ('colour == "red"', lambda i: i["colour"] == "red"),
        ("colour != 'red'", lambda i: i["colour"] != "red"),
        ('colour in ("red", "blue")', lambda i: i["colour"] in ("red", "blue")),
        ('colour in ["red"]', lambda i: i["colour"] == "red"),
        ("colour in ()", lambda i: False),
        ('colour not in ("red", "blue")', lambda i: i["colour"] == "green"),
        ('colour >= "green"', lambda i: i["colour"] in ("green", "red")),
        ('"green" > colour', lambda i: i["colour"] == "blue"),
        ('colour == "mauve"', lambda i: False),
        ("new", lambda i: i["new"]),
        ("new == true", lambda i: i["new"]),
        ("new != True", lambda i: not i["new"]),
        ("new in (true, false)", lambda i: True),
        ('tags == "t1"', lambda i: "t1" in i["tags"]),
        ('"t1" in tags', lambda i: "t1" in i["tags"]),
        ('tags != "t1"', lambda i: "t1" not in i["tags"]),
        ('"t1" not in tags', lambda i: "t1" not in i["tags"]),
        ('tags in ("t1", "u2")', lambda i: bool({"t1", "u2"} & set(i["tags"]))),
        ("has(price)", lambda i: True),
        ('has("tags") and has(new) and has(attr("colour"))', lambda i: True),
        ('attr("price") < 2', lambda i: i["price"] < 2),
        ("price <= 5 and colour in ('red', 'blue')", lambda i: i["price"] <= 5 and i["colour"] != "green"),
        ("price < 2 or price > 12 or new", lambda i: i["price"] < 2 or i["price"] > 12 or i["new"]),
        ("new and (price < 2 or tags == 't3')", lambda i: i["new"] and (i["price"] < 2 or "t3" in i["tags"])),
        ("  price <= 5\n  and new", lambda i: i["price"] <= 5 and i["new"]),
    ],
)  # fmt: skip
def test_an_expression_means_what_it_says(catalogue: Catalogue, text: str, test: Any) -> None:
    assert np.flatnonzero(compile_filter(text).mask(catalogue)).tolist() == rows(test)


def test_not_takes_the_others_those_without_the_attribute_too(catalogue: Catalogue) -> None:
    for inner in ("price <= 5", "price != 5", "new", 'tags == "t1"', "has(colour)"):
        some, others = (compile_filter(text).mask(catalogue) for text in (inner, f"not ({inner})"))
        np.testing.assert_array_equal(some, ~others)
        assert others[::5].all()


PLACES: list[Any] = [
    ("price.real > 1", "a dot", 1),
    ("price + 1 < 3", "arithmetic", 1),
    ("new and price <= 2 * 3", "arithmetic", 18),
    ("price <= 5 & new", "arithmetic", 10),
    ("price < -(1)** 2", "arithmetic", 10),
    ("__import__('os').system('true')", "a call", 1),
    ("new or open('x')", "a call", 8),
    ("(lambda: 1)() == price", "a call", 1),
    ("lambda: new", "a lambda", 1),
    ("price[0] == 1", "an index", 1),
    ("[p for p in price] == 1", "a ListComp", 1),
    ("new if new else new", "if", 1),
    ("(x := 5) == price", "an assignment", 2),
    ('f"{price}" == colour', "an f-string", 1),
    ("colour == None", "None", 11),
    ("colour is 'red'", "is", 1),
    ("colour == b'red'", "a bytes", 11),
    ("price == 1j", "a complex", 10),
    ("price == 1e999", "a number as large", 10),
    (f"price == 1{'0' * 400}", "a number as large", 10),
    ("price", "'price' by itself", None),
    ("true", "a value by itself", 1),
    ("'red' or new", "a value by itself", 1),
    ("1 < 2", "without an attribute", 1),
    ("new and 'a' in ('a', 'b')", "in other than", 9),
    ("colour in 'red'", "in other than", 1),
    ("('t1', 't2') in tags", "in other than", 1),
    ("colour == ('red', 'blue')", "== with a list", 11),
    ("colour in (('red',),)", "a Tuple", 12),
    ("colour in ('red', *tags)", "a star", 19),
    ("colour in ('red', price)", "a Name", 19),
    ("has(price, new)", "one argument", 1),
    ("has(5)", "has() of a value", 5),
    ("attr(price) == 1", "attr() of anything but a text", 6),
    ("colour == 'a\\x41'", "a backslash", 13),
    ("price < 5 # cheap\nand new", "a # in more than one line", 11),
    ("price < 5 # cheap\rand new", "a # in more than one line", 11),
    ("é == 'é' and price ** 2", "arithmetic", 14),
    ("price = 5", "invalid syntax", None),
    ("price < ", "syntax", None),
    ("price < 5 new", "syntax", None),
    ("(price < 5", "never closed", 1),
    ("price < 5) or (new", "unmatched", 10),
    ("new; new", "syntax", 4),
    ("", "empty", None),
    ("\0", "null bytes", None),
    ("new and '\ud800' == colour", "cannot be read", None),
    ("not " * 40 + "new", "nesting", None),
    ("(" * 300 + "new" + ")" * 300, "nested", None),
    ("-" * 990 + "1 < price", "", None),
    (" or ".join(["new"] * 400), f"at most {MAX_LENGTH}", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "what", "place"), PLACES, ids=[text[:40] for text, _, _ in PLACES])
def test_anything_else_is_refused_and_named(catalogue: Catalogue, text: str, what: str, place: int | None) -> None:
    with pytest.raises(RequestError) as caught:
        compile_filter(text).mask(catalogue)
    assert what in str(caught.value)
    if place is not None:
        assert f"at character {place} " in str(caught.value)


@pytest.mark.parametrize("text", ["size > 3", "new and not size", "has(size)", 'attr("a b") == 1', '"x" in size'])
def test_an_unknown_attribute_is_named_with_those_that_there_are(catalogue: Catalogue, text: str) -> None:
    with pytest.raises(UnknownAttribute, match="colour, new, price, tags"):
        compile_filter(text).mask(catalogue)


@pytest.mark.parametrize(
    "text",
    [
        "price == 'red'",
        "price == true",
        "colour < 5",
        "colour == 5",
        "new == 'yes'",
        "new > false",
        "tags < 't'",
        "tags == 3",
        "'red' in colour",
        "1 in price",
        "colour == tags",
        "new == price",
        "colour",
    ],
)
def test_a_value_must_suit_its_attribute(catalogue: Catalogue, text: str) -> None:
    with pytest.raises(RequestError, match=r"price|colour|new|tags"):
        compile_filter(text).mask(catalogue)


ATOMS = st.sampled_from(
    [
        *(f"price {sign} {value}" for sign in ("<", "<=", ">", ">=", "==", "!=") for value in (1.5, 5, 9.5)),
        *(f"colour {sign} {value!r}" for sign in ("==", "!=", "<", ">=") for value in ("red", "green", "x")),
        "new",
        "new == false",
        "'t1' in tags",
        "colour not in ('red', 'x')",
        "3 <= price <= 7",
    ]
)
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda t: f"({t[0]}) {t[1]} ({t[2]})"),
        inner.map(lambda text: f"not ({text})"),
    ),
    max_leaves=6,
)


@given(EXPRESSIONS)
def test_it_agrees_with_python_where_nothing_is_absent(text: str) -> None:
    """The reference is Python itself, item by item, of the text that this test made up."""
    some = [item for item in ITEMS if item]
    expected = [bool(eval(text, {"false": False}, item)) for item in some]
    assert compile_filter(text).mask(Plain(some)).tolist() == expected


@given(st.text(max_size=60))
def test_no_text_does_anything_but_filter_or_be_refused(text: str) -> None:
    try:
        mask = compile_filter(text).mask(Plain(ITEMS[1:5]))
    except RequestError:
        return
    assert mask.dtype == np.bool_


class Plain:
    """Columns straight from attributes."""

    def __init__(self, items: list[dict[str, Any]]) -> None:
        self.n_items = len(items)
        colours = sorted({item["colour"] for item in items})
        tags = sorted({tag for item in items for tag in item["tags"]})
        self.columns = {
            "price": Numbers(np.array([item["price"] for item in items], np.float64)),
            "colour": Labels(np.array([colours.index(item["colour"]) for item in items], np.int32), tuple(colours)),
            "new": Flags(np.array([item["new"] for item in items], np.int8)),
            "tags": Tags(
                np.arange(len(items) + 1) * 2,
                np.array([tags.index(tag) for item in items for tag in item["tags"]], np.int32),
                tuple(tags),
            ),
        }

    @property
    def attribute_names(self) -> tuple[str, ...]:
        return tuple(sorted(self.columns))

    def attribute(self, name: str) -> Any:
        return self.columns.get(name)


def test_a_filter_follows_the_catalogue_it_is_asked_of() -> None:
    cheap = compile_filter("price < 3")
    first, second = Plain(ITEMS[1:5]), Plain(ITEMS[6:10])
    for _ in range(2):
        assert cheap.mask(first).tolist() == [item["price"] < 3 for item in ITEMS[1:5]]
        assert cheap.mask(second).tolist() == [item["price"] < 3 for item in ITEMS[6:10]]
