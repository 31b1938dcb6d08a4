"""A model cut over several processes by FSDP2, and its checkpoints: folders of `torch.distributed.checkpoint`.

A checkpoint can be taken over by any number of processes, whichever number wrote it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import metrize
from metrize.lab import checkpoint, methods
from metrize.lab.checkpoint import Header
from metrize.lab.config import RunConfig
from metrize.lab.durable import NotWrittenError, draft_of
from metrize.lab.engine import Engine
from metrize.lab.resharding import state_of, take_over

_Result = TypeVar("_Result")


class Processes(Engine):
    """One of several processes: a part of each weight, a part of the batch.

    The process group is initialized already.
    """

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.leads = self.rank == 0
        self._whole: nn.Module

    def build(self, config: RunConfig) -> tuple[nn.Module, metrize.Optimizer]:
        model = methods.build_model(config)
        self._whole = copy.deepcopy(model)
        shard(model, init_device_mesh("cpu", (self.size,)))
        return model, methods.build_optimizer(config, model)

    @torch.no_grad()
    def whole(self, model: nn.Module) -> nn.Module:
        for mine, part in zip(self._whole.parameters(), model.parameters(), strict=True):
            mine.copy_(part.full_tensor() if isinstance(part, DTensor) else part)
        _share_buffers(model)
        for kept, current in zip(self._whole.buffers(), model.buffers(), strict=True):
            kept.copy_(current)
        return self._whole

    def part(self, samples: Tensor) -> Tensor:
        return samples.chunk(self.size)[self.rank]

    def sum(self, value: float) -> float:
        return _reduced(value, dist.ReduceOp.SUM)

    def any(self, flag: bool) -> bool:
        return _reduced(flag, dist.ReduceOp.MAX) > 0

    def save(self, folder: Path, step: int, header: Header, model: nn.Module, optimizer: metrize.Optimizer) -> Path:
        _share_buffers(model)
        return save(folder, step, header, model, optimizer)

    def load(
        self, folder: Path, config: Mapping[str, Any], model: nn.Module, optimizer: metrize.Optimizer
    ) -> Header | None:
        return load_newest(folder, config, model, optimizer)


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Cut a model over the processes of a mesh, so that the weights of one block at a time are whole.

    Args:
        model: members of its module lists and sequences are its blocks.
        mesh: of one dimension.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList | nn.Sequential)]
    for block in (block for blocks in lists for block in blocks):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def save(folder: Path, step: int, header: Header, model: nn.Module, optimizer: torch.optim.Optimizer) -> Path:
    """Write the folder ``checkpoint-<step>`` and remove all but this one and the one before; called by all processes.

    Args:
        folder: the run.
        step: steps done.
        header: what else belongs to the run, as plain values; under ``config``, what it must be resumed with.
        model: the model, cut by `shard` or `fully_shard`.
        optimizer: its optimizer.

    Raises:
        NotWrittenError: a disk is full; the checkpoints before it are as they were. Raised on all processes.
    """
    path = folder / f"checkpoint-{step}"
    draft = draft_of(path)
    _by_the_first(lambda: checkpoint.remove(draft))
    try:
        state_dict_saver.save(state_of(model, optimizer), checkpoint_id=draft)
    except CheckpointException as error:  # on all processes; it is a BaseException
        _by_the_first(lambda: checkpoint.remove(draft))
        raise NotWrittenError(path, _cause(error)) from error
    return _by_the_first(lambda: checkpoint.seal(path, header))


def load_newest(
    folder: Path, config: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer
) -> Header | None:
    """Take over the newest checkpoint that is whole, and return its header; called by all processes.

    Args:
        folder: the run.
        config: which the checkpoint must be of, as plain values.
        model: which takes over its weights.
        optimizer: which takes over its state.

    Returns:
        None if there has been no checkpoint.

    Raises:
        CheckpointError: the newest whole checkpoint is of another run or version, or none of them is whole.
    """
    found = _by_the_first(lambda: checkpoint.newest(folder, config))
    if found is None:
        return None
    path, header = found
    take_over(path, model, optimizer)
    return header


def _by_the_first(act: Callable[[], _Result]) -> _Result:
    """What the first process makes of it, or its error, on all processes."""
    told: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            told[0] = act()
        except Exception as error:
            told[1] = error
    dist.broadcast_object_list(told)
    if told[1] is not None:
        raise told[1]
    result: _Result = told[0]
    return result


@torch.no_grad()
def _share_buffers(model: nn.Module) -> None:
    """Give every process the buffers of the first, such as the running averages of BatchNorm.

    Each process has those of its own samples, and a checkpoint keeps the buffers of one.
    """
    for buffer in model.buffers():
        dist.broadcast(buffer, src=0)


def _reduced(value: float, operation: Any) -> float:
    total = torch.tensor(float(value), dtype=torch.float64)
    dist.all_reduce(total, operation)
    return total.item()


def _cause(error: CheckpointException) -> BaseException:
    """The first of the errors of all processes."""
    failures = list(error.failures.values())
    return failures[0][0] if failures else error
