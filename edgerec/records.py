"""Immutable records: frozen dataclasses with slots in all but how they are made, which costs a tenth at import.

`dataclasses` compiles six methods from text for every class; with forty classes that was a fifth of a cold start. It
is loaded only when somebody asks for a record's `fields`, or for a copy by `dataclasses.replace` or `asdict`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar, dataclass_transform

T = TypeVar("T")


class _Fresh:
    """A default that is made anew for every record."""

    __slots__ = ("default_factory",)

    def __init__(self, default_factory: Callable[[], Any]) -> None:
        self.default_factory = default_factory


def field(*, default_factory: Callable[[], Any]) -> Any:
    """A field whose default is made anew for every record."""
    return _Fresh(default_factory)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[T]) -> type[T]:
    """A class of values that cannot be changed, its fields those that are annotated."""
    body = dict(cls.__dict__)
    names = tuple(body.get("__annotations__", {}))
    defaults = {name: body.pop(name) for name in names if name in body}
    for gone in ("__dict__", "__weakref__"):
        body.pop(gone, None)
    for name, method in _SHARED.items():
        body.setdefault(name, method)
    body |= {"__slots__": names, "__match_args__": names}
    body |= {"__dataclass_fields__": _Fields(defaults), "__signature__": _Signature(defaults)}
    metaclass: Any = type(cls)
    made = metaclass(cls.__name__, cls.__bases__, body)
    made.__init__ = _initialiser(made, names, defaults)
    return made  # type: ignore[no-any-return]


def changed(one: T, **values: Any) -> T:
    """A copy with other values, as `dataclasses.replace` makes it."""
    names = _names(one)
    if unknown := values.keys() - set(names):
        raise TypeError(f"{type(one).__qualname__} has no field {min(unknown)!r}")
    return type(one)(*[values[name] if name in values else getattr(one, name) for name in names])


def locked(array: Any) -> Any:
    """A view of a numpy array, which is not to be written to from now on; nor can the view be unlocked."""
    array.flags.writeable = False
    return array.view()


def _initialiser(made: type[Any], names: tuple[str, ...], defaults: dict[str, Any]) -> Any:
    """An `__init__` that takes the fields by place or by name."""
    setters = [made.__dict__[name].__set__ for name in names]
    count = len(names)

    def initialise(self: Any, /, *values: Any, **named: Any) -> None:
        if named or len(values) != count:
            values = _completed(made.__qualname__, names, defaults, values, named)
        for set_, value in zip(setters, values):  # noqa: B905 - both have one per field; `strict` takes time
            set_(self, value)

    return initialise


def _completed(
    owner: str, names: tuple[str, ...], defaults: dict[str, Any], values: tuple[Any, ...], named: dict[str, Any]
) -> tuple[Any, ...]:
    """A value for every field, defaults included. Raises TypeError as a call with the wrong arguments does."""
    if len(values) > len(names):
        raise TypeError(f"{owner}() takes {len(names)} values, {len(values)} were given")
    out = list(values)
    for name in names[len(values) :]:
        if name in named:
            out.append(named.pop(name))
        elif name not in defaults:
            raise TypeError(f"{owner}() misses the argument {name!r}")
        else:
            default = defaults[name]
            out.append(default.default_factory() if isinstance(default, _Fresh) else default)
    if named:
        raise TypeError(f"{owner}() got an unknown or repeated argument {min(named)!r}")
    return tuple(out)


class _Fields:
    """What makes `dataclasses` take a record for one of its own: the fields, described when they are asked for."""

    def __init__(self, defaults: dict[str, Any]) -> None:
        self.defaults = defaults

    def __get__(self, one: object, owner: type[Any]) -> dict[str, Any]:
        import dataclasses

        specified: list[Any] = []
        for name, kind in owner.__annotations__.items():
            default = self.defaults.get(name, dataclasses.MISSING)
            if isinstance(default, _Fresh):
                specified.append((name, kind, dataclasses.field(default_factory=default.default_factory)))
            else:
                specified.append((name, kind, dataclasses.field(default=default)))
        twin: Any = dataclasses.make_dataclass(owner.__name__, specified, kw_only=True)
        owner.__dataclass_fields__ = twin.__dataclass_fields__
        fields: dict[str, Any] = twin.__dataclass_fields__
        return fields


class _Signature:
    """What `help` and `inspect.signature` show."""

    def __init__(self, defaults: dict[str, Any]) -> None:
        self.defaults = defaults

    def __get__(self, one: object, owner: type[Any]) -> Any:
        from inspect import Parameter, Signature

        return Signature(
            [
                Parameter(
                    name,
                    Parameter.POSITIONAL_OR_KEYWORD,
                    default=self.defaults.get(name, Parameter.empty),
                    annotation=kind,
                )
                for name, kind in owner.__annotations__.items()
            ]
        )


def _names(one: Any) -> tuple[str, ...]:
    names: tuple[str, ...] = one.__match_args__
    return names


def _values(one: Any) -> tuple[Any, ...]:
    return tuple([getattr(one, name) for name in _names(one)])


class _Shared:
    """The methods that every record has, unless it brings its own."""

    def __setattr__(self, name: str, value: object) -> NoReturn:
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def __getstate__(self) -> tuple[Any, ...]:
        return _values(self)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        for name, value in zip(_names(self), state, strict=True):
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        pairs = ", ".join(f"{name}={getattr(self, name)!r}" for name in _names(self))
        return f"{type(self).__qualname__}({pairs})"

    def __eq__(self, other: object) -> Any:
        return _values(self) == _values(other) if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(_values(self))


_SHARED = {name: method for name, method in vars(_Shared).items() if callable(method)}
