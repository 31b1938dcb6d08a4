"""How long a step is."""

from metrize.step_sizes.base import StepSize
from metrize.step_sizes.decaying import Decaying
from metrize.step_sizes.delayed import Delayed
from metrize.step_sizes.dual_norm import DualNorm
from metrize.step_sizes.given import Given
from metrize.step_sizes.prodigy import Prodigy
from metrize.step_sizes.relative import Relative

__all__ = ["Decaying", "Delayed", "DualNorm", "Given", "Prodigy", "Relative", "StepSize"]
