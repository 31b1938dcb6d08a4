"""Expected tables: what each parameter of a model does and how it is read."""

from __future__ import annotations

from typing import Any

from torch import nn

from metrize.norms import Layout
from metrize.roles import Role, infer

GAIN, BIAS, SCALAR, ELEMENTWISE = Role("gain"), Role("bias"), Role("scalar"), Role("elementwise")
HIDDEN, INPUT, HEAD, TIED = Role("hidden"), Role("input"), Role("head"), Role("tied")
ROUTER, EXPERT, RECURRENT = Role("router"), Role("expert"), Role("recurrent")
LORA_A, LORA_B = Role("lora-a"), Role("lora-b")
EMBEDDING = Role("embedding", Layout(transposed=True))
BACKWARDS = Role("hidden", Layout(transposed=True))


def split(*sizes: int, kind: str = "hidden", **layout: Any) -> Role:
    """A matrix whose outputs are cut into pieces."""
    return Role(kind, Layout(split=sizes, **layout))


def conv(kind: str = "conv", **layout: Any) -> Role:
    return Role(kind, Layout(unfold=True, **layout))


def roles(model: nn.Module, example: Any = None) -> dict[str, Role]:
    return infer(model, example).roles


def differences(model: nn.Module, example: Any, expected: dict[str, Role]) -> dict[str, tuple[Role | None, ...]]:
    """Where the inferred table is not the expected one: name -> (inferred, expected)."""
    found = roles(model, example)
    names = [*found, *(name for name in expected if name not in found)]
    return {n: (found.get(n), expected.get(n)) for n in names if found.get(n) != expected.get(n)}
