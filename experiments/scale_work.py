"""What a step of one tensor takes on an assumed GPU: flops and bytes by count, times what was measured on a CPU."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import statistics
from pathlib import Path
from typing import Any

import torch

from metrize.lab.models.gpt import GPT

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
NEWTON_SCHULZ = 5  # steps
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Device:
    """What is assumed of a GPU of the H100 class and its network.

    Args:
        products_16: flop/s of dense bfloat16 products, data sheet.
        products_32: flop/s of float32 without tensor cores, data sheet; torch's default for float32 products.
        memory: byte/s of its memory, data sheet.
        near: byte/s to GPUs of the same machine (NVLink 4, one direction), data sheet.
        far: byte/s to other machines (one 400 Gb/s port a GPU), data sheet.
        machine: GPUs of one machine, data sheet.
        holds: bytes of its memory, data sheet.
        message: seconds for each message of a collective; our assumption.
        used: part of `products_16` that training reaches; our assumption.
        batch: tokens of a step of training; our assumption.
    """

    products_16: float = 989e12
    products_32: float = 67e12
    memory: float = 3.35e12
    near: float = 450e9
    far: float = 50e9
    machine: int = 8
    holds: float = 80e9
    message: float = 2e-6
    used: float = 0.4
    batch: float = 4e6


TF32 = 495e12  # flop/s, data sheet
DEVICE = Device()


@dataclasses.dataclass(frozen=True)
class Work:
    """Of one tensor in one step.

    Args:
        flops: by count.
        seconds: on the assumed device.
        refresh: seconds of making its bases anew, in a step where that is due.
    """

    flops: float
    seconds: float
    refresh: float = 0.0


def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((BENCHMARKS / f"{name}.json").read_text())
    return found


@functools.cache
def measured() -> dict[str, float]:
    """Time of our steps over that of their bytes or flops, at the rate of the same CPU."""
    middle = statistics.median
    fused = _read("elementwise_step")
    copies = middle(fused["copy of the bytes of Prodigy"]) * 28 / 52  # AdamW reads 16 bytes a number and writes 12
    adamw = _read("stiefel_step")["adamw"]
    checked = middle(adamw["metrize AdamW"]) / middle(adamw["torch AdamW(fused=True)"])
    squares = _read("memory_step")["8 matrices 1024 x 1024"][0]
    muon = _read("muon_step")
    low = _read("lowrank_step")
    coap = {key: middle(value) for key, value in low["step (2048, 2048, 512)"].items()}
    nudge = middle(low["refresh (2048, 2048, 512)"]["gradient step on the correlation (COAP)"])
    points = _read("stiefel_step")["matrices"]
    plain = middle(fused["torch AdamW(fused=True)"]) / copies
    return {
        "AdamW over a copy of its bytes": plain * checked,
        "SMMF over a copy of AdamW's bytes": plain
        * middle(squares["SMMF, metrize"])
        / middle(squares["AdamW, torch fused"]),
        "Muon over its flops": middle(muon["ms"]["metrize Muon"]) * muon["flops per ms"] / muon["flops"],
        **_soap(points),
        "COAP over two products": coap["COAP"] / coap["two bare products with the basis"],
        "COAP's refresh over two products": nudge / coap["two bare products with the basis"],
        "Stiefel Adam over one product, tall": points["(1024, 512)"]["time over one product"],
        "Stiefel Adam over one product, square": points["(1024, 1024)"]["time over one product"],
    }


def _soap(points: dict[str, Any]) -> dict[str, float]:
    """Steps with and without a refresh apart, over their flops at the rate of a product on the same two cores."""
    times = sorted(_read("soap_step")["ms"]["metrize, faithful"])
    rate = 2 * 1024**3 / points["(1024, 1024)"]["product ms"]
    generator = torch.Generator().manual_seed(0)
    model = GPT(width=384, layers=6, heads=6, context=256, generator=generator)
    shapes = [tuple(p.shape) for p in model.parameters()]
    step = statistics.median(times[: len(times) * 9 // 10])
    refresh = statistics.median(times[len(times) * 9 // 10 :]) - step
    return {
        "SOAP over its flops": step * rate / sum(soap_flops(shape)[0] for shape in shapes),
        "SOAP's refresh over its flops": refresh * rate / sum(soap_flops(shape)[1] for shape in shapes),
    }


def elementwise(shape: Shape, device: Device, over: str = "AdamW over a copy of its bytes", flops: int = 13) -> Work:
    """AdamW: 28 bytes a number; flops a number are counted by hand."""
    numbers = math.prod(shape)
    return Work(flops * numbers, measured()[over] * 28 * numbers / device.memory)


def smmf(shape: Shape, device: Device) -> Work:
    return elementwise(shape, device, "SMMF over a copy of AdamW's bytes", 25)


def muon(shape: Shape, device: Device) -> Work:
    """``4 q r^2 + 2 r^3`` a step of Newton-Schulz for r rows and q >= r columns, and the momentum's bytes."""
    r, q = sorted(shape)
    flops = NEWTON_SCHULZ * (4.0 * q * r * r + 2.0 * r**3)
    seconds = measured()["Muon over its flops"] * flops / device.products_16
    return Work(flops, seconds + elementwise(shape, device).seconds)


def soap_flops(shape: Shape, longest: int = 10000, one_sided: bool = False) -> tuple[float, float]:
    """Of a step and of a refresh.

    Each side with a basis is entered, left and learned from in a product of 2 m n d flops; a refresh has a product and
    a QR decomposition with its Q formed, ``2 d^3 + 8/3 d^3``, and turns an average into the new basis, ``4 m n d``.
    """
    if len(shape) < 2:
        return 0.0, 0.0
    sides = [min(shape)] if one_sided else list(shape)
    based, numbers = [float(d) for d in sides if 1 < d <= longest], math.prod(shape)
    return 6 * numbers * sum(based), sum(14 / 3 * d**3 + 4 * numbers * d for d in based)


def soap(shape: Shape, device: Device, longest: int = 10000, one_sided: bool = False, slower: float = 1) -> Work:
    step, refresh = soap_flops(shape, longest, one_sided)
    seconds = measured()["SOAP over its flops"] * step / device.products_32 + elementwise(shape, device).seconds
    again = slower * measured()["SOAP's refresh over its flops"] * refresh / device.products_32
    return Work(step + refresh / 10, seconds, again)


def coap(shape: Shape, device: Device) -> Work:
    """Two products with a basis of half the shorter side; a nudge of the basis every 32 steps."""
    if len(shape) < 2:
        return elementwise(shape, device)
    products = 4.0 * math.prod(shape) * (min(shape) // 2)
    seconds, over = products / device.products_32, measured()
    refresh = over["COAP's refresh over two products"]
    return Work(products * (1 + refresh / 32), over["COAP over two products"] * seconds, refresh * seconds)


def stiefel(shape: Shape, device: Device) -> Work:
    """In units of 2 N n^2, the flops of one product ``Y S``; 8.0 are counted, 3.4 where the matrix is square."""
    n, rows = sorted(shape)
    unit, form = 2.0 * rows * n * n, "square" if rows == n else "tall"
    seconds = measured()[f"Stiefel Adam over one product, {form}"] * unit / device.products_32
    return Work((3.4 if rows == n else 8.0) * unit, seconds)
