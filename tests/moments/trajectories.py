"""Reference trajectories of one tensor: prescribed gradients, the tensor after each step, the state at the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import metrize

GOLDEN = Path(__file__).parents[1] / "golden"
Case = dict[str, Any]


def load(name: str) -> list[Case]:
    """The cases of one file."""
    return list(json.loads((GOLDEN / f"{name}.json").read_text())["cases"])


def tensor(case: Case, value: Any) -> Tensor:
    """A value of a case, in its shape and dtype."""
    return torch.tensor(value, dtype=dtype(case)).reshape(case["shape"])


def dtype(case: Case) -> torch.dtype:
    return torch.float64 if case["dtype"] == "float64" else torch.float32


def tolerance(case: Case) -> float:
    return 1e-12 if case["dtype"] == "float64" else 1e-6


def follow(
    case: Case, build: Callable[[list[tuple[str, nn.Parameter]], dict[str, Any]], metrize.Optimizer]
) -> dict[str, Tensor]:
    """Take the prescribed steps, hold every one of them to the reference, and give the state after the last."""
    p = nn.Parameter(tensor(case, case["param_init"]))
    name = case["hyperparameters"].get("parameter_name", "weight")
    optimizer = build([(name, p)], case["hyperparameters"])
    for step, (grad, wanted) in enumerate(zip(case["grads"], case["params_after_step"], strict=True)):
        p.grad = tensor(case, grad)
        optimizer.step()
        close(p.detach(), tensor(case, wanted), tolerance(case), f"step {step}")
    return optimizer.state[p]


def close(seen: Tensor, wanted: Tensor, tolerance: float, what: str = "") -> None:
    """Equal up to a share of the largest entry."""
    scale = max(float(wanted.abs().max()), 1e-30)
    error = float((seen.reshape(wanted.shape).double() - wanted.double()).abs().max())
    assert error <= tolerance * scale, f"{what}: off by {error / scale:.1e} of {scale:.1e}"
