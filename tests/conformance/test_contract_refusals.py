"""What every optimizer promises: a checkpoint that does not fit is refused by name, and nothing is changed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from cases import (
    FP32,
    STEPS,
    Case,
    assert_same_bits,
    assert_same_run,
    build,
    checkpoint_of,
    each,
    straight,
    train,
)
from torch import nn

import metrize
from metrize import Dense, Stiefel


def refused(optimizer: metrize.Optimizer, saved: dict[str, Any], match: str) -> None:
    before = copy.deepcopy(optimizer.state_dict())
    params = [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]
    with pytest.raises(ValueError, match=match):
        optimizer.load_state_dict(saved)
    assert_same_bits(optimizer.state_dict(), before)
    assert_same_bits([p.detach() for group in optimizer.param_groups for p in group["params"]], params)
    assert not optimizer._optimizer_load_state_dict_pre_hooks
    assert not optimizer._optimizer_load_state_dict_post_hooks


@pytest.fixture
def trained() -> tuple[nn.Module, metrize.Optimizer]:
    model = build(Stiefel())
    optimizer = metrize.Adam(model, lr=0.02)
    train(model, optimizer, 0, 2)
    return model, optimizer


def test_a_checkpoint_of_another_recipe_is_refused(trained: tuple[nn.Module, metrize.Optimizer]) -> None:
    model, optimizer = trained
    for other in (metrize.SGD(model), metrize.NAdam(model), metrize.Adam(model, moments=Dense("bfloat16"))):
        refused(optimizer, checkpoint_of(other), "trained with Recipe.*has Recipe")


def test_a_checkpoint_of_another_space_is_refused(trained: tuple[nn.Module, metrize.Optimizer]) -> None:
    _, optimizer = trained
    other = metrize.Adam(build(Stiefel(retraction="geodesic")))
    refused(optimizer, checkpoint_of(other), "'tall.weight' was trained on Stiefel.*geodesic")
    refused(optimizer, checkpoint_of(metrize.Adam(build(None))), "'tall.weight' was trained on a vector space")
    refused(metrize.Adam(build(None)), checkpoint_of(optimizer), "'tall.weight' was trained on Stiefel")


@pytest.mark.parametrize("swap", [False, True])
def test_a_checkpoint_of_another_shape_is_refused(swap: bool) -> None:
    def started(shape: tuple[int, ...]) -> metrize.Optimizer:
        params = [("first", nn.Parameter(torch.zeros(4))), ("second", nn.Parameter(torch.zeros(shape)))]
        optimizer = metrize.Adam(params)
        optimizer.init_state()
        return optimizer

    one, other = started((3, 4)), started((4, 3))
    refused(*((one, checkpoint_of(other)) if swap else (other, checkpoint_of(one))), "'second'.*shape")


def test_a_checkpoint_of_another_format_is_refused(trained: tuple[nn.Module, metrize.Optimizer]) -> None:
    _, optimizer = trained
    saved = checkpoint_of(optimizer)
    saved["param_groups"][0]["format"] = 99
    refused(optimizer, saved, "format 99")
    del saved["param_groups"][0]["format"]
    refused(optimizer, saved, "format")


def test_a_checkpoint_of_torch_for_points_of_a_manifold_is_refused(
    trained: tuple[nn.Module, metrize.Optimizer],
) -> None:
    model, optimizer = trained
    other = torch.optim.Adam(model.parameters(), lr=0.1)
    train(model, other, 0, 1)
    refused(optimizer, checkpoint_of(other), "'tall.weight' was trained on a vector space")


def test_a_checkpoint_of_other_groups_is_refused(trained: tuple[nn.Module, metrize.Optimizer]) -> None:
    model, optimizer = trained
    weights, biases = [p for p in model.parameters() if p.ndim > 1], [p for p in model.parameters() if p.ndim == 1]
    split = metrize.Adam([{"params": weights}, {"params": biases}])
    refused(optimizer, checkpoint_of(split), "2 parameter groups and this optimizer has 1")
    refused(optimizer, checkpoint_of(metrize.Adam(biases)), "4 parameters and this optimizer's has 8")


def test_a_damaged_checkpoint_is_refused(trained: tuple[nn.Module, metrize.Optimizer]) -> None:
    _, optimizer = trained
    saved = checkpoint_of(optimizer)
    saved["state"][0]["exp_avg"] = saved["state"][0]["exp_avg"].bfloat16()
    refused(optimizer, saved, "'tall.weight'.*exp_avg.*bfloat16")
    saved = checkpoint_of(optimizer)
    del saved["state"][3]["exp_avg_sq"]
    refused(optimizer, saved, "'one.bias'.*keeps")
    saved = checkpoint_of(optimizer)
    saved["state"][3]["exp_avg_sq"] = "<generator object>"  # what torch itself makes of a text in a state
    refused(optimizer, saved, "'one.bias'.*exp_avg_sq")


def test_the_last_parameter_is_checked_before_the_first_is_loaded() -> None:
    model = build(None)
    optimizer, other = metrize.Adam(model), metrize.Adam(build(None))
    train(model, optimizer, 0, 2)
    other.init_state()
    saved = checkpoint_of(other)
    saved["state"][7]["exp_avg"] = torch.zeros(5)
    refused(optimizer, saved, "'wide.bias'")


@each(FP32)
def test_a_checkpoint_older_than_an_option_takes_its_default(case: Case) -> None:
    model, optimizer = case.start()
    train(model, optimizer, 0, 3)
    saved = checkpoint_of(optimizer)
    for group in saved["param_groups"]:
        del group["skip_nonfinite"], group["maximize"], group["skipped_steps"]
    optimizer.load_state_dict(saved)
    train(model, optimizer, 3, STEPS)
    assert_same_run(model, optimizer, *straight(case))
