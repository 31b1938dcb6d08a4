"""How one tensor is cut over the processes of a mesh."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor


@dataclasses.dataclass(frozen=True)
class Line:
    """The processes along one dimension of a mesh.

    Args:
        name: of their process group, the same on all of them.
        rank: place of this process among them.
        size: how many they are.
    """

    name: str
    rank: int
    size: int

    @property
    def group(self) -> dist.ProcessGroup:
        """Looked up by name, so that nothing that is kept holds a process group."""
        group: dist.ProcessGroup = distributed_c10d._resolve_process_group(self.name)  # type: ignore[attr-defined, arg-type]
        return group


def lines_of(p: DTensor) -> tuple[Line, ...]:
    """The lines along which a tensor is cut."""
    mesh = p.device_mesh
    # and not `is_shard()`, which the strided cuts of tensor parallelism under FSDP2 deny (torch 2.13)
    cut = [at for at, placement in enumerate(p.placements) if not isinstance(placement, Replicate)]
    return tuple(
        Line(mesh.get_group(at).group_name, mesh.get_local_rank(at), mesh.size(at)) for at in cut if mesh.size(at) > 1
    )


@dataclasses.dataclass(frozen=True)
class Cut:
    """A tensor cut along one dimension as `torch.chunk` cuts it: the last parts may be short or empty.

    Args:
        line: over whose processes.
        dim: of the tensor.
        shape: of the whole tensor.
    """

    line: Line
    dim: int
    shape: tuple[int, ...]

    def bounds(self, rank: int) -> tuple[int, int]:
        """Where a process's part begins and ends."""
        length = self.shape[self.dim]
        each = -(-length // self.line.size)
        return min(rank * each, length), min((rank + 1) * each, length)

    def part_shape(self, rank: int) -> tuple[int, ...]:
        """Shape of a process's part."""
        first, end = self.bounds(rank)
        return (*self.shape[: self.dim], end - first, *self.shape[self.dim + 1 :])

    def part(self, tensor: Tensor, rank: int) -> Tensor:
        """A process's part of the whole tensor, a view."""
        first, end = self.bounds(rank)
        return tensor.narrow(self.dim, first, end - first)


def cut_of(p: DTensor) -> Cut | None:
    """How a tensor is cut, if it is cut along one line only and in contiguous parts."""
    cut = [placement for placement in p.placements if not isinstance(placement, Replicate)]
    lines = lines_of(p)
    if len(cut) != 1 or len(lines) != 1 or type(cut[0]) is not Shard:
        return None
    return Cut(lines[0], cut[0].dim, tuple(p.shape))


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a tensor lies on its processes.

    Args:
        whole: every process holds all of it.
        cut: how it is cut; None where that is along several lines or not at all.
    """

    whole: bool
    cut: Cut | None


def layout_of(p: Tensor) -> Layout | None:
    """How a parameter lies on its processes; None where it is not shared out over any."""
    return Layout(replicated(p), cut_of(p)) if isinstance(p, DTensor) else None


def wrapped(local: Tensor, like: DTensor, shape: tuple[int, ...], dim: int | None = None) -> DTensor:
    """This process's part of a tensor of that shape, as a container that checkpoints know how to cut again.

    Args:
        local: the part.
        like: a tensor cut in the same way.
        shape: of the whole; needed, because parts may be uneven.
        dim: cut along this dimension instead of `like`'s.
    """
    places = [
        Shard(dim) if dim is not None and not isinstance(place, Replicate) else place for place in like.placements
    ]
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(local, like.device_mesh, places, run_check=False, shape=torch.Size(shape), stride=stride)


def placed(value: Tensor, like: DTensor) -> Tensor:
    """This process's part of a tensor that every process holds, or that is cut in some way, cut like another."""
    if isinstance(value, DTensor) and value.placements == like.placements and value.device_mesh == like.device_mesh:
        return value.to_local()
    full = value.full_tensor() if isinstance(value, DTensor) else value
    spread = distribute_tensor(full.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return spread.to_local()


def gradient(p: DTensor) -> Tensor | None:
    """This process's part of the gradient, cut like the parameter."""
    grad: Any = p.grad
    if grad is None:
        return None
    if isinstance(grad, DTensor) and grad.placements != p.placements:
        grad = grad.redistribute(p.device_mesh, p.placements)
    return grad.to_local() if isinstance(grad, DTensor) else grad


def replicated(p: DTensor) -> bool:
    """Whether every process holds the whole tensor."""
    return all(isinstance(place, Replicate) or p.device_mesh.size(at) == 1 for at, place in enumerate(p.placements))
