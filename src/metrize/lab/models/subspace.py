"""A linear subspace, as the model that projects samples on it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metrize.lab.models.base import Model, Weight, squared_distance


class Subspace(Model):
    """The subspace that the columns of Y span: ``x -> x Y Y^T``.

    Args:
        size: numbers of a sample.
        dimension: of the subspace.
        generator: draws the initial Y (normal, so that its columns have length 1 on average).
    """

    def __init__(self, size: int = 64, dimension: int = 8, *, generator: torch.Generator) -> None:
        super().__init__()
        self.basis = nn.Parameter(torch.empty(size, dimension).normal_(0.0, size**-0.5, generator=generator))

    def forward(self, samples: Tensor) -> Tensor:
        """The projections ``[batch, size]`` of samples ``[batch, size]``."""
        return samples @ self.basis @ self.basis.mT

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """``||X - X Y Y^T||_F^2 / N`` of N samples, ``[N, size]``."""
        return squared_distance(outputs, targets)

    def constrained(self) -> list[Weight]:
        """Y, ``[size, dimension]``."""
        return [Weight(self, "basis")]
