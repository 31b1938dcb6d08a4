"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from metrize import rules
from metrize.moments import Dense, Moments
from metrize.optim.groups import Params
from metrize.optim.optimizer import Optimizer
from metrize.recipe import Recipe
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
        options: ``maximize``, ``skip_nonfinite``, ``rounding``.

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
        **options: Any,
    ) -> None:
        recipe = self.recipe(space, moments)
        numbers: dict[str, Any] = {"momentum": momentum, "dampening": dampening, "nesterov": nesterov}
        super().__init__(params, recipe, lr=lr, weight_decay=weight_decay, **numbers, **options)

    @staticmethod
    def recipe(space: Space | None = None, moments: Moments = Dense()) -> Recipe:
        """The five answers of this optimizer."""
        return Recipe(space=space, moments=moments, rule=rules.Momentum(), decay="l2")
