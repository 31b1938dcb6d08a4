"""How averages and a norm make a direction."""

from metrize.rules.adagrad import AdaGrad
from metrize.rules.adam import Adam
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
from metrize.rules.scheduled import ScheduledAdam
from metrize.rules.shampoo import Shampoo
from metrize.rules.steepest import Lion, Steepest
from metrize.rules.whitened import Whitened

__all__ = [
    "CAME",
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
    "Lion",
    "Mars",
    "Metric",
    "Momentum",
    "Rule",
    "ScheduledAdam",
    "Shampoo",
    "Steepest",
    "UpdateLimited",
    "Whitened",
]
