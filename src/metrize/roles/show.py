"""A plan as text."""

from __future__ import annotations

import fnmatch
import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from metrize.norms.layout import without_layouts
from metrize.recipe import Recipe
from metrize.roles.role import VECTORS
from metrize.roles.row import PlanRow

COLUMNS = ("parameter", "", "shape", "role", "read as", "trained by", "why")
"""Titles of `cells`."""


def cells(rows: Sequence[PlanRow]) -> list[tuple[str, ...]]:
    """A line for each row; equal layers share one.

    The shared name has a ``*`` for every number where it matches these rows and no others, as patterns of
    `metrize.plan` do, and else the numbers themselves in braces.
    """
    names, folded = [row.name for row in rows], defaultdict(list)
    for row in rows:
        folded[_same(row)].append(row)
    lines = []
    for row in rows:
        alike = folded[_same(row)]
        shared = _shared([other.name for other in alike], names)
        if shared is None:
            lines.append(_line(row.name, [row]))
        elif row is alike[0]:
            lines.append(_line(shared, alike))
    return lines


def _same(row: PlanRow) -> tuple[Any, ...]:
    """Equal for rows that share a line."""
    reason = _pattern(row.role.reason)
    return _pattern(row.name), row.shape, row.role, repr(row.recipe), repr(row.numbers), row.frozen, reason


def _shared(alike: Sequence[str], names: Sequence[str]) -> str | None:
    """One name for several parameters; None where there is no short one."""
    if len(alike) == 1:
        return None
    if len(fnmatch.filter(names, _pattern(alike[0]))) == len(alike):
        return _pattern(alike[0])
    parts = list(zip(*(name.split(".") for name in alike), strict=True))
    changing = [part for part in parts if len(set(part)) > 1]
    if len(changing) > 1:
        return None
    return ".".join(part[0] if part not in changing else f"{{{_ranges([int(n) for n in part])}}}" for part in parts)


def _ranges(numbers: Sequence[int]) -> str:
    """``0, 1, 2, 5`` as ``0..2,5``."""
    runs = [[n for _, n in run] for _, run in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    return ",".join(f"{run[0]}..{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def written(rows: Sequence[PlanRow], notes: Iterable[str], unused: Sequence[str]) -> str:
    """The table and what is to be said about it, as plain text."""
    lines = [COLUMNS, *cells(rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    text.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*text, *remarks(notes, unused)])


def remarks(notes: Iterable[str], unused: Sequence[str]) -> list[str]:
    """What is to be said about a plan, a line each."""
    told = [f"note: {note}" for note in notes]
    return [*told, f"note: the example does not use {', '.join(unused)}"] if unused else told


def _line(name: str, rows: Sequence[PlanRow]) -> tuple[str, ...]:
    row = rows[0]
    count = f"x{len(rows)}" if len(rows) > 1 else ""
    shape = " x ".join(map(str, row.shape)) or "-"
    layout = "" if row.role.kind in VECTORS else str(row.role.layout)[len("Layout(") : -1]
    reason = _pattern(row.role.reason) if len(rows) > 1 else row.role.reason
    return name, count, shape, row.role.kind, layout, _method(row), reason


def _method(row: PlanRow) -> str:
    if row.recipe is None:
        return "left out"
    recipe = without_layouts(row.recipe)  # which have a column of their own
    text = str(recipe.rule) if recipe == Recipe(rule=recipe.rule) else str(recipe)
    numbers = [
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in row.numbers.items()
    ]
    return ", ".join([text, *numbers, *(["frozen"] if row.frozen else [])])


def _pattern(name: str) -> str:
    """With a star for every component that is a number."""
    return re.sub(r"(?<![^.\s])\d+(?=\.)|(?<=\.)\d+(?![^.\s])", "*", name)
