"""What an optimizer does with each of its groups, as a short table."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from metrize import sizes
from metrize.framing import frame_spec
from metrize.groups import name_of, space_of
from metrize.part import Spec
from metrize.recipe import Recipe, parse_recipe
from metrize.spaces.base import compute_dtype
from metrize.state import drawn, real

if TYPE_CHECKING:
    from metrize.optimizer import Optimizer

_COLUMNS = ("group", "parameters", "rule", "lr", "decay", "numbers", "state", "where")
_RIGHT = ("lr", "decay", "numbers", "state")


def summary(optimizer: Optimizer) -> str:
    """A line for each group under a line for all."""
    rows = [_row(optimizer, number, group) for number, group in enumerate(optimizer.param_groups)]
    tensors = sum(len(group["params"]) for group in optimizer.param_groups)
    numbers, held = sum(row[5] for row in rows), sum(row[6] for row in rows)
    title = (
        f"{type(optimizer).__name__} ({_count(tensors, 'parameter')}, {_count(numbers, 'number')}, "
        f"{sizes.written(held)} of state)"
    )
    told = [(*row[:5], f"{row[5]:,}", sizes.written(row[6]), row[7]) for row in rows]
    return "\n".join([title, *_aligned([_COLUMNS, *told])])


def spec_bytes(spec: Spec) -> int:
    """Bytes of a declared state."""
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in spec.values())


def _row(optimizer: Optimizer, number: int, group: dict[str, Any]) -> tuple[str, str, str, str, str, int, int, str]:
    recipe = parse_recipe(group["recipe"])
    specs = [optimizer.spec(group, index) for index in range(len(group["params"]))]
    numbers, held = sum(p.numel() for p in group["params"]), sum(map(spec_bytes, specs))
    lr, decay = f"{float(group['lr']):g}", f"{float(group['weight_decay']):g}"
    return str(number), _names(group), str(recipe.rule), lr, decay, numbers, held, _where(group, recipe, specs)


def _names(group: dict[str, Any]) -> str:
    """The first names, with a star for every number in them, and how many more there are."""
    names = [name_of(group, index) for index in range(len(group["params"]))]
    if not group.get("param_names"):
        return _count(len(names), "parameter")
    patterns = Counter(re.sub(r"(?<![^.])\d+(?=\.)", "*", name) if len(names) > 1 else name for name in names)
    told = [f"{pattern} x{times}" if times > 1 else pattern for pattern, times in patterns.items()]
    return ", ".join(told[:2]) + (f" and {len(told) - 2} more" if len(told) > 2 else "")


def _where(group: dict[str, Any], recipe: Recipe, specs: list[Spec]) -> str:
    """How many parameters live on which space, and for how many the frame or the storage projects."""
    spaces = [space_of(group, index, recipe) for index in range(len(specs))]
    told = [f"{times} on {space}" for space, times in Counter(str(s) for s in spaces if not s.flat).items()]
    framed = sum(map(_framed, group["params"], spaces, [recipe] * len(specs), specs))
    frame = type(recipe.frame).__name__
    if frame != "Identity" or framed:
        told.append(f"{framed} of {len(specs)} {'projected' if frame == 'Identity' else f'in {frame}'}")
    return ", ".join(told) or "free"


def _framed(parameter: Any, space: Any, recipe: Recipe, spec: Spec) -> bool:
    own = frame_spec(recipe.frame, space, real(parameter).shape, compute_dtype(parameter.dtype))
    return bool(own) or any(map(drawn, spec))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _aligned(lines: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    sides = [">" if title in _RIGHT else "<" for title in _COLUMNS]
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths, strict=True)).rstrip()
        for line in lines
    ]
