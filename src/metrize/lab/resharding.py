"""Checkpoints that go on in another number of processes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint import state_dict_loader
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)


def take_over(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load a checkpoint that any number of processes wrote into this one, or into this process's part.

    Args:
        path: a file of one process or a folder of several.
        model: which takes over its weights.
        optimizer: which takes over its state.
    """
    if path.is_dir():
        state = state_of(model, optimizer)
        with warnings.catch_warnings():  # that there is no process group, where there is none
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            state_dict_loader.load(state, checkpoint_id=path)
        set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    else:
        content = torch.load(path, weights_only=True)
        set_model_state_dict(model, content["model"], options=StateDictOptions(full_state_dict=True))
        optimizer.load_state_dict(content["optimizer"])


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What a checkpoint of several processes holds, as DTensors."""
    weights, averages = get_state_dict(model, optimizer)
    return {"model": weights, "optimizer": averages}
