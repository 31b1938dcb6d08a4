"""metrize: PyTorch optimizers that give every tensor the geometry it deserves."""

from metrize import norms, rules, step_sizes
from metrize.frames import Identity
from metrize.memory import state_bytes
from metrize.moments import Dense
from metrize.named import SGD, Adam, AdamW, Lion, ModularNorm, Muon, NormSGD, Prodigy, Scion, SignSGD, Signum, catalogue
from metrize.optimizer import Optimizer
from metrize.part import parse
from metrize.recipe import Recipe
from metrize.spaces import (
    Grassmann,
    Orthogonal,
    Product,
    Space,
    SpaceError,
    Sphere,
    Stiefel,
    SymplecticGrassmann,
    SymplecticStiefel,
    Vector,
    constrain,
    error_on_space,
    spaces_of,
)
from metrize.spaces.base import parse_space
from metrize.spaces.clip import clip_lift_norm_
from metrize.step_sizes import Given
from metrize.telemetry import Sizes, measured

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Dense",
    "Given",
    "Grassmann",
    "Identity",
    "Lion",
    "ModularNorm",
    "Muon",
    "NormSGD",
    "Optimizer",
    "Orthogonal",
    "Prodigy",
    "Product",
    "Recipe",
    "Scion",
    "SignSGD",
    "Signum",
    "Sizes",
    "Space",
    "SpaceError",
    "Sphere",
    "Stiefel",
    "SymplecticGrassmann",
    "SymplecticStiefel",
    "Vector",
    "catalogue",
    "clip_lift_norm_",
    "constrain",
    "error_on_space",
    "measured",
    "norms",
    "parse",
    "parse_space",
    "rules",
    "spaces_of",
    "state_bytes",
    "step_sizes",
]
