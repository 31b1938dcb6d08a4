"""Optimizers whose averages have few bits."""

from __future__ import annotations

import functools
import io
import math
from typing import Any

import pytest
import torch
from few_bits import draw, on_the_grid_of_the_reference
from torch import Tensor, nn
from trajectories import Case, follow, load

import metrize
from metrize import Adam4bit, Adam8bit, Quantized, Split
from metrize.frames.subspace import Subspace


def same_codes(state: dict[str, Tensor], theirs: dict[str, Any], keys: dict[str, str]) -> None:
    for ours, name in keys.items():
        if ours in state:
            assert torch.equal(state[ours].int(), torch.tensor(theirs[name], dtype=torch.int32).flatten()), ours


@pytest.mark.parametrize("case", load("adam8bit_bitsandbytes"), ids=lambda case: case["name"])
def test_adam8bit_follows_bitsandbytes(case, monkeypatch):
    on_the_grid_of_the_reference(monkeypatch)

    def build(params: Any, h: Case) -> metrize.Optimizer:
        told = {key: h[key] for key in ("lr", "betas", "eps", "weight_decay")}
        return Adam8bit(params, **told, smallest=h["min_8bit_size"])

    state = follow(case, build)
    same_codes(state, case["final_state"], {"exp_avg.code": "state1", "exp_avg_sq.code": "state2"})


@pytest.mark.parametrize("case", load("adam_lowbit_torchao"), ids=lambda case: case["name"])
def test_few_bits_follow_torchao(case):
    def build(params: Any, h: Case) -> metrize.Optimizer:
        told = {key: h[key] for key in ("lr", "betas", "eps", "weight_decay")}
        told |= {"block": h["block_size"], "whole_blocks": True}
        if "4bit" in case["name"]:
            return Adam4bit(params, **told)
        return Adam8bit(params, map="float8" if "fp8" in case["name"] else "dynamic", **told)

    state = follow(case, build)
    if "adam8bit_64" in case["name"]:
        theirs = {key: case["final_state"][key]["codes"] for key in ("exp_avg", "exp_avg_sq")}
        same_codes(state, theirs, {"exp_avg.code": "exp_avg", "exp_avg_sq.code": "exp_avg_sq"})


@pytest.mark.parametrize("case", load("coap_adamw8bit"), ids=lambda case: case["name"])
def test_coap_in_8_bits_with_the_reference_bases(case, monkeypatch):
    on_the_grid_of_the_reference(monkeypatch)

    def find(self: Subspace, grad: Tensor, state: dict[str, Tensor]) -> dict[int, Tensor]:
        (rank,) = self.ranks(grad.shape).items()
        kept = case["state_after_step"][int(state["step"]) - 1]
        basis = torch.tensor(next(value for key, value in kept.items() if "ortho_matrix" in key))
        return {rank[0]: basis if basis.shape == (grad.shape[rank[0]], rank[1]) else basis.mT}

    for frame in Subspace.__subclasses__():
        monkeypatch.setattr(frame, "find", find)

    def build(params: Any, h: Case) -> metrize.Optimizer:
        told = {key: h[key] for key in ("lr", "betas", "eps", "weight_decay", "scale")}
        told |= {"ratio": h["rank_ratio_matrix"], "period": h["update_interval"], "reproject": h["reproject_factor"]}
        return metrize.COAP(params, **told, inner="8bit", normalize=False, stagger=False)

    state = follow(case, build)
    same_codes(state, case["final_state"], {"exp_avg.code": "exp_avg[0]", "exp_avg_sq.code": "exp_avg_sq[0]"})


def trained(optimizer: metrize.Optimizer, steps: range) -> None:
    for step in steps:
        for group in optimizer.param_groups:
            for i, p in enumerate(group["params"]):
                p.grad = draw(*p.shape, seed=17 * step + i).to(p.dtype).contiguous()
        optimizer.step()


METHODS = {
    "8": lambda p: Adam8bit(p, 1e-2, weight_decay=0.1),
    "4": lambda p: Adam4bit(p, 1e-2, weight_decay=0.1),
    "galore": lambda p: metrize.GaLore(p, 1e-2, rank=64, period=2, inner="8bit"),
    "coap": lambda p: metrize.COAP(p, 1e-2, rank=8, period=2, inner="8bit"),
    "momentum only": lambda p: metrize.Adafactor(p, 1e-2, momentum=0.9, first_moment=Quantized()),
    "two blocks": lambda p: metrize.Adam(p, 1e-2, moments=Split(Quantized(block=192), Quantized())),
}


def tensors(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    shapes = [(70, 71), (70, 71), (4096,), (9, 8, 8, 8), (5,), ()]
    return [nn.Parameter(draw(*shape, seed=i).to(dtype)) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_is_the_straight_run(method, dtype):
    params = tensors(dtype)
    optimizer = METHODS[method](params)
    trained(optimizer, range(3))
    file = io.BytesIO()
    torch.save((params, optimizer.state_dict()), file)
    file.seek(0)
    with torch.serialization.safe_globals([nn.Parameter]):
        weights, saved = torch.load(file, weights_only=True)
    resumed = METHODS[method](weights)
    resumed.load_state_dict(saved)
    assert metrize.state_bytes(resumed) == metrize.state_bytes(optimizer)
    for run in (optimizer, resumed):
        trained(run, range(3, 5))
    for p, q in zip(params, weights, strict=True):
        assert torch.equal(p, q)
        for key, value in optimizer.state[p].items():
            assert value.dtype == resumed.state[q][key].dtype
            assert torch.equal(value, resumed.state[q][key]), key
    assert any(key.endswith(".code") for state in optimizer.state.values() for key in state)


def test_a_checkpoint_of_another_codec_is_refused():
    optimizer = Adam8bit(tensors())
    trained(optimizer, range(1))
    for other in (Adam4bit, metrize.AdamW, lambda p: Adam8bit(p, block=128)):
        fresh = other(tensors())
        with pytest.raises(ValueError, match=r"was trained with .*Quantized\(\)"):
            fresh.load_state_dict(optimizer.state_dict())
        assert not fresh.state


@pytest.mark.parametrize("method", ["8", "4", "two blocks"])
def test_large_tensors_take_the_step_that_small_ones_do(method, monkeypatch):
    """In pieces around torch's kernel, in pieces without it, and at once."""
    ends = []
    for piece, kernel in ((2**10, True), (2**10, False), (2**17, True)):
        monkeypatch.setattr("metrize.step.piecewise.piece_size", lambda device, numel, size=piece: size)
        params = tensors()
        optimizer = METHODS[method](params)
        optimizer.init_state()
        for bucket in optimizer.buckets:
            bucket._kernel = bucket._kernel if kernel else None
        trained(optimizer, range(3))
        ends.append(torch.cat([p.detach().flatten() for p in params]))
    for end in ends[1:]:
        # an average that rounding brings to the other side of a midpoint takes another code
        assert float(((end - ends[0]).abs() > 1e-6).float().mean()) < 2e-3
        torch.testing.assert_close(end, ends[0], rtol=0, atol=2e-2)


@pytest.mark.parametrize("method", ["8", "4"])
def test_any_memory_layout(method):
    plain = nn.Parameter(draw(16, 8, 6, 6))
    last = nn.Parameter(draw(16, 8, 6, 6).to(memory_format=torch.channels_last))
    optimizers = [METHODS[method]([p]) for p in (plain, last)]
    for optimizer in optimizers:
        trained(optimizer, range(3))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, plain, rtol=1e-6, atol=1e-6)
    codes = [optimizer.state[p]["exp_avg.code"] for optimizer, p in zip(optimizers, (plain, last), strict=True)]
    assert float((codes[0] == codes[1]).float().mean()) > 0.999


def test_complex_parameters_are_pairs_of_numbers():
    p = nn.Parameter(torch.complex(draw(60, 50), draw(60, 50, seed=1)))
    pairs = nn.Parameter(torch.view_as_real(p.detach()).clone())
    runs = [Adam8bit([p], 1e-2), Adam8bit([pairs], 1e-2)]
    for step in range(3):
        pairs.grad = draw(60, 50, 2, seed=step)
        p.grad = torch.view_as_complex(pairs.grad)
        for run in runs:
            run.step()
    assert torch.equal(torch.view_as_real(p.detach()), pairs.detach())
    assert runs[0].state[p]["exp_avg.code"].shape == (6000,)


def test_a_gradient_of_zeros_moves_nothing():
    for method in (Adam8bit, Adam4bit):
        p = nn.Parameter(draw(80, 80))
        before = p.detach().clone()
        optimizer = method([p])
        for _ in range(3):
            p.grad = torch.zeros_like(p)
            optimizer.step()
        assert torch.equal(p, before)
        assert all(bool(value.isfinite().all()) for value in optimizer.state[p].values())


def test_a_step_without_the_guard_leaves_finite_averages():
    p = nn.Parameter(draw(80, 80))
    optimizer = Adam8bit([p], skip_nonfinite=False)
    p.grad = draw(80, 80, seed=1)
    p.grad[3, 3] = math.nan
    optimizer.step()
    assert int(p.isnan().sum()) == 1
    assert all(bool(value.isfinite().all()) for value in optimizer.state[p].values())


@pytest.mark.parametrize(
    ("method", "factor"), [(Adam8bit, 1.3), (functools.partial(Adam8bit, map="float8"), 1.3), (Adam4bit, 6)], ids=str
)
def test_it_trains_like_adam(method, factor):
    """A regression with entries of very different sizes."""
    target = draw(64, 80)

    def loss_of(build: Any) -> float:
        p = nn.Parameter(torch.zeros(64, 80))
        optimizer = build([p], lr=2e-2)
        for step in range(200):
            x = torch.randn(256, 64, generator=torch.Generator().manual_seed(step))
            optimizer.param_groups[0]["lr"] = 2e-2 * (1 - step / 200)
            optimizer.zero_grad()
            (x @ (p - target)).square().mean().backward()
            optimizer.step()
        return float((p.detach() - target).square().mean())

    assert loss_of(method) < factor * loss_of(metrize.AdamW) < 0.2 * float(target.square().mean())
