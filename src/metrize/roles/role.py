"""What a parameter does in its model."""

from __future__ import annotations

import dataclasses

from metrize.norms import Layout
from metrize.part import Part

KINDS: dict[str, str] = {
    "hidden": "a matrix between two layers of activations",
    "input": "a matrix or convolution that meets real-valued input",
    "head": "a matrix whose output reaches the model's output through no later matrix",
    "embedding": "a table whose rows are looked up or placed among the activations",
    "tied": "a table that is looked up and multiplied by",
    "conv": "a convolution kernel",
    "recurrent": "a matrix of a recurrent layer, its gates stacked",
    "expert": "a bank of matrices, one for each expert",
    "lora-a": "the factor of a low-rank adapter that meets its input",
    "lora-b": "the factor of a low-rank adapter that makes its output",
    "bilinear": "a bilinear form",
    "router": "a matrix that chooses among experts",
    "gain": "factors of single activations",
    "bias": "numbers added to activations",
    "scalar": "one number",
    "elementwise": "anything else: no linear map",
}
"""Every role and what it means."""

UNKNOWN = "unknown"
"""How the reason of a role begins that stands in for one that could not be found out."""

VECTORS = frozenset({"gain", "bias", "scalar"})
"""Roles that never hold a linear map or a table."""


@dataclasses.dataclass(frozen=True)
class Role(Part):
    """What a parameter does in its model, and how its tensor is read.

    Args:
        kind: one of `KINDS`.
        layout: which matrices the tensor holds; for roles that hold none it means nothing.
        reason: how it is known. Two roles that differ in this alone are equal.

    Raises:
        ValueError: an unknown kind.
    """

    kind: str
    layout: Layout = dataclasses.field(default_factory=Layout)
    reason: str = dataclasses.field(default="", compare=False)

    @property
    def settled(self) -> bool:
        """Whether anything was found out about the parameter."""
        return not self.reason.startswith(UNKNOWN)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"Role(kind={self.kind!r}): kind is one of {', '.join(map(repr, KINDS))}")


def solid(shape: tuple[int, ...]) -> list[int]:
    """The dimensions of more than one entry: a class token ``(1, 1, d)`` is a vector."""
    return [dim for dim, size in enumerate(shape) if size > 1]
