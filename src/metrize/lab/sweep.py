"""Grids of options: every method is tried at every point, and the best point of each is what it is compared at."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from metrize.lab.config import RunConfig

Grid = Mapping[str, Sequence[Any]]
"""The values of each swept option, such as ``{"lr": [1e-3, 1e-2]}``."""

_DIGITS = 4  # of the values of a logarithmic grid, so that labels stay short


def parse_grid(words: Sequence[str]) -> dict[str, list[Any]]:
    """A grid from words such as ``lr=1e-4:1e-1:7`` (seven values, each the same factor apart) or ``lr=1e-3,3e-3``.

    Raises:
        ValueError: a word is neither, an end is not above 0, or a value or an option is given twice.
    """
    grid: dict[str, list[Any]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not (name.isidentifier() and equals and text):
            raise ValueError(f"{word!r} is no sweep; write name=first:last:count or name=value,value")
        if name in grid:
            raise ValueError(f"{name!r} is swept twice")
        values = _spaced(word, text) if ":" in text else [_value(one) for one in text.split(",")]
        if len({repr(value) for value in values}) < len(values):
            raise ValueError(f"{word!r} names a value twice")
        grid[name] = values
    return grid


def points(grid: Grid) -> list[dict[str, Any]]:
    """Every combination of the values."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def at_point(config: RunConfig, point: Mapping[str, Any]) -> RunConfig:
    """The configuration with these options in place of its own."""
    others = {name: value for name, value in point.items() if name != "lr"}
    return dataclasses.replace(config, lr=point.get("lr", config.lr), options={**config.options, **others})


def value_of(config: RunConfig, name: str) -> Any:
    """What a configuration has for a swept option."""
    return config.lr if name == "lr" else config.options.get(name)


def numeric(grid: Grid) -> list[str]:
    """The options that are swept over numbers, three of them or more, so that they have a middle and edges."""
    return [name for name, values in grid.items() if len(values) > 2 and all(map(_is_number, values))]


def edges(config: RunConfig, grid: Grid) -> list[str]:
    """The options whose value in a configuration is the smallest or the largest number of their grid."""
    return [name for name in numeric(grid) if value_of(config, name) in (min(grid[name]), max(grid[name]))]


def widened(values: Sequence[float], best: Sequence[float]) -> list[float]:
    """The values with one more at each end where one of the best lies, by the factor between the last two there."""
    rising = sorted(values)
    first, last = ([end for end in ends if end in best] for ends in (rising[:1], rising[-1:]))
    return [
        *[_short(end * end / rising[1]) for end in first],
        *values,
        *[_short(end * end / rising[-2]) for end in last],
    ]


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _spaced(word: str, text: str) -> list[float]:
    try:
        first, last, count = text.split(":")
        low, high, many = float(first), float(last), int(count)
    except ValueError:
        raise ValueError(f"{word!r} is no sweep; write name=first:last:count, such as lr=1e-4:1e-1:7") from None
    if not (0 < low < math.inf and 0 < high < math.inf and many >= 2):
        raise ValueError(f"{word!r}: both ends are above 0, and there are two values at least")
    return [_short(low * (high / low) ** (i / (many - 1))) for i in range(many)]


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
