"""How long a step is."""

from metrize.step_sizes.given import Given, StepSize

__all__ = ["Given", "StepSize"]
