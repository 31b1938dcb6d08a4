"""One rule for all frameworks: an optimizer from what a configuration says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from metrize.named.create import create
from metrize.roles import no_decay


def build(
    model: nn.Module, name: str, lr: float | None, weight_decay: float = 0.0, options: Mapping[str, Any] | None = None
) -> torch.optim.Optimizer:
    """Make the optimizer of a model.

    Args:
        model: the model, so that roles, names and spaces are known.
        name: as `metrize.create` takes it.
        lr: the framework's learning rate, unless the options have their own; None: the optimizer's.
        weight_decay: the framework's; it spares embeddings, norms, biases and other vectors unless the options say
            more about decay.
        options: of the optimizer.
    """
    told = dict(options or {})
    if lr is not None:
        told.setdefault("lr", lr)
    if weight_decay and not {"weight_decay", "rules"} & told.keys():
        told |= {"weight_decay": weight_decay, "rules": no_decay(model)}
    return create(name, model, **told)
