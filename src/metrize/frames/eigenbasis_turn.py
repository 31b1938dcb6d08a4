"""A basis of the rows of a space's coordinates, when the space turns its own axes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from metrize.linalg.polar import newton_schulz_polish, residual

_FAR = 0.1  # from orthonormal, beyond which polishing would be guessing
_POLISHES = 3  # each squares the distance


def left_turned(turn: Callable[[Tensor], Tensor], basis: Tensor, shape: torch.Size) -> Tensor | None:
    """``T Q``, where the turn multiplies coordinates by an orthogonal T from the left; None where it does something else.

    The turn is only known as a map of coordinates, so the columns of Q are handed to it as columns of coordinates, and
    a second time in another order, because columns that are treated differently are no product from the left.

    Args:
        turn: ``[P, *shape]`` to the same.
        basis: Q, ``[P, rows, rows]``.
        shape: ``(rows, ...)`` of the coordinates of one point.
    """
    rows, width = shape[0], math.prod(shape[1:])
    padded = torch.nn.functional.pad(basis, (0, -rows % width))

    def columns(mirrored: bool) -> Tensor:
        parts = [part.flip(-1) if mirrored else part for part in padded.split(width, -1)]
        new = [turn(part.reshape(-1, *shape)).reshape(part.shape) for part in parts]
        return torch.cat([part.flip(-1) if mirrored else part for part in new], -1)[..., :rows]

    turned = columns(mirrored=False)
    if not torch.allclose(turned, columns(mirrored=True), rtol=0, atol=_FAR / rows):
        return None
    if not bool((torch.linalg.matrix_norm(residual(turned)) <= _FAR).all()):
        return None
    for _ in range(_POLISHES):
        turned = newton_schulz_polish(turned)
    return turned
