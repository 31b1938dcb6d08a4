"""What training loops do: schedules, numbers in tensors, closures, frozen parameters, averaged weights."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import Case, assert_same_bits, assert_same_run, backward, cases, each, set_gradients, snapshot, train
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn

import metrize

FP32 = cases(dtypes=["fp32"])
STEPS = 8

# Schedules

SCHEDULES: dict[str, Callable[[Optimizer], Any]] = {
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler([SCHEDULES["StepLR"](o), SCHEDULES["LinearLR"](o)]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, total_iters=3),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.1, step_size_up=2),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.8),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, total_iters=5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 5]),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.9),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=STEPS + 1),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, STEPS),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=0.5),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(o, [SCHEDULES["LinearLR"](o), SCHEDULES["StepLR"](o)], [4]),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2, 0.5),
    "SWALR": lambda o: SWALR(o, swa_lr=0.05, anneal_epochs=4),
}
SCHEDULED = [
    case
    for case in cases(spaces=["vector", "stiefel"], dtypes=["fp32"])
    if (case.method, case.space) in {("AdamW", "vector"), ("Adam", "stiefel"), ("Muon", "vector"), ("SMMF", "vector")}
]


def test_every_schedule_of_torch_is_listed() -> None:
    there = {name for name in lr_scheduler.__all__ if inspect.isclass(getattr(lr_scheduler, name))}
    assert there - {"LRScheduler"} == SCHEDULES.keys() - {"SWALR"}


some_schedules = pytest.mark.parametrize(
    "name", [name if at % 3 == 0 else pytest.param(name, marks=pytest.mark.slow) for at, name in enumerate(SCHEDULES)]
)


def run(schedule: Any, model: nn.Module, optimizer: Optimizer, start: int, stop: int) -> list[float]:
    seen = []
    for step in range(start, stop):
        backward(model, step)
        optimizer.step()
        schedule.step(*([1.0] if isinstance(schedule, lr_scheduler.ReduceLROnPlateau) else []))
        seen.append(float(optimizer.param_groups[0]["lr"]))
    return seen


@each(SCHEDULED)
@some_schedules
def test_a_schedule_is_followed_and_resumed(case: Case, name: str) -> None:
    model, optimizer = case.start()
    schedule = SCHEDULES[name](optimizer)
    assert len(set(run(schedule, model, optimizer, 0, STEPS // 2))) > 1
    saved = copy.deepcopy({"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()})
    other, twin = case.start(seed=1)
    again = SCHEDULES[name](twin)
    other.load_state_dict(model.state_dict())
    twin.load_state_dict(saved["optimizer"])
    again.load_state_dict(saved["schedule"])
    assert run(schedule, model, optimizer, 4, STEPS) == run(again, other, twin, 4, STEPS)
    assert_same_run(model, optimizer, other, twin)
    assert all(float(error) < 1e-5 for error in metrize.error_on_space(model).values())
    assert_other_weights(model, case)


def assert_other_weights(model: nn.Module, case: Case, steps: int = STEPS) -> None:
    """Than those of a run that nobody told to change its numbers."""
    other, twin = case.start()
    train(other, twin, 0, steps)
    assert not all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))


@each(SCHEDULED)
@some_schedules
def test_a_schedule_writes_into_a_tensor_lr(case: Case, name: str) -> None:
    model, optimizer = case.start()
    other, twin = case.start(lr=torch.tensor(0.02, dtype=torch.float64))
    rates = [group["lr"] for group in twin.param_groups]
    expected = run(SCHEDULES[name](optimizer), model, optimizer, 0, STEPS)
    assert run(SCHEDULES[name](twin), other, twin, 0, STEPS) == pytest.approx(expected)
    assert all(group["lr"] is lr for group, lr in zip(twin.param_groups, rates, strict=True) if isinstance(lr, Tensor))
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@each(FP32)
def test_numbers_may_be_tensors_that_change_in_place(case: Case) -> None:
    model, optimizer = case.start()
    other, twin = case.start()
    for group in twin.param_groups:
        group["lr"], group["weight_decay"] = (torch.tensor(float(group[k])) for k in ("lr", "weight_decay"))
        group["lr"] = group["lr"].double()
    for step in range(4):
        backward(model, step)
        backward(other, step)
        optimizer.step()
        twin.step()
        for group, numbers in zip(twin.param_groups, optimizer.param_groups, strict=True):
            group["lr"].mul_(0.5)
            numbers["lr"] *= 0.5
            group["weight_decay"].add_(0.25)
            numbers["weight_decay"] += 0.25
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    assert_other_weights(other, case, 4)
    twin.load_state_dict(copy.deepcopy(twin.state_dict()))


# Averaged weights


@each(FP32)
def test_averaged_weights_leave_the_run_alone(case: Case) -> None:
    model, optimizer = case.start()
    other, twin = case.start()
    swa, ema = AveragedModel(model), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for step in range(3):
        train(model, optimizer, step, step + 1)
        swa.update_parameters(model)
        ema.update_parameters(model)
        for name, p in model.named_parameters():
            expected[name] += p.detach() / 3
    train(other, twin, 0, 3)
    assert_same_run(model, optimizer, other, twin)
    torch.testing.assert_close(dict(swa.module.named_parameters()), expected)
    # an average of points is no point: it is projected before it is used
    for name, space in metrize.spaces_of(swa.module).items():
        space.project_(swa.module.get_parameter(name))
    assert all(float(error) < 1e-5 for error in metrize.error_on_space(swa.module).values())
    assert len(metrize.spaces_of(ema.module)) == len(metrize.spaces_of(model))


# Steps


@each(FP32)
def test_a_closure_is_called_once_with_gradients_enabled(case: Case) -> None:
    model, optimizer = case.start()
    other, twin = case.start()
    calls = []

    def closure() -> Tensor:
        assert torch.is_grad_enabled()
        calls.append(len(calls))
        backward(model, calls[-1])
        return torch.tensor(float(len(calls)))

    with torch.no_grad():
        assert [float(optimizer.step(closure)) for _ in range(3)] == [1.0, 2.0, 3.0]
    train(other, twin, 0, 3)
    assert_same_run(model, optimizer, other, twin)


@each(FP32)
def test_maximizing_is_minimizing_the_negative(case: Case) -> None:
    model, optimizer = case.start(maximize=True)
    other, twin = case.start()
    for step in range(4):
        set_gradients(model.parameters(), step)
        set_gradients(other.parameters(), step, scale=-1.0)
        optimizer.step()
        twin.step()
    assert_same_bits(snapshot(model, optimizer)["weights"], snapshot(other, twin)["weights"])


@each(FP32)
def test_frozen_parameters_wait_and_go_on_when_thawed(case: Case) -> None:
    model, optimizer = case.start()
    model.two.requires_grad_(False)
    frozen = snapshot(model.two, optimizer)["weights"]
    train(model, optimizer, 0, 2)
    assert_same_bits(snapshot(model.two, optimizer)["weights"], frozen)
    assert not any(optimizer.state.get(p) for p in model.two.parameters())
    model.two.requires_grad_(True)
    train(model, optimizer, 2, 4)
    model.two.requires_grad_(False)
    kept = {name: copy.deepcopy(dict(optimizer.state[p])) for name, p in model.two.named_parameters()}
    frozen = snapshot(model.two, optimizer)["weights"]
    train(model, optimizer, 4, 6)
    assert_same_bits(snapshot(model.two, optimizer)["weights"], frozen)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert_same_bits({name: dict(optimizer.state[p]) for name, p in model.two.named_parameters()}, kept)
    model.two.requires_grad_(True)
    train(model, optimizer, 6, 7)
    counts = {name: int(optimizer.state[p]["step"]) for name, p in model.named_parameters()}
    assert counts == {name: 3 if name.startswith("two") else 7 for name in counts}


@each(FP32)
def test_a_sparse_gradient_is_refused_by_name(case: Case) -> None:
    model, optimizer = case.start()
    train(model, optimizer, 0, 2)
    backward(model, 2)
    model.one.weight.grad = model.one.weight.grad.to_sparse()
    before = snapshot(model, optimizer)
    with pytest.raises(TypeError, match=r"'one.weight' has a sparse gradient.*sparse=False"):
        optimizer.step()
    assert_same_bits(snapshot(model, optimizer), before)


@each(FP32)
def test_steps_go_on_after_a_group_was_added(case: Case) -> None:
    model = case.model()
    optimizer = case.optimizer([("one.weight", model.one.weight)])
    train(model, optimizer, 0, 2)
    optimizer.add_param_group({"params": [("two.weight", model.two.weight)], "lr": 0.01})
    train(model, optimizer, 2, 4)
    assert [int(optimizer.state[layer.weight]["step"]) for layer in (model.one, model.two)] == [4, 2]
    assert optimizer.param_groups[-1]["param_names"] == ["two.weight"]
    saved = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(saved)
    assert_same_bits(optimizer.state_dict(), saved)
