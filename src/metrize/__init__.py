"""metrize: PyTorch optimizers that give every tensor the geometry it deserves."""

from metrize import frames, memory, norms, rules, step_sizes
from metrize.frames import Identity
from metrize.in_backward import InBackward
from metrize.memory import Prediction, predict, state_bytes
from metrize.moments import Blocks, Cover, Dense, Factored, RandomProjection, RankOne, Split
from metrize.named import (
    APOLLO,
    CAME,
    COAP,
    SGD,
    SM3,
    SMMF,
    Adafactor,
    Adam,
    AdamMini,
    AdamW,
    Flora,
    GaLore,
    HFac,
    Lion,
    ModularNorm,
    Muon,
    NormSGD,
    Prodigy,
    Scion,
    SignSGD,
    Signum,
    catalogue,
)
from metrize.optimizer import Optimizer
from metrize.part import parse
from metrize.recipe import Recipe
from metrize.roles import Plan, PlanRow, Role, convert_lr, plan
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
from metrize.spaces.convert import from_geoopt, from_parametrization, to_geoopt, to_parametrization
from metrize.step_sizes import Given
from metrize.telemetry import Sizes, measured

__version__ = "0.1.0"

__all__ = [
    "APOLLO",
    "CAME",
    "COAP",
    "SGD",
    "SM3",
    "SMMF",
    "Adafactor",
    "Adam",
    "AdamMini",
    "AdamW",
    "Blocks",
    "Cover",
    "Dense",
    "Factored",
    "Flora",
    "GaLore",
    "Given",
    "Grassmann",
    "HFac",
    "Identity",
    "InBackward",
    "Lion",
    "ModularNorm",
    "Muon",
    "NormSGD",
    "Optimizer",
    "Orthogonal",
    "Plan",
    "PlanRow",
    "Prediction",
    "Prodigy",
    "Product",
    "RandomProjection",
    "RankOne",
    "Recipe",
    "Role",
    "Scion",
    "SignSGD",
    "Signum",
    "Sizes",
    "Space",
    "SpaceError",
    "Sphere",
    "Split",
    "Stiefel",
    "SymplecticGrassmann",
    "SymplecticStiefel",
    "Vector",
    "catalogue",
    "clip_lift_norm_",
    "constrain",
    "convert_lr",
    "error_on_space",
    "frames",
    "from_geoopt",
    "from_parametrization",
    "measured",
    "memory",
    "norms",
    "parse",
    "parse_space",
    "plan",
    "predict",
    "rules",
    "spaces_of",
    "state_bytes",
    "step_sizes",
    "to_geoopt",
    "to_parametrization",
]
