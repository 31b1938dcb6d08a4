"""The catalogue: each optimizer a short recipe with its paper's defaults."""

from __future__ import annotations

from metrize.named.adam import Adam, AdamW
from metrize.named.modular import ModularNorm
from metrize.named.muon import Muon
from metrize.named.norm_sgd import NormSGD
from metrize.named.prodigy import Prodigy
from metrize.named.scion import Scion
from metrize.named.sgd import SGD
from metrize.named.sign import Lion, SignSGD, Signum
from metrize.optimizer import Optimizer

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Lion",
    "ModularNorm",
    "Muon",
    "NormSGD",
    "Prodigy",
    "Scion",
    "SignSGD",
    "Signum",
    "catalogue",
]

_CATALOGUE: tuple[type[Optimizer], ...] = (
    Adam,
    AdamW,
    SGD,
    SignSGD,
    Signum,
    Lion,
    NormSGD,
    Muon,
    Scion,
    Prodigy,
)


def catalogue() -> dict[str, type[Optimizer]]:
    """Every named optimizer that needs nothing but parameters, by name."""
    return {cls.__name__: cls for cls in _CATALOGUE}
