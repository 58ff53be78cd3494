"""Texts of a bundle that people, logs and file systems see: what they may hold, and how complaints quote them."""

from __future__ import annotations

import re

from edgerec.errors import BundleInvalid

_SHOWN = 60
# patterns are compiled when a text needs a closer look, which most bundles never do
# controls, and what has no shape of its own or turns the direction of what follows: an id must be what it looks like
_NOT_IN_NAMES = "[\x00-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
_NOT_SHOWN = "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202d\u202e]"
_DIRECTIONS = "[\u202a-\u202c\u2066-\u2069]"
_CLOSES = {"\u202c": "\u202a\u202b", "\u2069": "\u2066\u2067\u2068"}


def shown(value: object) -> str:
    """A value as complaints quote it: on one line, escaped, and not longer than a line."""
    try:
        text = repr(value[: _SHOWN + 1] if isinstance(value, str) else value)
    except (RecursionError, ValueError):  # too deep, or a number of too many digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def check_text(value: object, low: int, high: int, what: str) -> None:
    """A text of that many characters, without half a surrogate pair. Raises BundleInvalid."""
    if not isinstance(value, str) or not low <= len(value) <= high:
        raise BundleInvalid(f"{what} must be text of {low} to {high} characters")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BundleInvalid(f"{what} holds half of a surrogate pair") from None


def check_name(value: object, high: int, what: str) -> None:
    """A text that names something: no control characters, nothing invisible. Raises BundleInvalid."""
    check_text(value, 1, high, what)
    if isinstance(value, str) and not value.isprintable() and re.search(_NOT_IN_NAMES, value):
        raise BundleInvalid(f"{what} holds control characters or invisible ones")


def check_shown(value: object, low: int, high: int, what: str) -> None:
    """A text for people: no control characters but line ends and tabs, and it leaves the direction of what follows
    it alone. Raises BundleInvalid."""
    check_text(value, low, high, what)
    if isinstance(value, str) and not value.isprintable():
        if re.search(_NOT_SHOWN, value):
            raise BundleInvalid(f"{what} holds control characters, or overrides the direction of writing")
        if not _is_closed(value):
            raise BundleInvalid(f"{what} changes the direction of writing and does not change it back")


def _is_closed(text: str) -> bool:
    opened: list[str] = []
    for mark in re.findall(_DIRECTIONS, text):
        if mark not in _CLOSES:
            opened.append(mark)
        elif not opened or opened.pop() not in _CLOSES[mark]:
            return False
    return not opened
