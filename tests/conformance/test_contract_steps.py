"""What every optimizer promises of its steps and of its groups."""

from __future__ import annotations

import copy
import warnings
import weakref

import pytest
import torch
from cases import (
    ALL,
    BOTH,
    FP32,
    Case,
    assert_same_bits,
    assert_same_run,
    backward,
    build,
    checkpoint_of,
    each,
    resumed,
    same_bits,
    set_gradients,
    snapshot,
    train,
)
from torch import Tensor, nn

import metrize
from metrize import Stiefel, rules


@each(ALL)
def test_a_late_gradient_starts_its_own_count(case: Case) -> None:
    model, optimizer = case.start()
    late, alone = copy.deepcopy(model), copy.deepcopy(model)
    for step in range(6):
        set_gradients(model.parameters(), step)
        if step < 3:
            model.two.weight.grad = model.two.bias.grad = None
        optimizer.step()
    counts = {name: float(optimizer.state[p]["step"]) for name, p in model.named_parameters()}
    assert counts == {name: 3.0 if name.startswith("two") else 6.0 for name in counts}

    if not case.alone:
        return
    twin = case.optimizer(alone)
    for step in range(3, 6):
        set_gradients(alone.parameters(), step)
        twin.step()
    for name in ("weight", "bias"):
        mine, theirs = getattr(model.two, name), getattr(alone.two, name)
        assert not torch.equal(mine, getattr(late.two, name))
        torch.testing.assert_close(mine, theirs)  # in a batch of two, and alone: rounding differs


@each(FP32)
def test_a_parameter_without_gradients_stays(case: Case) -> None:
    model, optimizer = case.start()
    before = snapshot(model, optimizer)["weights"]
    optimizer.step()
    assert_same_bits(snapshot(model, optimizer)["weights"], before)
    assert all(float(state["step"]) == 0 for state in optimizer.state.values())


@each(ALL)
@pytest.mark.parametrize("maximize", [False, True])
def test_gradients_and_options_are_never_written(case: Case, maximize: bool) -> None:
    model, optimizer = case.start(lr=torch.tensor(0.02), maximize=maximize)
    for step in range(4):
        set_gradients(model.parameters(), step)
        if step == 3:
            model.two.weight.grad = None  # a batch that is not full
        grads = [p.grad for p in model.parameters()]
        before = [None if g is None else (g.clone(), g._version) for g in grads]
        reported = {"params", "d"}  # Prodigy tells its estimate, for those who log it
        options = copy.deepcopy([{k: v for k, v in g.items() if k not in reported} for g in optimizer.param_groups])
        rates = [group["lr"] for group in optimizer.param_groups]
        versions = [lr._version for lr in rates if isinstance(lr, Tensor)]
        assert versions
        optimizer.step()
        assert all(p.grad is g for p, g in zip(model.parameters(), grads, strict=True))
        for g, old in zip(grads, before, strict=True):
            assert old is None or (same_bits(g, old[0]) and g._version == old[1])
        assert all(group["lr"] is lr for group, lr in zip(optimizer.param_groups, rates, strict=True))
        assert [lr._version for lr in rates if isinstance(lr, Tensor)] == versions
        now = [{k: v for k, v in g.items() if k not in reported} for g in optimizer.param_groups]
        assert_same_bits(now, options)


@each(FP32)
def test_gradients_may_be_freed_after_the_step(case: Case) -> None:
    model, optimizer = case.start()
    for poison in (0.0, float("nan")):
        set_gradients(model.parameters(), 0)
        model.wide.weight.grad[0, 0] += poison
        references = [weakref.ref(p.grad.untyped_storage()) for p in model.parameters()]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            optimizer.step()
        model.zero_grad()
        assert not any(reference() for reference in references)


@each(FP32)
def test_a_step_of_length_zero_changes_no_bit(case: Case) -> None:
    model, optimizer = case.start()
    train(model, optimizer, 0, 2)  # the next step would be polished
    before = snapshot(model, optimizer)["weights"]
    for group in optimizer.param_groups:
        group["lr"] = group["weight_decay"] = 0.0
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert_same_bits(snapshot(model, optimizer)["weights"], before)
    assert {float(state["step"]) for state in optimizer.state.values()} == {3.0}  # it is a step, and no probe


@each(BOTH)
@pytest.mark.parametrize(("poison", "start"), [("nan", 0), ("inf", 2), ("-inf", 2)])
def test_a_step_with_a_gradient_that_is_not_finite_is_skipped(case: Case, poison: str, start: int) -> None:
    model, optimizer = case.start()
    optimizer.init_state()
    train(model, optimizer, 0, start)
    other, twin = copy.deepcopy((model, optimizer))
    backward(model, start)
    model.one.weight.grad[1, 2] = float(poison)
    before = snapshot(model, optimizer)
    with pytest.warns(RuntimeWarning, match="'one.weight'") as caught:
        optimizer.step()
    assert [w.filename for w in caught] == [__file__]
    after = snapshot(model, optimizer)
    assert after["optimizer"]["param_groups"][0].pop("skipped_steps") == 1
    assert before["optimizer"]["param_groups"][0].pop("skipped_steps") == 0
    assert_same_bits(after, before)

    train(model, optimizer, start, start + 3)
    train(other, twin, start, start + 3)
    twin.param_groups[0]["skipped_steps"] = 1
    assert_same_run(model, optimizer, other, twin)


@each(BOTH)
def test_the_guard_can_be_taken_off(case: Case) -> None:
    model, optimizer = case.start(skip_nonfinite=False)
    train(model, optimizer, 0, 1)
    backward(model, 1)
    model.one.weight.grad[1, 2] = float("nan")
    if ("accuracy", "exact") in case.options:
        with pytest.raises(torch.linalg.LinAlgError):  # there are no singular values of a NaN
            optimizer.step()
        return
    optimizer.step()
    assert optimizer.param_groups[0]["skipped_steps"] == 0
    if case.method == "SignSGD":
        return  # the sign of a NaN is 0, and it keeps nothing
    averages = [value for value in optimizer.state[model.one.weight].values() if value.is_floating_point()]
    assert any(value.isnan().any() for value in [model.one.weight, *averages])
    if case.alone:
        assert not model.two.bias.isnan().any()


def test_the_count_of_skipped_steps_is_saved() -> None:
    model, optimizer = ALL[0].start()
    backward(model, 0)
    model.one.bias.grad[0] = float("inf")
    for _ in range(2):
        with pytest.warns(RuntimeWarning):
            optimizer.step()
    _, fresh = resumed(ALL[0], model, optimizer)
    assert fresh.param_groups[0]["skipped_steps"] == 2


def test_large_gradients_that_can_be_squared_are_no_alarm() -> None:
    p = nn.Parameter(torch.ones(4))
    optimizer = metrize.Adam([p], lr=0.1)
    p.grad = torch.full((4,), 1e14)
    optimizer.step()
    assert optimizer.param_groups[0]["skipped_steps"] == 0
    assert float(optimizer.state[p]["step"]) == 1


def test_a_group_may_have_its_own_recipe_and_numbers() -> None:
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(4, 3)) for _ in range(3)]
    start = [p.detach().clone() for p in params]
    optimizer = metrize.Adam(
        [
            {"params": params[:1]},
            {"params": params[1:2], "recipe": metrize.SGD.recipe(), "lr": 0.5},
            {"params": params[2:], "recipe": metrize.SGD.recipe(), "momentum": 0.3, "nesterov": True},
        ],
        lr=0.1,
    )
    rivals = [
        torch.optim.Adam([nn.Parameter(start[0].clone())], lr=0.1, fused=True),
        torch.optim.SGD([nn.Parameter(start[1].clone())], lr=0.5, momentum=0.9, fused=True),
        torch.optim.SGD([nn.Parameter(start[2].clone())], lr=0.1, momentum=0.3, nesterov=True, fused=True),
    ]
    for step in range(4):
        set_gradients(params, step)
        for p, rival in zip(params, rivals, strict=True):
            rival.param_groups[0]["params"][0].grad = p.grad.clone()
            rival.step()
        optimizer.step()
    for p, rival in zip(params, rivals, strict=True):
        assert same_bits(p, rival.param_groups[0]["params"][0])
    assert optimizer.recipes()[1].rule == rules.Momentum()
    optimizer.load_state_dict(checkpoint_of(optimizer))


def test_a_group_may_have_its_own_space() -> None:
    free = nn.Parameter(torch.randn(6, 3))
    bound = nn.Parameter(torch.linalg.qr(torch.randn(6, 3))[0])
    optimizer = metrize.Adam([{"params": [free]}, {"params": [bound], "space": Stiefel()}], lr=0.1)
    for step in range(5):
        set_gradients([free, bound], step)
        optimizer.step()
    assert float(Stiefel().error_of(bound)) < 1e-5
    assert float(Stiefel().error_of(free)) > 0.1
    optimizer.load_state_dict(checkpoint_of(optimizer))


def test_a_group_added_later_is_trained_and_saved() -> None:
    model = build(Stiefel())
    optimizer = metrize.Adam(list(model.tall.named_parameters()), lr=0.02)
    train(model, optimizer, 0, 2)
    optimizer.add_param_group({"params": list(model.one.named_parameters()), "lr": 0.5})
    before = snapshot(model, optimizer)["weights"]
    train(model, optimizer, 2, 4)
    after = snapshot(model, optimizer)["weights"]
    changed = {name for name in after if not same_bits(before[name], after[name])}
    assert changed == {"tall.weight", "tall.bias", "one.weight", "one.bias"}
    assert float(optimizer.state[model.tall.weight]["step"]) == 4
    assert float(optimizer.state[model.one.weight]["step"]) == 2
    assert float(Stiefel().error_of(model.one.weight)) < 1e-5


@each(FP32)
def test_groups_hold_nothing_the_safe_loader_refuses(case: Case) -> None:
    model, optimizer = case.start()
    train(model, optimizer, 0, 1)
    assert_same_bits(checkpoint_of(optimizer), optimizer.state_dict())
    kinds = (int, float, str, bool, tuple, list, Tensor, type(None))
    assert all(isinstance(value, kinds) for group in optimizer.param_groups for value in group.values())


@each(FP32)
def test_schedulers_find_what_they_write(case: Case) -> None:
    _, optimizer = case.start()
    assert {"lr", "weight_decay"} <= optimizer.param_groups[0].keys()
    assert {"lr", "weight_decay"} <= optimizer.defaults.keys()


def test_a_frozen_parameter_has_no_state_until_it_is_thawed() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].requires_grad_(False)
    optimizer = metrize.AdamW(model, lr=0.1)
    frozen = model[0].weight.detach().clone()

    def step() -> None:
        optimizer.zero_grad()
        model(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()

    step()
    assert set(optimizer.state) == set(model[1].parameters())
    assert torch.equal(model[0].weight, frozen)
    model[0].requires_grad_(True)
    step()
    assert not torch.equal(model[0].weight, frozen)
    assert [int(optimizer.state[p]["step"]) for p in model.parameters()] == [1, 1, 2, 2]
