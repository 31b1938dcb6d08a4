"""Kernels against dense references."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metrize.linalg import all_finite, householder_signs, newton_schulz_polish, phi, polar


def generator(seed):
    return torch.Generator().manual_seed(seed)


def contraction(n, batch=1, seed=0, scale=1.0):
    """Top blocks of orthonormal matrices, or of nearly orthogonal ones where scale is 1."""
    x = torch.randn(batch, n, n, generator=generator(seed), dtype=torch.float64)
    return polar(x) * scale


def condition(x, signs):
    return torch.linalg.cond(torch.eye(x.shape[-1], dtype=x.dtype) + x * signs.unsqueeze(-2)).max()


@pytest.mark.parametrize("n", [1, 2, 7, 31, 32, 33, 80])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_signs_make_every_contraction_safe_to_invert(n, scale):
    x = contraction(n, batch=6, seed=n, scale=scale)
    assert condition(x, householder_signs(x)) < 80 * n


@pytest.mark.parametrize("n", [1, 3, 40])
def test_signs_of_minus_identity_are_all_negative_and_of_zero_all_positive(n):
    eye = torch.eye(n, dtype=torch.float64)
    assert (householder_signs(-eye) == -1).all()
    assert (householder_signs(0 * eye) == 1).all()


def test_the_shortcut_gives_what_the_elimination_gives():
    from metrize.linalg.signs import _certificate, _eliminate

    x = contraction(9, batch=400, seed=3) * torch.linspace(0, 1, 400, dtype=torch.float64)[:, None, None]
    certified = _certificate(x) == 0
    assert 20 < certified.sum() < 380
    assert (_eliminate(x[certified].clone()) == 1).all()
    assert (householder_signs(x) == _eliminate(x.clone())).all()


def test_signs_that_serve_are_kept_and_a_changed_one_does_not_change_back():
    entries = torch.linspace(-1, 1, 201, dtype=torch.float64)
    flips = {}
    for kept in (1.0, -1.0):
        signs = kept * householder_signs(entries.view(-1, 1, 1) * kept).flatten()
        flips[kept] = entries[signs != kept]
    assert flips[1.0].max() < -0.7
    assert flips[-1.0].min() > 0.7


def test_every_pivot_of_the_elimination_is_at_least_a_quarter():
    x = contraction(12, batch=50, seed=5)
    k = x + torch.diag_embed(householder_signs(x))
    for i in range(12):
        assert (k[:, i, i].abs() >= 0.25 - 1e-12).all()
        k = k - k[:, :, i : i + 1] @ k[:, i : i + 1, :] / k[:, i : i + 1, i : i + 1]


@given(st.integers(1, 6), st.floats(1e-3, 300), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_phi_satisfies_its_equation_at_every_norm(n, norm, seed):
    skew = torch.randn(n, n, generator=generator(seed), dtype=torch.float64)
    skew = skew - skew.mT + 1e-2 * torch.eye(n, dtype=torch.float64)
    skew = skew * (norm / skew.norm())
    expected = torch.linalg.matrix_exp(skew) - torch.eye(n, dtype=torch.float64)
    error = (phi(skew) @ skew - expected).norm() / (1 + expected.norm())
    assert error < 1e-11


def test_polar_is_nearest_and_polish_squares_the_error():
    x = torch.randn(3, 9, 4, generator=generator(1), dtype=torch.float64)
    y = polar(x)
    eye = torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(y.mT @ y, eye.expand(3, 4, 4))
    assert torch.linalg.eigvalsh(y.mT @ x).min() > 0  # the positive factor
    off = y + 1e-3 * torch.randn(y.shape, generator=generator(2), dtype=torch.float64)
    before = torch.linalg.matrix_norm(off.mT @ off - eye)
    polished = newton_schulz_polish(off)
    after = torch.linalg.matrix_norm(polished.mT @ polished - eye)
    assert (after < before**2).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64])
def test_all_finite_sees_one_bad_number_and_nothing_else(dtype):
    good = torch.randn(5, 7, generator=generator(0)).to(dtype)
    assert all_finite([])
    assert all_finite([good, good.mT, torch.empty(0, dtype=dtype)])
    for bad in (float("nan"), float("inf"), float("-inf")):
        spoiled = good.clone()
        spoiled[3, 2] = bad
        assert not all_finite([good, spoiled])
        assert not all_finite([spoiled.mT])


def test_all_finite_is_not_fooled_by_large_numbers():
    assert all_finite([torch.full((1000,), 3e38)])
    assert all_finite([torch.full((1000,), 6e4, dtype=torch.float16)])
