"""What low-rank frames do to gradients and averages, against their definitions."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.frames.lowrank import low_rank, same_up_to_signs
from torch import Tensor, nn

import metrize
from metrize import Recipe, frames, rules
from metrize.frames.bases import aligned, leading, sketched, tucker
from metrize.frames.correlation import Correlation
from metrize.frames.subspace import along, expand, project


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def train(frame: frames.Frame, grads: list[Tensor], **numbers: Any) -> tuple[Tensor, dict[str, Tensor]]:
    p = nn.Parameter(torch.zeros_like(grads[0]))
    recipe = Recipe(frame=frame, rule=rules.Adam(bias_correction="step"), decay="after")
    opt = metrize.Optimizer([p], recipe, **{"lr": 1e-2, **numbers})
    for grad in grads:
        p.grad = grad.clone()
        opt.step()
    return p.detach(), opt.state[p]


def identity(self: frames.GaLore, grad: Tensor, state: dict[str, Tensor]) -> dict[int, Tensor]:
    return {d: torch.eye(grad.shape[d])[:, :r] for d, r in self.ranks(grad.shape).items()}


@settings(max_examples=25, deadline=None)
@given(
    m=st.integers(1, 7),
    n=st.integers(1, 7),
    side=st.sampled_from(["std", "left", "right", "full"]),
    seed=st.integers(0, 99),
)
def test_galore_of_full_rank_with_the_identity_as_basis_is_adam(m, n, side, seed):
    rank = min(m, n)
    grads = [torch.randn(m, n, generator=generator(seed + t)) for t in range(4)]
    side = side if m == n else "std"  # only the shorter side has a full basis
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames.GaLore, "find", identity)
        got, _ = train(frames.GaLore(rank=rank, period=2, scale=1.0, side=side), grads)
    expected, _ = train(frames.Identity(), grads)
    assert torch.equal(got, expected)


@pytest.mark.parametrize(
    ("side", "shape", "kept"),
    [
        ("std", (6, 4), (6, 2)),
        ("std", (4, 6), (2, 6)),
        ("std", (5, 5), (5, 2)),
        ("reverse_std", (6, 4), (2, 4)),
        ("reverse_std", (4, 6), (4, 2)),
        ("reverse_std", (5, 5), (2, 5)),
        ("left", (6, 4), (2, 4)),
        ("right", (4, 6), (4, 2)),
        ("full", (6, 4), (2, 2)),
    ],
)
def test_the_projected_side(side, shape, kept):
    frame = frames.GaLore(rank=2, side=side)
    assert frame.shape(torch.Size(shape)) == kept
    grad = low_rank(shape, 2, seed=0, noise=0.0)
    _, state = train(frame, [grad])
    found = {d: state[f"basis_{d}"] for d in frame.ranks(torch.Size(shape))}
    for d, basis in found.items():
        torch.testing.assert_close(basis.mT @ basis, torch.eye(2), rtol=0, atol=1e-5)
        torch.testing.assert_close(along(grad[None], (basis @ basis.mT)[None], d)[0], grad, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e10, 1e13])
@pytest.mark.parametrize(
    "frame", [frames.GaLore(rank=2), frames.GaLore(rank=2, method="sketch"), frames.COAP(rank=2)], ids=str
)
def test_the_size_of_gradients_does_not_matter_to_a_basis(frame, scale):
    grad = low_rank((9, 6), 3, seed=1)
    _, expected = train(frame, [grad])
    _, got = train(frame, [grad * scale])
    same_up_to_signs(got["basis_1"], expected["basis_1"], 1e-4)


@pytest.mark.parametrize("dim", [0, 1])
def test_a_sketch_that_follows_finds_the_leading_subspace(dim):
    grad = low_rank((40, 30), 5, seed=2, noise=0.05)
    basis = torch.randn(grad.shape[dim], 5, generator=generator())
    for _ in range(3):
        basis = sketched(grad, dim, basis)
    same_up_to_signs(basis, leading(grad, 5, [dim])[dim], 1e-3)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_sketch_of_too_low_a_rank_is_orthonormal(rank):
    grad = torch.ones(8, 6) if rank == 1 else low_rank((8, 6), max(rank, 1), seed=3, noise=0.0)
    grad[2:] = grad[2:] if rank else 0
    basis = sketched(grad, 1, torch.randn(6, 4, generator=generator()))
    torch.testing.assert_close(basis.mT @ basis, torch.eye(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(grad @ basis @ basis.mT, grad, rtol=0, atol=1e-4)


def test_tucker_finds_a_tensor_of_low_rank():
    core = torch.randn(3, 2, 3, 3, generator=generator(), dtype=torch.float64)
    u, v = (
        torch.linalg.qr(torch.randn(d, r, generator=generator(d), dtype=torch.float64))[0] for d, r in ((8, 3), (6, 2))
    )
    tensor = torch.einsum("oa,ib,abkl->oikl", u, v, core)
    found = tucker(tensor, {0: 3, 1: 2})
    torch.testing.assert_close(found[0] @ found[0].mT, u @ u.mT)
    torch.testing.assert_close(found[1] @ found[1].mT, v @ v.mT)


def test_tucker_keeps_more_than_truncating_each_unfolding():
    tensor = torch.randn(8, 7, 3, 3, generator=generator(), dtype=torch.float64)
    ranks = {0: 2, 1: 2}
    once = {d: torch.linalg.svd(tensor.movedim(d, 0).flatten(1), full_matrices=False)[0][:, :2] for d in ranks}
    kept = [project(tensor[None], {d: q[None] for d, q in f.items()}).norm() for f in (once, tucker(tensor, ranks))]
    assert kept[1] > kept[0]


def correlation_loss(grad: Tensor, kept: Tensor, bases: dict[int, Tensor], normalize: bool) -> Tensor:
    """COAP's loss as it is written, with everything in full size."""
    batched = {d: q[None] for d, q in bases.items()}
    rebuilt = expand(project(grad[None], batched), batched)[0]
    average = expand(kept[None], batched)[0]
    error = (rebuilt - grad).square().mean() / (grad.square().mean() if normalize else 1)
    return error * (1 - nn.functional.cosine_similarity(average, grad, dim=1).mean())


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(
    ("shape", "ranks"),
    [
        ((7, 5), {1: 3}),
        ((5, 7), {0: 3}),
        ((5, 5), {1: 1}),
        ((6, 5), {0: 2, 1: 3}),
        ((6, 5, 3, 3), {0: 3, 1: 2}),
        ((6, 5, 1, 1), {0: 3}),
    ],
)
def test_the_gradient_of_the_correlation_in_closed_form(shape, ranks, normalize):
    draw = functools.partial(torch.randn, generator=generator(5), dtype=torch.float64)
    grad, kept = draw(shape), draw([ranks.get(d, size) for d, size in enumerate(shape)])
    bases = {d: (0.5 * draw(shape[d], r)).requires_grad_() for d, r in ranks.items()}
    correlation_loss(grad, kept, bases, normalize).backward()
    with torch.no_grad():
        form = Correlation(grad, kept, bases, normalize)
        torch.testing.assert_close(form.loss(), correlation_loss(grad, kept, bases, normalize), rtol=1e-12, atol=0)
        for d, slope in form.gradient().items():
            torch.testing.assert_close(slope, bases[d].grad, rtol=1e-10, atol=1e-12)


def test_rows_of_zeros_have_no_correlation():
    grad, kept = torch.zeros(4, 3), torch.zeros(4, 2)
    grad[0], kept[1] = 1.0, 1.0
    for slope in Correlation(grad, kept, {1: torch.eye(3)[:, :2]}, True).gradient().values():
        assert torch.isfinite(slope).all()


@pytest.mark.parametrize("normalize", [True, False])
def test_only_the_normalized_step_of_coap_survives_small_gradients(normalize):
    """The published form is proportional to the square of the gradient."""
    changes = {}
    for scale in (1.0, 1e-3):
        grads = [scale * low_rank((12, 8), 3, seed=t, noise=0.5) for t in range(3)]
        frame = frames.COAP(rank=3, period=2, normalize=normalize, stagger=False)
        first, last = train(frame, grads[:2])[1]["basis_1"], train(frame, grads)[1]["basis_1"]
        changes[scale] = ((last - first).norm() / first.norm()).item()
    assert changes[1.0] > 1e-3
    assert changes[1e-3] == pytest.approx(changes[1.0], rel=1e-2) if normalize else changes[1e-3] < 1e-7


def test_the_step_of_a_basis_has_a_length_of_at_most_a_tenth():
    """Of gradients so large that its own gradient is clipped."""
    grads = [100 * low_rank((12, 8), 3, seed=t, noise=0.5) for t in range(3)]
    frame = frames.COAP(rank=3, period=2, normalize=False, stagger=False)
    step = train(frame, grads)[1]["basis_1"] - train(frame, grads[:2])[1]["basis_1"]
    assert step.norm().item() == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("carry", ["root", "squares"])
def test_averages_keep_their_meaning_in_a_basis_with_exchanged_axes(carry, monkeypatch):
    shape, exchange = (6, 4), torch.tensor([2, 0, 1])
    q = torch.linalg.qr(torch.randn(4, 3, generator=generator()))[0]
    given = iter([q, q[:, exchange]])
    monkeypatch.setattr(frames.GaLore, "find", lambda self, grad, state: {1: next(given)})
    grads = [low_rank(shape, 2, seed=t) for t in range(2)]
    frame = frames.GaLore(rank=3, period=1, carry=carry)
    _, before = train(frame, grads[:1])
    m, v = before["exp_avg"], before["exp_avg_sq"]
    given = iter([q, q[:, exchange]])
    _, after = train(frame, grads)
    a = grads[1] @ q[:, exchange]
    torch.testing.assert_close(after["exp_avg"], 0.9 * m[:, exchange] + 0.1 * a)
    torch.testing.assert_close(after["exp_avg_sq"], 0.999 * v[:, exchange] + 0.001 * a.square())


@pytest.mark.parametrize(("carry", "depends"), [("squares", False), ("root", True)])
def test_carried_squares_do_not_depend_on_signs(carry, depends, monkeypatch):
    first, second = (torch.linalg.qr(torch.randn(5, 3, generator=generator(seed)))[0] for seed in (1, 2))
    grads = [low_rank((7, 5), 2, seed=t) for t in range(2)]
    results = []
    for signs in (torch.ones(3), torch.tensor([1.0, -1.0, 1.0])):
        given = iter([first * signs, second])
        monkeypatch.setattr(frames.GaLore, "find", lambda self, grad, state, given=given: {1: next(given)})
        results.append(train(frames.GaLore(rank=3, period=1, carry=carry), grads)[0])
    assert torch.allclose(*results, atol=1e-6) != depends


def test_kept_averages_do_not_depend_on_the_signs_of_a_decomposition(monkeypatch):
    grads = [low_rank((7, 5), 2, seed=0) + 0.1 * low_rank((7, 5), 2, seed=t) for t in range(6)]
    frame = frames.GaLore(rank=2, period=2)
    expected, _ = train(frame, grads)
    flips = iter([1.0, -1.0, -1.0])

    def flipped(grad: Tensor, rank: int, dims: list[int]) -> dict[int, Tensor]:
        return {d: q * next(flips) for d, q in leading(grad, rank, dims).items()}

    monkeypatch.setattr("metrize.frames.galore.leading", flipped)
    got, _ = train(frame, grads)
    torch.testing.assert_close(got, expected)
    assert next(flips, None) is None


def test_aligned_vectors_point_toward_those_they_replace():
    q = torch.linalg.qr(torch.randn(5, 3, generator=generator()))[0]
    assert torch.equal(aligned(q * torch.tensor([1.0, -1.0, -1.0]), q), q)
    assert torch.equal(aligned(q, torch.zeros_like(q)), q)


@pytest.mark.parametrize("shape", [(8, 5), (5, 8)])
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_apollo_scales_the_gradient(shape, granularity):
    grad = low_rank(shape, 3, seed=4)
    step, state = train(frames.APOLLO(rank=2, granularity=granularity, scale=4.0), [grad])
    ratio = step / grad
    channel = 1 if shape[0] >= shape[1] else 0
    even = ratio.amin() if granularity == "tensor" else ratio.amin(channel, keepdim=True)
    torch.testing.assert_close(ratio, even.expand(shape), rtol=1e-4, atol=0)
    seen = project(grad[None], {channel: state[f"basis_{channel}"][None]})[0]
    made = seen.sign()  # the first direction of Adam, for gradients well above eps
    over = channel if granularity == "channel" else (0, 1)
    expected = -1e-2 * 2.0 * made.norm(dim=over, keepdim=True) / seen.norm(dim=over, keepdim=True)
    torch.testing.assert_close(ratio, expected.expand(shape), rtol=1e-3, atol=0)


def test_apollo_limits_the_growth_of_the_step():
    grads = [low_rank((8, 5), 3, seed=t) * 10.0**t for t in range(4)]
    frame, lengths = frames.APOLLO(rank=2, growth=1.5), []
    for t in range(1, 5):
        lengths.append(train(frame, grads[:t])[1]["update_norm"].item())
    assert all(b <= 1.5 * a * (1 + 1e-5) for a, b in itertools.pairwise(lengths))
    assert lengths[1] == pytest.approx(1.5 * lengths[0])
    assert train(frames.APOLLO(rank=2, growth=None), grads)[1].get("update_norm") is None


def test_apollo_recovers_from_a_gradient_of_zero():
    grads = [low_rank((8, 5), 3, seed=t) for t in range(4)]
    grads[2] = torch.zeros(8, 5)
    before, _ = train(frames.APOLLO(rank=2), grads[:3])
    after, _ = train(frames.APOLLO(rank=2), grads)
    assert (after - before).norm() > 0.1 * before.norm()


@pytest.mark.parametrize("side", ["std", "reverse_std", "full"])
def test_online_subspace_finds_the_leading_subspace(side):
    """Of gradients that have three strong directions on both sides, and noise everywhere."""
    u, v = (torch.linalg.qr(torch.randn(d, 3, generator=generator(d)))[0] for d in (20, 12))
    g = generator(7)
    noise = torch.randn(201, 20, 12, generator=g)
    signal = u @ torch.randn(200, 3, 3, generator=g) @ v.mT
    frame = frames.OnlineSubspace(rank=3, side=side)
    _, state = train(frame, [noise[0], *(signal + 0.05 * noise[1:])])
    for dim, truth in ((0, u), (1, v)):
        if dim in frame.ranks(torch.Size((20, 12))):
            q = state[f"basis_{dim}"]
            torch.testing.assert_close(q.mT @ q, torch.eye(3), rtol=0, atol=1e-4)
            assert (truth.mT @ q).square().sum() > 3 * 0.97


def test_online_subspace_uses_the_basis_from_before_the_gradient():
    grads = [low_rank((8, 5), 2, seed=t) for t in range(2)]
    frame = frames.OnlineSubspace(rank=2, scale=1.0)
    first, state = train(frame, grads[:1])
    q = state["basis_1"]
    second, _ = train(frame, grads)
    step = second - first
    torch.testing.assert_close(step @ q @ q.mT, step, rtol=0, atol=1e-5)


def test_online_subspace_with_rate_zero_stays():
    grads = [low_rank((8, 5), 2, seed=t) for t in range(5)]
    frame = frames.OnlineSubspace(rank=2, rate=0.0)
    torch.testing.assert_close(train(frame, grads)[1]["basis_1"], train(frame, grads[:1])[1]["basis_1"])


def test_convolutions_are_projected_on_their_channels():
    frame = frames.COAP(conv_ratio=4.0, conv_above=100)
    assert frame.shape(torch.Size((16, 8, 3, 3))) == (8, 4, 3, 3)
    assert frame.shape(torch.Size((16, 8, 1, 1))) == (4, 8, 1, 1)
    assert frame.shape(torch.Size((4, 2, 3, 3))) == (4, 2, 3, 3)
    assert frames.COAP(conv_ratio=None, conv_above=100).shape(torch.Size((16, 8, 3, 3))) == (16, 8, 3, 3)
    grad = torch.einsum(
        "oa,ib,abkl->oikl", *(torch.randn(s, generator=generator(9)) for s in ((16, 8), (8, 4), (8, 4, 3, 3)))
    )
    step, state = train(frame, [grad])
    kept = {d: (state[f"basis_{d}"] @ state[f"basis_{d}"].mT)[None] for d in (0, 1)}
    torch.testing.assert_close(project(step[None], kept)[0], step, rtol=0, atol=1e-5)
    torch.testing.assert_close(project(grad[None], kept)[0], grad, rtol=0, atol=1e-3 * math.sqrt(8))
