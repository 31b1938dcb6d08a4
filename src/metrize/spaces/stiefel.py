"""The Stiefel manifold."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from metrize.linalg import newton_schulz_polish, polar
from metrize.linalg.polar import residual
from metrize.part import Spec, choice
from metrize.spaces.base import Space, SpaceError, compute_dtype
from metrize.spaces.retractions import RETRACTIONS
from metrize.spaces.sections import ClosedForm, Stored, dense_complement, random_complement


@dataclasses.dataclass(frozen=True)
class Stiefel(Space):
    """Stiefel manifold ``St(n, N) = {Y : Y^T Y = I}`` with the canonical metric ``tr(D^T (I - Y Y^T / 2) D)``.

    The gradient G is lifted straight into the fixed space ``g_hor`` of matrices ``[[A, -B^T], [B, 0]]``:
    ``A = Y^T G - G^T Y``, ``B = Yp^T G``. Averages are kept there, where nothing turns under them; A (skew, n x n)
    above B ((N - n) x n) has the shape of Y. Square points have no B, points with n = 1 no A.

    Args:
        rows: True: the rows of each matrix are orthonormal (``Y Y^T = I``); False: its columns; None: whichever is
            shorter (columns, where the matrix is square).
        blocks: treat the first matrix dimension as this many equal matrices stacked, as in a fused attention weight.
        retraction: ``"cayley"`` (one n x n solve) or ``"geodesic"`` (the exponential of the group).
        section: how Yp is chosen. ``"closed-form"``: a function of Y, nothing is stored. ``"transported"``: an
            ``N x (N - n)`` matrix that follows Y, as in the paper's third version. ``"redrawn"``: a new random one
            at every step, only to reproduce the paper's first versions.
        polish_every: steps between two Newton-Schulz steps that remove rounding; 0 never polishes.

    Raises:
        ValueError: an unknown option or a number out of range.
        SpaceError: (when used) a tensor that is not a batch of such matrices.

    Source: arXiv:2305.16901; increment form and closed-form section are ours.
    """

    rows: bool | None = None
    blocks: int = 1
    retraction: Literal["cayley", "geodesic"] = "cayley"
    section: Literal["closed-form", "transported", "redrawn"] = "closed-form"
    polish_every: int = 100

    compact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        choice(self, "retraction", tuple(RETRACTIONS))
        choice(self, "section", ("closed-form", "transported", "redrawn"))
        if self.blocks < 1:
            raise ValueError(f"Stiefel(blocks={self.blocks}): blocks counts matrices, so it is at least 1")
        if self.polish_every < 0:
            raise ValueError(f"Stiefel(polish_every={self.polish_every}): a number of steps, or 0 for never")

    def check_shape(self, shape: torch.Size) -> None:
        if len(shape) < 2:
            raise SpaceError(
                f"Stiefel holds matrices, and this tensor has shape {tuple(shape)}; "
                "give it two dimensions, such as (N, 1) for a unit vector, or leave it free"
            )
        if shape[-2] % self.blocks:
            raise SpaceError(f"shape {tuple(shape)} cannot be cut into blocks={self.blocks} equal matrices by rows")
        tall, narrow = self._matrix(shape)
        if narrow > tall:
            side = "rows" if self.rows else "columns"
            raise SpaceError(
                f"a {self._block(shape)} matrix has no orthonormal {side}: there are more of them than they have "
                f"entries; use rows={not self.rows} or leave rows to the shape"
            )
        if narrow == 0:
            raise SpaceError(f"shape {tuple(shape)} holds no matrix with entries")

    def batch_shape(self, shape: torch.Size) -> tuple[int, ...]:
        return (*shape[:-2], self.blocks) if self.blocks > 1 else tuple(shape[:-2])

    def dim(self, shape: torch.Size) -> int:
        rows, n = self._matrix(shape)
        return n * (n - 1) // 2 + (rows - n) * n

    def points(self, stack: Tensor) -> Tensor:
        if self.blocks > 1:
            stack = stack.view(*stack.shape[:-2], self.blocks, *self._block(stack.shape))
        return stack.mT if self._wide(stack.shape) else stack

    def state_spec(self, shape: torch.Size, dtype: torch.dtype) -> Spec:
        rows, n = self._matrix(shape)
        if self.section != "transported" or rows == n:
            return {}
        return {"section": ((*self.batch_shape(shape), rows, rows - n), compute_dtype(dtype))}

    def init_state(self, points: Tensor, state: dict[str, Tensor]) -> None:
        if "section" in state:
            state["section"].copy_(dense_complement(points))

    def section_at(self, points: Tensor, state: dict[str, Tensor]) -> ClosedForm | Stored | None:
        if points.shape[-2] == points.shape[-1]:
            return None
        if "section" in state:
            return Stored(state["section"])
        if self.section == "closed-form":
            return ClosedForm.at(points)
        drawn = [
            random_complement(y, torch.Generator().manual_seed(int(step)))
            for y, step in zip(points, state["step"].tolist(), strict=True)
        ]
        return Stored(torch.stack(drawn))

    def lift(self, points: Tensor, grad: Tensor, section: Any) -> Tensor:
        a = points.mT @ grad
        a = a - a.mT
        return a if section is None else torch.cat([a, section.pull(grad)], -2)

    def move_(self, points: Tensor, velocity: Tensor, section: Any, state: dict[str, Tensor]) -> None:
        n = points.shape[-1]
        a, b = velocity[..., :n, :], velocity[..., n:, :] if section is not None else None
        pushed = None if b is None else section.push(b)
        increment, drag = RETRACTIONS[self.retraction](points, pushed, a, b)
        if b is not None and "section" in state:
            state["section"].sub_(drag @ b.mT)
        points.add_(increment)

    def sq_norm(self, coords: Tensor) -> Tensor:
        n = coords.shape[-1]
        squares = coords.square()
        return squares[..., n:, :].sum((-2, -1)) + squares[..., :n, :].sum((-2, -1)) / 2

    def project(self, points: Tensor) -> Tensor:
        return newton_schulz_polish(polar(points))  # the SVD alone leaves a few roundings

    def error(self, points: Tensor) -> Tensor:
        return torch.linalg.matrix_norm(residual(points))

    def tolerance(self, shape: torch.Size, dtype: torch.dtype) -> float:
        # about a hundred roundings for each entry of a column; the first polish removes what is left
        return 100 * torch.finfo(dtype).eps * math.sqrt(math.prod(self._matrix(shape)))

    def polish_(self, points: Tensor, steps: Tensor, state: dict[str, Tensor]) -> None:
        if not self.polish_every:
            return
        # the first steps too: a 16-bit parameter starts a percent off, and each polish squares the error
        due = ((steps % self.polish_every == 0) | (steps <= 3)).nonzero().flatten().tolist()
        for i in [slice(None)] if len(due) == len(steps) else due:
            points[i] = newton_schulz_polish(points[i])
            if "section" in state:
                y, kept = points[i], state["section"][i]
                state["section"][i] = newton_schulz_polish(kept - y @ (y.mT @ kept))

    def _block(self, shape: torch.Size) -> tuple[int, int]:
        return shape[-2] // self.blocks, shape[-1]

    def _wide(self, matrix_shape: torch.Size) -> bool:
        return matrix_shape[-2] < matrix_shape[-1] if self.rows is None else self.rows

    def _matrix(self, shape: torch.Size) -> tuple[int, int]:
        """(N, n) of one point, without regard to whether N >= n."""
        rows, columns = self._block(shape)
        return (columns, rows) if self._wide(torch.Size((rows, columns))) else (rows, columns)
