"""Plain values: what a field of a part can hold, and what its annotation says that it may."""

from __future__ import annotations

import dataclasses
import math
import operator
import sys
import types
import typing
import weakref
from collections.abc import Iterator
from typing import Any, Literal, Union


class MisfitError(TypeError):
    """A value is not of the kind that an annotation asks for."""


_hints: weakref.WeakKeyDictionary[type, dict[str, Any]] = weakref.WeakKeyDictionary()


def hints_of(cls: type) -> dict[str, Any]:
    """The annotation of each field of a dataclass; `Any` where it names what its module does not know."""
    if cls not in _hints:
        _hints[cls] = {field.name: _hint(cls, field.name, field.type) for field in dataclasses.fields(cls)}
    return _hints[cls]


def plain(value: Any) -> Any:
    """A value without numpy, torch or lists: numbers, text, None, tuples of them, and anything else as it is.

    Args:
        value: such as ``np.float64(0.9)``, a 0-d tensor, or a list of them.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, tuple | list):
        return tuple(plain(entry) for entry in value)
    if isinstance(value, str):
        return str.__str__(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, type):
        return value
    if hasattr(value, "__index__"):
        return operator.index(value)
    return float(value) if hasattr(value, "__float__") else value


def fitted(value: Any, hint: Any) -> Any:
    """A plain value as its annotation has it: 10.0 is the whole number 10, and 1 is True, where nothing else will do.

    Raises:
        MisfitError: it is of another kind.
    """
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return _first_fit(value, typing.get_args(hint))
    if origin is tuple:
        return _fitted_tuple(value, typing.get_args(hint))
    if origin is Literal:
        kinds = {type(allowed) for allowed in typing.get_args(hint)}
        return _first_fit(value, tuple(kinds))
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if hint is bool and type(value) is int and value in (0, 1):
        return bool(value)
    if not _is_a(value, hint):
        raise MisfitError
    return value


def holds_nan(value: Any) -> bool:
    """Whether a plain value is, or has among its entries, what is not a number."""
    if isinstance(value, tuple):
        return any(map(holds_nan, value))
    return isinstance(value, float) and math.isnan(value)


def wanted(hint: Any) -> str:
    """What an annotation asks for, in words, such as ``a whole number or None``."""
    words = {int: "a whole number", float: "a number", bool: "True or False", str: "a text", types.NoneType: "None"}
    told = [_named(kind) if kind not in words else words[kind] for kind in alternatives(hint)]
    return " or ".join(dict.fromkeys(told))


def alternatives(hint: Any) -> Iterator[Any]:
    """The members of a union, or the one annotation."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        for member in typing.get_args(hint):
            yield from alternatives(member)
    else:
        yield hint


def _named(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return f"one of {', '.join(map(repr, typing.get_args(hint)))}"
    if typing.get_origin(hint) is tuple:
        return f"a tuple, each entry {wanted(typing.get_args(hint)[0])}"
    return getattr(hint, "__name__", str(hint))


def _first_fit(value: Any, hints: tuple[Any, ...]) -> Any:
    for hint in sorted(hints, key=lambda hint: type(value) is not hint):  # its own type before what it could become
        try:
            return fitted(value, hint)
        except MisfitError:
            continue
    raise MisfitError


def _fitted_tuple(value: Any, hints: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(value, tuple):
        raise MisfitError
    if len(hints) == 2 and hints[1] is Ellipsis:
        hints = hints[:1] * len(value)
    if len(hints) != len(value):
        raise MisfitError
    return tuple(fitted(entry, hint) for entry, hint in zip(value, hints, strict=True))


def _is_a(value: Any, hint: Any) -> bool:
    if hint is float:
        return type(value) in (int, float)
    if hint in (int, bool, str):
        return type(value) is hint
    kind = typing.get_origin(hint) or hint
    return isinstance(value, kind) if isinstance(kind, type) else True


def _hint(cls: type, name: str, annotation: Any) -> Any:
    if not isinstance(annotation, str):
        return annotation
    home = next(base for base in cls.__mro__ if name in vars(base).get("__annotations__", {}))
    module = vars(sys.modules[home.__module__]) if home.__module__ in sys.modules else {}
    try:
        return typing.get_type_hints(types.SimpleNamespace(__annotations__={name: annotation}), module)[name]
    except Exception:  # a name of the function that the class was made in, or one for type checkers alone
        return Any
