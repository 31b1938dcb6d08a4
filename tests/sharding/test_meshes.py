"""Other ways to cut a tensor than by rows over one line of processes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import shard_jobs
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from shard_jobs import gradients, hand_out, largest_difference, mesh_of, optimizer_of, sheets, trained, wholes
from shard_pool import Pool
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import metrize


def cut_by_hand(model: nn.Module, mesh: tuple[int, ...], places: dict[str, list[Placement]]) -> None:
    """Put some weights on a mesh, each with its own placements; the others stay whole on every process."""
    made = mesh_of(*mesh)
    for name, placements in places.items():
        module, _, leaf = name.rpartition(".")
        owner = model.get_submodule(module)
        whole = owner.get_parameter(leaf).detach()
        setattr(owner, leaf, nn.Parameter(distribute_tensor(whole, made, placements, src_data_rank=None)))


def placed(name: str, options: dict[str, Any], mesh: tuple[int, ...], places: dict[str, list[Placement]]) -> Any:
    warnings.simplefilter("ignore")
    model = sheets()
    cut_by_hand(model, mesh, places)
    optimizer = optimizer_of(model, name, options)
    for step in range(5):
        hand_out(model, step)
        optimizer.step()
    return wholes(model)


COLUMNS = {"tall.weight": [Shard(1)], "odd.weight": [Shard(1)], "tall.bias": [Shard(0)], "wide.weight": [Replicate()]}
GRID = {
    "tall.weight": [Shard(0), Shard(1)],
    "wide.weight": [Replicate(), Shard(0)],
    "odd.weight": [Shard(1), Replicate()],
    "tall.bias": [Replicate(), Replicate()],
}


@pytest.mark.parametrize("name", ["Muon", "SOAP", "SMMF", "Signum", "Lion", "Prodigy"])
def test_columns_and_a_mixture_with_whole_weights(pools: dict[int, Pool], name: str) -> None:
    alone = trained(name, {}, None)
    # sums over entries are cut elsewhere than by rows
    assert largest_difference(pools[2].run(placed, name, {}, (2,), COLUMNS), alone) <= (
        1e-6 if name == "Prodigy" else 0
    )


@pytest.mark.parametrize("name", ["AdamW", "Muon", "SOAP", "SMMF", "Prodigy", "Adam8bit"])
def test_a_grid_of_processes(pools: dict[int, Pool], name: str) -> None:
    alone = trained(name, {}, None)
    assert largest_difference(pools[4].run(placed, name, {}, (2, 2), GRID), alone) <= 1e-6


def some_ranks(name: str, by_rank: bool) -> Any:
    """Some weights have a gradient on the first process only, others on none in some steps."""
    model = sheets()
    sharded = dist.is_initialized()
    if sharded:
        fully_shard(model, mesh=mesh_of(dist.get_world_size()))
    optimizer = optimizer_of(model, name, {})
    for step in range(4):
        absent = {"low.weight"} if step == 1 else set()
        hand_out(model, step, lambda key, absent=absent: key in absent)
        if by_rank:
            _silence(model, "odd.weight", sharded)
        optimizer.step()
    return wholes(model)


def _silence(model: nn.Module, name: str, sharded: bool) -> None:
    """No gradient but in the rows of the first process of two."""
    p = model.get_parameter(name)
    if sharded and dist.get_rank() > 0:
        p.grad = None
    elif not sharded:
        p.grad[-(-len(p) // 2) :] = 0


@pytest.mark.parametrize("name", ["AdamW", "Muon", "SOAP", "Prodigy"])
@pytest.mark.parametrize("by_rank", [False, True])
def test_gradients_on_some_processes_only(pools: dict[int, Pool], name: str, by_rank: bool) -> None:
    assert largest_difference(pools[2].run(some_ranks, name, by_rank), some_ranks(name, by_rank)) == 0


def poisoned(name: str, skip: bool) -> Any:
    """The second gradient is not finite in one number, that only the last process has."""
    warnings.simplefilter("ignore")
    model = sheets()
    fully_shard(model, mesh=mesh_of(dist.get_world_size()))
    optimizer = metrize.catalogue()[name](model, skip_nonfinite=skip)
    before = None
    for step in range(3):
        hand_out(model, step)
        if step == 1:
            part = model.odd.weight.grad.to_local()
            if dist.get_rank() == dist.get_world_size() - 1:
                part[-1, 0] = float("nan")
            before = wholes(model), {key: value.clone() for key, value in optimizer.state[model.odd.weight].items()}
        optimizer.step()
        if step == 1 and skip:
            same = all(torch.equal(value, before[0][key]) for key, value in wholes(model).items())
            state = optimizer.state[model.odd.weight]
            assert same
            assert all(torch.equal(value, state[key]) for key, value in before[1].items())
    return optimizer.param_groups[0]["skipped_steps"], wholes(model)


@pytest.mark.parametrize("name", ["AdamW", "Muon", "SMMF"])
def test_a_gradient_that_is_not_finite_on_one_process_is_skipped_by_all(pools: dict[int, Pool], name: str) -> None:
    found = pools[3].run(poisoned, name, True)
    assert [skipped for skipped, _ in found] == [1, 1, 1]
    assert all(torch.isfinite(value).all() for _, weights in found for value in weights.values())
    taken = pools[3].run(poisoned, name, False)
    assert not all(torch.isfinite(value).all() for _, weights in taken for value in weights.values())


def overwritten(name: str, space: str | None) -> Any:
    """Someone writes to weights between steps, as an exchange with averages does."""
    model = sheets(space=space)
    if dist.is_initialized():
        fully_shard(model, mesh=mesh_of(dist.get_world_size()))
    optimizer = optimizer_of(model, name, {})
    for step in range(4):
        if step == 2:
            with torch.no_grad():
                for p in model.parameters():
                    p.neg_()  # which is a point too
        hand_out(model, step)
        optimizer.step()
    return wholes(model)


@pytest.mark.parametrize(("name", "space"), [("AdamW", None), ("Muon", None), ("SOAP", None), ("Adam", "Stiefel()")])
def test_weights_written_to_between_steps_count(pools: dict[int, Pool], name: str, space: str | None) -> None:
    assert largest_difference(pools[2].run(overwritten, name, space), overwritten(name, space)) == 0


def grown(options: dict[str, Any], places: dict[str, list[Placement]] | None) -> Any:
    """Prodigy's estimate and the weights after steps that go the same way for all weights but some."""
    model = sheets()
    if dist.is_initialized() and places is None:
        fully_shard(model, mesh=mesh_of(dist.get_world_size()))
    elif dist.is_initialized() and places is not None:
        cut_by_hand(model, (dist.get_world_size(),), places)
    optimizer = optimizer_of(model, "Prodigy", options)
    for step in range(12):
        hand_out(model, 0)
        steady = {name: p.grad for name, p in model.named_parameters() if not name.startswith("wide")}
        hand_out(model, step)
        for name, grad in steady.items():
            model.get_parameter(name).grad = grad
        optimizer.step()
    return float(optimizer.state[model.tall.bias]["d"]), wholes(model)


@pytest.mark.parametrize("places", [None, COLUMNS])
def test_an_estimate_over_the_whole_model(pools: dict[int, Pool], places: dict[str, list[Placement]] | None) -> None:
    options = {"lr": 1.0, "d0": 1e-4}
    estimate, weights = grown(options, None)
    assert estimate > 1e-3  # it has grown, so that sums that are wrong would show
    found = pools[2].run(grown, options, places)
    assert all(abs(other - estimate) <= 1e-5 * estimate for other, _ in found)
    if places is None:
        assert largest_difference([each for _, each in found], weights) == 0


def moved_messages(name: str, options: dict[str, Any], frozen: bool) -> list[str]:
    """The collectives of one step, when all have settled."""
    warnings.simplefilter("ignore")
    model = sheets()
    for p in model.parameters():
        p.requires_grad_(not frozen or p.ndim < 2)
    fully_shard(model, mesh=mesh_of(dist.get_world_size()))
    optimizer = optimizer_of(model, name, options)
    calls: list[str] = []
    for step in range(3):
        hand_out(model, step, lambda key: not model.get_parameter(key).requires_grad)
        calls.clear()
        _listen(calls)
        try:
            optimizer.step()
        finally:
            _listen(None)
    return list(calls)


_KEPT: dict[str, Any] = {}


def _listen(calls: list[str] | None) -> None:
    """Note the collectives that are called, or stop doing so."""
    names = [n for n in dir(dist) if n.startswith(("all_", "reduce", "broadcast", "gather", "scatter", "send", "recv"))]
    for name in names:
        original = _KEPT.setdefault(name, getattr(dist, name))
        if calls is None or not callable(original):
            setattr(dist, name, original)
        else:
            setattr(dist, name, lambda *a, _n=name, _f=original, **k: (calls.append(_n), _f(*a, **k))[1])


@pytest.mark.parametrize(
    ("name", "options", "frozen", "expected"),
    [
        ("AdamW", {}, False, ["all_reduce"]),
        ("Prodigy", {}, False, ["all_reduce", "all_reduce"]),
        ("Muon", {}, False, ["all_to_all_single", "all_to_all_single"]),
        ("Muon", {}, True, ["all_reduce"]),  # nothing of frozen matrices travels
        ("SMMF", {}, False, ["all_to_all_single", "all_to_all_single"]),
        ("Prodigy", {"slice_p": 3}, False, ["all_to_all_single", "all_reduce", "all_to_all_single"]),
    ],
)
def test_few_messages_for_the_whole_model(
    pools: dict[int, Pool], name: str, options: dict[str, Any], frozen: bool, expected: list[str]
) -> None:
    assert pools[2].run(moved_messages, name, options, frozen) == [expected, expected]


def looked_at() -> None:
    """What the library offers beside steps works on sharded weights too, or says that it does not."""
    model = sheets(space="Stiefel()")
    fully_shard(model, mesh=mesh_of(dist.get_world_size()))
    optimizer = metrize.Adam(model)
    with metrize.measured(optimizer) as sizes:
        hand_out(model, 0)
        optimizer.step()
    assert float(sizes["low.weight"].update) > 0
    assert max(float(error) for error in metrize.error_on_space(model).values()) < 1e-5
    with pytest.raises(ValueError, match=r"tall\.weight.*shard"):
        metrize.InBackward(optimizer)
    with torch.no_grad():
        model.odd.weight.to_local().add_(1.0)
    hand_out(model, 1)
    if isinstance(model.odd.weight, DTensor):
        with pytest.raises(metrize.SpaceError, match=r"odd\.weight"):
            metrize.Adam(model)


def test_what_else_there_is_for_sharded_weights(pools: dict[int, Pool]) -> None:
    pools[2].run(looked_at)


def test_the_gradients_of_the_tests_are_not_zero() -> None:
    assert all(grad.any() for grad in gradients(shard_jobs.sheets(), 0).values())


def tensor_parallel(name: str, folder: str) -> Any:
    """Tensor parallelism inside, shards outside, as large runs have it; saved and loaded halfway."""
    warnings.simplefilter("ignore")
    model = sheets()
    sharded = dist.is_initialized()
    if sharded:
        mesh = mesh_of(2, 2)
        plan = {"tall": ColwiseParallel(), "wide": RowwiseParallel(), "odd": ColwiseParallel()}
        parallelize_module(model, mesh["inner"], plan)
        fully_shard(model, mesh=mesh["outer"])
    optimizer = optimizer_of(model, name, {})
    for step in range(5):
        if sharded and step == 3:
            content = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
            dcp.save(content, checkpoint_id=folder)
            model_state, state = get_state_dict(model, optimizer)
            content = {"model": model_state, "optimizer": state}
            dcp.load(content, checkpoint_id=folder)
            optimizer = optimizer_of(model, name, {})
            set_state_dict(model, optimizer, model_state_dict=content["model"], optim_state_dict=content["optimizer"])
        hand_out(model, step)
        optimizer.step()
    return wholes(model)


@pytest.mark.parametrize("name", ["AdamW", "Muon", "SOAP", "SMMF", "Prodigy"])
def test_tensor_parallelism_under_shards(pools: dict[int, Pool], tmp_path: Path, name: str) -> None:
    found = pools[4].run(tensor_parallel, name, str(tmp_path))
    assert largest_difference(found, tensor_parallel(name, "")) <= 1e-6


def partly_frozen(name: str) -> Any:
    model = sheets()
    model.odd.requires_grad_(False)
    if dist.is_initialized():
        fully_shard(model, mesh=mesh_of(dist.get_world_size()))
    optimizer = optimizer_of(model, name, {})
    for step in range(5):
        if step == 2:
            model.odd.requires_grad_(True)
        hand_out(model, step, lambda key, frozen=step < 2: frozen and key.startswith("odd"))
        optimizer.step()
        assert bool(optimizer.state.get(model.odd.weight)) == (step >= 2)
    return wholes(model)


@pytest.mark.parametrize("name", ["AdamW", "Muon", "SOAP"])
def test_frozen_weights_that_are_thawed(pools: dict[int, Pool], name: str) -> None:
    assert largest_difference(pools[2].run(partly_frozen, name), partly_frozen(name)) == 0
