"""AdEMAMix, ADOPT, LaProp, AdaBelief, Tiger and the corrected decay follow their reference trajectories."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.rules.trajectories import agrees, cases, run
from torch import nn

import metrize
from metrize import Quantized, rules, step_sizes
from metrize.testing import check


def numbers_of(case: dict[str, Any], *keys: str) -> dict[str, Any]:
    told = {key: case["hyperparameters"][key] for key in keys}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in told.items()}


def follows(case: dict[str, Any], build: Any, atol: float) -> None:
    for t, seen, _ in run(case, lambda p: build(p.items())):
        agrees(seen, case["params_after"][t], atol)


@pytest.mark.parametrize("case", cases("ademamix"), ids=lambda c: c["name"])
def test_ademamix(case):
    numbers = numbers_of(case, "lr", "betas", "alpha", "eps", "weight_decay")
    warmups = {key: case["hyperparameters"][key] or 0 for key in ("alpha_warmup", "beta3_warmup")}
    # apple's code adds 1e-8 to the betas within the logarithms of the schedule
    rounded = case["name"].startswith("apple") and warmups["beta3_warmup"]
    follows(case, lambda p: metrize.AdEMAMix(p, **numbers, **warmups), 7e-8 if rounded else 1e-12)


@pytest.mark.parametrize("case", cases("adopt"), ids=lambda c: c["name"])
def test_adopt(case):
    numbers = numbers_of(case, "lr", "betas", "eps", "weight_decay")
    decay = "decoupled" if case["hyperparameters"]["decouple"] else "l2"
    clip = 0.25 if case["hyperparameters"]["clip"] else None
    follows(case, lambda p: metrize.ADOPT(p, **numbers, clip=clip, decay=decay), 1e-12)


@pytest.mark.parametrize("case", cases("laprop"), ids=lambda c: c["name"])
def test_laprop(case):
    numbers, told = numbers_of(case, "lr", "betas", "eps"), case["hyperparameters"]
    numbers["weight_decay"] = told["decay_factor"] / told["lr"]
    atol = 2e-9 if case["name"].startswith("timm") else 1e-12  # timm averages lr in float32
    follows(case, lambda p: metrize.LaProp(p, **numbers, decay="after"), atol)


@pytest.mark.parametrize("case", cases("adabelief"), ids=lambda c: c["name"])
def test_adabelief(case):
    numbers = numbers_of(case, "lr", "betas", "eps", "weight_decay", "rectify")
    follows(case, lambda p: metrize.AdaBelief(p, **numbers), 1e-11)


@pytest.mark.parametrize("case", cases("tiger"), ids=lambda c: c["name"])
def test_tiger(case):
    told = case["hyperparameters"]
    numbers = {"lr": told["lr"], "momentum": told["beta"], "weight_decay": told["weight_decay"]}
    size = step_sizes.Relative("given", least=1e-12) if told.get("relative") else step_sizes.Given()
    follows(case, lambda p: metrize.Tiger(p, **numbers, step_size=size), 1e-12)


@pytest.mark.parametrize("case", cases("adamc"), ids=lambda c: c["name"])
def test_corrected_decay(case):
    """Under torch's own scheduler, which keeps the rate to compare with."""
    numbers = numbers_of(case, "betas", "eps", "weight_decay")
    told = case["hyperparameters"]
    params = {name: nn.Parameter(torch.tensor(v, dtype=torch.float64)) for name, v in case["params_init"].items()}
    optimizer = metrize.AdamW(params.items(), lr=told["max_lr"], decay="corrected", **numbers)
    schedule = [*told["schedule"], 0.0]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: schedule[t])
    for grads, after in zip(case["grads"], case["params_after"], strict=True):
        for name, p in params.items():
            p.grad = torch.tensor(grads[name], dtype=torch.float64)
        optimizer.step()
        scheduler.step()
        agrees({name: p.detach() for name, p in params.items()}, after, 1e-12)


@pytest.mark.parametrize(
    "part",
    [
        rules.AdEMAMix(),
        rules.LaProp(),
        rules.ADOPT(),
        rules.AdaBelief(),
        rules.AdaBelief(rectify=True),
        step_sizes.Delayed(2),
        metrize.Recipe(decay="corrected"),
    ],
    ids=str,
)
def test_a_part_keeps_its_promises(part):
    check(part)


def test_each_parameter_has_its_own_schedule():
    """The warm-up of a parameter begins with its first gradient, in one batch with others too."""
    early, late, alone = (nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(3))
    numbers = {"lr": 0.1, "alpha_warmup": 4, "beta3_warmup": 6}
    together, single = metrize.AdEMAMix([early, late], **numbers), metrize.AdEMAMix([alone], **numbers)
    grads = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for t, grad in enumerate(grads):
        early.grad = grad.clone()
        late.grad = grad.clone() if t >= 2 else None
        together.step()
        if t >= 2:
            alone.grad = grad.clone()
            single.step()
    torch.testing.assert_close(late.detach(), alone.detach(), atol=1e-13, rtol=0)
    assert not torch.allclose(early.detach(), late.detach())


def test_both_averages_of_ademamix_in_8_bits():
    p = nn.Parameter(torch.ones(64, 64))
    optimizer = metrize.AdEMAMix([p], moments=Quantized(smallest=0))
    p.grad = torch.ones(64, 64)
    optimizer.step()
    kept = {key for key, value in optimizer.state[p].items() if value.dtype == torch.uint8}
    assert {key.partition(".")[0] for key in kept} == {"exp_avg", "exp_avg_slow", "exp_avg_sq"}


def test_a_first_gradient_of_zero_does_not_explode_adopt():
    p = nn.Parameter(torch.zeros(2))
    optimizer = metrize.ADOPT([p], lr=0.1)
    for grad in ([0.0, 1.0], [1.0, 1.0], [1.0, 1.0]):
        p.grad = torch.tensor(grad)
        optimizer.step()
    assert p.abs().max() <= 0.1 * 2 * 2**0.25


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda p: metrize.AdEMAMix(p, betas=(0.9, 0.999)), "3 numbers"),
        (lambda p: metrize.AdEMAMix(p, alpha=-1.0), "alpha=-1.0"),
        (lambda p: metrize.AdEMAMix(p, alpha_warmup=-1), "alpha_warmup=-1"),
        (lambda p: metrize.ADOPT(p, clip=-0.5), "clip=-0.5"),
        (lambda p: metrize.LaProp(p, betas=(0.9, 1.0)), "betas"),
        (lambda p: metrize.AdaBelief(p, eps=-1.0), "eps=-1.0"),
        (lambda p: metrize.AdamW(p, step_size=step_sizes.Delayed(-1)), "steps=-1"),
    ],
)
def test_bad_input_is_refused_by_name(build, told):
    with pytest.raises(ValueError, match=told):
        build([nn.Parameter(torch.ones(3))])
