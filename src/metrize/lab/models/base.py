"""What every model of the lab promises to the trainer and to the methods."""

from __future__ import annotations

import abc

import torch
from torch import Tensor, nn


class Model(nn.Module, abc.ABC):
    """A model that knows its loss and where its attention weights are.

    Attributes:
        qkv_blocks: matrices stacked along the rows of each weight of ``qkv()``: queries, keys and values of all heads.
    """

    qkv_blocks: int

    @abc.abstractmethod
    def qkv(self) -> list[nn.Linear]:
        """The fused query, key and value projections, first block first."""

    @abc.abstractmethod
    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The training loss of a batch, 0-d.

        Args:
            logits: ``[..., classes]``, what ``forward`` returned.
            targets: ``[...]``, int64 class numbers.
        """


def linear(inputs: int, outputs: int, bias: bool = False) -> nn.Linear:
    """A linear layer without values: torch's own start would draw from the global generator."""
    return nn.Linear(inputs, outputs, bias=bias, device="meta").to_empty(device="cpu")


def glorot_(weight: Tensor, generator: torch.Generator) -> None:
    """Fill with uniform numbers in ``±sqrt(6 / (rows + columns))``, in place.

    Args:
        weight: ``[rows, columns]``.
        generator: where the numbers come from.
    """
    nn.init.xavier_uniform_(weight, generator=generator)
