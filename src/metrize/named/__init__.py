"""The catalogue: each optimizer a short recipe with its paper's defaults."""

from __future__ import annotations

from metrize.named.adafactor import Adafactor
from metrize.named.adagrad import AdaGrad
from metrize.named.adalayer import Adalayer
from metrize.named.adam import Adam, AdamW
from metrize.named.adam_lowbit import Adam4bit, Adam8bit
from metrize.named.adam_mini import AdamMini
from metrize.named.amsgrad import AdamNC, AMSGrad
from metrize.named.apollo import APOLLO
from metrize.named.came import CAME
from metrize.named.coap import COAP
from metrize.named.compositions import COAPMuon, FreeMuon, GrassmannSOAP, SOAP8bit, StiefelSMMF
from metrize.named.fadam import FAdam
from metrize.named.flora import Flora
from metrize.named.galore import GaLore
from metrize.named.grams import Grams
from metrize.named.hfac import HFac
from metrize.named.mars import MARS
from metrize.named.modular import ModularNorm
from metrize.named.muon import Muon
from metrize.named.nadam import NAdam
from metrize.named.norm_sgd import NormSGD
from metrize.named.prodigy import Prodigy
from metrize.named.scion import Scion
from metrize.named.sgd import SGD
from metrize.named.shampoo import DistributedShampoo, Shampoo
from metrize.named.sign import Lion, SignSGD, Signum
from metrize.named.sm3 import SM3
from metrize.named.smmf import SMMF
from metrize.named.soap import SOAP
from metrize.optim.optimizer import Optimizer

__all__ = [
    "APOLLO",
    "CAME",
    "COAP",
    "MARS",
    "SGD",
    "SM3",
    "SMMF",
    "SOAP",
    "AMSGrad",
    "AdaGrad",
    "Adafactor",
    "Adalayer",
    "Adam",
    "Adam4bit",
    "Adam8bit",
    "AdamMini",
    "AdamNC",
    "AdamW",
    "COAPMuon",
    "DistributedShampoo",
    "FAdam",
    "Flora",
    "FreeMuon",
    "GaLore",
    "Grams",
    "GrassmannSOAP",
    "HFac",
    "Lion",
    "ModularNorm",
    "Muon",
    "NAdam",
    "NormSGD",
    "Prodigy",
    "SOAP8bit",
    "Scion",
    "Shampoo",
    "SignSGD",
    "Signum",
    "StiefelSMMF",
    "catalogue",
]

_CATALOGUE: tuple[type[Optimizer], ...] = (
    Adam,
    AdamW,
    Adam8bit,
    Adam4bit,
    SGD,
    SignSGD,
    Signum,
    Lion,
    NormSGD,
    Muon,
    Scion,
    Prodigy,
    Adafactor,
    CAME,
    SM3,
    SMMF,
    HFac,
    AdamMini,
    Adalayer,
    AMSGrad,
    AdaGrad,
    AdamNC,
    NAdam,
    FAdam,
    GaLore,
    COAP,
    Flora,
    APOLLO,
    SOAP,
    Shampoo,
    DistributedShampoo,
    SOAP8bit,
    COAPMuon,
    FreeMuon,
    Grams,
    MARS,
)


def catalogue() -> dict[str, type[Optimizer]]:
    """Every named optimizer that needs nothing but parameters, by name."""
    return {cls.__name__: cls for cls in _CATALOGUE}
