"""Learning rates under other conventions of step length."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from metrize import convert_lr
from metrize.norms import Spectral
from metrize.roles.units import UNITS


@pytest.mark.parametrize(("from_", "to"), [*itertools.permutations(UNITS, 2)])
@pytest.mark.parametrize("shape", [(8, 8), (12, 3), (3, 12)])
def test_the_step_is_the_same(from_, to, shape):
    grad = torch.randn(1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = 0.02 * Spectral(from_, "exact").dual(grad)[0]
    after = convert_lr(0.02, shape, from_, to) * Spectral(to, "exact").dual(grad)[0]
    torch.testing.assert_close(after, before, rtol=1e-12, atol=0)


def test_figures():
    assert convert_lr(0.02, (768, 3072)) == pytest.approx(
        0.02 * 2
    )  # Muon's factor is 1 here, and sqrt(1 / 4) the other
    assert convert_lr(0.02, (3072, 768)) == pytest.approx(0.02)
    assert convert_lr(1e-3, (768, 768), "adam") == pytest.approx(1e-3 * 0.2 * math.sqrt(768))
    assert convert_lr(1e-3, (768, 768), "rms", "rms") == 1e-3


def test_what_is_refused():
    with pytest.raises(ValueError, match="scale 'adamw': one of 'rms', 'muon', 'adam', 'unit'"):
        convert_lr(0.1, (3, 3), "adamw")
    for shape in ((3,), (3, 3, 3), (0, 3)):
        with pytest.raises(ValueError, match="shape"):
            convert_lr(0.1, shape)
