"""Numbers for parameters that are picked by name."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

FACTOR = "lr_mult"
"""A factor on the learning rate of a group; factors from several places multiply."""

Rules = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None
"""Answers by name or pattern, such as ``{"*.bias": {"weight_decay": 0}}``, or several such mappings in order."""


def listed(rules: Rules) -> list[Mapping[str, Any]]:
    """The mappings of some rules.

    Raises:
        TypeError: they are no mapping and no sequence of mappings.
    """
    found = [] if rules is None else [rules] if isinstance(rules, Mapping) else rules
    if not isinstance(found, list | tuple) or not all(isinstance(one, Mapping) for one in found):
        raise TypeError(
            f"rules={rules!r}: give a mapping such as {{'*.bias': {{'weight_decay': 0}}}}, or a list of them"
        )
    return list(found)


def no_match(pattern: str, names: Iterable[str]) -> str:
    """What is said to a pattern that matches nothing."""
    close = difflib.get_close_matches(pattern, list(names), n=1)
    return f"{pattern!r} matches no parameter" + (f"; did you mean {close[0]!r}?" if close else "")


def added(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers with others over them; factors on the learning rate multiply."""
    scale = {FACTOR: old[FACTOR] * new[FACTOR]} if FACTOR in old and FACTOR in new else {}
    return {**old, **new, **scale}


def disagreement(name: str, one: str, other: str) -> str:
    """What is said where two patterns give a parameter different answers."""
    return f"parameter {name!r} is matched by {one!r} and by {other!r}, which say different things"


def numbers_of(name: str, rules: Iterable[Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """What the rules say about one parameter.

    Raises:
        ValueError: two patterns of one mapping give one number different values.
    """
    numbers: dict[str, Any] = {}
    for mapping in rules:
        told: dict[str, tuple[Any, str]] = {}
        for pattern in mapping:
            for key, value in mapping[pattern].items() if fnmatch.fnmatchcase(name, pattern) else ():
                known, by = told.setdefault(key, (value, pattern))
                if known != value:
                    raise ValueError(f"{disagreement(name, by, pattern)} of {key}; make one of them narrower")
        numbers = added(numbers, {key: value for key, (value, _) in told.items()})
    return numbers
