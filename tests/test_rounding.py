"""16-bit parameters: to nearest, at random, or with the rest kept."""

from __future__ import annotations

import copy
import io
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import metrize
from metrize.rounding import rounded

TABLE = json.loads((Path(__file__).parent / "golden" / "primitives.json").read_text())["stochastic_rounding"]
METHODS = {
    "AdamW": metrize.AdamW,  # in torch's kernel
    "Lion": metrize.Lion,  # piece by piece
    "NormSGD": metrize.NormSGD,  # in a batch
}


def _params(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator).bfloat16()) for shape in shapes]


def _train(optimizer, start, stop):
    for step in range(start, stop):
        for p in optimizer.param_groups[0]["params"]:
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(step)).bfloat16()
        optimizer.step()


def test_the_table_of_bits():
    for bits, noise, result, _ in TABLE:
        signed = bits - 2**32 if bits >= 2**31 else bits
        wide = torch.tensor([signed], dtype=torch.int32).view(torch.float32)
        seen = rounded(wide, torch.tensor([noise], dtype=torch.int32)).bfloat16()
        expected = torch.tensor([result - 2**16 if result >= 2**15 else result], dtype=torch.int16).view(torch.bfloat16)
        if expected.isinf() and not wide.isinf():
            expected = torch.full_like(expected, torch.finfo(torch.bfloat16).max).copysign(expected)
        assert torch.equal(seen, expected), (bits, noise)


@pytest.mark.parametrize("method", METHODS)
def test_stochastic_rounding_is_right_on_average(method):
    """Steps of a hundredth of a digit are lost to nearest, and add up at random."""
    digit, steps = 2**-7, 100
    ends = {}
    for rounding in (metrize.Nearest(), metrize.Stochastic()):
        p = nn.Parameter(torch.ones(20_000, dtype=torch.bfloat16))
        options = {"norm": metrize.norms.RMS()} if method == "NormSGD" else {}
        options |= {"weight_decay": 0.0, "rounding": rounding, "lr": digit / steps}
        optimizer = METHODS[method]([p], **options)
        for _ in range(steps):
            p.grad = -torch.ones_like(p)
            optimizer.step()
        ends[type(rounding)] = (p.detach().float() - 1).mean().item()
    assert ends[metrize.Nearest] == 0
    assert ends[metrize.Stochastic] == pytest.approx(digit, rel=0.02)


@pytest.mark.parametrize("method", METHODS)
def test_compensated_weights_are_float32_weights(method):
    shapes = [(40, 30), (7,), (7,), (600, 300)]
    params = _params(*shapes)
    wide = [nn.Parameter(p.detach().float()) for p in params]
    optimizer = METHODS[method](params, lr=1e-4, rounding=metrize.Compensated())
    twin = METHODS[method](wide, lr=1e-4)
    for step in range(20):
        for p, q in zip(params, wide, strict=True):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(step)).bfloat16()
            q.grad = p.grad.float()
        optimizer.step()
        twin.step()
    for p, q in zip(params, wide, strict=True):
        rest = optimizer.state[p]["rounding.rest"]
        kept = metrize.Compensated().widen(p.detach(), rest)
        torch.testing.assert_close(kept, q.detach(), rtol=1e-6, atol=1e-7)
        # the rounding of a value half a last digit away may go either way
        assert (p.detach() == q.detach().bfloat16()).float().mean() > 0.99


@pytest.mark.parametrize("rounding", [metrize.Stochastic(3), metrize.Compensated()], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_is_the_straight_run(method, rounding):
    params = _params((20, 10), (20, 10), (5,))
    optimizer = METHODS[method](params, lr=1e-3, rounding=rounding)
    _train(optimizer, 0, 3)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    others = copy.deepcopy(params)
    twin = METHODS[method](others, lr=1e-3, rounding=rounding)
    twin.load_state_dict(torch.load(file, weights_only=True))
    _train(optimizer, 3, 6)
    _train(twin, 3, 6)
    assert all(torch.equal(p, q) for p, q in zip(params, others, strict=True))


def test_equal_parameters_draw_different_numbers_and_seeds_differ():
    ends = []
    for seed in (0, 1):
        params = [nn.Parameter(torch.ones(1000, dtype=torch.bfloat16)) for _ in range(2)]
        optimizer = metrize.Lion(params, lr=2**-9, rounding=metrize.Stochastic(seed))
        _train(optimizer, 0, 1)
        assert not torch.equal(*params)
        ends.append(params[0].detach())
    assert not torch.equal(*ends)


def test_other_parameters_are_written_as_they_are():
    for dtype in (torch.float32, torch.float16):
        params = [nn.Parameter(torch.ones(5, dtype=dtype)) for _ in range(2)]
        for p, rounding in zip(params, (metrize.Stochastic(), metrize.Nearest()), strict=True):
            p.grad = torch.ones_like(p)
            optimizer = metrize.AdamW([p], rounding=rounding)
            optimizer.step()
            assert not any(key.startswith("rounding") for key in optimizer.state[p])
        assert torch.equal(*params)


def test_the_state_is_two_bytes_a_weight():
    p = nn.Parameter(torch.ones(10, 3, dtype=torch.bfloat16))
    plain, kept = (metrize.predict([(10, 3)], r, dtype=p.dtype).state for r in _recipes())
    assert kept - plain == 2 * 30
    assert math.isclose(metrize.predict([(10, 3)], _recipes()[1], dtype=torch.float32).state, 4 + 2 * 120)


def _recipes():
    return metrize.Recipe(), metrize.Recipe(rounding=metrize.Compensated())


def test_the_whole_model_of_an_optimizer_with_groups_of_its_own():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)).bfloat16()
    optimizer = metrize.Muon(model, rounding=metrize.Stochastic())
    assert {str(recipe.rounding) for recipe in optimizer.recipes()} == {"Stochastic()"}
