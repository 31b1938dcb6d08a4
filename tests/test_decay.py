"""Every convention of weight decay does what its formula says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import metrize
from metrize import Recipe, rules
from metrize.norms import Spectral

START = torch.tensor([2.0, -1.0, 0.5, 3.0], dtype=torch.float64)
GRAD = torch.tensor([1.0, 1.0, -1.0, 0.0], dtype=torch.float64)


def _after(decay, lr=0.1, weight_decay=0.5, **group):
    p = nn.Parameter(START.clone())
    recipe = Recipe(rule=rules.Steepest(), decay=decay)
    optimizer = metrize.Optimizer([{"params": [p], **group}], recipe, lr=lr, weight_decay=weight_decay, momentum=0.0)
    p.grad = GRAD.clone()
    optimizer.step()
    return p.detach()


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("decoupled", START * 0.95 - 0.1 * GRAD.sign()),
        ("after", (START - 0.1 * GRAD.sign()) * 0.95),
        ("l2", START - 0.1 * (GRAD + 0.5 * START).sign()),
        ("independent", START * 0.5 - 0.1 * GRAD.sign()),
        # only the first entry is both positive and pushed down; the others move away from zero, or not at all
        ("cautious", START * torch.tensor([0.95, 1, 1, 1], dtype=torch.float64) - 0.1 * GRAD.sign()),
        ("constrained", START * 0.9 - 0.1 * GRAD.sign()),
    ],
)
def test_the_formula(decay, expected):
    torch.testing.assert_close(_after(decay), expected, rtol=1e-14, atol=0)


def test_independent_decay_follows_the_schedule_and_not_the_learning_rate():
    torch.testing.assert_close(_after("independent", initial_lr=0.2), START * 0.75 - 0.1 * GRAD.sign())


def test_a_constrained_weight_stays_in_its_ball():
    p = nn.Parameter(torch.linalg.qr(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))[0] * 1.9)
    recipe = Recipe(rule=rules.Steepest(Spectral("unit", "exact")), decay="constrained")
    optimizer = metrize.Optimizer([p], recipe, lr=0.2, momentum=0.5, radius=2.0)
    for seed in range(50):
        p.grad = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed)) + 3
        optimizer.step()
        assert torch.linalg.matrix_norm(p.detach(), 2) <= 2 * (1 + 1e-5)
    assert torch.linalg.matrix_norm(p.detach(), 2) > 1.9


def test_cautious_decay_needs_a_vector_space_or_a_compact_one():
    space = metrize.Product(first=metrize.Sphere(), size=1, rest=metrize.Vector())
    with pytest.raises(metrize.SpaceError, match="decay='decoupled'"):
        metrize.Optimizer([nn.Parameter(torch.eye(2, 3))], Recipe(space=space, decay="cautious"))
