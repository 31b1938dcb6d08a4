"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from metrize import rules
from metrize.groups import Params
from metrize.moments import Dense, Moments
from metrize.optimizer import Optimizer
from metrize.recipe import Recipe
from metrize.rounding import Rounding
from metrize.spaces import Space


class SGD(Optimizer):
    """Gradient descent with momentum, on any space.

    ``P <- momentum P + (1 - dampening) g``, ``p <- move(p, -lr P)``. On a vector space bit for bit
    ``torch.optim.SGD(fused=True)``; on a manifold g is the lifted gradient (arXiv:2305.16901).

    Args:
        params: a module, parameters, named parameters or groups.
        lr: learning rate.
        momentum: 0 keeps no state.
        dampening: share of the gradient left out of the average.
        weight_decay: L2, added to the gradient; nothing on compact spaces.
        nesterov: look ahead along the momentum.
        space: of every parameter; None takes each parameter's declared space, else a vector space.
        moments: storage of the average.
        maximize: ascend instead.
        skip_nonfinite: leave everything untouched in a step with a gradient that is not finite.
        rounding: how bfloat16 parameters take in a step.

    Raises:
        SpaceError: a parameter its space cannot hold or that is off its space, by name.
        ValueError: a number out of range.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        space: Space | None = None,
        moments: Moments = Dense(),
        maximize: bool = False,
        skip_nonfinite: bool = True,
        rounding: Rounding | None = None,
    ) -> None:
        recipe = self.recipe(space, moments)
        numbers: dict[str, Any] = {"momentum": momentum, "dampening": dampening, "nesterov": nesterov}
        common: dict[str, Any] = {"weight_decay": weight_decay, "maximize": maximize, "skip_nonfinite": skip_nonfinite}
        common["rounding"] = rounding
        super().__init__(params, recipe, lr=lr, **common, **numbers)

    @staticmethod
    def recipe(space: Space | None = None, moments: Moments = Dense()) -> Recipe:
        """The five answers of this optimizer."""
        return Recipe(space=space, moments=moments, rule=rules.Momentum(), decay="l2")
