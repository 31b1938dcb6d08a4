"""A recurrent network that reads an image bit by bit."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import metrize
from metrize.lab.models.base import Model, Weight, glorot_, linear

_SIDE = 8
# numbers of a step: an 8x8 image is 64 pixels or 8 rows
_READS = {"pixel": 1, "row": _SIDE}


def modrelu(x: Tensor, bias: Tensor) -> Tensor:
    """``sign(x) relu(|x| + b)``, which keeps the sign, as an orthogonal matrix keeps the length (arXiv:1511.06464)."""
    return x.sign() * (x.abs() + bias).relu()


_ACTIVATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "modrelu": modrelu,
    "tanh": lambda x, bias: (x + bias).tanh(),
}


class Recurrent(Model):
    """``h_t = f(W h_{t-1} + V x_t, b)``, and logits from the last h.

    Args:
        hidden: numbers of the state h.
        by: ``pixel`` reads an 8x8 image in 64 steps, ``row`` in 8.
        activation: ``modrelu`` or ``tanh``.
        classes: outputs.
        generator: draws the initial weights (W a random orthogonal matrix, the others Glorot uniform, b 0).

    Raises:
        ValueError: ``by`` or the activation is unknown.
    """

    def __init__(
        self,
        hidden: int = 64,
        by: str = "pixel",
        activation: str = "modrelu",
        classes: int = 10,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if by not in _READS:
            raise ValueError(f"an image is read by {' or '.join(_READS)}, not by {by!r}")
        if activation not in _ACTIVATIONS:
            raise ValueError(f"unknown activation {activation!r}; known: {', '.join(_ACTIVATIONS)}")
        self.activation = _ACTIVATIONS[activation]
        self.inward, self.recurrent = linear(_READS[by], hidden), linear(hidden, hidden)
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.classifier = linear(hidden, classes, bias=True)
        self._draw(generator)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[batch, classes]`` of images ``[batch, 8, 8]``, read row by row from the top left."""
        inputs = self.inward(images.reshape(len(images), -1, self.inward.in_features))
        state = torch.zeros_like(inputs[:, 0])
        for given in inputs.unbind(1):
            state = self.activation(self.recurrent(state) + given, self.bias)
        logits: Tensor = self.classifier(state)
        return logits

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of logits ``[batch, classes]`` against labels ``[batch]``."""
        return F.cross_entropy(outputs, targets)

    def constrained(self) -> list[Weight]:
        """The recurrent matrix W, ``[hidden, hidden]``."""
        return [Weight(self.recurrent, "weight")]

    @torch.no_grad()
    def _draw(self, generator: torch.Generator) -> None:
        metrize.Orthogonal().random_(self.recurrent.weight, generator)
        for layer in (self.inward, self.classifier):
            glorot_(layer.weight, generator)
        nn.init.zeros_(self.classifier.bias)
