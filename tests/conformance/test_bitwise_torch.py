"""On vector spaces the catalogue is torch's own arithmetic, bit for bit."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import assert_same_bits, same_bits
from torch import nn

import metrize
from metrize import Dense, Recipe, Vector, rules

SHAPES = [(), (1,), (7,), (0,), (3, 0), (33, 17), (2, 3, 4, 5), (1000,), (33, 17), (4099,)]
DTYPES = [torch.float32, torch.float64]
STEPS = 100

PAIRS: dict[str, tuple[type[metrize.Optimizer], Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {
    "AdamW": (metrize.AdamW, torch.optim.AdamW, {"lr": 0.01}),
    "AdamW-maximize": (metrize.AdamW, torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.3, "maximize": True}),
    "AdamW-no-decay": (metrize.AdamW, torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.0, "betas": (0.5, 0.8)}),
    "AdamW-no-betas": (metrize.AdamW, torch.optim.AdamW, {"lr": 0.01, "betas": (0.0, 0.0), "eps": 1e-3}),
    "Adam": (metrize.Adam, torch.optim.Adam, {"lr": 0.01}),
    "Adam-l2": (metrize.Adam, torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.1, "eps": 1e-4}),
    "Adam-l2-maximize": (metrize.Adam, torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.1, "maximize": True}),
    "AMSGrad": (metrize.AMSGrad, functools.partial(torch.optim.AdamW, amsgrad=True), {"lr": 0.01, "weight_decay": 0.1}),
    "AdaGrad": (metrize.AdaGrad, torch.optim.Adagrad, {"lr": 0.1}),
    "AdaGrad-l2-maximize": (
        metrize.AdaGrad,
        torch.optim.Adagrad,
        {"lr": 0.1, "weight_decay": 0.1, "eps": 1e-3, "maximize": True},
    ),
    "SGD": (metrize.SGD, torch.optim.SGD, {"lr": 0.05}),
    "SGD-decay": (metrize.SGD, torch.optim.SGD, {"lr": 0.05, "weight_decay": 0.1}),
    "SGD-momentum": (metrize.SGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    "SGD-dampening": (metrize.SGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "dampening": 0.4}),
    "SGD-nesterov": (
        metrize.SGD,
        torch.optim.SGD,
        {"lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
    ),
    "SGD-maximize": (
        metrize.SGD,
        torch.optim.SGD,
        {"lr": 0.05, "momentum": 0.9, "dampening": 0.1, "weight_decay": 0.1, "maximize": True},
    ),
}


def parameters(dtype: torch.dtype) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)) for shape in SHAPES]


def set_gradients(mine: list[nn.Parameter], theirs: list[nn.Parameter], step: int) -> None:
    """The same gradients for both; one parameter starts late, one pauses now and then."""
    generator = torch.Generator().manual_seed(step)
    for index, (p, q) in enumerate(zip(mine, theirs, strict=True)):
        grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)
        absent = (index == 5 and step < 10) or (index == 6 and step % 3 == 1)
        p.grad, q.grad = (None, None) if absent else (grad, grad.clone())


def schedule(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """Warm-up from zero, then a cosine."""
    warm = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 10))
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS - 20)
    return torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, cosine], milestones=[20])


def rival_of(pair: str, params: list[nn.Parameter]) -> torch.optim.Optimizer:
    """A group for each parameter: torch's fused SGD cannot take a first momentum later than another's."""
    _, theirs, options = PAIRS[pair]
    return theirs([{"params": [p]} for p in params], **options, fused=True)


def assert_same_state(
    optimizer: torch.optim.Optimizer, mine: list[nn.Parameter], rival: torch.optim.Optimizer, others: list[nn.Parameter]
) -> None:
    """Where there was a gradient so far; torch keeps no count for SGD, and None for a momentum that is not there."""
    for p, q in zip(mine, others, strict=True):
        expected = {key: value for key, value in rival.state.get(q, {}).items() if value is not None}
        if expected:
            assert_same_bits({key: optimizer.state[p][key] for key in expected}, expected)
            assert optimizer.state[p].keys() - expected.keys() <= {"step"}


def run(pair: str, dtype: torch.dtype, steps: int, scheduled: bool, **mine_only: Any) -> None:
    ours, _, options = PAIRS[pair]
    mine, others = parameters(dtype), parameters(dtype)
    optimizer, rival = ours(mine, **{**options, **mine_only}), rival_of(pair, others)
    schedules = [schedule(o) for o in (optimizer, rival)] if scheduled else []
    for step in range(steps):
        set_gradients(mine, others, step)
        optimizer.step()
        rival.step()
        for each in schedules:
            each.step()
        differing = [tuple(p.shape) for p, q in zip(mine, others, strict=True) if not same_bits(p, q)]
        assert not differing, f"step {step}: shapes {differing} differ"
    assert_same_state(optimizer, mine, rival, others)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("pair", PAIRS)
def test_a_hundred_steps_are_those_of_the_fused_kernel(pair: str, dtype: torch.dtype) -> None:
    run(pair, dtype, STEPS, scheduled=True)


@pytest.mark.parametrize("pair", PAIRS)
def test_a_vector_space_may_be_named(pair: str) -> None:
    run(pair, torch.float32, 5, scheduled=False, space=Vector())


@pytest.mark.parametrize("pair", ["AdamW", "Adam-l2", "SGD-nesterov"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_storage_in_the_dtype_of_the_arithmetic_is_the_default(pair: str, dtype: torch.dtype) -> None:
    run(pair, dtype, 5, scheduled=False, moments=Dense(str(dtype).removeprefix("torch.")))


@pytest.mark.parametrize("pair", ["AdamW", "Adam-l2", "SGD-nesterov"])
def test_a_tensor_learning_rate(pair: str) -> None:
    run(pair, torch.float32, 5, scheduled=False, lr=torch.tensor(PAIRS[pair][2]["lr"], dtype=torch.float64))


@pytest.mark.parametrize("pair", ["AdamW", "Adam", "SGD-momentum"])
def test_one_cycle_writes_what_torch_reads(pair: str) -> None:
    ours, _, options = PAIRS[pair]
    mine, others = parameters(torch.float32), parameters(torch.float32)
    optimizer, rival = ours(mine, **options), rival_of(pair, others)
    cycle = torch.optim.lr_scheduler.OneCycleLR
    schedules = [cycle(o, max_lr=0.1, total_steps=20) for o in (optimizer, rival)]
    for step in range(20):
        set_gradients(mine, others, step)
        for each in (optimizer, rival, *(schedules if step < 19 else ())):
            each.step()
    assert all(same_bits(p, q) for p, q in zip(mine, others, strict=True))


@pytest.mark.parametrize("pair", ["AdamW", "Adam-l2", "SGD-nesterov", "SGD-decay"])
def test_groups_with_their_own_numbers(pair: str) -> None:
    ours, _, options = PAIRS[pair]
    mine, others = parameters(torch.float32), parameters(torch.float32)
    special = {"lr": 0.2, "weight_decay": 0.5}
    optimizer, rival = ours([{"params": mine[:4]}, {"params": mine[4:], **special}], **options), rival_of(pair, others)
    for group in rival.param_groups[4:]:
        group.update(special)
    for step in range(20):
        set_gradients(mine, others, step)
        optimizer.step()
        rival.step()
    assert all(same_bits(p, q) for p, q in zip(mine, others, strict=True))


@pytest.mark.parametrize("pair", PAIRS)
def test_a_dense_memory_layout_makes_no_difference_to_a_bit(pair: str) -> None:
    ours, theirs, options = PAIRS[pair]
    torch.manual_seed(0)
    start = torch.randn(4, 3, 5, 6).contiguous(memory_format=torch.channels_last)
    p, q = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizer, rival = ours([p], **options), theirs([q], **options, fused=True)
    for _ in range(5):
        p.grad = torch.randn(4, 3, 5, 6)
        q.grad = p.grad.contiguous(memory_format=torch.channels_last)
        optimizer.step()
        rival.step()
    assert same_bits(p, q)
    assert all(value.stride() == p.stride() for value in optimizer.state[p].values() if value.ndim)


@pytest.mark.parametrize("pair", ["AdamW", "Adam-l2", "SGD-nesterov"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_16_bit_parameter_takes_the_step_of_32_bits_rounded_once(pair: str, dtype: torch.dtype) -> None:
    ours, _, options = PAIRS[pair]
    mine = [p for p in parameters(dtype) if p.numel()]
    wide = [nn.Parameter(p.detach().float()) for p in mine]
    optimizer, rival = ours(mine, **options), rival_of(pair, wide)
    for step in range(20):
        set_gradients(mine, mine, step)
        for p, q in zip(mine, wide, strict=True):
            q.grad = None if p.grad is None else p.grad.float()
        optimizer.step()
        rival.step()
        for p, q in zip(mine, wide, strict=True):
            q.data.copy_(q.detach().to(dtype))
            assert same_bits(p, q.detach().to(dtype))
    assert_same_state(optimizer, mine, rival, wide)


def test_a_16_bit_parameter_larger_than_a_chunk() -> None:
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(5, 2**17 + 13).bfloat16())
    q = nn.Parameter(p.detach().float())
    optimizer, rival = metrize.AdamW([p], lr=0.01), torch.optim.AdamW([q], lr=0.01, fused=True)
    for _ in range(2):
        p.grad = torch.randn(5, 2**17 + 13).bfloat16()
        q.grad = p.grad.float()
        optimizer.step()
        rival.step()
        q.data.copy_(q.detach().bfloat16())
    assert same_bits(p, q.detach().bfloat16())
    assert_same_state(optimizer, [p], rival, [q])


# The general journey, which the fused kernel cuts short

STACKED = {
    "adam": (Recipe(rule=rules.Adam(), decay="l2"), torch.optim.Adam, {"weight_decay": 0.1}),
    "adamw": (Recipe(rule=rules.Adam(), decay="decoupled"), torch.optim.AdamW, {"weight_decay": 0.1}),
    "sgd": (Recipe(rule=rules.Momentum(), decay="l2"), torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
    "nesterov": (Recipe(rule=rules.Momentum(), decay="l2"), torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "gradient": (Recipe(rule=rules.Gradient(), decay="l2"), torch.optim.SGD, {"weight_decay": 0.1}),
    "dampening": (Recipe(rule=rules.Momentum(), decay="l2"), torch.optim.SGD, {"momentum": 0.9, "dampening": 0.1}),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("name", STACKED)
def test_the_general_journey_agrees_with_torch_to_rounding(name: str, maximize: bool, dtype: torch.dtype) -> None:
    recipe, theirs, options = STACKED[name]

    def gappy(tensors: list[nn.Parameter]) -> list[nn.Parameter]:
        """Memory with gaps, for which there is no fused kernel."""
        wide = [torch.zeros(*t.shape, 2, dtype=t.dtype)[..., 0].copy_(t.detach()) for t in tensors]
        return [nn.Parameter(t) for t in wide]

    mine, others = (gappy(parameters(dtype)) if side == 0 else parameters(dtype) for side in range(2))
    optimizer = metrize.Optimizer(mine, recipe, lr=0.01, maximize=maximize, **options)
    rival = theirs(others, lr=0.01, maximize=maximize, **options)
    for step in range(30):
        set_gradients(mine, others, step)
        optimizer.step()
        rival.step()
    tolerance = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {}
    for p, q in zip(mine, others, strict=True):
        torch.testing.assert_close(p, q, **tolerance)


@pytest.mark.parametrize("moments", [Dense(), Dense("bfloat16")], ids=str)
@pytest.mark.parametrize("second_moment", ["elementwise", "scalar"])
def test_complex_numbers_are_pairs_of_real_ones(moments: Dense, second_moment: str) -> None:
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(4, 3, dtype=torch.complex64))
    q = nn.Parameter(torch.view_as_real(p.detach()).clone())
    options: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.1, "moments": moments, "second_moment": second_moment}
    optimizer, twin = metrize.Adam([p], **options), metrize.Adam([q], **options)
    for _ in range(10):
        p.grad = torch.randn(4, 3, dtype=torch.complex64)
        q.grad = torch.view_as_real(p.grad)
        optimizer.step()
        twin.step()
    assert same_bits(torch.view_as_real(p.detach()), q)
    assert_same_bits(dict(optimizer.state[p]), dict(twin.state[q]))
