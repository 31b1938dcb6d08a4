"""What processes really hold and send: bytes counted where they go out."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from shard_jobs import hand_out, mesh_of, optimizer_of, sheets
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.debug import CommDebugMode
from torch.profiler import ProfilerActivity, profile

import metrize


@dataclasses.dataclass
class Traffic:
    """Of one process.

    Args:
        sent: bytes to other processes; an all-reduce of b bytes over R processes as ``2 b (R - 1) / R``.
        seen: collectives that were looked at.
        all: collectives of any kind.
    """

    sent: int = 0
    seen: int = 0
    all: int = 0


@contextlib.contextmanager
def counted() -> Iterator[Traffic]:
    """Count what this process sends meanwhile."""
    found, swap, add = Traffic(), dist.all_to_all_single, dist.all_reduce

    def to_all(output: Any, message: Any, out: list[int], parts: list[int], group: Any) -> Any:
        found.seen += 1
        assert sum(parts) == message.nbytes
        found.sent += sum(parts) - parts[dist.get_rank(group)]
        return swap(output, message, out, parts, group)

    def reduce(tensor: Any, how: Any, group: Any) -> Any:
        found.seen += 1
        size = dist.get_world_size(group)
        found.sent += 2 * tensor.nbytes * (size - 1) // size
        return add(tensor, how, group=group)

    patches = mock.patch.object(dist, "all_to_all_single", to_all), mock.patch.object(dist, "all_reduce", reduce)
    with patches[0], patches[1], CommDebugMode() as everything:
        yield found
    found.all = everything.get_total_counts()


def held_and_sent(
    name: str,
    options: dict[str, Any],
    mesh: tuple[int, ...],
    space: str | None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, int]:
    """Bytes and collectives of this process, in the second step of a run."""
    model = sheets(dtype, space)
    fully_shard(model, mesh=mesh_of(*mesh))
    optimizer = optimizer_of(model, name, options)
    hand_out(model, 0)
    optimizer.step()
    hand_out(model, 1)
    with counted() as traffic:
        optimizer.step()
    parts = [p.to_local() for p in model.parameters()]
    works = [parcel for parcel in optimizer._exchange.parcels if parcel.member.family == "owner"]
    return {
        "parameters": sum(part.nbytes for part in parts),
        "gradients": sum(p.grad.to_local().nbytes for p in model.parameters()),
        "state": metrize.state_bytes(optimizer),
        "copies": sum(parcel.work.nbytes for parcel in works),
        "sent": traffic.sent,
        "collectives": traffic.seen,
        "others": traffic.all - traffic.seen,
    }


def plates() -> nn.Module:
    """Matrices that are large beside what a step needs however small they are."""
    return nn.Sequential(*(nn.Linear(384, 512, bias=False) for _ in range(6)))


def peak(name: str) -> int:
    """Bytes that a step of this process allocates at the most, beyond what is there before and after it."""
    model = plates()
    fully_shard(model, mesh=mesh_of(dist.get_world_size()))
    optimizer = optimizer_of(model, name, {})
    hand_out(model, 0)
    optimizer.step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        optimizer.step()
    events = sorted(found.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in events if event.name() == "[memory]"))
