"""Roles where nothing but shapes is known, as in a table of public models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from metrize.norms.layout import Layout
from metrize.roles.role import Role

_TABLE = 10_000  # words, or classes, are this many
_NARROW = 64  # a side of buckets of positions, or of two segments
_FEW = 2  # layers repeat their shapes; embeddings, positions and heads come once, or once in each of two stacks


def by_shapes(shapes: Sequence[torch.Size]) -> list[Role]:
    """A guess that is good enough for bytes: embeddings, positions and heads apart from the matrices of layers.

    Args:
        shapes: of all tensors of a model, in order.
    """
    times = Counter(shapes)
    first = next((at for at, shape in enumerate(shapes) if len(shape) > 3), None)
    return [_role(shape, times[shape], at == first) for at, shape in enumerate(shapes)]


def _role(shape: torch.Size, times: int, first: bool) -> Role:
    if len(shape) < 2:
        return Role("bias")
    if len(shape) == 3:
        return Role("elementwise")
    if len(shape) > 3:
        return Role("input" if first else "conv", Layout(unfold=True))
    hidden = times > _FEW and min(shape) >= _NARROW and max(shape) < _TABLE
    return Role("hidden" if hidden else "embedding")
