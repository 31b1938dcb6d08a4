"""What every optimizer would do on a CUDA device: nothing mixed, one wait a step, the numbers of the host."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from counted import counts, kept, of_catalogue, trained
from pretended import Device
from torch import nn

import metrize
from metrize import Compensated, Stochastic
from metrize.spaces.base import Space

WAITING = {"DistributedShampoo", "Shampoo"}
"""They find new roots in each step, and every decomposition hands its state to the host."""

SPACES: list[tuple[Space, tuple[int, ...]]] = [
    (metrize.Stiefel(), (8, 3)),
    (metrize.Stiefel(section="transported"), (8, 3)),
    (metrize.Grassmann(), (8, 3)),
    (metrize.Orthogonal(), (4, 4)),
    (metrize.Sphere(), (6, 4)),
    (metrize.Lorentz(), (5, 4)),
    (metrize.PoincareBall(), (5, 4)),
    (metrize.SymplecticStiefel(), (8, 4)),
]


def test_every_optimizer_is_counted() -> None:
    assert set(kept()) == set(metrize.catalogue())


@pytest.mark.parametrize("name", metrize.catalogue())
def test_counts_are_those_that_were_reviewed(name: str) -> None:
    """Where one changes on purpose, write the file again: ``python tests/device/counted.py``."""
    assert counts(of_catalogue(name)) == kept()[name]


@pytest.mark.parametrize("name", metrize.catalogue())
def test_a_step_waits_once_for_the_check_of_the_gradients(name: str) -> None:
    assert kept()[name]["waits"] == 1 or name in WAITING


@pytest.mark.parametrize("name", ["AdamW", "Lion", "SGD", "Adafactor", "HFac", "Prodigy", "Muon", "SOAP"])
def test_without_the_check_it_waits_for_nothing(name: str) -> None:
    assert counts(of_catalogue(name, skip_nonfinite=False))["waits"] == 0


def assert_as_on_the_host(optimizer: Any, dtype: torch.dtype = torch.float32, tolerance: float = 1e-5) -> None:
    with Device() as device:
        there = trained(optimizer, device, dtype)
    assert not device.mixed
    for name, p in trained(optimizer, None, dtype).named_parameters():
        held = there.get_parameter(name).held.detach()
        torch.testing.assert_close(held, p.detach(), rtol=tolerance, atol=tolerance)


FAMILIES = ["AdamW", "Lion", "Adam8bit", "Adafactor", "SMMF", "GaLore", "SOAP", "Prodigy"]
# products of Newton-Schulz are those of bfloat16 on a device
ORTHOGONALIZED = ["COAPMuon", "FreeMuon", "Muon", "Scion"]


@pytest.mark.parametrize(
    "name",
    [name if name in FAMILIES else pytest.param(name, marks=pytest.mark.slow) for name in metrize.catalogue()],
)
def test_the_numbers_are_those_of_the_host(name: str) -> None:
    assert_as_on_the_host(of_catalogue(name), tolerance=1e-2 if name in ORTHOGONALIZED else 1e-5)


@pytest.mark.parametrize("rounding", [None, Stochastic(), Compensated()], ids=str)
@pytest.mark.parametrize("name", ["AdamW", "Lion", "SGD", "Adafactor"])
def test_16_bits_too(name: str, rounding: Any) -> None:
    options = {} if rounding is None else {"rounding": rounding}
    assert_as_on_the_host(of_catalogue(name, **options), torch.bfloat16, tolerance=1e-2)


@pytest.mark.parametrize(("space", "shape"), SPACES, ids=lambda value: str(value))
def test_every_space(space: Space, shape: tuple[int, ...]) -> None:
    point = space.random_(torch.empty(shape), torch.Generator().manual_seed(0))
    grads = [torch.randn(shape, generator=torch.Generator().manual_seed(step)) for step in range(1, 4)]
    alone = nn.Parameter(point.clone())
    optimizer = metrize.Adam([alone], lr=0.01, space=space)
    with Device() as device:
        there = nn.Parameter(device.put(point))
        twin = metrize.Adam([there], lr=0.01, space=space)
        for grad in grads:
            device.reset()
            there.grad, alone.grad = device.put(grad), grad.clone()
            twin.step()
            optimizer.step()
        assert not device.mixed
        assert sum(device.waits.values()) <= 1
    torch.testing.assert_close(there.held.detach(), alone.detach(), rtol=1e-5, atol=1e-5)


# Faults that are planted are caught


class WithoutKernel(metrize.rules.Momentum):
    """Of which each subclass does one thing wrong; without a kernel, so that it is asked."""

    def kernel(self, *_: Any) -> None:
        return None


class ReadsANumber(WithoutKernel):
    def direction(self, coords: Any, *rest: Any) -> Any:
        return super().direction(coords * (1 + 0 * float(coords.sum())), *rest)


class PassesOnceMore(WithoutKernel):
    def direction(self, coords: Any, *rest: Any) -> Any:
        return super().direction(coords + 0 * coords, *rest)


class MixesDevices(WithoutKernel):
    def direction(self, coords: Any, *rest: Any) -> Any:
        ones = torch.ones(coords.shape[-1] if coords.ndim > 1 else 1)
        return super().direction(coords, *rest) * ones


def planted(rule: type[WithoutKernel]) -> Any:
    return functools.partial(metrize.Optimizer, recipe=metrize.Recipe(rule=rule()), lr=0.1)


def test_a_number_that_is_read_is_a_wait() -> None:
    assert counts(planted(ReadsANumber))["waits"] > counts(planted(WithoutKernel))["waits"]


def test_another_pass_is_more_launches_and_bytes() -> None:
    more, plain = counts(planted(PassesOnceMore)), counts(planted(WithoutKernel))
    assert more["launches"] > plain["launches"]
    assert more["bytes"] > plain["bytes"]


def test_a_tensor_of_the_host_is_named_with_its_line() -> None:
    with Device() as device:
        trained(planted(MixesDevices), device)
    assert device.mixed
