"""From a run's config to its model and optimizer."""

from __future__ import annotations

from typing import Any

import metrize
from metrize.lab.config import RunConfig
from metrize.lab.models import Model
from metrize.lab.tasks import pick, task_of


def build(config: RunConfig) -> tuple[Model, metrize.Optimizer]:
    """The model of the task, its attention weights on the space if one is named, and the optimizer of it all.

    Raises:
        ValueError: the task, the space or the optimizer is unknown; lists the known ones.
    """
    optimizer = pick("optimizer", config.optimizer, metrize.catalogue())
    model = task_of(config).build_model(config)
    if config.space:
        _constrain_attention(model, config.space)
    options = {name: _part(value) for name, value in config.options.items()}
    return model, optimizer(model, lr=config.lr, **options)


def _part(value: Any) -> Any:
    """A part written as a sentence, such as ``Dense(dtype='bfloat16')``; any other option is what it is."""
    return metrize.parse(value) if isinstance(value, str) and value.endswith(")") else value


def _constrain_attention(model: Model, sentence: str) -> None:
    """Put every query, key and value matrix of every head on the space."""
    space = metrize.parse_space(sentence).replace(blocks=model.qkv_blocks)
    for layer in model.qkv():
        metrize.constrain(layer, "weight", space)
