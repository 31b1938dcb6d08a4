"""How averages and a norm make a direction."""

from metrize.rules.adabelief import AdaBelief
from metrize.rules.adagrad import AdaGrad
from metrize.rules.adam import Adam
from metrize.rules.ademamix import AdEMAMix
from metrize.rules.around import Around
from metrize.rules.base import Kernel, Metric, Rule
from metrize.rules.came import CAME
from metrize.rules.cautious import Cautious
from metrize.rules.clipped_average import ClippedAverage
from metrize.rules.fadam import FAdam
from metrize.rules.frozen import FrozenAdam
from metrize.rules.gradient import Gradient
from metrize.rules.hfac import HFac
from metrize.rules.limited import Centralized, GradientLimited, UpdateLimited
from metrize.rules.mars import Mars
from metrize.rules.momentum import Momentum
from metrize.rules.normalized import Normalized
from metrize.rules.normalized_first import ADOPT, LaProp
from metrize.rules.scheduled import ScheduledAdam
from metrize.rules.shampoo import Shampoo
from metrize.rules.steepest import Lion, Steepest
from metrize.rules.whitened import Whitened

__all__ = [
    "ADOPT",
    "CAME",
    "AdEMAMix",
    "AdaBelief",
    "AdaGrad",
    "Adam",
    "Around",
    "Cautious",
    "Centralized",
    "ClippedAverage",
    "FAdam",
    "FrozenAdam",
    "Gradient",
    "GradientLimited",
    "HFac",
    "Kernel",
    "LaProp",
    "Lion",
    "Mars",
    "Metric",
    "Momentum",
    "Normalized",
    "Rule",
    "ScheduledAdam",
    "Shampoo",
    "Steepest",
    "UpdateLimited",
    "Whitened",
]
