"""The tasks of the lab: which data and which model."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from metrize.lab.config import RunConfig
from metrize.lab.data import Data, load_digits, load_mnist, load_text, stream
from metrize.lab.models import GPT, Model, VisionTransformer

_EVALUATION_BATCH = 512
_Value = TypeVar("_Value")


@dataclasses.dataclass(frozen=True)
class Task:
    """A model and the data that it learns.

    Args:
        model: makes the model from its options and a generator.
        load: reads the data of a run.
    """

    model: Callable[..., Model]
    load: Callable[[RunConfig], Data]

    def build_model(self, config: RunConfig) -> Model:
        """The model with the initial weights of the run's seed."""
        return self.model(**config.model, generator=stream(config.seed, "weights"))


def task_of(config: RunConfig) -> Task:
    """The task that a run names.

    Raises:
        ValueError: it is unknown; lists the known ones.
    """
    return pick("task", config.task, TASKS)


@torch.no_grad()
def evaluate(model: Model, held_out: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Loss and accuracy (share of right answers) on held-out samples, taken as one batch.

    Args:
        model: the model.
        held_out: inputs and targets, samples first.
    """
    inputs, targets = held_out
    logits = torch.cat([model(part) for part in torch.split(inputs, _EVALUATION_BATCH)])
    right = logits.argmax(-1) == targets
    return model.loss(logits, targets).item(), right.float().mean().item()


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
    lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), lower, n=1)
    hint = f" (did you mean {lower[close[0]]!r}?)" if close else ""
    raise ValueError(f"unknown {kind} {name!r}{hint}; known: {', '.join(sorted(known))}")


def _load_digits(config: RunConfig) -> Data:
    return load_digits()


def _load_mnist(config: RunConfig) -> Data:
    if config.data_root is None:
        raise ValueError("the mnist task reads its files from a folder: --data-root DIR")
    return load_mnist(Path(config.data_root))


def _load_text(config: RunConfig) -> Data:
    return load_text(Path(config.text_file) if config.text_file else None, config.model.get("context", 128))


TASKS: dict[str, Task] = {
    "digits": Task(VisionTransformer, _load_digits),
    "mnist": Task(VisionTransformer, _load_mnist),
    "text": Task(GPT, _load_text),
}
