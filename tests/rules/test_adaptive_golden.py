"""The adaptive family follows its reference trajectories to 12 digits."""

from __future__ import annotations

import math

import pytest
import torch
from tests.rules.trajectories import cases
from torch import nn

import metrize
from metrize import Blocks, Outer, Recipe, Split, rules

ATOL = 1e-12


def follow(case, build, project=lambda p: None):
    """Take the case's gradients, and compare the parameter after each step."""
    p = nn.Parameter(torch.tensor(case["initial_params"], dtype=torch.float64))
    optimizer = build([p])
    for grad, step in zip(case["grads"], case["steps"], strict=True):
        p.grad = torch.tensor(grad, dtype=torch.float64)
        optimizer.step()
        project(p)
        wanted = torch.tensor(step["params"], dtype=torch.float64)
        torch.testing.assert_close(p.detach(), wanted, atol=ATOL, rtol=0)
        yield optimizer.state[p], step


def each(name):
    return pytest.mark.parametrize("case", cases(name), ids=lambda c: c["name"])


def chosen(case, *names):
    numbers = {name: case["hyperparameters"][name] for name in names}
    return {name: tuple(value) if name == "betas" else value for name, value in numbers.items()}


ADAM = ("lr", "betas", "eps", "weight_decay")


@each("adam")
def test_adam(case):
    assert [*follow(case, lambda p: metrize.Adam(p, **chosen(case, *ADAM)))]


@each("adamw")
def test_adamw(case):
    assert [*follow(case, lambda p: metrize.AdamW(p, **chosen(case, *ADAM)))]


@each("sgd")
def test_sgd(case):
    numbers = chosen(case, "lr", "momentum", "dampening", "weight_decay", "nesterov")
    assert [*follow(case, lambda p: metrize.SGD(p, **numbers))]


@each("adagrad")
def test_adagrad(case):
    numbers = chosen(case, "lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps")
    assert [*follow(case, lambda p: metrize.AdaGrad(p, **numbers))]


@each("amsgrad")
@pytest.mark.parametrize("fused", [True, False])
def test_amsgrad_as_torch_has_it(case, fused):
    more = {} if fused else {"lr_power": 1e-300}  # a step size that does nothing but leave the one-pass kernel
    assert [*follow(case, lambda p: metrize.AMSGrad(p, **chosen(case, *ADAM), **more))]


@each("amsgrad_paper_oracle")
def test_amsgrad_as_in_its_paper(case):
    hyper = case["hyperparameters"]
    numbers = {"betas": (hyper["beta1"], hyper["beta2"]), "lr_power": 0.5 if hyper["sqrt_decay"] else 0.0}
    build = lambda p: metrize.AMSGrad(p, form="paper", **chosen(case, "lr", "eps"), **numbers)  # noqa: E731
    assert [*follow(case, build)]


@each("adamnc_oracle")
def test_adamnc(case):
    hyper = case["hyperparameters"]
    numbers = {"momentum": hyper["beta1"], "growth_rate": hyper["lambda_"]}
    box = hyper["box"] or math.inf
    build = lambda p: metrize.AdamNC(  # noqa: E731
        p, **chosen(case, "lr", "eps"), **numbers, lr_power=0.5 if hyper["sqrt_decay"] else 0.0
    )
    assert [*follow(case, build, lambda p: p.data.clamp_(-box, box))]


@each("fadam_paper_form")
def test_fadam_as_in_its_paper(case):
    numbers = {"power": case["hyperparameters"]["p"], "eps2": case["hyperparameters"]["eps_2"]}
    assert [*follow(case, lambda p: metrize.FAdam(p, **chosen(case, *ADAM, "clip"), **numbers))]


@each("fadam_lessw")
def test_fadam_as_published(case):
    numbers = {"power": case["hyperparameters"]["p"], "form": "published"}
    assert [*follow(case, lambda p: metrize.FAdam(p, **chosen(case, *ADAM, "clip"), **numbers))]


def _adalayer(case):
    """The recipe and the numbers of one of the study's tensors."""
    hyper, name = case["hyperparameters"], case["param_name"]
    numbers = chosen(case, *ADAM)
    blocks = Blocks("rows", 3) if hyper["att_correction"] and "att_proj" in name else Blocks()
    blocks = Blocks("rows") if hyper["firstlayer_correction"] and "wte" in name else blocks
    if case["name"].endswith(":hidden"):
        return metrize.Adalayer.recipe(blocks, rules.Adam("none")), numbers
    if hyper["t_freeze"] is None:
        return metrize.Adalayer.recipe(blocks), numbers
    rule = rules.FrozenAdam(then="averaged" if hyper["update_norm"] and "norm" in name else "frozen")
    return metrize.Adalayer.recipe(blocks, rule), {**numbers, "freeze_after": hyper["t_freeze"]}


@each("adalayer")
def test_adalayer(case):
    recipe, numbers = _adalayer(case)
    for state, step in follow(case, lambda p: metrize.Optimizer(p, recipe, **numbers)):
        if "exp_avg_sq" in state:
            wanted = torch.tensor(step["v"], dtype=torch.float64).reshape(-1)
            torch.testing.assert_close(state["exp_avg_sq"], wanted, atol=ATOL, rtol=0)
        else:
            assert step["v"] == 1.0


@each("adafactor_deconstructing")
def test_the_adafactor_of_the_study_is_a_sentence(case):
    recipe = Recipe(moments=Split(square=Outer()), rule=rules.Adam())
    for state, step in follow(case, lambda p: metrize.Optimizer(p, recipe, **chosen(case, *ADAM))):
        for dim, factor in enumerate(step["factors"]):
            wanted = torch.tensor(factor, dtype=torch.float64).flatten()
            torch.testing.assert_close(state[f"exp_avg_sq.{dim}"], wanted, atol=ATOL, rtol=0)
