"""A small filter language over the catalogue's attributes: `price <= 5 and colour in ("red", "blue") and not sold_out`.

It is written like Python and read by Python's parser, but nothing is ever run: what the parser finds is turned into
numpy masks here, and whatever is not named here is refused. docs/rules.md describes the language.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeGuard

import numpy as np

from edgerec.bundle.catalogue import Flags, Numbers, Tags
from edgerec.errors import RequestError
from edgerec.records import record
from edgerec.serving.conditions import SIGNS, Attributes, Filter, Test, column_of, equal, ordered, present
from edgerec.types import Bools

MAX_LENGTH = 1000
MAX_DEPTH = 32
_SHOWN = 60
_HINT = "compare attributes with numbers, texts, true or false; join by and, or, not; has(attribute)"


def compile_filter(text: str) -> Filter:
    """Reads an expression. Raises RequestError naming what is not allowed, and where."""
    if len(text) > MAX_LENGTH:
        raise RequestError(f"an expression of {len(text)} characters", hint=f"at most {MAX_LENGTH} are read")
    return Filter(shortened(text.strip()), _Reader(text).read())


def shortened(text: str) -> str:
    """The text, or its beginning where it is long."""
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


_OPERATORS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.In: "in",
    ast.NotIn: "not in",
}
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
"""`5 < price` is `price > 5`."""

_LISTS = (ast.Tuple, ast.List, ast.Set)

_NAMES: dict[type[ast.AST], str] = {
    ast.Call: "a call",
    ast.Attribute: "a dot",
    ast.BinOp: "arithmetic",
    ast.Lambda: "a lambda",
    ast.Subscript: "an index",
    ast.IfExp: "if … else",
    ast.NamedExpr: "an assignment",
    ast.JoinedStr: "an f-string",
    ast.Starred: "a star",
    ast.Dict: "a mapping",
}


@record
class _Attribute:
    name: str


class _Reader:
    """Turns one expression's text into a test."""

    def __init__(self, text: str) -> None:
        self.text = text
        # one character for one, so that places stay true
        self._source = text.replace("\r", " ").replace("\n", " ").replace("\t", " ")
        self._indent = len(self._source) - len(self._source.lstrip())

    def read(self) -> Test:
        source = self._source.strip()
        if not source:
            raise RequestError("an empty expression", hint=_HINT)
        if "\\" in source:
            self._refuse("a backslash", self.text.index("\\"))
        if "#" in source and len(self.text.splitlines()) > 1:  # a comment would swallow the lines after it
            self._refuse("a # in more than one line", self.text.index("#"))
        try:
            tree = ast.parse(source, mode="eval")
        except SyntaxError as error:
            place = self._indent + (error.offset or 1)
            raise RequestError(f"{error.msg}, at character {place} of {shortened(self.text)!r}", hint=_HINT) from None
        except (ValueError, RecursionError, MemoryError) as error:
            raise RequestError(f"{shortened(self.text)!r} cannot be read: {error}", hint=_HINT) from None
        return self._test(tree.body, 1)

    def _test(self, node: ast.expr, depth: int) -> Test:
        if depth > MAX_DEPTH:
            self._refuse(f"nesting of more than {MAX_DEPTH} levels", node)
        if isinstance(node, ast.BoolOp):
            tests = [self._test(value, depth + 1) for value in node.values]
            return _joined(tests, np.bitwise_and if isinstance(node.op, ast.And) else np.bitwise_or)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = self._test(node.operand, depth + 1)
            return lambda catalogue: ~inner(catalogue)
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            pairs = zip(sides, node.ops, sides[1:], strict=False)
            return _joined([self._comparison(left, sign, right) for left, sign, right in pairs], np.bitwise_and)
        if _calls(node, "has"):
            return self._has(node)
        return self._flag(node)

    def _flag(self, node: ast.expr) -> Test:
        side = self._side(node)
        if not isinstance(side, _Attribute):
            self._refuse("a value by itself", node)

        def test(catalogue: Attributes) -> Bools:
            column = column_of(catalogue, side.name)
            if not isinstance(column, Flags):
                raise RequestError(f"{side.name!r} by itself is no condition", hint="compare it, or write has(…)")
            return column.equal(True)

        return test

    def _has(self, node: ast.Call) -> Test:
        inner = self._argument(node)
        side = self._side(inner)
        if isinstance(side, tuple) and (len(side) != 1 or not isinstance(side[0], str)):
            self._refuse("has() of a value", inner)
        name = side.name if isinstance(side, _Attribute) else str(side[0])
        return lambda catalogue: present(column_of(catalogue, name))

    def _comparison(self, left: ast.expr, operation: ast.cmpop, right: ast.expr) -> Test:
        sign = _OPERATORS.get(type(operation))
        if sign is None:
            self._refuse("is", left)
        if sign in ("in", "not in"):
            return self._membership(left, sign, right)
        one, other = self._side(left), self._side(right)
        for node in (left, right):
            if isinstance(node, _LISTS):
                self._refuse(f"{sign} with a list", node)
        if isinstance(one, _Attribute):
            return _of_two(one.name, sign, other.name) if isinstance(other, _Attribute) else _of(one.name, sign, other)
        if not isinstance(other, _Attribute):
            self._refuse("a comparison without an attribute", left)
        return _of(other.name, _MIRRORED[sign], one)

    def _membership(self, left: ast.expr, sign: str, right: ast.expr) -> Test:
        one, other = self._side(left), self._side(right)
        if isinstance(one, _Attribute) and isinstance(right, _LISTS) and not isinstance(other, _Attribute):
            return _of(one.name, "==" if sign == "in" else "!=", other)
        if isinstance(other, _Attribute) and not isinstance(one, _Attribute) and not isinstance(left, _LISTS):
            return _tagged(other.name, "==" if sign == "in" else "!=", one)
        self._refuse(f'{sign} other than `attribute in ("…", "…")` and `"…" in tags`', left)

    def _side(self, node: ast.expr) -> _Attribute | tuple[object, ...]:
        """An attribute, or values."""
        if isinstance(node, ast.Name) and node.id not in ("true", "false"):
            return _Attribute(node.id)
        if _calls(node, "attr"):
            inner = self._argument(node)
            if not isinstance(inner, ast.Constant) or not isinstance(inner.value, str):
                self._refuse("attr() of anything but a text", inner)
            return _Attribute(inner.value)
        if isinstance(node, _LISTS):
            return tuple(self._value(one) for one in node.elts)
        return (self._value(node),)

    def _argument(self, node: ast.Call) -> ast.expr:
        if len(node.args) != 1 or node.keywords:
            self._refuse("a call with anything but one argument", node)
        return node.args[0]

    def _value(self, node: ast.expr) -> object:
        sign = 1
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
            sign, node = (-1 if isinstance(node.op, ast.USub) else 1), node.operand
            if not isinstance(node, ast.Constant) or isinstance(node.value, (str, bool)):
                self._refuse("arithmetic", node)
        if isinstance(node, ast.Name) and node.id in ("true", "false"):
            return node.id == "true"
        if not isinstance(node, ast.Constant) or not isinstance(node.value, (str, bool, int, float)):
            self._refuse(_named(node), node)
        if isinstance(node.value, (str, bool)):
            return node.value
        try:
            number = sign * float(node.value)
        except OverflowError:
            number = math.inf
        return number if math.isfinite(number) else self._refuse("a number as large as this", node)

    def _refuse(self, what: str, at: ast.expr | int) -> NoReturn:
        if isinstance(at, ast.expr):  # the parser counts bytes
            at = self._indent + len(self._source.strip().encode()[: at.col_offset].decode())
        raise RequestError(f"{what} is not allowed, at character {at + 1} of {shortened(self.text)!r}", hint=_HINT)


def _calls(node: ast.expr, name: str) -> TypeGuard[ast.Call]:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name


def _named(node: ast.expr) -> str:
    """What people call a part of an expression."""
    if isinstance(node, ast.Constant):
        return "None" if node.value is None else f"a {type(node.value).__name__}"
    return _NAMES.get(type(node), f"a {type(node).__name__}")


def _joined(tests: Sequence[Test], join: Callable[[Bools, Bools], Bools]) -> Test:
    if len(tests) == 1:
        return tests[0]

    def test(catalogue: Attributes) -> Bools:
        mask = join(tests[0](catalogue), tests[1](catalogue))
        for other in tests[2:]:
            mask = join(mask, other(catalogue))
        return mask

    return test


def _of(name: str, sign: str, values: Sequence[object]) -> Test:
    """An attribute against values; an item without the attribute meets no comparison, != neither."""

    def test(catalogue: Attributes) -> Bools:
        column = column_of(catalogue, name)
        if sign in SIGNS:
            return ordered(column, name, sign, values[0])
        mask = equal(column, name, values)
        return mask if sign == "==" else present(column) & ~mask

    return test


def _tagged(name: str, sign: str, values: Sequence[object]) -> Test:
    inner = _of(name, sign, values)

    def test(catalogue: Attributes) -> Bools:
        if not isinstance(column_of(catalogue, name), Tags):
            raise RequestError(f"{name!r} holds one value, in which none is sought", hint=f"write {name} == …")
        return inner(catalogue)

    return test


def _of_two(one: str, sign: str, other: str) -> Test:
    """Two numbers of an item against each other."""

    def test(catalogue: Attributes) -> Bools:
        left, right = column_of(catalogue, one), column_of(catalogue, other)
        if not isinstance(left, Numbers) or not isinstance(right, Numbers):
            raise RequestError(f"{one!r} and {other!r} are not both numbers", hint='write texts in quotes: "…"')
        if sign in SIGNS:
            mask: Bools = SIGNS[sign](left.values, right.values)
            return mask
        same: Bools = left.values == right.values
        return same if sign == "==" else present(left) & present(right) & ~same

    return test
