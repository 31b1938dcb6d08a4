"""Every optimizer goes downhill on convex quadratics, whatever their shape and condition."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import metrize

SHAPES = ((10, 6), (20, 24))
CONDITIONS = (1.0, 1e3)
STEPS = 16


def losses(name: str, shape: tuple[int, int], condition: float) -> list[float]:
    """Of ``sum (W x + b)^2`` in float32, at the optimizer's own learning rate."""
    draw = torch.Generator().manual_seed(0)
    layer = nn.Linear(shape[1], shape[0])
    for p in layer.parameters():
        p.data.copy_(torch.randn(p.shape, generator=draw))
    scales = torch.logspace(0, -0.5, shape[1], base=condition).unsqueeze(1)
    inputs = torch.randn(shape[1], 4 * shape[1], generator=draw) * scales
    optimizer, seen = metrize.catalogue()[name](layer), []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = layer(inputs.mT).square().sum()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    return seen


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", metrize.catalogue())
def test_loss_falls_and_never_climbs_far(name: str) -> None:
    for shape, condition in itertools.product(SHAPES, CONDITIONS):
        seen = losses(name, shape, condition)
        assert seen[-1] < seen[0], (shape, condition)
        assert max(seen) < 1.05 * seen[0], (shape, condition)
