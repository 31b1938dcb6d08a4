"""Torch's distributed checkpoints: saved on two processes, gone on with on any number."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from cases import VARIANTS
from shard_jobs import Weights, hand_out, largest_difference, mesh_of, optimizer_of, sheets, trained, wholes
from shard_pool import Pool
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)
from torch.distributed.fsdp import fully_shard

import metrize
from metrize.part import Part

HALF, END = 3, 6


def _started(name: str, options: dict[str, Any], space: str | None = None) -> tuple[nn.Module, metrize.Optimizer]:
    warnings.simplefilter("ignore")
    model = sheets(space=space)
    if dist.is_initialized():
        fully_shard(model, mesh=mesh_of(dist.get_world_size()))
    return model, optimizer_of(model, name, options)


def _go(model: nn.Module, optimizer: metrize.Optimizer, start: int, stop: int) -> None:
    for step in range(start, stop):
        hand_out(model, step)
        optimizer.step()


def save(name: str, options: dict[str, Any], folder: str, flat: bool, space: str | None) -> Weights:
    """Save halfway, and go on, which shows that saving changes nothing."""
    model, optimizer = _started(name, options, space)
    _go(model, optimizer, 0, HALF)
    form = StateDictOptions(flatten_optimizer_state_dict=flat)
    dcp.save(
        dict(zip(("model", "optimizer"), get_state_dict(model, optimizer, options=form), strict=True)),
        checkpoint_id=folder,
    )
    _go(model, optimizer, HALF, END)
    return wholes(model)


def load(name: str, options: dict[str, Any], folder: str, flat: bool, space: str | None) -> Weights:
    model, optimizer = _started(name, options, space)
    form = StateDictOptions(flatten_optimizer_state_dict=flat)
    content = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer, options=form), strict=True))
    dcp.load(content, checkpoint_id=folder)
    held = metrize.state_bytes(optimizer)
    set_state_dict(
        model,
        optimizer,
        model_state_dict=content["model"],
        optim_state_dict=content["optimizer"],
        options=form,
    )
    assert metrize.state_bytes(optimizer) == held  # and not more than its own share
    _go(model, optimizer, HALF, END)
    return wholes(model)


def _catalogue() -> list[Any]:
    """Every optimizer, its state in both forms; a fixed sample by default."""
    cases = [
        (name, {key: f"part {value!r}" if isinstance(value, Part) else value for key, value in options.items()}, flat)
        for name in metrize.catalogue()
        for options in VARIANTS.get(name, [{}])
        for flat in (False, True)
    ]
    always = [at for at, (name, _, flat) in enumerate(cases) if name in ("AdamW", "SMMF", "SOAP") and flat]
    kept = {*random.Random(0).sample(range(len(cases)), 9), *always[:3]}
    marks = [[] if at in kept else [pytest.mark.slow] for at in range(len(cases))]
    return [
        pytest.param(*case, marks=mark, id=f"{case[0]}-{at}")
        for at, (case, mark) in enumerate(zip(cases, marks, strict=True))
    ]


@pytest.mark.parametrize(("name", "options", "flat"), _catalogue())
def test_saved_on_two_and_loaded_on_others(
    pools: dict[int, Pool], tmp_path: Path, name: str, options: dict[str, Any], flat: bool
) -> None:
    folder, alone = str(tmp_path / "saved"), trained(name, options, None, END)
    assert largest_difference(pools[2].run(save, name, options, folder, flat, None), alone) == 0
    for size in (1, 3, 4):
        assert largest_difference(pools[size].run(load, name, options, folder, flat, None), alone) == 0


@pytest.mark.parametrize("name", ["Adam", "SMMF", "SOAP"])
def test_on_a_manifold(pools: dict[int, Pool], tmp_path: Path, name: str) -> None:
    folder, space = str(tmp_path / "saved"), "Stiefel()"
    alone = trained(name, {}, None, END, space=space)
    assert largest_difference(pools[2].run(save, name, {}, folder, True, space), alone) == 0
    assert largest_difference(pools[3].run(load, name, {}, folder, True, space), alone) == 0


def gathered(name: str, file: str) -> Weights:
    """The whole state on the first process, as a plain file."""
    model, optimizer = _started(name, {})
    _go(model, optimizer, 0, HALF)
    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    content = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer, options=whole), strict=True))
    if dist.get_rank() == 0:
        torch.save(content, file)
    _go(model, optimizer, HALF, END)
    return wholes(model)


def spread(name: str, file: str) -> Weights:
    """That file read by the first process and handed out."""
    model, optimizer = _started(name, {})
    content: dict[str, Any] = {"model": {}, "optimizer": {}}
    if dist.get_rank() == 0:
        content = torch.load(file, weights_only=True)
    form = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(model, content["model"], options=form)  # apart: together, who holds nothing skips the model
    set_optimizer_state_dict(model, optimizer, content["optimizer"], options=form)
    _go(model, optimizer, HALF, END)
    return wholes(model)


@pytest.mark.parametrize("name", ["AdamW", "Muon", "SOAP", "SMMF", "Adam8bit", "Prodigy"])
def test_whole_files(pools: dict[int, Pool], tmp_path: Path, name: str) -> None:
    file, alone = str(tmp_path / "whole.pt"), trained(name, {}, None, END)
    assert largest_difference(pools[2].run(gathered, name, file), alone) == 0
    assert largest_difference(pools[3].run(spread, name, file), alone) == 0
    # and one process without any mesh
    model, optimizer = _started(name, {})
    content = torch.load(file, weights_only=True)
    model.load_state_dict(content["model"])
    places = {name: at for at, name in enumerate(content["optimizer"]["state"])}
    groups = content["optimizer"]["param_groups"]
    numbered = [{**group, "params": [places[key] for key in group["params"]]} for group in groups]
    optimizer.load_state_dict(
        {"state": {places[key]: kept for key, kept in content["optimizer"]["state"].items()}, "param_groups": numbered}
    )
    _go(model, optimizer, HALF, END)
    assert largest_difference([wholes(model)], alone) == 0


def probed(name: str) -> None:
    """Asking a fresh optimizer for its state changes nothing, and saving does not either."""
    model, optimizer = _started(name, {})
    before = wholes(model)
    content = get_optimizer_state_dict(model, optimizer)
    assert content["state"]
    assert all(torch.equal(value, before[key]) for key, value in wholes(model).items())
    assert all(int(kept["step"]) == 0 for kept in content["state"].values())


def test_the_probe_for_state_moves_nothing(pools: dict[int, Pool]) -> None:
    for name in ("AdamW", "Muon", "SOAP", "Prodigy"):
        pools[2].run(probed, name)


def refused(folder: str) -> None:
    """State of another recipe is not taken, and nothing is changed."""
    model, optimizer = _started("SMMF", {})
    _go(model, optimizer, 0, 1)
    before = wholes(model)
    content = optimizer.state_dict()
    other = metrize.AdamW(model)
    with pytest.raises(ValueError, match="was trained with"):
        other.load_state_dict(content)
    assert all(torch.equal(value, before[key]) for key, value in wholes(model).items())


def test_another_recipe_is_refused(pools: dict[int, Pool], tmp_path: Path) -> None:
    pools[2].run(refused, str(tmp_path))


def refused_alike() -> str:
    """One process of two has a damaged part."""
    model, optimizer = _started("AdamW", {})
    _go(model, optimizer, 0, 1)
    before = wholes(model)
    saved = optimizer.state_dict()
    if dist.get_rank() == 1:
        saved["param_groups"][0]["recipe"] = "Recipe(rule=Unknown())"
    held = {p: {key: value.clone() for key, value in kept.items()} for p, kept in optimizer.state.items()}
    try:
        optimizer.load_state_dict(saved)
    except ValueError as error:
        told = str(error)
    else:
        told = "taken"
    assert all(torch.equal(value, before[key]) for key, value in wholes(model).items())
    assert all(torch.equal(held[p][key], kept[key]) for p, kept in optimizer.state.items() for key in kept)
    return told


def test_all_processes_refuse_what_one_refuses(pools: dict[int, Pool]) -> None:
    first, second = pools[2].run(refused_alike)
    assert "another process of this run refuses" in first
    assert "cannot read" in second


def converted(name: str, of_torch: bool) -> Weights:
    """Averages of whole tensors, and of torch's own optimizer, into the parts of a sharded one."""
    model, optimizer = _started("AdamW", {})
    old = torch.optim.AdamW(model.parameters(), lr=0.02, fused=True) if of_torch else optimizer
    for step in range(HALF):
        hand_out(model, step)
        old.step()
    new = metrize.catalogue()[name](model, **({} if name == "AdamW" else {"smallest": 0}))
    content = old.state_dict()
    new.load_state_dict(metrize.convert_state(content, new) if name != "AdamW" else content)
    _go(model, new, HALF, END)
    return wholes(model)


@pytest.mark.parametrize(("name", "of_torch"), [("AdamW", True), ("Adam8bit", False), ("Adam8bit", True)])
def test_sharded_state_is_converted_as_that_of_one_process(pools: dict[int, Pool], name: str, of_torch: bool) -> None:
    alone = converted(name, of_torch)
    allowed = 1e-6 if of_torch else 0  # the steps of torch's own on parts of a tensor round differently
    assert largest_difference(pools[2].run(converted, name, of_torch), alone) <= allowed
