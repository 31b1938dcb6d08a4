"""Every method and storage whose promises these tests hold."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import metrize
from metrize import Blocks, Cover, Dense, Factored, RankOne, Recipe, Split, rules
from metrize.rules import ScheduledAdam, Whitened

Build = Callable[[Any], metrize.Optimizer]


def adam(moments: metrize.moments.Moments, **numbers: Any) -> Build:
    return lambda params: metrize.Adam(params, moments=moments, **numbers)


def whole(recipe: Recipe, **numbers: Any) -> Build:
    return lambda params: metrize.Optimizer(params, recipe, **numbers)


METHODS: dict[str, Build] = {
    "SMMF": metrize.SMMF,
    "SMMF without momentum": lambda p: metrize.SMMF(p, momentum=0.0),
    "SMMF with l2": lambda p: metrize.SMMF(p, weight_decay=0.1, decay="l2", decay_rate=-0.8),
    "SMMF with dense vectors": lambda p: metrize.SMMF(p, vectors="dense"),
    "Adafactor": metrize.Adafactor,
    "Adafactor of torch": lambda p: metrize.Adafactor(p, dialect="torch", weight_decay=0.1),
    "Adafactor of optax": lambda p: metrize.Adafactor(p, dialect="optax", min_size=2, weight_decay=0.1),
    "Adafactor with momentum": lambda p: metrize.Adafactor(p, 1e-2, momentum=0.9, weight_decay=0.1, dims="largest"),
    "Adafactor, not clipped": lambda p: metrize.Adafactor(p, 1e-2, clip=None),
    "CAME": metrize.CAME,
    "CAME, last dimensions": lambda p: metrize.CAME(p, dims="last", weight_decay=0.1),
    "CAME with compressed momentum": lambda p: metrize.CAME(p, first_moment=Dense("bfloat16")),
    "CAME with dense squares": whole(Recipe(rule=rules.CAME())),
    "SM3": metrize.SM3,
    "SM3-I": lambda p: metrize.SM3(p, momentum=0.0, variant="I"),
    "SM3, clipped": whole(Recipe(moments=Cover(), rule=Whitened("sum")), clip=1.0),
    "Adam-mini": metrize.AdamMini,
    "H-Fac": metrize.HFac,
    "H-Fac with signs": lambda p: metrize.HFac(p, sign=True, weight_decay=0.1),
    "Adam, factored": adam(Factored()),
    "Adam, cover": adam(Cover(), weight_decay=0.1),
    "Adam, rank 1": adam(RankOne()),
    "Adam, rank 1 and cover": adam(Split(RankOne(), Cover())),
    "Adam, one number for a tensor": adam(Blocks()),
    "Adam, one number for a column": adam(Blocks("columns")),
    "Adam in bfloat16": adam(Dense("bfloat16")),
    "scheduled Adam, dense": whole(Recipe(rule=ScheduledAdam(), decay="cautious"), weight_decay=0.1),
    "SGD in bfloat16": lambda p: metrize.SGD(p, 0.1, 0.9, 0.5, moments=Dense("bfloat16")),
    "SGD, rank 1": lambda p: metrize.SGD(p, 0.1, 0.9, moments=RankOne()),
}
"""By name; each takes parameters."""


def finite(*tensors: Tensor) -> bool:
    return all(bool(t.isfinite().all()) for t in tensors)


def grads(shape: tuple[int, ...], kind: str, step: int) -> Tensor:
    """Gradients a storage might stumble over."""
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(step))
    if kind == "zero" or (kind == "zero first" and step < 2):
        return torch.zeros(shape)
    if kind == "zero rows" and grad.ndim > 1 and grad.numel():
        grad[..., 0] = 0
        grad[0] = 0
    if kind == "one entry":
        flat = torch.zeros(math.prod(shape))
        flat[-1:] = 1.0
        return flat.reshape(shape)
    return grad * {"tiny": 1e-18, "huge": 1e15}.get(kind, 1.0)


KINDS = ["plain", "zero", "zero first", "zero rows", "one entry", "tiny", "huge"]
