"""What a run learns from: each source gives the batch of a step and a held-out part."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from metrize.lab.data.digits import load_digits
from metrize.lab.data.mnist import fetch_mnist, load_mnist
from metrize.lab.data.samples import Samples
from metrize.lab.data.streams import stream
from metrize.lab.data.text import Text, load_text
from metrize.lab.data.waves import Waves, simulate


class Data(Protocol):
    """A source of samples: pairs of inputs and targets."""

    @property
    def held_out(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets that no batch contains."""

    def batch(self, seed: int, step: int, size: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of one step, a pure function of its arguments."""


__all__ = [
    "Data",
    "Samples",
    "Text",
    "Waves",
    "fetch_mnist",
    "load_digits",
    "load_mnist",
    "load_text",
    "simulate",
    "stream",
]
