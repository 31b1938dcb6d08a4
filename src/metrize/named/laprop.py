"""LaProp."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from metrize import rules
from metrize.moments import Dense, Moments
from metrize.optim.groups import Params
from metrize.optim.optimizer import Optimizer
from metrize.recipe import Recipe
from metrize.spaces import Space


class LaProp(Optimizer):
    """Momentum of the normalised gradient (arXiv:2002.04839).

    ``v <- b2 v + (1 - b2) g^2``, ``m <- b1 m + (1 - b1) g / (sqrt(v / (1 - b2^t)) + eps)``,
    ``p <- (1 - lr weight_decay) p - lr m / (1 - b1^t)``: Adam with the division before the average.

    Args:
        params: a module, parameters, named parameters or groups.
        lr: learning rate; a little less than AdamW's.
        betas: b1 and b2.
        eps: added outside the root.
        weight_decay: decoupled.
        space: of every parameter; None takes each parameter's declared space, else a vector space.
        moments: storage of the averages.
        options: ``maximize``, ``skip_nonfinite``, ``decay`` and other slots of the recipe.

    Raises:
        ValueError: a number out of range or an unknown option.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 4e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-15,
        weight_decay: float = 0.0,
        *,
        space: Space | None = None,
        moments: Moments = Dense(),
        **options: Any,
    ) -> None:
        numbers: dict[str, Any] = {"betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, self.recipe(space, moments), lr=lr, **numbers, **options)

    @staticmethod
    def recipe(space: Space | None = None, moments: Moments = Dense()) -> Recipe:
        """The five answers of this optimizer."""
        return Recipe(space=space, moments=moments, rule=rules.LaProp())
