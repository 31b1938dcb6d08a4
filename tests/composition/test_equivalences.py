"""Sentences that say the same: an empty frame, codec or constraint changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentences import SPACES
from torch import Tensor, nn

import metrize
from metrize import (
    Adam,
    Dense,
    Factored,
    Identity,
    Optimizer,
    Quantized,
    RandomProjection,
    RankOne,
    Recipe,
    Space,
    Split,
    Stiefel,
    Vector,
    constrain,
    frames,
    norms,
    rules,
)
from metrize.moments import Averages, Moments, Slot
from metrize.rules import Metric

Build = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
EXACT = {"rtol": 0.0, "atol": 0.0}


def gradient(step: int, index: int, shape: torch.Size) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(100 * step + index))


def trained(build: Build, starts: list[Tensor], steps: int = 6, first: Tensor | None = None) -> list[Tensor]:
    """Where the same gradients lead; the very first one may be given."""
    params = [nn.Parameter(start.clone()) for start in starts]
    optimizer = build(params)
    for step in range(steps):
        for index, p in enumerate(params):
            p.grad = gradient(step, index, p.shape) if step or first is None else first.clone()
        optimizer.step()
    return [p.detach() for p in params]


def starts(*shapes: tuple[int, ...], space: Space = Vector()) -> list[Tensor]:
    return [space.random_(torch.empty(shape), torch.Generator().manual_seed(i)) for i, shape in enumerate(shapes)]


def sentence(recipe: Recipe, **numbers: float) -> Build:
    return lambda params: Optimizer(params, recipe, **{"lr": 0.01, **numbers})


# Identity frame = no frame


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_the_identity_frame_is_no_frame(space: Space) -> None:
    """A journey without any frame in it: lift, Adam, move."""
    (start,) = starts((8, 4), space=space)
    (got,) = trained(sentence(Recipe(space, Identity(), rule=rules.Adam("scalar"))), [start])
    by_hand, rule = start.unsqueeze(0).clone(), rules.Adam("scalar")
    points = space.points(by_hand)
    batch = points.shape[: points.ndim - points[0].ndim + len(space.batch_shape(start.shape))]
    state = {"step": torch.zeros(1), "exp_avg": torch.zeros_like(by_hand), "exp_avg_sq": torch.zeros(batch)}
    declared = space.state_spec(start.shape, torch.float32)
    state |= {key: torch.zeros(1, *shape, dtype=dtype) for key, (shape, dtype) in declared.items()}
    space.init_state(points, state)
    slot = Slot("exp_avg", "linear", start.shape, torch.float32, space.points)
    for step in range(6):
        state["step"] += 1
        averages = Averages(Dense(), state, {"exp_avg": slot})
        section = space.section_at(points, state)
        if turn := space.turn(section):
            averages.turn("linear", turn)
        coords = space.lift(points, space.points(gradient(step, 0, start.shape).unsqueeze(0)), section)
        metric = Metric(space.sq_norm, space.dim(start.shape))
        space.move_(points, rule.direction(coords, averages, rule.hyper(), metric) * -0.01, section, state)
        space.polish_(points, state["step"], state)
    torch.testing.assert_close(got, by_hand[0], **EXACT)


# Codec off = dense

OFF: list[Moments] = [
    Split(),
    Split(Dense("float32"), Dense()),
    Quantized(smallest=1000),
    Quantized(bits=4, whole_blocks=True, smallest=0),
    Factored(min_size=100),
    RandomProjection(rank=100, square=Dense()),
    Split(RankOne("dense"), RankOne("dense")),
]


@pytest.mark.parametrize("moments", OFF, ids=str)
@pytest.mark.parametrize("rule", [rules.Adam(), rules.Momentum(), rules.Lion(), rules.AdaGrad()], ids=str)
def test_a_codec_that_is_off_is_dense_storage(moments: Moments, rule: rules.Rule) -> None:
    shape = (11,) if "RankOne" in str(moments) else (7, 4)
    got, dense = (trained(sentence(Recipe(moments=kept, rule=rule)), starts(shape)) for kept in (moments, Dense()))
    # dense storage has torch's own kernel for some rules, which rounds once less
    torch.testing.assert_close(got, dense, **EXACT if rule == rules.Lion() else {"rtol": 1e-6, "atol": 2e-7})


@pytest.mark.parametrize("moments", OFF[:-1], ids=str)
def test_so_it_is_on_a_manifold(moments: Moments) -> None:
    start = starts((7, 4), (7, 4), space=Stiefel())
    got, dense = (trained(sentence(Recipe(Stiefel(), moments=kept)), start) for kept in (moments, Dense()))
    torch.testing.assert_close(got, dense, **EXACT)


# Stiefel with no constraint = AdamW, bit for bit


def test_without_a_constraint_the_manifold_optimizer_is_adamw() -> None:
    shapes = ((7, 4), (4, 7), (5,), (2, 3, 3))

    def rival(params: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(params, lr=0.01, weight_decay=0.1, fused=True)

    ours = trained(sentence(Recipe(), weight_decay=0.1), starts(*shapes), steps=20)
    free = trained(sentence(Recipe(space=Vector()), weight_decay=0.1), starts(*shapes), steps=20)
    torch.testing.assert_close(ours, trained(rival, starts(*shapes), steps=20), **EXACT)
    torch.testing.assert_close(ours, free, **EXACT)


def test_beside_a_constraint_all_else_is_adamw() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    plain = [nn.Parameter(p.detach().clone()) for p in model.parameters()]
    constrain(model[0], "weight", Stiefel())
    optimizer = metrize.AdamW(model, lr=0.01, weight_decay=0.1)
    rival = torch.optim.AdamW(plain, lr=0.01, weight_decay=0.1, fused=True)
    for step in range(20):
        for index, (p, q) in enumerate(zip(model.parameters(), plain, strict=True)):
            p.grad = gradient(step, index, p.shape)
            q.grad = p.grad.clone()
        optimizer.step()
        rival.step()
    same = [torch.equal(p, q) for p, q in zip(model.parameters(), plain, strict=True)]
    assert same == [False, True, True, True]


# Spectral norm on 1 x n = normalised SGD


@settings(max_examples=20, derandomize=True, deadline=None, database=None)
@given(n=st.integers(1, 40), column=st.booleans(), momentum=st.sampled_from([0.0, 0.9]))
def test_the_spectral_norm_of_a_row_or_column_is_normalised_sgd(n: int, column: bool, momentum: float) -> None:
    start = starts((n, 1) if column else (1, n))

    def built(norm: norms.Norm) -> list[Tensor]:
        return trained(sentence(Recipe(rule=rules.Steepest(norm)), momentum=momentum), start)

    sgd = trained(lambda p: metrize.NormSGD(p, lr=0.01, momentum=momentum, norm=norms.Frobenius()), start)
    torch.testing.assert_close(built(norms.Spectral("unit", "exact")), sgd, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(built(norms.Spectral("unit", "tight")), sgd, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(built(norms.Frobenius()), sgd, **EXACT)


# SOAP with no factors = Adam


@pytest.mark.parametrize("space", [Vector(), Stiefel()], ids=str)
def test_soap_without_factors_is_adam(space: Space) -> None:
    shapes = ((7, 4), (4, 7), (7, 4)) if space == Stiefel() else ((7, 4), (4, 7), (5,), (2, 3, 3))
    adam = Recipe(space, rule=rules.Adam(bias_correction="step"), decay="after")
    soap = trained(
        lambda p: metrize.SOAP(p, lr=0.01, weight_decay=0.0, betas=(0.9, 0.99), max_precond_dim=0, space=space),
        starts(*shapes, space=space),
    )
    plain = trained(sentence(adam, betas=(0.9, 0.99)), starts(*shapes, space=space))
    torch.testing.assert_close(soap, plain, **EXACT)
    if space == Vector():  # which is torch's, but for where eps is added
        rival = trained(lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.9, 0.99)), starts(*shapes))
        torch.testing.assert_close(soap, rival, rtol=1e-4, atol=1e-5)


# Full-rank GaLore with the identity basis = Adam


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (4, 4)])
@pytest.mark.parametrize("rule", [rules.Adam(), rules.Adam(bias_correction="step"), rules.AdaGrad()], ids=str)
def test_full_rank_galore_with_the_identity_basis_is_adam(shape: tuple[int, int], rule: rules.Rule) -> None:
    """A first gradient whose singular vectors are the axes, and no refresh after it; signs of axes do not matter."""
    galore = frames.GaLore(rank=4, period=1000, scale=1.0)
    first = torch.zeros(shape)
    first.diagonal().copy_(torch.tensor([4.0, 3.0, 2.0, 1.0]))
    got, plain = (
        trained(sentence(Recipe(frame=frame, rule=rule)), starts(shape), first=first) for frame in (galore, Identity())
    )
    torch.testing.assert_close(got, plain, rtol=1e-6, atol=1e-7)


def test_so_is_adam_of_the_catalogue() -> None:
    first = torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0]))
    options = {"rank": 4, "period": 1000, "scale": 1.0, "eps": 1e-12}
    galore = trained(lambda p: metrize.GaLore(p, lr=0.01, **options), starts((4, 4)), first=first)
    adam = trained(lambda p: Adam(p, lr=0.01, eps=1e-12), starts((4, 4)), first=first)
    torch.testing.assert_close(galore, adam, rtol=1e-5, atol=1e-6)
