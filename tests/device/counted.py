"""What is counted of every optimizer, and the file that the counts are kept in: ``python tests/device/counted.py``."""

from __future__ import annotations

import functools
import inspect
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from pretended import Device
from subjects import gpt2, gradients, on_meta, small
from torch import nn

import metrize

KEPT = Path(__file__).with_name("counts.json")
TRUE = Path(__file__).with_name("true_shapes.json")
SHAPES = [name for name in metrize.catalogue() if name not in ("Shampoo", "DistributedShampoo")]
"""Whose steps on true shapes are counted; roots of every matrix in each step would take minutes."""
FEW = ("AdamW", "SGD", "Lion", "AdamNC", "Adam8bit", "SM3", "Muon", "GaLore")
STEPS = 3


def trained(optimizer: Any, device: Device | None = None, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The small model after three steps, on a device or on the host; the device has the counts of the last.

    Args:
        optimizer: makes the optimizer of a model.
        device: that is entered; None: the host.
        dtype: of the parameters.
    """
    model = small().to(dtype)
    if device is not None:
        device.put_model(model)
    made = optimizer(model)
    for given in gradients(model, STEPS):
        if device is not None:
            device.reset()
        for p, grad in zip(model.parameters(), given, strict=True):
            p.grad = grad.to(dtype) if device is None else device.put(grad.to(dtype))
        made.step()
    return model


def of_catalogue(name: str, **more: Any) -> Any:
    """What makes that optimizer, with a rank that fits the small model."""
    made = metrize.catalogue()[name]
    options = {"rank": 4} if "rank" in inspect.signature(made.__init__).parameters else {}
    return functools.partial(made, **options, **more)


def counts(optimizer: Any, dtype: torch.dtype = torch.float32) -> dict[str, int]:
    """Waits, launches and bytes of the third step of the small model."""
    with Device() as device:
        trained(optimizer, device, dtype)
        return {"waits": sum(device.waits.values()), "launches": device.launches, "bytes": device.bytes}


def kept() -> dict[str, dict[str, int]]:
    """The counts that were reviewed."""
    found: dict[str, dict[str, int]] = json.loads(KEPT.read_text())
    return found


def on_true_shapes(name: str) -> dict[str, int]:
    """Waits, launches and bytes of a step of GPT-2 small, without its numbers."""
    device = on_meta(gpt2, metrize.catalogue()[name])
    return {"waits": sum(device.waits.values()), "launches": device.launches, "bytes": device.bytes}


def true_shapes() -> dict[str, dict[str, int]]:
    """The counts on true shapes that were reviewed."""
    found: dict[str, dict[str, int]] = json.loads(TRUE.read_text())
    return found


def main() -> None:
    """Write the counts of the catalogue, one line each, so that a change is seen in review."""
    warnings.simplefilter("ignore")
    _write(KEPT, {name: counts(of_catalogue(name)) for name in metrize.catalogue()})
    _write(TRUE, {name: on_true_shapes(name) for name in SHAPES})


def _write(path: Path, found: dict[str, dict[str, int]]) -> None:
    lines = [f"  {json.dumps(name)}: {json.dumps(counts)}" for name, counts in found.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
