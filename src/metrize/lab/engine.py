"""Who computes what: here, one process has everything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import metrize
from metrize.lab import checkpoint, methods
from metrize.lab.checkpoint import Header
from metrize.lab.config import RunConfig


class Engine:
    """One process: the whole model, the whole batch.

    Attributes:
        leads: whether this process writes the files of the run.
        size: processes of the run.
    """

    leads = True
    size = 1

    def build(self, config: RunConfig) -> tuple[nn.Module, metrize.Optimizer]:
        """The model of a run and its optimizer."""
        return methods.build(config)

    def whole(self, model: nn.Module) -> nn.Module:
        """A model that holds whole weights, to be evaluated."""
        return model

    def part(self, samples: Tensor) -> Tensor:
        """The samples of a batch that this process trains on."""
        return samples

    def sum(self, value: float) -> float:
        """Of what all processes have."""
        return value

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        return flag

    def save(self, folder: Path, step: int, header: Header, model: nn.Module, optimizer: metrize.Optimizer) -> Path:
        """Write a checkpoint, and remove all but this one and the one before.

        Args:
            folder: the run.
            step: steps done.
            header: what else belongs to the run, as plain values; under ``config``, what it must be resumed with.
            model: the model.
            optimizer: its optimizer.

        Raises:
            NotWrittenError: the disk is full; the checkpoints before it are as they were.
        """
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        return checkpoint.save(folder, step, header, state)

    def load(
        self, folder: Path, config: Mapping[str, Any], model: nn.Module, optimizer: metrize.Optimizer
    ) -> Header | None:
        """Take over the newest checkpoint that is whole, and return its header; None if there has been none.

        Args:
            folder: the run.
            config: which the checkpoint must be of, as plain values.
            model: which takes over its weights.
            optimizer: which takes over its state.

        Raises:
            CheckpointError: the newest whole checkpoint is of another run or version, or none of them is whole.
        """
        found = checkpoint.newest(folder, config, several=RunConfig.load(folder).nproc is not None)
        if found is None:
            return None
        path, header = found
        if path.is_dir():
            from metrize.lab.resharding import take_over  # imports half of torch.distributed

            take_over(path, model, optimizer)
            return header
        content = torch.load(path, weights_only=True)
        model.load_state_dict(content["model"])
        optimizer.load_state_dict(content["optimizer"])
        return header
