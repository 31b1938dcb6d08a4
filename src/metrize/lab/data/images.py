"""Labelled images in memory, and the order in which a run sees them."""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor

from metrize.lab.data.streams import stream


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """Grey images with labels, split in a part to train on and a held-out part.

    Args:
        images: ``[n, 28, 28]``, float32 in [0, 1].
        labels: ``[n]``, int64 class numbers.
        held_out: images and labels that no batch contains.
    """

    images: Tensor
    labels: Tensor
    held_out: tuple[Tensor, Tensor]

    def batch(self, seed: int, step: int, size: int) -> tuple[Tensor, Tensor]:
        """The batch of one step, a pure function of its arguments: a new shuffle each epoch, no partial batch.

        Args:
            seed: the run's seed.
            step: counted from 0 over the whole run.
            size: samples of the batch.

        Returns:
            images ``[size, 28, 28]`` and labels ``[size]``.

        Raises:
            ValueError: the batch is larger than the training part.
        """
        if not 1 <= size <= len(self.labels):
            raise ValueError(f"batch_size must be between 1 and the {len(self.labels)} training samples, not {size}")
        epoch, index = divmod(step, len(self.labels) // size)
        chosen = _order(len(self.labels), seed, epoch)[index * size : (index + 1) * size]
        return self.images[chosen], self.labels[chosen]


@functools.lru_cache(maxsize=2)
def _order(samples: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(samples, generator=stream(seed, "order", epoch))
