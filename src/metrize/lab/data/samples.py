"""Samples in memory, and the order in which a run sees them."""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor

from metrize.lab.data.streams import stream


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """Inputs and targets, split in a part to train on and a held-out part.

    Args:
        inputs: ``[n, ...]``, floating point.
        targets: ``[n, ...]``: class numbers, int64, or what the outputs are to be near to.
        held_out: inputs and targets that no batch contains.
    """

    inputs: Tensor
    targets: Tensor
    held_out: tuple[Tensor, Tensor]

    def batch(self, seed: int, step: int, size: int) -> tuple[Tensor, Tensor]:
        """The batch of one step, a pure function of its arguments: a new shuffle each epoch, no partial batch.

        Args:
            seed: the run's seed.
            step: counted from 0 over the whole run.
            size: samples of the batch.

        Returns:
            inputs and targets, ``[size, ...]`` each.

        Raises:
            ValueError: the batch is larger than the training part.
        """
        if not 1 <= size <= len(self.inputs):
            raise ValueError(f"batch_size must be between 1 and the {len(self.inputs)} training samples, not {size}")
        epoch, index = divmod(step, len(self.inputs) // size)
        chosen = _order(len(self.inputs), seed, epoch)[index * size : (index + 1) * size]
        return self.inputs[chosen], self.targets[chosen]


@functools.lru_cache(maxsize=2)
def _order(samples: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(samples, generator=stream(seed, "order", epoch))
