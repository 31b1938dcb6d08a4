"""The symplectic Grassmann manifold."""

from __future__ import annotations

import dataclasses

import torch

from metrize.spaces.base import SpaceError
from metrize.spaces.grassmann import Grassmann
from metrize.spaces.orthonormal import Orthonormal
from metrize.spaces.symplectic import Symplectic


@dataclasses.dataclass(frozen=True)
class SymplecticGrassmann(Symplectic):
    """Symplectic Grassmann manifold of 2n-dimensional symplectic subspaces of R^2N, each given by a symplectic basis U.

    It assumes that the loss knows the subspace only: ``f(U S) = f(U)`` for every symplectic ``2n x 2n`` matrix S in the
    full form, ``f(diag(Phi Q, Phi Q)) = f(diag(Phi, Phi))`` for every orthogonal Q in the default form, which keeps Phi
    on `Grassmann`. Coordinates are those of `SymplecticStiefel` with zeros for a. Compare points by their projectors
    ``U U^+``.

    Args:
        form: ``"orthosymplectic"``: points are ``diag(Phi, Phi)``; ``"full"``: any symplectic matrix.
        rows: as for `SymplecticStiefel`.
        coordinates: as for `SymplecticStiefel`.
        max_step: as for `SymplecticStiefel`.
        max_condition: as for `SymplecticStiefel`.
        polish_every: as for `SymplecticStiefel`.

    Raises:
        ValueError: an unknown option, a number out of range, or an option of the full form without it.
        SpaceError: (when used) a tensor that is not a batch of such matrices, or of square ones, whose span is always
            the whole space.

    Source: arXiv:2305.16901, arXiv:2108.12447; see `SymplecticStiefel`.
    """

    def check_shape(self, shape: torch.Size) -> None:
        super().check_shape(shape)
        if shape[-2] == shape[-1]:
            raise SpaceError(
                f"the columns of a square {shape[-2]} x {shape[-1]} matrix span the whole space, so that its "
                "symplectic Grassmann manifold is a single point; use SymplecticStiefel()"
            )

    def _twin(self) -> Orthonormal:
        return Grassmann(rows=False, polish_every=self.polish_every)
