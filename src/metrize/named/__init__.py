"""The catalogue: each optimizer a short recipe with its paper's defaults."""

from __future__ import annotations

from metrize.named.adam import Adam, AdamW
from metrize.named.norm_sgd import NormSGD
from metrize.named.prodigy import Prodigy
from metrize.named.sgd import SGD
from metrize.named.sign import Lion, SignSGD, Signum
from metrize.optimizer import Optimizer

__all__ = ["SGD", "Adam", "AdamW", "Lion", "NormSGD", "Prodigy", "SignSGD", "Signum", "catalogue"]

_CATALOGUE: tuple[type[Optimizer], ...] = (
    Adam,
    AdamW,
    SGD,
    SignSGD,
    Signum,
    Lion,
    NormSGD,
    Prodigy,
)


def catalogue() -> dict[str, type[Optimizer]]:
    """Every named optimizer that needs nothing but parameters, by name."""
    return {cls.__name__: cls for cls in _CATALOGUE}
