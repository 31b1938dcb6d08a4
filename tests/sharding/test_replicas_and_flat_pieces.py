"""Engines that keep whole tensors everywhere, and those that cut them into flat pieces."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.distributed as dist
from shard_jobs import Sheets, largest_difference, optimizer_of, sheets, wholes
from shard_pool import Pool
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

import metrize


class Whole(nn.Module):
    """A model whose forward pass uses a part of its weights, or all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.sheets = sheets()

    def forward(self, x: Tensor, words: bool) -> Tensor:
        total = self.sheets.wide(torch.tanh(self.sheets.tall(x))).square().mean()
        return total + self.sheets.words.weight.square().mean() if words else total


def batch(step: int, rank: int) -> Tensor:
    return torch.randn(6, 12, generator=torch.Generator().manual_seed(10 * step + rank))


def replicas(name: str) -> Any:
    """Every process has its part of the batch; the embedding is used on the first one only."""
    warnings.simplefilter("ignore")
    model = Whole()
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    optimizer = optimizer_of(model, name, {})
    for step in range(4):
        optimizer.zero_grad()
        wrapped(batch(step, dist.get_rank()), dist.get_rank() == 0).backward()
        optimizer.step()
    if dist.get_rank() == 0:
        optimizer.state_dict()  # frameworks save on one process, and the others must not be waited for
    return wholes(model.sheets)


def one(name: str, size: int) -> Any:
    """The same on one process: the mean of the parts' gradients."""
    warnings.simplefilter("ignore")
    model = Whole()
    optimizer = optimizer_of(model, name, {})
    for step in range(4):
        optimizer.zero_grad()
        for rank in range(size):
            (model(batch(step, rank), rank == 0) / size).backward()
        optimizer.step()
    return wholes(model.sheets)


@pytest.mark.parametrize("name", ["AdamW", "Muon", "SMMF", "Prodigy", "SOAP"])
def test_replicas_of_the_whole_model(pools: dict[int, Pool], name: str) -> None:
    found = pools[2].run(replicas, name)
    assert largest_difference([found[1]], found[0]) == 0
    # the reference leaves weights without a gradient alone, and the wrapper hands those out as zeros where one has them
    used = {key for key in found[0] if key.split(".")[0] in ("tall", "wide", "words")}
    expected = {key: value for key, value in one(name, 2).items() if key in used}
    assert largest_difference(found, expected) <= 2e-4


def sharing_out(name: str) -> Any:
    """State shared out by torch's own wrapper for whole parameters."""
    warnings.simplefilter("ignore")
    model = Whole()
    options = {"lr": 1e-2}
    optimizer = ZeroRedundancyOptimizer(model.parameters(), metrize.catalogue()[name], **options)
    for step in range(3):
        optimizer.zero_grad()
        model(batch(step, 0), True).backward()
        optimizer.step()
    return wholes(model.sheets)


def test_the_wrapper_that_shares_out_state(pools: dict[int, Pool]) -> None:
    for name in ("SMMF", "Adam8bit"):
        model = Whole()
        optimizer = metrize.catalogue()[name](model.parameters(), lr=1e-2)
        for step in range(3):
            optimizer.zero_grad()
            model(batch(step, 0), True).backward()
            optimizer.step()
        assert largest_difference(pools[2].run(sharing_out, name), wholes(model.sheets)) <= 1e-7


def flattened(name: str) -> Any:
    """What the older of torch's sharding wrappers makes of the parameters."""
    warnings.simplefilter("ignore")
    model = FullyShardedDataParallel(Sheets(), use_orig_params=True, device_id=torch.device("cpu"))
    optimizer = metrize.catalogue()[name](model)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    return any(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_flat_pieces_of_the_older_wrapper(pools: dict[int, Pool]) -> None:
    assert pools[2].run(flattened, "AdamW") == [True, True]
    for name in ("Muon", "SMMF", "SOAP"):
        with pytest.raises(AssertionError, match="flat piece"):
            pools[2].run(flattened, name)


@pytest.mark.parametrize("name", ["AdamW", "Lion", "SMMF", "SOAP", "Shampoo", "GaLore", "NormSGD"])
def test_flat_partitions_put_in_place_of_the_parameters(name: str) -> None:
    weights = [nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(8, 8)), nn.Parameter(torch.randn(8))]
    optimizer = metrize.catalogue()[name](weights)
    partition = nn.Parameter(torch.cat([w.detach().reshape(-1) for w in weights])[:48].clone())
    partition.grad = torch.ones_like(partition)
    optimizer.param_groups[0]["params"] = [partition]
    before = partition.detach().clone()
    if name in ("AdamW", "Lion"):
        optimizer.step()
        assert not torch.equal(partition, before)
        return
    with pytest.raises(metrize.SpaceError, match="flat piece of 48 numbers"):
        optimizer.step()
    assert torch.equal(partition, before)
    assert not optimizer.state
