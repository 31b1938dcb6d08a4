"""Complex tensors: entry by entry as pairs of real numbers, as a whole, or refused by name; never as matrices."""

from __future__ import annotations

import cmath
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import metrize
from metrize import norms
from metrize.linalg.orthogonalize import orthogonalize
from metrize.part import Part

MATRIX_METHODS = {
    *("Muon", "COAPMuon", "FreeMuon", "Shampoo", "DistributedShampoo", "SOAP", "SOAP8bit"),
    *("GaLore", "COAP", "APOLLO", "Flora", "Adafactor", "CAME", "HFac"),
}
BARE = {n: c for n, c in metrize.catalogue().items() if n not in ("GrassmannSOAP", "StiefelSMMF", "ModularNorm")}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.complex64)


def steps(cls: Any, start: Tensor, grads: list[Tensor]) -> Tensor:
    p = nn.Parameter(start.clone())
    optimizer = cls([p])
    for grad in grads:
        p.grad = grad.clone()
        optimizer.step()
    return p.detach()


@pytest.mark.parametrize("shape", [(6, 4), (5,), ()], ids=str)
@pytest.mark.parametrize("name", BARE)
def test_the_catalogue_takes_pairs_or_refuses_by_name(name: str, shape: tuple[int, ...]) -> None:
    start, grads = normal(*shape), [normal(*shape, seed=seed) for seed in (1, 2, 3)]
    if name in MATRIX_METHODS:
        with pytest.raises(metrize.SpaceError, match=r"'w'.*real matrices.*complex64.*recipe='Recipe\(\)'"):
            BARE[name]([("w", nn.Parameter(start))])
        remedy = {"recipe": "Recipe()", "betas": (0.9, 0.999), "eps": 1e-8}
        BARE[name]([{"params": [nn.Parameter(start)], **remedy}])
        return
    moved = steps(BARE[name], start, grads)
    assert not torch.equal(moved, start)
    if name != "Scion":  # which reads real tensors by their shape
        pairs = steps(BARE[name], torch.view_as_real(start), [torch.view_as_real(g) for g in grads])
        assert torch.equal(torch.view_as_real(moved), pairs)


@pytest.mark.parametrize("name", ["Scion", "NormSGD"])
def test_a_direction_of_the_whole_tensor_turns_with_the_gradient(name: str) -> None:
    phase, zero, grad = cmath.exp(0.7j), torch.zeros(6, 4, dtype=torch.complex64), normal(6, 4)
    torch.testing.assert_close(steps(BARE[name], zero, [phase * grad]), phase * steps(BARE[name], zero, [grad]))


@pytest.mark.parametrize("cls", [metrize.Muon, metrize.Scion])
def test_a_model_with_complex_weights_trains_them_without_matrices(cls: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8, dtype=torch.complex64), nn.Linear(8, 8, dtype=torch.complex64))
    model(normal(2, 8)).abs().square().sum().backward()
    optimizer = cls(model)
    optimizer.step()
    assert all("Spectral" not in group["recipe"] for group in optimizer.param_groups)


NORMS = [cls for cls in Part.known.values() if issubclass(cls, norms.Norm) and cls is not norms.Norm]


@pytest.mark.parametrize("cls", NORMS, ids=lambda cls: cls.__name__)
def test_no_norm_takes_complex_numbers_for_real_ones(cls: Any) -> None:
    for of in (cls().dual, cls().direction, cls().dual_norm, cls().norm):
        with pytest.raises(TypeError, match=r"real tensors.*complex64"):
            of(normal(1, 6, 4))


@pytest.mark.parametrize("accuracy", ["fast", "tight", "exact", "muon"])
def test_orthogonalization_is_of_real_matrices(accuracy: Any) -> None:
    with pytest.raises(TypeError, match=r"real matrices.*complex64"):
        orthogonalize(normal(6, 4), accuracy)
