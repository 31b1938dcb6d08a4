"""Which recipe for which tensor of a whole model."""

from metrize.roles.by_shapes import by_shapes
from metrize.roles.infer import Inference, infer
from metrize.roles.multipliers import layer_decay, mup, no_decay
from metrize.roles.plan import Plan, plan
from metrize.roles.role import KINDS, Role
from metrize.roles.row import PlanRow
from metrize.roles.units import convert_lr

__all__ = [
    "KINDS",
    "Inference",
    "Plan",
    "PlanRow",
    "Role",
    "by_shapes",
    "convert_lr",
    "infer",
    "layer_decay",
    "mup",
    "no_decay",
    "plan",
]
