"""One recipe, one answer: whoever steps a tensor, and however it lies in memory, it takes the same step."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from sentences import DECAYS, MOMENTS, RULES, STEP_SIZES, legal
from torch import Tensor, nn

import metrize
from metrize import Recipe, step_sizes
from metrize.moments import Dense, Quantized
from metrize.moments.base import Moments
from metrize.rules import Rule
from metrize.step import assembly
from metrize.step.stacked import Stacked
from metrize.testing.agreement import draw, executors, run, run_part

SHAPE = (16, 12)  # which goes through a step in four pieces
LAYOUTS = ("contiguous", "transposed", "strided", "channels_last")


def parameter(layout: str = "contiguous", dtype: torch.dtype = torch.float64) -> nn.Parameter:
    """The same numbers, in another order in memory or with gaps."""
    shape = (*SHAPE, 2, 2) if layout == "channels_last" else SHAPE
    values = draw(99, shape).to(dtype)
    if layout == "transposed":
        values = values.mT.contiguous().mT
    if layout == "strided":
        values = values.repeat_interleave(2, 1)[:, ::2]
    if layout == "channels_last":
        values = values.contiguous(memory_format=torch.channels_last)
    return nn.Parameter(values)


def close(a: Tensor, b: Tensor, loose: float = 1e-9) -> None:
    torch.testing.assert_close(a, b, rtol=loose, atol=loose)


def recipes(rule: Rule, moments: tuple[Moments, ...], step_sizes_: Any) -> Iterator[Recipe]:
    for storage, step_size, decay in itertools.product(moments, step_sizes_, DECAYS):
        recipe = Recipe(rule=rule, moments=storage, step_size=step_size, decay=decay)
        if legal(recipe, torch.Size(SHAPE)):
            yield recipe


def check(recipe: Recipe, **options: Any) -> int:
    """Everyone who accepts takes the step of the executor that accepts everything; the number of comparisons."""
    others = [executor for executor in executors(recipe, parameter()) if executor is not Stacked]
    if others:
        expected = run(recipe, parameter(), Stacked, **options)
        for executor in others:
            agree(recipe, run(recipe, parameter(), executor, **options), expected)
    return len(others)


def agree(recipe: Recipe, found: Tensor, expected: Tensor) -> None:
    """Within rounding: that of float64, or that of a storage, where the last digit decides on a code."""
    if isinstance(recipe.moments, Quantized) or recipe.moments == Dense("bfloat16"):
        assert (found - expected).norm() <= 0.05 * (expected - parameter().detach()[: len(expected)]).norm()
    else:
        close(found, expected)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_all_executors_take_the_same_step(rule: Rule) -> None:
    for recipe in recipes(rule, MOMENTS, [step_sizes.Given()]):
        check(recipe)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_all_executors_take_the_same_step_with_every_step_size(rule: Rule) -> None:
    for recipe in recipes(rule, (Dense(),), STEP_SIZES):
        check(recipe, maximize=True)


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_all_executors_take_the_same_step_with_every_storage_and_step_size(rule: Rule) -> None:
    for recipe in recipes(rule, MOMENTS, STEP_SIZES):
        check(recipe)


def test_each_executor_is_compared() -> None:
    """The sweep has something to compare for every executor, and for most rules."""
    found = [set(executors(Recipe(rule=rule), parameter())) for rule in RULES]
    assert set().union(*found) == set(assembly.EXECUTORS)
    assert sum(len(each) > 1 for each in found) >= 10


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_memory_layout_does_not_matter(rule: Rule, layout: str) -> None:
    for decay in DECAYS:
        recipe = Recipe(rule=rule, decay=decay)
        shape = parameter(layout).shape
        if legal(recipe, shape):
            p = parameter(layout)
            expected = run(
                recipe, nn.Parameter(p.detach().clone(memory_format=torch.contiguous_format)), Stacked, steps=2
            )
            close(run(recipe, p, steps=2), expected)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_16_bit_weights_take_the_step_of_wide_ones_rounded_once(rule: Rule) -> None:
    for decay in DECAYS:
        recipe = Recipe(rule=rule, decay=decay)
        if legal(recipe, torch.Size(SHAPE)):
            wide = run(recipe, parameter(dtype=torch.bfloat16), Stacked, steps=1)
            for executor in executors(recipe, parameter(dtype=torch.bfloat16)):
                narrow = run(recipe, parameter(dtype=torch.bfloat16), executor, steps=1)
                torch.testing.assert_close(narrow, wide, rtol=1e-2, atol=1e-7)  # one digit of bfloat16


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_part_of_a_tensor_takes_the_step_of_the_whole(rule: Rule) -> None:
    """As a process does that holds some of its rows."""
    for decay, moments in itertools.product(DECAYS, (Dense(), Dense("bfloat16"))):
        recipe = Recipe(rule=rule, decay=decay, moments=moments)
        if not legal(recipe, torch.Size(SHAPE)):
            continue
        optimizer = metrize.Optimizer([parameter()], recipe)
        if not assembly.assign(optimizer.param_groups[0], 0).elementwise:
            continue
        expected = run(recipe, parameter(), steps=2)[5:11]
        close(run_part(recipe, parameter(), slice(5, 11)), expected, 1e-9 if moments == Dense() else 1e-3)


def test_a_kernel_that_cannot_do_a_decay_is_not_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """The incident: momentum with decoupled decay was stepped by a kernel that adds the decay to the gradient."""
    ends = []
    for shape in ((100, 100), (1000, 200)):
        p = nn.Parameter(torch.full(shape, 0.9))
        optimizer = metrize.Optimizer([p], Recipe(rule=metrize.rules.Momentum()), lr=0.1, weight_decay=0.5)
        for _ in range(3):
            p.grad = torch.full(shape, 0.1)
            optimizer.step()
        ends.append(p.detach().flatten()[0])
    assert torch.equal(*ends)
    expected, buffer = 0.9, 0.0
    for _ in range(3):
        buffer = 0.9 * buffer + 0.1
        expected = expected * (1 - 0.05) - 0.1 * buffer
    assert ends[0] == pytest.approx(expected, rel=1e-5)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".* projects none of")  # some rules keep no average that a storage projects
        yield
