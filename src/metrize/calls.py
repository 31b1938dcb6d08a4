"""Calls with the arguments that a person wrote: what is unknown is named, and what is known is listed."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

_Made = TypeVar("_Made")
_INTERNAL = {"self", "params", "recipe", "generator", "divide"}


def call(function: Callable[..., _Made], /, *args: Any, **options: Any) -> _Made:
    """What a function returns.

    Args:
        function: a class or a function.
        args: what it takes by place.
        options: what a person wrote.

    Raises:
        TypeError: an option that it does not take; says which it takes.
    """
    try:
        return function(*args, **options)
    except TypeError as error:
        unknown = [name for name in options if name not in names_of(function) and repr(name) in str(error)]
        if not unknown:
            raise
        raise TypeError(f"{_name(function)} takes no {unknown[0]!r}{near(unknown[0], names_of(function))}") from error


def names_of(function: Callable[..., Any]) -> list[str]:
    """The names of the arguments, those that a ``**options`` hands on to a base class or to a frame too."""
    found: dict[str, None] = {}
    for kind in inspect.getmro(function) if inspect.isclass(function) else [function]:
        if kind.__module__.startswith("torch.") or kind is object:
            break
        found |= dict.fromkeys(_named(kind))
        if not _takes_others(kind):
            break
    if hasattr(function, "recipe") and _takes_others(function.recipe):
        found |= dict.fromkeys(field.name for field in dataclasses.fields(function.recipe().frame))
    return [name for name in found if name not in _INTERNAL]


def _named(function: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _takes_others(function: Callable[..., Any]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values())


def near(name: str, known: Iterable[str]) -> str:
    """What to say behind a name that is not known: the nearest one that is, and all of them."""
    lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), lower, n=1)
    hint = f" (did you mean {lower[close[0]]!r}?)" if close else ""
    return f"{hint}; known: {', '.join(lower.values())}"


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", str(function))
