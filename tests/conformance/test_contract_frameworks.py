"""What every optimizer promises to frameworks, and to everyone who reaches into its state."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from cases import (
    BOTH,
    DTYPES,
    FP32,
    SECTIONS,
    SPACES,
    STEPS,
    Case,
    assert_same_bits,
    assert_same_run,
    backward,
    build,
    cases,
    each,
    resumed,
    same_bits,
    set_gradients,
    snapshot,
    straight,
    train,
)
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

import metrize
from metrize import Stiefel

# one process; older torch finds that out by itself
ALONE = {"no_dist": True} if "no_dist" in inspect.signature(dcp.save).parameters else {}


@each(FP32)
def test_loading_an_empty_state_at_once_changes_nothing(case: Case) -> None:
    model, optimizer = case.start()  # Accelerate does this in `prepare`
    optimizer.load_state_dict(optimizer.state_dict())
    assert not optimizer.state
    train(model, optimizer, 0, STEPS)
    assert_same_run(model, optimizer, *straight(case))


def test_a_space_is_kept_when_another_comes_to_light_after_an_exchange() -> None:
    model = build(None)
    metrize.constrain(model.tall, "weight", Stiefel())
    optimizer = metrize.Adam(model, lr=0.1)
    model = copy.deepcopy(model)  # whose parameters carry no tags
    optimizer.param_groups[0]["params"][:] = list(model.parameters())
    metrize.constrain(model.one, "weight", Stiefel())
    set_gradients(model.parameters(), 0)
    optimizer.step()
    assert optimizer.param_groups[0]["spaces"] == (repr(Stiefel()), None, repr(Stiefel()), *[None] * 5)
    assert all(float(error) < 1e-5 for error in metrize.error_on_space(model).values())


@each(FP32)
def test_state_dict_makes_no_state(case: Case) -> None:
    _, optimizer = case.start()
    optimizer.state_dict()
    assert not optimizer.state


@each(FP32)
@pytest.mark.parametrize("after", [0, 2])
def test_exchanged_parameters_keep_their_space_and_leave_no_state(case: Case, after: int) -> None:
    model, optimizer = case.start()
    train(model, optimizer, 0, after)
    other = copy.deepcopy(model)  # without the tags on the parameters
    counterpart = dict(zip(model.parameters(), other.parameters(), strict=True))
    for group in optimizer.param_groups:
        group["params"][:] = [counterpart[p] for p in group["params"]]
    for step in range(3):
        set_gradients(other.parameters(), step)
        optimizer.step()
    assert set(optimizer.state) == set(other.parameters())
    assert all(float(error) < 1e-5 for error in metrize.error_on_space(other).values())

    expected, twin = copy.deepcopy(model), None
    twin = case.optimizer(expected)
    for step in range(3):
        set_gradients(expected.parameters(), step)
        twin.step()
    assert_same_run(other, optimizer, expected, twin)


@each(BOTH + SECTIONS)
def test_the_probe_of_distributed_checkpoints_only_makes_state(case: Case) -> None:
    model, optimizer = case.start()
    weights, rates = snapshot(model, optimizer)["weights"], [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(0.0) if case.dtype == "bf16" else 0.0
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step(closure=None)
    model.zero_grad()
    for group, lr in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = lr
    _, fresh = case.start()
    fresh.init_state()
    assert len(optimizer.state) == 8
    assert_same_bits(optimizer.state_dict()["state"], fresh.state_dict()["state"])
    assert_same_bits(snapshot(model, optimizer)["weights"], weights)
    train(model, optimizer, 0, STEPS)
    assert_same_run(model, optimizer, *straight(case))


@each(FP32)
def test_a_real_first_step_of_a_warmup_is_no_probe(case: Case) -> None:
    model, optimizer = case.start(lr=0.0)
    train(model, optimizer, 0, 1)
    assert {float(state["step"]) for state in optimizer.state.values()} == {1.0}


@each(BOTH)
@pytest.mark.parametrize("flat", [pytest.param(False, marks=pytest.mark.slow), True])
def test_distributed_checkpoint_round_trip_in_one_process(case: Case, flat: bool) -> None:
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    model, optimizer = case.start()
    train(model, optimizer, 0, 3)
    saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer, options=options))
    other, fresh = case.start(seed=1)
    other.load_state_dict(model.state_dict())
    set_optimizer_state_dict(other, fresh, saved, options=options)
    train(model, optimizer, 3, STEPS)
    train(other, fresh, 3, STEPS)
    assert_same_run(model, optimizer, other, fresh)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
@each(cases(spaces=["transported"], dtypes=["bf16"]))
def test_distributed_checkpoint_through_files(case: Case, tmp_path: Path) -> None:
    model, optimizer = case.start()
    model.tall.bias.requires_grad_(False)
    train(model, optimizer, 0, 3)
    dcp.save({"optimizer": get_optimizer_state_dict(model, optimizer)}, checkpoint_id=tmp_path, **ALONE)
    other, fresh = case.start(seed=1)
    other.load_state_dict(model.state_dict())
    other.tall.bias.requires_grad_(False)
    content = {"optimizer": get_optimizer_state_dict(other, fresh)}
    dcp.load(content, checkpoint_id=tmp_path, **ALONE)
    set_optimizer_state_dict(other, fresh, content["optimizer"])
    train(model, optimizer, 3, STEPS)
    train(other, fresh, 3, STEPS)
    assert_same_run(model, optimizer, other, fresh)


@each(FP32)
def test_reading_the_state_of_a_fresh_optimizer_changes_nothing(case: Case) -> None:
    model, optimizer = case.start()
    get_optimizer_state_dict(model, optimizer)
    train(model, optimizer, 0, STEPS)
    assert_same_run(model, optimizer, *straight(case))


@each(FP32)
def test_gradient_scaler(case: Case) -> None:
    model, optimizer = case.start()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(1000 + step)
        x, y = torch.randn(4, 3, generator=generator), torch.randn(4, 2, generator=generator)
        model.zero_grad()
        scaler.scale(nn.functional.mse_loss(model(x), y)).backward()
        scaler.step(optimizer)
        scaler.update()
    assert_same_run(model, optimizer, *straight(case))  # a power of two leaves every bit of the mantissa

    before = snapshot(model, optimizer)
    backward(model, STEPS)
    scaler.scale(torch.ones(()))
    model.one.weight.grad[0, 0] = float("inf")
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**9
    assert_same_bits(snapshot(model, optimizer), before)  # the scaler's own guard; ours was not asked
    backward(model, STEPS)
    scaler.step(optimizer)
    scaler.update()
    assert {float(state["step"]) for state in optimizer.state.values()} == {STEPS + 1.0}


@each(FP32)
def test_one_cycle_with_momentum(case: Case) -> None:
    model, optimizer = case.start()
    group = optimizer.param_groups[0]
    key = "betas" if "betas" in optimizer.defaults else "momentum"  # as the schedule decides
    if not optimizer.defaults.get("momentum", "betas" in group):
        pytest.skip("without momentum there is nothing to cycle")
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=STEPS, cycle_momentum=True)
    seen = set()
    for step in range(STEPS - 1):
        backward(model, step)
        optimizer.step()
        schedule.step()
        seen.add(group[key])
    assert len(seen) > 3
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert all(float(error) < 1e-5 for error in metrize.error_on_space(model).values())


@each(FP32)
def test_offloaded_state_is_used_and_saved(case: Case) -> None:
    model, optimizer = case.start()
    train(model, optimizer, 0, 3)
    for state in optimizer.state.values():  # as helpers do that move the state to another device
        for key, value in list(state.items()):
            state[key] = value.clone()
    train(model, optimizer, 3, STEPS)
    assert_same_run(model, optimizer, *straight(case))


@each(cases(spaces=["vector"], dtypes=["fp32"]))
def test_state_written_in_place_counts(case: Case) -> None:
    model, optimizer = case.start()
    optimizer.init_state()
    if any(value.any() for state in optimizer.state.values() for value in state.values()):
        pytest.skip("its state does not start at zero")
    train(model, optimizer, 0, 2)
    for state in optimizer.state.values():
        for value in state.values():
            value.zero_()
    other, twin = case.start()
    other.load_state_dict(model.state_dict())
    train(model, optimizer, 2, 4)
    train(other, twin, 2, 4)
    assert_same_run(model, optimizer, other, twin)


@each(cases(spaces=["vector"], dtypes=["fp32"]))
def test_a_parameter_grown_with_its_state_goes_on(case: Case) -> None:
    p = nn.Parameter(torch.ones(3, 2))
    optimizer = case.optimizer([p])
    set_gradients([p], 0)
    optimizer.step()
    if any(value.ndim and value.shape != p.shape for value in optimizer.state[p].values()):
        pytest.skip("it keeps something of another shape, which its owner would have to grow")
    state = optimizer.state.pop(p)  # as Gaussian splatting densifies its points
    for key, value in state.items():
        if value.shape == p.shape:
            state[key] = torch.cat([value, torch.zeros_like(value)[:2]])
    grown = optimizer.param_groups[0]["params"][0] = nn.Parameter(torch.cat([p.detach(), torch.ones_like(p)[:2]]))
    optimizer.state[grown] = state
    set_gradients([grown], 1)
    before = grown.detach().clone()
    optimizer.step()
    assert float(optimizer.state[grown]["step"]) == 2
    assert not (grown == before).any()


@each(cases(dtypes=["fp32", "bf16"]))
def test_a_parameter_that_outgrew_its_state_is_refused(case: Case) -> None:
    kept = ("exp_avg", "exp_avg_sq", "momentum_buffer")
    p = nn.Parameter(torch.eye(3, dtype=DTYPES[case.dtype]))
    optimizer = case.optimizer([("p", p)], space=SPACES[case.space])
    p.grad = torch.ones_like(p)
    optimizer.step()
    if not any(optimizer.state[p][key].shape == p.shape for key in kept if key in optimizer.state[p]):
        pytest.skip("it keeps nothing of the parameter's shape")
    before = copy.deepcopy(dict(optimizer.state[p]))
    p.data = torch.eye(50, dtype=p.dtype)
    p.grad = torch.ones_like(p)
    with pytest.raises(ValueError, match=r"'p' has shape \(50, 50\) now.*delete optimizer.state"):
        optimizer.step()
    assert_same_bits(dict(optimizer.state[p]), before)
    assert same_bits(p, torch.eye(50, dtype=p.dtype))
    del optimizer.state[p]
    optimizer.step()
    assert float(optimizer.state[p]["step"]) == 1


@each(FP32)
def test_parameters_added_and_taken_in_place(case: Case) -> None:
    model = case.model()
    optimizer = case.optimizer(list(model.tall.named_parameters("tall")) + list(model.one.named_parameters("one")))
    homes = {id(p): group["params"] for group in optimizer.param_groups for p in group["params"]}
    train(model, optimizer, 0, 2)
    for one, two in zip(model.one.parameters(), model.two.parameters(), strict=True):
        homes[id(one)].append(two)
    train(model, optimizer, 2, 4)
    assert homes[id(model.tall.weight)].pop(0) is model.tall.weight
    tall = model.tall.weight.detach().clone()
    train(model, optimizer, 4, 6)
    assert same_bits(model.tall.weight, tall)
    assert {float(optimizer.state[p]["step"]) for p in model.one.parameters()} == {6.0}
    assert {float(optimizer.state[p]["step"]) for p in model.two.parameters()} == {4.0}
    assert set(optimizer.state) == {p for group in optimizer.param_groups for p in group["params"]}
    assert all(float(error) < 1e-5 for error in metrize.error_on_space(model).values())


@each(FP32)
def test_forgotten_state_starts_anew(case: Case) -> None:
    model, optimizer = case.start()
    train(model, optimizer, 0, 2)
    optimizer.state.clear()
    other, twin = case.start()
    other.load_state_dict(model.state_dict())
    train(model, optimizer, 2, 4)
    train(other, twin, 2, 4)
    assert_same_run(model, optimizer, other, twin)


@each(FP32)
def test_wrappers_may_keep_their_own_things_in_the_state(case: Case) -> None:
    model, optimizer = case.start()
    kept = optimizer.state[model.one.weight]["z"] = torch.ones(3)  # as schedule-free's wrapper does
    train(model, optimizer, 0, 4)
    assert optimizer.state[model.one.weight]["z"] is kept
    model, optimizer = resumed(case, model, optimizer)
    train(model, optimizer, 4, STEPS)
    assert same_bits(optimizer.state[model.one.weight].pop("z"), torch.ones(3))
    assert_same_run(model, optimizer, *straight(case))
