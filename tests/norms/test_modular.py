"""The modular norm of a network."""

import math

import pytest
import torch

from metrize.norms import Frobenius, Spectral, atom, bond, parallel, residual

EXACT = Spectral("rms", "exact")


def gauss(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rms(x):
    return x.square().mean(-1).sqrt()


def network():
    wide, narrow = atom(EXACT, mass=2.0), atom(EXACT)
    return narrow @ bond(0.5) @ wide @ residual(atom(EXACT), skip=0.5, share=0.5)


SHAPES = [(6, 6), (9, 6), (4, 9)]


def test_the_norm_by_its_definition():
    inner, outer = atom(EXACT, mass=2.0, sensitivity=3.0), atom(EXACT, mass=1.0, sensitivity=5.0)
    first, second = gauss(6, 4), gauss(3, 6)
    both = outer @ inner
    one, two = EXACT.norm(first[None])[0], EXACT.norm(second[None])[0]
    torch.testing.assert_close(both.norm([first, second]), torch.maximum(5 * 3 / 2 * one, 3 / 1 * two))
    assert (both.mass, both.sensitivity) == (3.0, 15.0)


def test_the_direction_fills_every_budget_and_reaches_the_dual_norm():
    whole = network()
    grads = [gauss(*shape, seed=i) for i, shape in enumerate(SHAPES)]
    directions, dual = whole.dual(grads)
    for norm, budget, direction in zip(whole.norms, whole.budgets, directions, strict=True):
        assert norm.norm(direction[None]).item() == pytest.approx(budget)
    assert whole.norm(directions).item() == pytest.approx(1)
    assert sum((g * d).sum() for g, d in zip(grads, directions, strict=True)).item() == pytest.approx(dual.item())
    for seed in range(200):
        others = [gauss(*shape, seed=1000 * i + seed) for i, shape in enumerate(SHAPES)]
        reached = sum((g * t).sum() for g, t in zip(grads, others, strict=True)) / whole.norm(others)
        assert reached <= dual


def test_the_output_moves_by_at_most_the_norm_of_the_update():
    whole = atom(EXACT) @ bond(1.0) @ atom(EXACT) @ bond(1.0) @ atom(EXACT)

    def forward(weights, x):
        for i, w in enumerate(weights):
            x = (x if i == 0 else x.tanh()) @ w.mT  # tanh has slope 1 at most
        return x

    weights = [EXACT.dual(gauss(1, 8, 8, seed=i))[0][0] for i in range(3)]
    update = [1e-4 * d for d in whole.dual([gauss(8, 8, seed=9 + i) for i in range(3)])[0]]
    x = gauss(50, 8)
    x = x / rms(x)[:, None]
    moved = forward([w + u for w, u in zip(weights, update, strict=True)], x) - forward(weights, x)
    assert rms(moved).max() <= whole.norm(update) * (1 + 1e-3)


def test_how_parts_combine():
    one, two = atom(EXACT, mass=1.0, sensitivity=2.0), atom(Frobenius(), mass=3.0, sensitivity=4.0)
    both = parallel(one, two)
    assert (both.mass, both.sensitivity, both.budgets) == (4.0, 6.0, (0.25, 0.75))
    assert one + two == both
    assert parallel(one, two, one) == parallel(one, parallel(two, one))
    assert one @ (two @ one) == (one @ two) @ one
    assert (-2.0 * one).budgets == (0.5,)
    assert (-2.0 * one).sensitivity == 4.0
    assert (one**3).budgets == pytest.approx((1 / 12, 1 / 6, 1 / 3))
    assert (one**3) == one @ one @ one
    assert one.tare(7).mass == 7
    assert one.tare(7).budgets == one.budgets


def test_a_part_without_mass_does_not_move():
    frozen = atom(EXACT, mass=0.0)
    whole = atom(EXACT) @ frozen
    directions, _ = whole.dual([gauss(4, 4), gauss(4, 4, seed=1)])
    assert not directions[0].any()
    assert whole.norm(directions).item() == pytest.approx(1)
    assert whole.norm([gauss(4, 4), gauss(4, 4)]) == math.inf
    nothing = frozen @ frozen
    assert not any(d.any() for d in nothing.dual([gauss(4, 4), gauss(4, 4)])[0])


@pytest.mark.parametrize(
    "build",
    [
        lambda: atom(EXACT, mass=-1.0),
        lambda: atom(EXACT, sensitivity=0.0),
        lambda: bond(math.inf),
        lambda: 0.0 * atom(EXACT),
        lambda: bond().tare(1.0),
        lambda: network().norm([gauss(6, 6)]),
        lambda: bond().dual([]),
    ],
)
def test_what_makes_no_network_is_refused(build):
    with pytest.raises(ValueError, match=r"mass|weights"):
        build()
