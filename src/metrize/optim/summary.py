"""What an optimizer does with each of its groups, as a short table."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from metrize import sizes
from metrize.part import Spec
from metrize.recipe import parse_recipe
from metrize.step.assignment import Assignment, Assignments
from metrize.step.group import name_of

_COLUMNS = ("group", "parameters", "rule", "lr", "decay", "numbers", "state", "where")
_RIGHT = ("lr", "decay", "numbers", "state")


def summary(title: str, groups: Sequence[dict[str, Any]]) -> str:
    """A line for each group under a line for all.

    Args:
        title: of the optimizer.
        groups: its parameter groups.
    """
    rows = [_row(number, group) for number, group in enumerate(groups)]
    tensors = sum(len(group["params"]) for group in groups)
    numbers, held = sum(row[5] for row in rows), sum(row[6] for row in rows)
    first = f"{title} ({_count(tensors, 'parameter')}, {_count(numbers, 'number')}, {sizes.written(held)} of state)"
    told = [(*row[:5], f"{row[5]:,}", sizes.written(row[6]), row[7]) for row in rows]
    return "\n".join([first, *_aligned([_COLUMNS, *told])])


def spec_bytes(spec: Spec) -> int:
    """Bytes of a declared state."""
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in spec.values())


def _row(number: int, group: dict[str, Any]) -> tuple[str, str, str, str, str, int, int, str]:
    known = Assignments(group)
    each = [known.of(index, p) for index, p in enumerate(group["params"])]
    numbers, held = sum(p.numel() for p in group["params"]), sum(spec_bytes(a.spec) for a in each)
    lr, decay = f"{float(group['lr']):g}", f"{float(group['weight_decay']):g}"
    rule = str(parse_recipe(group["recipe"]).rule)
    return str(number), _names(group), rule, lr, decay, numbers, held, _where(each)


def _names(group: dict[str, Any]) -> str:
    """The first names, with a star for every number in them, and how many more there are."""
    names = [name_of(group, index) for index in range(len(group["params"]))]
    if not group.get("param_names"):
        return _count(len(names), "parameter")
    patterns = Counter(re.sub(r"(?<![^.])\d+(?=\.)", "*", name) if len(names) > 1 else name for name in names)
    told = [f"{pattern} x{times}" if times > 1 else pattern for pattern, times in patterns.items()]
    return ", ".join(told[:2]) + (f" and {len(told) - 2} more" if len(told) > 2 else "")


def _where(each: list[Assignment]) -> str:
    """How many parameters live on which space, and for how many the frame or the storage projects."""
    told = [f"{times} on {space}" for space, times in Counter(str(a.space) for a in each if not a.space.flat).items()]
    projected = sum(bool(a.declared["frame"] or any(key.startswith(tuple(a.slots)) for key in a.seeds)) for a in each)
    frames = {type(a.recipe.frame).__name__ for a in each if not a.recipe.frame.trivial}
    if frames or projected:
        told.append(f"{projected} of {len(each)} " + (f"in {', '.join(frames)}" if frames else "projected"))
    return ", ".join(told) or "free"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _aligned(lines: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    sides = [">" if title in _RIGHT else "<" for title in _COLUMNS]
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths, strict=True)).rstrip()
        for line in lines
    ]
