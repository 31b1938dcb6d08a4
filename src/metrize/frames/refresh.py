"""When a basis is refreshed, and what happens where that fails."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

_PATIENCE = 3  # refreshes in a row that may fail


class FrameError(RuntimeError):
    """No basis could be made of several gradients in a row.

    Args:
        text: what was seen.
        member: which of the points in the batch.
    """

    def __init__(self, text: str, member: int) -> None:
        super().__init__(text)
        self.member = member


def due(state: dict[str, Tensor], period: int) -> list[int]:
    """Members of the batch whose turn it is, once in every `period` steps.

    Args:
        state: ``step`` counts the running step; ``phase``, if there, is added to the steps before it.
        period: in steps.
    """
    done = state["step"].long() - 1
    shifted = done + state["phase"] if "phase" in state else done
    return [int(i) for i in (shifted % period == 0).nonzero()]


def without_basis(state: dict[str, Tensor]) -> list[int]:
    """Members that need a basis whoever's turn it is: at their first step, or since the last attempt failed."""
    return [int(i) for i in ((state["step"] == 1) | (state["failures"] > 0)).nonzero()]


def renewed(
    find: Callable[[Tensor], dict[int, Tensor]], grad: Tensor, failures: Tensor, member: int
) -> dict[int, Tensor] | None:
    """What `find` makes of a gradient, in float64 if not in float32; None where the old basis has to serve on.

    A gradient of zero says nothing about a basis: it counts as one failure, however often it comes, so that the next
    step looks again. Any other failure adds to the count.

    Args:
        find: gradient -> basis of each dimension.
        grad: of one member.
        failures: refreshes without a basis since the last one with, a number that is brought up to date.
        member: to be named in an error.

    Raises:
        FrameError: three gradients in a row that were not finite, or that no decomposition could read.
    """
    largest = float(grad.abs().amax())
    basis = _attempt(find, grad) if largest and math.isfinite(largest) else None
    if basis is not None:
        failures.fill_(0)
    elif not largest:
        failures.clamp_(min=1)
    else:
        failures.add_(1)
        give_up(failures, _FRUITLESS.format(failures=int(failures), largest=largest), member)
    return basis


_FRUITLESS = (
    "no basis could be made of {failures} gradients in a row; the largest entry of the last one is {largest}. "
    "Look for a loss that overflows, clip the gradients, or leave this parameter out of the low-rank group"
)


def give_up(failures: Tensor, text: str, member: int) -> None:
    """Stop where no basis or root could be made three times in a row; before that the old one serves on.

    Args:
        failures: in a row, a number.
        text: of the error.
        member: to be named in it.

    Raises:
        FrameError: it was the third time.
    """
    if int(failures) >= _PATIENCE:
        raise FrameError(text, member)


def _attempt(find: Callable[[Tensor], dict[int, Tensor]], grad: Tensor) -> dict[int, Tensor] | None:
    for dtype in (grad.dtype, torch.float64):
        try:
            basis = find(grad.to(dtype))
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            continue
        if all(bool(torch.isfinite(q).all()) for q in basis.values()):
            return basis
    return None
