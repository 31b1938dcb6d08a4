"""The catalogue: each optimizer a short recipe with its paper's defaults."""

from __future__ import annotations

from metrize.named.adam import Adam, AdamW
from metrize.named.sgd import SGD
from metrize.optimizer import Optimizer

__all__ = ["SGD", "Adam", "AdamW", "catalogue"]


def catalogue() -> dict[str, type[Optimizer]]:
    """Every named optimizer, by name."""
    return {cls.__name__: cls for cls in (Adam, AdamW, SGD)}
