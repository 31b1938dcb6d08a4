"""What a task is: data, a model, and what is to be said of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from metrize import calls
from metrize.lab.config import RunConfig
from metrize.lab.data import Data, stream
from metrize.lab.models import Model

_EVALUATION_BATCH = 512
_Value = TypeVar("_Value")


@dataclasses.dataclass(frozen=True)
class Figure:
    """A number that an evaluation reports beside the loss.

    Args:
        title: its name in a table.
        show: writes one.
        best: ``min`` or ``max``, which of two is the better one; None where neither is.
    """

    title: str
    show: Callable[[float], str]
    best: Callable[[Sequence[float]], float] | None = min


@dataclasses.dataclass(frozen=True)
class Profile:
    """A curve that belongs to a trained model as a whole, beside those of references that need no training.

    Args:
        name: stem of its figure.
        title: what it shows, ``y by x``.
        x: where it was measured.
        y: what was measured there; None where it was not finite.
        references: other curves over the same x, by name.
    """

    name: str
    title: str
    x: Sequence[float]
    y: Sequence[float | None]
    references: Mapping[str, Sequence[float | None]]


@dataclasses.dataclass(frozen=True)
class Conclusion:
    """What can be said once, of a finished model.

    Args:
        figures: numbers by key.
        profiles: curves.
    """

    figures: Mapping[str, float] = dataclasses.field(default_factory=dict)
    profiles: Sequence[Profile] = ()


def _loss_of_samples(model: Any, batch: Any) -> Tensor:
    inputs, targets = batch
    loss: Tensor = model.loss(model(inputs), targets)
    return loss


def _nothing(model: Model, data: Data) -> Conclusion:
    return Conclusion()


@dataclasses.dataclass(frozen=True)
class Task:
    """A model, the data that it learns, and what is measured.

    Args:
        about: what it is, in a few words.
        model: makes the model from its options and a generator.
        load: reads the data of a run.
        figures: the numbers beside the loss by key, in the order of the table.
        evaluate: the held-out ``loss`` of a model on its data, and those of the figures that are quick to measure.
        methods: what a comparison trains unless told otherwise.
        space: the sentence of the space that the constrained weights are on unless told otherwise; None is free.
        conclude: the other figures, and curves of the finished model.
        loss: of a model and a batch, 0-d.
    """

    about: str
    model: Callable[..., nn.Module]
    load: Callable[[RunConfig], Any]
    figures: Mapping[str, Figure]
    evaluate: Callable[[Any, Any], Mapping[str, float]]
    methods: Sequence[str]
    space: str | None = None
    conclude: Callable[[Any, Any], Conclusion] = _nothing
    loss: Callable[[Any, Any], Tensor] = _loss_of_samples

    def build_model(self, config: RunConfig) -> nn.Module:
        """The model with the initial weights of the run's seed."""
        return calls.call(self.model, generator=stream(config.seed, "weights"), **config.model)


@torch.no_grad()
def outputs_of(model: Model, inputs: Tensor) -> Tensor:
    """What a model makes of many samples, computed in parts.

    Args:
        model: the model.
        inputs: samples first.
    """
    return torch.cat([model(part) for part in torch.split(inputs, _EVALUATION_BATCH)])


def pick(kind: str, name: str, known: Mapping[str, _Value]) -> _Value:
    """The value of a name that a person wrote.

    Args:
        kind: what is being named, for the error.
        name: the name.
        known: all names.

    Raises:
        ValueError: the name is unknown; lists the known ones and the closest.
    """
    if name in known:
        return known[name]
    raise ValueError(f"unknown {kind} {name!r}{calls.near(name, sorted(known))}")
