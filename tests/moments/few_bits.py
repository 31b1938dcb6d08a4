"""Numbers and reference files for the tests of averages of few bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metrize import Quantized
from metrize.moments import Slot
from metrize.moments.quantized_codes import CodeBook

GOLDEN = Path(__file__).parents[1] / "golden"


def content(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers of very different sizes."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=dtype) * 10 ** (-3 * torch.rand(shape, generator=g, dtype=dtype))


def slot(shape: tuple[int, ...], kind: str = "linear", dtype: torch.dtype = torch.float32) -> Slot:
    return Slot("a", kind, torch.Size(shape), dtype, lambda stack: stack)


def empty(storage: Quantized, of: Slot, batch: int = 1) -> dict[str, Tensor]:
    """State of a stack before the first step."""
    spec = storage.state_spec("a", of.shape, of.dtype, of.kind)
    return {key: torch.zeros(batch, *shape, dtype=dtype) for key, (shape, dtype) in spec.items()}


def on_the_grid_of_the_reference(monkeypatch: Any) -> None:
    """The reference looks numbers up on 2^16 points from -1 to 1, so that its codes are not always the nearest."""
    nearest = CodeBook.nearest

    def rounded(self: CodeBook, ratio: Tensor) -> Tensor:
        return nearest(self, ((ratio + 1) * 32767.5).round() / 32767.5 - 1)

    monkeypatch.setattr(CodeBook, "nearest", rounded)
