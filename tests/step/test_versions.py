"""Every weight that a step changes tells autograd, whatever kernel changed it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import metrize

SHAPES = {"small": (12, 8), "large": (640, 300)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("name", metrize.catalogue())
def test_a_stale_graph_is_refused(name: str, size: str, dtype: torch.dtype) -> None:
    weights = [nn.Parameter(torch.ones(SHAPES[size], dtype=dtype)) for _ in range(2)]
    optimizer = metrize.catalogue()[name](weights)
    loss = sum((w * w).sum() for w in weights)
    loss.backward(retain_graph=True)
    before = [w._version for w in weights]
    optimizer.step()
    assert all(w._version > was for w, was in zip(weights, before, strict=True))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_weight_without_gradient_keeps_its_version() -> None:
    for name, cls in metrize.catalogue().items():
        used, spared = (nn.Parameter(torch.ones(12, 8)) for _ in range(2))
        optimizer = cls([used, spared])
        used.grad = torch.ones(12, 8)
        optimizer.step()
        before = spared._version
        optimizer.step()
        assert spared._version == before, name


@pytest.mark.skipif(not hasattr(torch.Tensor, "grad_dtype"), reason="this torch wants gradients in the weight's dtype")
def test_float32_gradients_of_16_bit_weights_are_not_rounded_first() -> None:
    for name, cls in metrize.catalogue().items():
        averages = []
        for dtype in (torch.bfloat16, torch.float32):
            p = nn.Parameter(torch.zeros(12, 8, dtype=dtype))
            p.grad_dtype = torch.float32
            optimizer = cls([p])
            p.grad = torch.full((12, 8), 1.001) + torch.arange(8) * 1e-3
            optimizer.step()
            averages.append({k: v for k, v in optimizer.state[p].items() if v.is_floating_point() and "rest" not in k})
        for key in averages[0].keys() & averages[1].keys():
            assert torch.allclose(averages[0][key], averages[1][key], rtol=1e-5, atol=1e-9), (name, key)
