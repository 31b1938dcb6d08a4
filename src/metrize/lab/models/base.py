"""What every model of the lab promises to the trainer and to the methods."""

from __future__ import annotations

import abc
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Weight(NamedTuple):
    """A weight that can be put on a space.

    Args:
        module: whose weight it is.
        name: of the weight in its module.
        blocks: matrices stacked along its rows, each of which is a point.
    """

    module: nn.Module
    name: str
    blocks: int = 1


class Model(nn.Module, abc.ABC):
    """A model that knows its loss and which of its weights a run's space constrains."""

    @abc.abstractmethod
    def constrained(self) -> list[Weight]:
        """The weights that are put on the space of a run, if it has one."""

    @abc.abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The training loss of a batch, 0-d.

        Args:
            outputs: ``[..., size]``, what ``forward`` returned.
            targets: ``[...]``, int64 class numbers, or what the outputs are to be near to.
        """


def squared_distance(outputs: Tensor, targets: Tensor) -> Tensor:
    """``||X - Y||_F^2 / N`` of N samples, ``[N, size]`` each."""
    return (outputs - targets).square().sum(-1).mean()


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
