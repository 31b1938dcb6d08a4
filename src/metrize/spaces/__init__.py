"""Where a tensor lives: lift a gradient, move a point, stay on the space. Knows no averages."""

from metrize.spaces.base import Space, SpaceError
from metrize.spaces.declare import constrain, error_on_space, spaces_of
from metrize.spaces.stiefel import Stiefel
from metrize.spaces.vector import Vector

__all__ = ["Space", "SpaceError", "Stiefel", "Vector", "constrain", "error_on_space", "spaces_of"]
