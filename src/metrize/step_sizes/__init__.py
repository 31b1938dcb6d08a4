"""How long a step is."""

from metrize.step_sizes.base import StepSize
from metrize.step_sizes.given import Given

__all__ = ["Given", "StepSize"]
