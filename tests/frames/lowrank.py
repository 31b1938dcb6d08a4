"""Reference trajectories of low-rank methods: how they are read, followed, and given their bases."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import metrize
from metrize.frames.subspace import Subspace

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"

Case = dict[str, Any]


def content(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def cases(name: str) -> list[Case]:
    """The trajectories of a file, without those that record an error."""
    return [c for c in content(name)["cases"] if "error" not in c]


def case_of(name: str, which: str) -> Case:
    (found,) = (c for c in cases(name) if c["name"] == which)
    return found


def follow(case: Case, build: Callable[[nn.Parameter], metrize.Optimizer]) -> Iterator[tuple[int, Tensor, dict, Case]]:
    """Take the steps of a trajectory: (step, parameter, its state, the reference's state)."""
    shape, dtype = case["shape"], getattr(torch, case["dtype"])
    parameter = nn.Parameter(torch.tensor(case["param_init"], dtype=dtype).view(shape))
    optimizer = build(parameter)
    for t, gradient in enumerate(case["grads"]):
        parameter.grad = torch.tensor(gradient, dtype=dtype).view(shape)
        optimizer.step()
        yield t, parameter.detach(), optimizer.state[parameter], case.get("state_after_step", {t: {}})[t]


def agrees(case: Case, t: int, parameter: Tensor) -> None:
    """The parameter after a step is that of the trajectory: to 1e-6 in float32 and 1e-12 in float64."""
    expected = torch.tensor(case["params_after_step"][t], dtype=parameter.dtype).view(parameter.shape)
    tolerance = 1e-6 if parameter.dtype == torch.float32 else 1e-12
    torch.testing.assert_close(parameter, expected, rtol=tolerance, atol=tolerance)


def bases(case: Case, t: int, ranks: dict[int, int]) -> dict[int, Tensor]:
    """The reference's bases after a step, ``[d, r]`` for each projected dimension."""
    kept = {key: value for key, value in case["state_after_step"][t].items() if "ortho_matrix" in key}
    found = {}
    for (dim, rank), (_, value) in zip(sorted(ranks.items()), sorted(kept.items()), strict=True):
        basis = torch.tensor(value, dtype=getattr(torch, case["dtype"]))
        found[dim] = basis if basis.shape == (case["shape"][dim], rank) else basis.mT
    return found


def give(monkeypatch: Any, case: Case) -> None:
    """Let every frame take the bases of the trajectory instead of making its own, whose signs are arbitrary."""

    def find(self: Subspace, grad: Tensor, state: dict[str, Tensor]) -> dict[int, Tensor]:
        return bases(case, int(state["step"]) - 1, self.ranks(grad.shape))

    for frame in Subspace.__subclasses__():
        monkeypatch.setattr(frame, "find", find)


def same_up_to_signs(basis: Tensor, expected: Tensor, tolerance: float) -> None:
    """Columns agree up to their signs."""
    signs = torch.where((basis * expected).sum(0) < 0, -1.0, 1.0)
    torch.testing.assert_close(basis * signs, expected, rtol=0, atol=tolerance)


def low_rank(shape: tuple[int, int], rank: int, seed: int, noise: float = 0.1) -> Tensor:
    """A matrix of some rank, plus noise."""
    g = torch.Generator().manual_seed(seed)
    m, n = shape
    signal = torch.randn(m, rank, generator=g) @ torch.randn(rank, n, generator=g)
    return signal / math.sqrt(rank) + noise * torch.randn(m, n, generator=g)
