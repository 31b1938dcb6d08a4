"""What makes a norm a norm and a map its duality map."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metrize.norms import (
    RMS,
    ColumnNorm,
    Frobenius,
    Layout,
    MaxEntry,
    Norm,
    Nuclear,
    RowNorm,
    Schatten,
    SignHead,
    Spectral,
)
from metrize.part import Part, parse

SCALES = ("unit", "rms", "muon", "adam", "one-hot", "conv")
EXACT = [
    MaxEntry(),
    Frobenius(),
    RMS(),
    SignHead(),
    ColumnNorm(),
    ColumnNorm("rms"),
    RowNorm(),
    RowNorm("rms"),
    Nuclear(),
    Schatten(),
    Schatten(1.5),
    *(Spectral(scale, "exact") for scale in SCALES),
    Spectral("rms", "exact", layout=Layout(split=(4, 1, 1))),
    Spectral("muon", "exact", layout=Layout(transposed=True, block_rows=1)),
    RowNorm("rms", layout=Layout(split=(1, 1), outer=3)),
    Nuclear(layout=Layout(transposed=True)),
]
NEAR = [Spectral("rms", accuracy) for accuracy in ("fast", "tight", "muon", "cans")]
every_exact_norm = pytest.mark.parametrize("norm", EXACT, ids=str)
every_norm = pytest.mark.parametrize("norm", EXACT + NEAR, ids=str)


def gauss(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inner(x, y):
    return (x * y).flatten(1).sum(1)


@every_exact_norm
@pytest.mark.parametrize("inputs", [1, 4, 6, 11])
def test_the_direction_has_norm_one_and_reaches_the_dual_norm(norm, inputs):
    gradient = gauss(5, 6, inputs)
    direction, dual = norm.dual(gradient)
    torch.testing.assert_close(norm.norm(direction), torch.ones(5, dtype=torch.float64), rtol=1e-12, atol=0)
    torch.testing.assert_close(inner(gradient, direction), dual, rtol=1e-12, atol=0)


@every_exact_norm
def test_nothing_in_the_unit_ball_goes_further(norm):
    gradient = gauss(1, 6, 4)
    direction, dual = norm.dual(gradient)
    others = torch.cat([gauss(2000, 6, 4, seed=1), direction + 0.1 * gauss(2000, 6, 4, seed=2)])
    others = others / norm.norm(others)[:, None, None]
    assert (inner(gradient, others) <= dual * (1 + 1e-12)).all()


@every_norm
@given(st.integers(-20, 20), st.integers(0, 20))
@settings(max_examples=8, deadline=None, derandomize=True, database=None)
def test_the_size_of_the_gradient_does_not_turn_it(norm, exponent, seed):
    gradient = gauss(2, 6, 4, seed=seed).float()
    direction, dual = norm.dual(gradient)
    scaled, scaled_dual = norm.dual(gradient * 2.0 ** (3 * exponent))
    assert torch.equal(direction, scaled)
    torch.testing.assert_close(scaled_dual, dual * 2.0 ** (3 * exponent))
    torch.testing.assert_close(norm.dual(gradient * 10.0**exponent)[0], direction, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(norm.norm(gradient * 2.0 ** (3 * exponent)), norm.norm(gradient) * 2.0 ** (3 * exponent))


@every_norm
def test_zero_gives_zero_beside_others(norm):
    gradient = gauss(3, 6, 4).float()
    gradient[1] = 0
    direction, dual = norm.dual(gradient)
    assert not direction[1].any()
    assert dual[1] == 0 < dual[0]
    assert norm.norm(gradient)[1] == 0
    assert torch.isfinite(direction).all()


@every_norm
def test_arithmetic_is_float32_at_least_and_leaves_the_input_alone(norm):
    for given_dtype, expected in [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ]:
        gradient = gauss(2, 6, 4).to(given_dtype)
        before = gradient.clone()
        direction, dual = norm.dual(gradient)
        assert direction.dtype == dual.dtype == norm.norm(gradient).dtype == expected
        assert direction.shape == gradient.shape
        assert dual.shape == (2,)
        assert torch.equal(gradient, before)
        assert direction.data_ptr() != gradient.data_ptr()


@every_norm
def test_half_of_the_answer_is_the_same_half(norm):
    gradient = gauss(3, 6, 4)
    direction, dual = norm.dual(gradient)
    assert torch.equal(norm.direction(gradient), direction)
    assert torch.equal(norm.dual_norm(gradient), dual)


@every_norm
def test_a_norm_is_a_sentence(norm):
    assert parse(repr(norm)) == norm == parse(str(norm))


@pytest.mark.parametrize("norm", [MaxEntry(), Frobenius(), RMS()], ids=str)
@pytest.mark.parametrize("shape", [(), (7,), (2, 3, 4, 5)])
def test_norms_of_any_shape(norm, shape):
    gradient = gauss(3, *shape)
    direction, dual = norm.dual(gradient)
    torch.testing.assert_close(norm.norm(direction), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close((gradient * direction).reshape(3, -1).sum(1), dual)


def test_a_split_parameter_moves_as_separate_ones_do():
    whole = gauss(2, 12, 8).float()
    for accuracy in ("fast", "tight", "exact", "muon", "cans"):
        separate = Spectral("muon", accuracy)
        fused = separate.replace(layout=Layout(split=(6, 3, 3)))
        direction, dual = fused.dual(whole)
        parts = [separate.dual(part.contiguous()) for part in whole.split((6, 3, 3), 1)]
        assert torch.equal(direction, torch.cat([part for part, _ in parts], 1))
        torch.testing.assert_close(dual, sum(part for _, part in parts))
        torch.testing.assert_close(
            fused.norm(whole), torch.stack([separate.norm(p) for p in whole.split((6, 3, 3), 1)]).amax(0)
        )


@pytest.mark.parametrize("accuracy", ["fast", "tight", "exact", "muon", "cans"])
def test_one_by_one_is_as_all_together(accuracy):
    stack = gauss(4, 40, 60).float()
    norm = Spectral("rms", accuracy)
    direction, dual = norm.dual(stack)
    for i in range(4):
        alone, alone_dual = norm.dual(stack[i : i + 1])
        torch.testing.assert_close(alone[0], direction[i], rtol=0, atol=0.02)
        torch.testing.assert_close(alone_dual[0], dual[i], rtol=5e-3, atol=0)


def test_factors_of_the_spectral_norm():
    wide, tall = torch.Size([3, 12]), torch.Size([12, 3])
    expected = {
        "unit": (1, 1),
        "rms": (0.5, 2),
        "muon": (1, 2),
        "adam": (0.2 * math.sqrt(12), 0.2 * math.sqrt(12)),
        "one-hot": (math.sqrt(3), math.sqrt(12)),
        "conv": (0.5, 2),
    }
    assert {*expected} == {*SCALES}
    for scale, factors in expected.items():
        for shape, factor in zip((wide, tall), factors, strict=True):
            direction, _ = Spectral(scale, "exact").dual(gauss(1, *shape))
            assert torch.linalg.matrix_norm(direction, 2).item() == pytest.approx(factor)


def test_a_head_in_the_sign_norm_moves_every_logit_by_one_at_most():
    gradient = gauss(1, 5, 12)
    direction, dual = SignHead().dual(gradient)
    torch.testing.assert_close(direction, gradient.sign() / 12)
    torch.testing.assert_close(dual, gradient.abs().sum((1, 2)) / 12)
    torch.testing.assert_close(SignHead().norm(gradient), 12 * gradient.abs().amax((1, 2)))


def test_entries_of_the_adam_scale_are_as_large_as_adams():
    direction, _ = Spectral("adam", "exact").dual(gauss(1, 50, 20))
    assert direction.square().mean().sqrt().item() == pytest.approx(0.2)


def test_depthwise_filters_are_unit_vectors_by_themselves():
    filters = gauss(1, 8, 1, 3, 3)
    direction, _ = Spectral("rms", layout=Layout(unfold=True, groups=8)).dual(filters)
    lengths = filters.flatten(2).norm(dim=2)[..., None, None, None]
    torch.testing.assert_close(direction, filters / lengths / 3)


def test_the_estimates_of_a_fast_norm_are_from_below():
    gradient = gauss(3, 40, 30)
    exact, near = Spectral("rms", "exact"), Spectral("rms", "tight")
    assert (near.norm(gradient) <= exact.norm(gradient) * (1 + 1e-12)).all()
    assert (near.norm(gradient) >= 0.9 * exact.norm(gradient)).all()
    share = near.dual(gradient)[1] / exact.dual(gradient)[1]
    assert ((share >= 0.98) & (share <= 1.01)).all()


# ---- identities with known optimizers


def test_shampoo_of_one_gradient_is_the_spectral_direction():
    gradient = gauss(1, 5, 8)
    g = gradient[0]

    def power(matrix, exponent):
        values, vectors = torch.linalg.eigh(matrix)
        keep = values > 1e-12 * values[-1]
        return (vectors[:, keep] * values[keep] ** exponent) @ vectors[:, keep].mT

    direction = Spectral("unit", "exact").dual(gradient)[0][0]
    close = {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(power(g @ g.mT, -1 / 4) @ g @ power(g.mT @ g, -1 / 4), direction, **close)
    torch.testing.assert_close(power(g @ g.mT, -1 / 2) @ g, direction, **close)


def test_adam_without_memory_is_the_direction_of_the_largest_entry():
    start, gradient = gauss(6, 4), gauss(6, 4, seed=1)
    weight = torch.nn.Parameter(start.clone())
    weight.grad = gradient
    torch.optim.Adam([weight], lr=0.1, betas=(0.0, 0.0), eps=0.0).step()
    direction, _ = MaxEntry().dual(gradient.unsqueeze(0))
    torch.testing.assert_close(weight.detach(), start - 0.1 * direction[0], rtol=1e-12, atol=1e-12)


def test_schatten_norms_lead_from_nuclear_to_spectral():
    gradient = gauss(1, 5, 7)
    for p, end in [(1 + 1e-9, Nuclear()), (2.0, Frobenius()), (1e9, Spectral("unit", "exact"))]:
        direction, dual = Schatten(p).dual(gradient)
        torch.testing.assert_close(direction, end.dual(gradient)[0], rtol=0, atol=1e-6)
        torch.testing.assert_close(dual, end.dual(gradient)[1], rtol=1e-6, atol=0)


# ---- refusals


@pytest.mark.parametrize(
    "build",
    [
        lambda: Spectral("width"),
        lambda: Spectral("rms", "roughly"),
        lambda: ColumnNorm("max"),
        lambda: RowNorm("max"),
        lambda: Schatten(1.0),
        lambda: Schatten(math.inf),
        lambda: Schatten(math.nan),
    ],
)
def test_an_unknown_option_is_refused(build):
    with pytest.raises(ValueError, match=r"\w+\(\w+="):
        build()


def test_a_shape_without_matrices_is_refused():
    with pytest.raises(ValueError, match="two dimensions"):
        Spectral().check((5,))
    Frobenius().check((5,))


def test_what_norms_share_is_no_norm():
    assert "MatrixNorm" not in Part.known
    assert all(issubclass(type(norm), Norm) for norm in EXACT)


def test_a_duality_map_of_ones_own_drops_the_shorter_way_that_was_inherited():
    class Mixed:
        def dual(self, x):
            return torch.full_like(x, 2.0), x.flatten(1).sum(1)

    direct = dataclasses.make_dataclass("OwnDual", [], bases=(MaxEntry,), frozen=True, namespace={"dual": Mixed.dual})
    mixed = dataclasses.make_dataclass("MixedDual", [], bases=(Mixed, MaxEntry), frozen=True)
    try:
        for norm in (direct(), mixed()):
            assert (norm.direction(torch.zeros(1, 3)) == 2).all()
    finally:
        for name in ("OwnDual", "MixedDual"):
            Part.known.pop(name, None)
