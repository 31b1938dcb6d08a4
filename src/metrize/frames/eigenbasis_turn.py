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
    """``T Q``, where the turn multiplies coordinates by an orthogonal T from the left; None where it does not.

    The turn is only known as a map of coordinates, so the columns of Q are handed to it as columns of coordinates, and
    a second time each in its neighbour's place, because a product from the left treats all columns alike.

    Args:
        turn: ``[P, *shape]`` to the same.
        basis: Q, ``[P, rows, rows]``.
        shape: ``(rows, ...)`` of the coordinates of one point.
    """
    rows, width = shape[0], math.prod(shape[1:])
    padded = torch.nn.functional.pad(basis, (0, -rows % width))

    def columns(shift: int) -> Tensor:
        parts = [part.roll(shift, -1) for part in torch.split(padded, width, -1)]
        new = [turn(part.reshape(-1, *shape)).reshape(part.shape) for part in parts]
        return torch.cat([part.roll(-shift, -1) for part in new], -1)[..., :rows]

    turned = columns(0)
    if not torch.allclose(turned, columns(1), rtol=0, atol=_FAR / rows):
        return None
    if not bool((torch.linalg.matrix_norm(residual(turned)) <= _FAR).all()):
        return None
    for _ in range(_POLISHES):
        turned = newton_schulz_polish(turned)
    return turned
