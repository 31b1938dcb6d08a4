"""A finite gradient never makes a NaN: what is too large to be squared is skipped and counted, as a NaN is."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from sentences import MOMENTS, RULES, SPACES
from torch import Tensor, nn

import metrize
from metrize import Recipe
from metrize.linalg import all_usable, largest_usable

LARGE = (1e15, 1e19, 1e20, 1e25, 1e30, 1e37, 3e38)
LIMIT = largest_usable(torch.float32)
Build = Callable[[list[nn.Parameter]], metrize.Optimizer]


def draw(seed: int, shape: Any) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def points(space: metrize.Space | None, dtype: torch.dtype) -> list[nn.Parameter]:
    found = [(space or metrize.Vector()).random_(torch.empty(8, 4), torch.Generator().manual_seed(i)) for i in (1, 2)]
    return [nn.Parameter(point.to(dtype)) for point in found]


def train(
    build: Build, spike: float | None, space: metrize.Space | None = None, dtype: torch.dtype = torch.float32
) -> tuple[list[nn.Parameter], metrize.Optimizer]:
    """Steps with ordinary gradients, and one in their middle whose entries have this size."""
    params = points(space, dtype)
    optimizer = build(params)
    for step in range(5):
        if step == 2 and spike is None:
            continue
        for i, p in enumerate(params):
            grad = draw(10 * step + i, p.shape)
            p.grad = (spike * grad.sign() if step == 2 else grad).to(dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer.step()
    return params, optimizer


def tensors(params: list[nn.Parameter], optimizer: metrize.Optimizer) -> Iterator[Tensor]:
    for p in params:
        yield p.detach()
        yield from (value for value in optimizer.state[p].values() if value.is_floating_point())


def check(build: Build, space: metrize.Space | None = None, dtype: torch.dtype = torch.float32) -> None:
    calm, without = train(build, None, space, dtype)
    for spike in (*LARGE, LIMIT, 1e-30, 1e-42):
        params, optimizer = train(build, spike, space, dtype)
        assert all(bool(torch.isfinite(t).all()) for t in tensors(params, optimizer)), spike
        if spike > LIMIT:
            assert optimizer.param_groups[0]["skipped_steps"] == 1
            pairs = zip(tensors(params, optimizer), tensors(calm, without), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs), spike


def named(cls: type[metrize.Optimizer], **options: Any) -> Build:
    return lambda params: cls(params, **options)


@pytest.mark.parametrize("name", metrize.catalogue())
def test_every_optimizer_skips_what_it_cannot_square(name: str) -> None:
    check(named(metrize.catalogue()[name]))


@pytest.mark.parametrize("name", metrize.catalogue())
def test_also_where_the_rate_is_zero_and_weights_have_16_bits(name: str) -> None:
    check(named(metrize.catalogue()[name], lr=0.0))
    check(named(metrize.catalogue()[name]), dtype=torch.bfloat16)


@pytest.mark.parametrize("name", metrize.catalogue())
def test_weights_whose_decay_cannot_be_squared(name: str) -> None:
    """As a part of the gradient it makes no NaN either, from the first step or once the weights were written to."""
    for steps_before in (0, 2):
        p = nn.Parameter(draw(0, (8, 4)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer = metrize.catalogue()[name]([p], weight_decay=0.1, decay="l2")
            for step in range(steps_before + 1):
                if step == steps_before:
                    with torch.no_grad():
                        p.fill_(1e20)
                p.grad = draw(step + 1, p.shape)
                optimizer.step()
        assert all(bool(torch.isfinite(t).all()) for t in tensors([p], optimizer))
        squares = not isinstance(
            optimizer, metrize.SGD | metrize.SignSGD | metrize.Signum | metrize.Lion | metrize.Tiger
        )
        assert optimizer.param_groups[0]["skipped_steps"] == squares
        assert torch.equal(p, torch.full((8, 4), 1e20)) or not squares


def test_a_decay_that_is_too_large_is_told_by_name() -> None:
    p = nn.Parameter(torch.full((3,), 1e20))
    optimizer = metrize.Adam([("w", p)], weight_decay=0.1)
    handle = metrize.InBackward(optimizer)
    with pytest.warns(RuntimeWarning, match=r"the weight decay of 'w' is too large: .* \(entries up to 9e\+16"):
        p.sum().backward()
    handle.remove()
    p.grad = torch.ones(3)
    with pytest.warns(RuntimeWarning, match="the weight decay of 'w' is too large"):
        optimizer.step()
    assert optimizer.param_groups[0]["skipped_steps"] == 2


@pytest.mark.parametrize("share", [3, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("moments", MOMENTS, ids=str)
def test_every_storage(moments: metrize.moments.base.Moments, share: int) -> None:
    for rule in RULES[MOMENTS.index(moments) % share :: share]:  # a third of the rules for each, so that all take part
        check(lambda params, rule=rule: metrize.Optimizer(params, Recipe(rule=rule, moments=moments)))


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_every_space(space: metrize.Space) -> None:
    for rule in (metrize.rules.Adam(), metrize.rules.Whitened(), metrize.rules.Momentum()):
        recipe = Recipe(space=space, rule=rule)
        check(lambda params, recipe=recipe: metrize.Optimizer(params, recipe), space)


@pytest.mark.parametrize(
    ("dtype", "large"),
    [(torch.float64, 1e200), (torch.bfloat16, 1e30), (torch.complex64, 1e20), (torch.float32, 1e20)],
    ids=str,
)
def test_the_limit_is_that_of_the_arithmetic(dtype: torch.dtype, large: float) -> None:
    fine = torch.full((3, 3), 1e10, dtype=dtype)
    assert all_usable([fine])
    for value in (large, -large, math.nan, math.inf):
        bad = fine.clone()
        bad[1, 2] = value
        assert not all_usable([fine, bad])
        assert not all_usable([bad.mT])


def test_largest_number_of_16_bits_is_usable() -> None:
    assert all_usable([torch.tensor([65504.0], dtype=torch.float16), torch.tensor([])])
    assert not all_usable([torch.tensor([math.inf], dtype=torch.float16)])


def test_the_warning_names_the_weight_and_the_reason() -> None:
    p = nn.Parameter(torch.ones(2, 2))
    optimizer = metrize.AdamW([("w", p)])
    p.grad = torch.full((2, 2), 1e20)
    with pytest.warns(
        RuntimeWarning, match=r"the gradient of 'w' is too large: sums of its squares overflow float32"
    ) as seen:
        optimizer.step()
    assert seen[0].filename == __file__


def test_steps_inside_of_backward_skip_it_too() -> None:
    p = nn.Parameter(torch.ones(2, 2))
    optimizer = metrize.SMMF([("w", p)])
    handle = metrize.InBackward(optimizer)
    with pytest.warns(RuntimeWarning, match="'w' is too large"):
        (p * 1e25).sum().backward()
    handle.remove()
    assert torch.equal(p, torch.ones(2, 2))
    assert optimizer.param_groups[0]["skipped_steps"] == 1
