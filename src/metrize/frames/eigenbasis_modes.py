"""What the eigenbasis sees of a tensor: its modes, those that have a basis, and what turns them."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from metrize.linalg.modes import mode_product

Bases = dict[int, Tensor]
"""A matrix ``[B, d, d]`` for each mode that has one."""


@dataclasses.dataclass(frozen=True)
class Modes:
    """A tensor of some shape folded to fewer modes.

    Args:
        shape: of one point.
        sizes: of its modes.
        based: modes that have a basis.
        axes: order in which the dimensions are folded.
    """

    shape: torch.Size
    sizes: torch.Size
    based: tuple[int, ...]
    axes: tuple[int, ...]

    def fold(self, x: Tensor) -> Tensor:
        """``[B, *shape]`` -> ``[B, *sizes]``."""
        return x.permute(0, *(axis + 1 for axis in self.axes)).reshape(-1, *self.sizes)

    def unfold(self, x: Tensor) -> Tensor:
        """``[B, *sizes]`` -> ``[B, *shape]``."""
        ordered = x.reshape(len(x), *(self.shape[axis] for axis in self.axes))
        return ordered.permute(0, *(self.axes.index(axis) + 1 for axis in range(len(self.axes))))

    def rotated(self, x: Tensor, bases: Bases) -> Tensor:
        """``x ×_i Q_i^T`` for every mode with a basis, ``[B, *shape]``."""
        return self._products(x, {mode: q.mT for mode, q in bases.items()})

    def rotated_back(self, x: Tensor, bases: Bases) -> Tensor:
        """``x ×_i Q_i``, which undoes `rotated`."""
        return self._products(x, bases)

    def carried(self, x: Tensor, old: Bases, new: Bases) -> Tensor:
        """What was rotated into the old bases, in the new ones."""
        return self.rotated(self.rotated_back(x, old), new)

    def ranked(self, x: Tensor, order: Bases) -> Tensor:
        """Entries taken along each mode in the order ``[B, d]``."""
        folded = self.fold(x)
        for mode, index in order.items():
            wide = (len(index), *(-1 if i == mode else 1 for i in range(len(self.sizes))))
            folded = folded.take_along_dim(index.reshape(wide), mode + 1)
        return self.unfold(folded)

    def mixed(self, x: Tensor, old: Bases, new: Bases) -> Tensor:
        """Squares of uncorrelated coordinates, turned with them: ``x ×_i (P_i^2)^T``, ``P_i = Q_old^T Q_new``."""
        return self._products(x, {mode: (old[mode].mT @ new[mode]).square().mT for mode in old})

    def _products(self, x: Tensor, matrices: Bases) -> Tensor:
        folded = self.fold(x)
        for mode, matrix in matrices.items():
            folded = mode_product(folded, matrix, mode)
        return self.unfold(folded)
