"""Reference trajectories: prescribed gradients, and the parameters after each step."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import metrize

GOLDEN = Path(__file__).parents[1] / "golden"


def cases(name: str) -> list[dict[str, Any]]:
    """The cases of one file."""
    return list(json.loads((GOLDEN / f"{name}.json").read_text())["cases"])


def run(
    case: dict[str, Any],
    build: Callable[[dict[str, nn.Parameter]], metrize.Optimizer],
    dtype: torch.dtype = torch.float64,
) -> Iterator[tuple[int, dict[str, Tensor], metrize.Optimizer]]:
    """Feed a case's gradients to an optimizer and yield the parameters after each step."""
    params = {
        name: nn.Parameter(torch.tensor(value, dtype=torch.float64).to(dtype))
        for name, value in case["params_init"].items()
    }
    optimizer = build(params)
    for t, grads in enumerate(case["grads"]):
        for name, p in params.items():
            p.grad = torch.tensor(grads[name], dtype=torch.float64).to(dtype)
        optimizer.step()
        yield t, {name: p.detach() for name, p in params.items()}, optimizer


def agrees(seen: dict[str, Tensor], expected: dict[str, Any], atol: float, rtol: float = 0.0) -> None:
    """Every parameter equals its reference."""
    for name, value in expected.items():
        if name in seen:
            wanted = torch.tensor(value, dtype=torch.float64)
            torch.testing.assert_close(
                seen[name].double(), wanted, atol=atol, rtol=rtol, msg=lambda m, n=name: f"{n}: {m}"
            )
