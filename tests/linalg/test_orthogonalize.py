"""Schedules, Newton-Schulz iterations and polar factors against references and their own promises."""

import functools
import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metrize.linalg import orthogonalize, polar, polar_express, spectral_norm, unit
from metrize.linalg.orthogonalize import CANS, MUON, newton_schulz
from metrize.linalg.polar_express import evaluate, nearest_to_one

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "newton_schulz.json").read_text())
CASES = {case["name"]: case for case in GOLDEN["cases"]}
GENERATED = {
    "polar_express5_l1e-3_safety.02_cushion.02": {"steps": 5},
    "polar_express6_l1e-3_safety.02_cushion.02": {"steps": 6},
    "polar_express8_l1e-3_safety.02_cushion.02": {"steps": 8},
    "polar_express8_l1e-3_safety0_cushion.02407327424182761": {
        "steps": 8,
        "safety": 0.0,
        "cushion": 0.02407327424182761,
    },
    "polar_express8_l1e-3_safety.01_cushion.02407327424182761": {
        "steps": 8,
        "safety": 0.01,
        "cushion": 0.02407327424182761,
    },
}


def gauss(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def nuclear(x):
    return torch.linalg.svdvals(x).sum(-1)


def inner(x, y):
    return (x.double() * y.double()).sum((-2, -1))


def safety(name):
    return 1 + (GENERATED[name].get("safety", 0.02) if name in GENERATED else 0.0)


# ---- schedules


@pytest.mark.parametrize("name", GENERATED)
def test_generated_schedules_are_the_published_ones(name):
    found, known = polar_express(**GENERATED[name]), CASES[name]["coefficients"]
    # steps 7 and 8 fit an interval of nearly no length, where the reference has lost digits of its own
    torch.testing.assert_close(torch.tensor(found[:6]), torch.tensor(known[:6]), atol=1e-12, rtol=0)
    ends = [functools.reduce(lambda x, p: evaluate(p, x), found, sigma) for sigma in CASES[name]["sigma_in"]]
    assert ends == pytest.approx(CASES[name]["sigma_out"], abs=1e-10 if len(found) < 8 else 1e-6)


def test_muons_schedule_is_the_published_one():
    assert [list(p) for p in MUON] == CASES["muon_quintic_x5"]["coefficients"]


@pytest.mark.parametrize(("low", "high"), [(1e-3, 1.0), (0.02, 1.0), (0.3, 1.7), (0.9, 1.1), (0.999, 1.001)])
def test_the_fit_oscillates_between_four_equal_errors(low, high):
    p = nearest_to_one(low, high)
    errors = [evaluate(p, low + (high - low) * i / 4000) - 1 for i in range(4001)]
    level = max(map(abs, errors))
    assert errors[0] == pytest.approx(-level, rel=1e-4)
    assert errors[-1] == pytest.approx(level, rel=1e-4)
    assert max(errors[:2000]) == pytest.approx(level, rel=1e-4)
    assert min(errors[2000:]) == pytest.approx(-level, rel=1e-4)


@pytest.mark.parametrize("steps", [1, 3, 6, 12])
@pytest.mark.parametrize("lower", [1e-6, 1e-4, 1e-3, 0.3])
@pytest.mark.parametrize("margin", [0.0, 0.01, 0.05])
@pytest.mark.parametrize("cushion", [0.0, 0.02, 0.1])
def test_no_schedule_turns_a_direction_round(steps, lower, margin, cushion):
    # a published list with a negative value near 1 reverses matrices of rank one
    for sigma in [lower, 0.01, 0.1, 0.5, 0.884, 0.95, 1.0]:
        x = sigma / (1 + margin)
        for p in polar_express(steps, lower, margin, cushion):
            x = evaluate(p, x)
            assert 0 < x < 2


# ---- the iteration


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_iteration_in_float64(case):
    schedule = [tuple(p) for p in case["coefficients"]]
    gradient = torch.tensor(case["G"], dtype=torch.float64)
    found = newton_schulz((gradient / gradient.norm() / safety(case["name"])).unsqueeze(0), schedule)
    torch.testing.assert_close(found[0], torch.tensor(case["result"], dtype=torch.float64), atol=1e-10, rtol=0)
    sigma = torch.tensor(case["sigma_in"], dtype=torch.float64).diag()
    mapped = torch.tensor(case["sigma_out"], dtype=torch.float64).diag()
    torch.testing.assert_close(newton_schulz(sigma.unsqueeze(0), schedule)[0], mapped, atol=1e-10, rtol=0)


@pytest.mark.parametrize("steps", [1, 5, 6])
def test_a_carried_gram_matrix_changes_nothing_but_the_cost(steps):
    schedule = polar_express(steps)
    x = gauss(3, 5, 40)
    x /= x.flatten(1).norm(dim=1)[:, None, None]
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    for p in schedule:
        s = evaluate(p, s)
    torch.testing.assert_close(newton_schulz(x, schedule), (u * s.unsqueeze(-2)) @ vh)


# ---- orthogonalize

SIDES = st.one_of(st.integers(1, 12), st.sampled_from([31, 33, 48, 70]))


@given(
    SIDES,
    SIDES,
    st.sampled_from(["gauss", "rank one", "rank two"]),
    st.integers(-30, 30),
    st.sampled_from([torch.bfloat16, torch.float32, None]),
    st.integers(0, 99),
)
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_tight_reaches_its_share_of_the_dual_norm(m, n, kind, exponent, dtype, seed):
    ranks = {"gauss": min(m, n), "rank one": 1, "rank two": min(m, n, 2)}
    x = (
        gauss(m, n, seed=seed)
        if kind == "gauss"
        else gauss(m, ranks[kind], seed=seed) @ gauss(ranks[kind], n, seed=seed)
    )
    x = (x / x.abs().max() * 10.0**exponent).float()
    found = orthogonalize(x, "tight", dtype=dtype)
    assert torch.linalg.matrix_norm(found.double(), 2) <= 1.01
    assert inner(x, found) >= 0.98 * nuclear(x.double())


@pytest.mark.parametrize("shape", [(256, 256), (96, 384), (300, 60)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_quality_of_each_accuracy_on_larger_matrices(shape, dtype):
    x = gauss(*shape)
    bounds = {"fast": (0.95, 1.15), "tight": (0.99, 1.01), "muon": (0.75, 1.21), "cans": (0.93, 1.13)}
    bounds["exact"] = (1 - 1e-6, 1 + 1e-5)
    for accuracy, (share, largest) in bounds.items():
        found = orthogonalize(x.float(), accuracy, dtype=dtype).double()
        assert inner(x, found) >= share * nuclear(x), accuracy
        assert torch.linalg.matrix_norm(found, 2) <= largest, accuracy


@pytest.mark.parametrize("accuracy", ["fast", "tight", "exact", "muon"])
@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (40, 50), (1, 5), (5, 1), (1, 1)])
def test_zero_stays_zero_beside_others(accuracy, shape):
    x = torch.zeros(3, *shape)
    x[1] = gauss(*shape).float()
    found = orthogonalize(x, accuracy)
    assert not found[0].any()
    assert not found[2].any()
    torch.testing.assert_close(found[1], orthogonalize(x[1], accuracy))
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("accuracy", ["fast", "tight", "exact", "muon"])
def test_a_transposed_or_strided_matrix_gives_the_same(accuracy):
    x = gauss(2, 3, 20, 7).float()
    whole = orthogonalize(x, accuracy)
    same = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(orthogonalize(x.mT, accuracy).mT, whole, **same)
    torch.testing.assert_close(orthogonalize(x.transpose(0, 1), accuracy).transpose(0, 1), whole, **same)
    torch.testing.assert_close(orthogonalize(x[1, 2], accuracy), whole[1, 2], **same)
    before = x.clone()
    orthogonalize(x, accuracy)
    assert torch.equal(x, before)


def test_the_direction_of_one_row_is_its_unit_vector():
    x = gauss(1, 700).float()
    for accuracy in ["fast", "tight", "exact", "muon"]:
        assert torch.equal(orthogonalize(x, accuracy), unit(x, (-2, -1))[0])
        assert torch.equal(orthogonalize(x.mT, accuracy), unit(x.mT, (-2, -1))[0])


def test_exact_drops_the_directions_that_are_missing():
    x = gauss(9, 3) @ gauss(3, 6)
    found = orthogonalize(x, "exact")
    assert found.dtype == torch.float64
    values = torch.linalg.svdvals(found)
    torch.testing.assert_close(values, torch.tensor([1.0, 1, 1, 0, 0, 0], dtype=torch.float64), atol=1e-12, rtol=0)
    assert inner(x, found).item() == pytest.approx(nuclear(x).item(), rel=1e-12)


def test_a_matrix_of_rank_one_in_full_precision():
    x = (gauss(60, 1) @ gauss(1, 90)).float()
    torch.testing.assert_close(orthogonalize(x, "tight", torch.float32), unit(x, (-2, -1))[0], atol=1e-4, rtol=2e-3)


@pytest.mark.parametrize("accuracy", ["fast", "tight", "exact", "muon"])
def test_powers_of_two_change_no_bit(accuracy):
    x = gauss(40, 48).float()
    expected = orthogonalize(x, accuracy)
    for exponent in (-60, -1, 60):
        assert torch.equal(orthogonalize(x * 2.0**exponent, accuracy), expected)


def test_polar_completes_unless_told_to_drop():
    x = gauss(5, 2) @ gauss(2, 3)
    eye = torch.eye(3, dtype=torch.float64)
    whole, partial = polar(x), polar(x, rtol=1e-10)
    torch.testing.assert_close(whole.mT @ whole, eye)
    assert torch.linalg.matrix_rank(partial) == 2


# ---- largest singular value, unit vectors


@given(SIDES, SIDES, st.sampled_from([1e-30, 1.0, 1e30]), st.integers(0, 99))
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
def test_power_iteration_is_a_bound_from_below(m, n, scale, seed):
    x = (gauss(2, m, n, seed=seed) * scale).float()
    exact = torch.linalg.svdvals((x / scale).double())[:, 0]
    share = spectral_norm(x).double() / scale / exact
    assert (share <= 1 + 1e-5).all()
    assert (share >= 0.8).all()
    torch.testing.assert_close(spectral_norm(x, exact=True).double() / scale, exact, rtol=1e-5, atol=0)


def test_power_iteration_sees_every_direction():
    for i in range(70):
        x = torch.full((70, 70), 0.0).fill_diagonal_(0.3)
        x[i, (7 * i) % 70] = 1.0
        assert spectral_norm(x) == pytest.approx(1.0, rel=0.1)
    differences = torch.eye(20) - torch.eye(20).roll(1, 1)  # gives zero for a vector of ones
    assert spectral_norm(differences) == pytest.approx(2.0, rel=0.1)
    assert spectral_norm(torch.zeros(4, 3)) == 0


@given(st.integers(1, 9), st.integers(-37, 37), st.integers(0, 99))
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
def test_unit_vectors_of_any_size(n, exponent, seed):
    x = (gauss(3, n, seed=seed) * 10.0**exponent).float()
    direction, length = unit(x, -1)
    expected = x.double().norm(dim=-1, keepdim=True)
    torch.testing.assert_close(direction.double(), x.double() / expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(length.double(), expected, rtol=1e-5, atol=0)
    zero, nothing = unit(torch.zeros(2, n), -1)
    assert not zero.any()
    assert not nothing.any()
    assert math.isnan(unit(torch.tensor([1.0, math.nan]), -1)[1])


def test_fixed_polynomials_with_the_gram_matrix_carried_along():
    cases = json.loads((Path(__file__).parents[1] / "golden" / "gram_newton_schulz.json").read_text())["cases"]
    known = [case for case in cases if case["coefficients"] in ([*map(list, MUON)], [*map(list, CANS)])]
    assert len(known) == 8
    for case in known:
        x = torch.tensor(case["input"], dtype=torch.float64)
        x = x / (torch.linalg.matrix_norm(x) + case["eps"])
        tall = x.shape[0] > x.shape[1]
        schedule = [tuple(row) for row in case["coefficients"]]
        found = newton_schulz((x.mT if tall else x).unsqueeze(0), schedule)[0]
        expected = torch.tensor(case["standard_float64"], dtype=torch.float64)
        torch.testing.assert_close(found.mT if tall else found, expected, rtol=0, atol=1e-12, msg=case["name"])
