"""An optimizer plugin for LLaMA-Factory v1: importing this module registers the name ``metrize``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from llamafactory.v1.plugins.trainer_plugins.optimizer import OptimizerPlugin
from torch import nn

from metrize.integrations.build import build


@OptimizerPlugin("metrize").register()  # type: ignore[untyped-decorator]
def build_metrize(model: nn.Module, optim_config: Mapping[str, Any], **kwargs: Any) -> torch.optim.Optimizer:
    """``optim_config: {name: metrize, optimizer: muon, lr: 0.02}``."""
    told = {key: value for key, value in optim_config.items() if key not in ("name", "optimizer")}
    return build(model, optim_config["optimizer"], kwargs.get("learning_rate"), options=told)
