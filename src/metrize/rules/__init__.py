"""How averages and a norm make a direction."""

from metrize.rules.adam import Adam
from metrize.rules.base import Metric, Rule
from metrize.rules.gradient import Gradient
from metrize.rules.momentum import Momentum
from metrize.rules.steepest import Lion, Steepest

__all__ = ["Adam", "Gradient", "Lion", "Metric", "Momentum", "Rule", "Steepest"]
