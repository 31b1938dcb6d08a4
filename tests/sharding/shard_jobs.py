"""What the processes of the sharding tests do: the same steps with the same gradients, on one or on many."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

import metrize

Weights = dict[str, Tensor]


class Sheets(nn.Module):
    """Weights with more, fewer and as many rows as processes, rows that do not divide, vectors, an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.tall = nn.Linear(12, 30)
        self.wide = nn.Linear(30, 7)
        self.low = nn.Linear(16, 2, bias=False)
        self.odd = nn.Linear(5, 33)
        self.one = nn.Linear(24, 1)
        self.words = nn.Embedding(11, 8)
        self.norm = nn.LayerNorm(8)


def sheets(dtype: torch.dtype = torch.float32, space: str | None = None) -> Sheets:
    """The same model everywhere; its larger matrices on a space, if wanted."""
    torch.manual_seed(0)
    model = Sheets().to(dtype)
    if space is not None:
        for layer in (model.tall, model.wide, model.odd):
            metrize.constrain(layer, "weight", metrize.parse(space))
    return model


def gradients(model: nn.Module, step: int) -> Weights:
    """Whole gradients of a step."""
    generator = torch.Generator().manual_seed(1000 + step)
    return {
        name: torch.randn(p.shape, generator=generator).mul_(0.1).to(p.dtype) for name, p in model.named_parameters()
    }


def hand_out(model: nn.Module, step: int, leave_out: Callable[[str], bool] = lambda name: False) -> None:
    """Give every parameter its gradient, or its part of it."""
    for name, grad in gradients(model, step).items():
        p = model.get_parameter(name)
        if leave_out(name):
            p.grad = None
        elif isinstance(p, DTensor):
            p.grad = distribute_tensor(grad, p.device_mesh, p.placements, src_data_rank=None)
        else:
            p.grad = grad


def wholes(model: nn.Module) -> Weights:
    """All weights, complete."""
    return {
        name: (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone()
        for name, p in model.named_parameters()
    }


def mesh_of(*sizes: int) -> DeviceMesh:
    """Processes as a line, or as rows of lines."""
    names = ("data",) if len(sizes) == 1 else ("outer", "inner")
    return init_device_mesh("cpu", sizes, mesh_dim_names=names)


def optimizer_of(model: nn.Module, name: str, options: dict[str, Any]) -> metrize.Optimizer:
    options = {
        key: metrize.parse(value[5:]) if str(value).startswith("part ") else value for key, value in options.items()
    }
    return metrize.catalogue()[name](model, **options)


def trained(
    name: str,
    options: dict[str, Any],
    mesh: tuple[int, ...] | None,
    steps: int = 5,
    dtype: torch.dtype = torch.float32,
    space: str | None = None,
) -> Weights:
    """Weights after some steps, on one process or on a mesh of them."""
    warnings.simplefilter("ignore")
    model = sheets(dtype, space)
    if mesh is not None:
        fully_shard(model, mesh=mesh_of(*mesh))
    optimizer = optimizer_of(model, name, options)
    for step in range(steps):
        hand_out(model, step)
        optimizer.step()
    return wholes(model)


def largest_difference(found: list[Weights], expected: Weights) -> float:
    """Over all processes and weights."""
    return max(float((each[name] - expected[name]).abs().max()) for each in found for name in expected)
