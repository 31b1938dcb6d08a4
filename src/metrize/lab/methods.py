"""From a run's config to its model and optimizer."""

from __future__ import annotations

from typing import Any

from torch import nn

import metrize
from metrize import calls
from metrize.lab.config import RunConfig
from metrize.lab.models import Model
from metrize.lab.tasks import pick, task_named, task_of


def build(config: RunConfig) -> tuple[nn.Module, metrize.Optimizer]:
    """The model of a run and its optimizer.

    Raises:
        ValueError: the task, the space or the optimizer is unknown; lists the known ones.
    """
    model = build_model(config)
    return model, build_optimizer(config, model)


def build_model(config: RunConfig) -> nn.Module:
    """The model of the task, its constrained weights on the space if one is named."""
    model = task_of(config).build_model(config)
    if config.space:
        _constrain(model, config.space)
    return model


def build_optimizer(config: RunConfig, model: nn.Module) -> metrize.Optimizer:
    """The optimizer of all weights of a model."""
    optimizer = pick("optimizer", config.optimizer, metrize.catalogue())
    options = {name: _part(value) for name, value in config.options.items()}
    if config.weight_decay is not None:
        options.setdefault("weight_decay", config.weight_decay)
    return calls.call(optimizer, model, lr=config.lr, **options)


def space_of(task: str, words: str | None) -> str | None:
    """The space that a person means: the task's own where none is named, and ``none`` for no space.

    Args:
        task: name of the task.
        words: what was written, such as ``Stiefel()``.

    Raises:
        ValueError: the task is unknown; lists the known ones.
    """
    own = task_named(task).space
    return {"": own, "none": None}.get((words or "").lower(), words)


def _part(value: Any) -> Any:
    """A part written as a sentence, such as ``Dense(dtype='bfloat16')``; any other option is what it is."""
    return metrize.parse(value) if isinstance(value, str) and value.endswith(")") else value


def _constrain(model: nn.Module, sentence: str) -> None:
    space = metrize.parse_space(sentence)
    if not isinstance(model, Model):
        raise ValueError(
            f"the task does not say which weights {sentence} is for; in the function that makes the model, "
            "call metrize.constrain(module, name, space)"
        )
    for module, name, blocks in model.constrained():
        metrize.constrain(module, name, space.replace(blocks=blocks) if blocks > 1 else space)
