"""What the frameworks train: tiny random models, and the optimizers that each must train, save and resume."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import metrize

METHODS: dict[str, Callable[[nn.Module], metrize.Optimizer]] = {
    "AdamW": lambda model: metrize.AdamW(model, lr=1e-2),
    "Stiefel": lambda model: metrize.Adam(model, lr=1e-2),
    "Muon": lambda model: metrize.Muon(model, lr=1e-2),
    "SOAP": lambda model: metrize.SOAP(model, lr=1e-2, precondition_frequency=2),
    "SMMF": lambda model: metrize.SMMF(model, lr=1e-2),
    "Adam8bit": lambda model: metrize.Adam8bit(model, lr=1e-2, smallest=0, block=16),
}
"""An optimizer for a whole model; ``Stiefel`` is Adam on a model that has a weight there."""


def each(*quick: str) -> pytest.MarkDecorator:
    """Run a test with every optimizer; all but these are slow tests."""
    listed = [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
    return pytest.mark.parametrize("method", listed)


def imported(name: str) -> Any:
    """A framework, if it is there; what it warns about at import is its own matter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)


def network(method: str) -> nn.Module:
    """A small classifier, with its square weight on a manifold if the method asks for one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    if method == "Stiefel":
        metrize.constrain(model[2], "weight", metrize.Stiefel())
    return model


def examples(count: int = 32) -> list[tuple[Tensor, Tensor]]:
    """Inputs and classes, always the same."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 6, generator=generator)
    return list(zip(x, x[:, :3].argmax(-1), strict=True))


def state_of(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return optimizer.state_dict()["state"]


def assert_same(got: Any, expected: Any, what: str = "") -> None:
    """Equal structure and bits."""
    if isinstance(expected, dict):
        assert got.keys() == expected.keys(), what
        for key in expected:
            assert_same(got[key], expected[key], f"{what}.{key}")
    elif isinstance(expected, Tensor):
        assert got.dtype == expected.dtype, what
        assert torch.equal(got, expected), f"{what} differs by {(got - expected).abs().max()}"
    else:
        assert got == expected, what


def assert_on_its_space(model: nn.Module, method: str) -> None:
    errors = metrize.error_on_space(model)
    assert len(errors) == (method == "Stiefel")
    assert all(float(error) < 1e-5 for error in errors.values())
