"""Where a tensor lives: lift a gradient, move a point, stay on the space. Knows no averages."""

from metrize.spaces.base import Space, SpaceError
from metrize.spaces.declare import constrain, error_on_space, spaces_of
from metrize.spaces.grassmann import Grassmann
from metrize.spaces.lorentz import Lorentz
from metrize.spaces.orthogonal import Orthogonal
from metrize.spaces.poincare import PoincareBall
from metrize.spaces.product import Product
from metrize.spaces.sphere import Sphere
from metrize.spaces.stiefel import Stiefel
from metrize.spaces.symplectic_grassmann import SymplecticGrassmann
from metrize.spaces.symplectic_stiefel import SymplecticStiefel
from metrize.spaces.vector import Vector

__all__ = [
    "Grassmann",
    "Lorentz",
    "Orthogonal",
    "PoincareBall",
    "Product",
    "Space",
    "SpaceError",
    "Sphere",
    "Stiefel",
    "SymplecticGrassmann",
    "SymplecticStiefel",
    "Vector",
    "constrain",
    "error_on_space",
    "spaces_of",
]
