"""AdaBelief."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from metrize import rules
from metrize.moments import Dense, Moments
from metrize.optim.groups import Params
from metrize.optim.optimizer import Optimizer
from metrize.recipe import Recipe
from metrize.spaces import Space


class AdaBelief(Optimizer):
    """Adam that divides by how far the gradient is from its average (arXiv:2010.07468).

    ``m <- b1 m + (1 - b1) g``, ``s <- b2 s + (1 - b2) (g - m)^2 + eps``,
    ``p <- (1 - lr weight_decay) p - lr (m / (1 - b1^t)) / (sqrt(s / (1 - b2^t)) + eps)``.

    Args:
        params: a module, parameters, named parameters or groups.
        lr: learning rate; AdamW's.
        betas: b1 and b2.
        eps: added to s in every step, and outside the root.
        weight_decay: decoupled.
        space: of every parameter; None takes each parameter's declared space, else a vector space.
        moments: storage of the averages.
        rectify: the variance of the first steps is rectified, as in RAdam (arXiv:1908.03265).
        options: ``maximize``, ``skip_nonfinite``, ``decay`` and other slots of the recipe.

    Raises:
        ValueError: a number out of range or an unknown option.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-16,
        weight_decay: float = 0.0,
        *,
        space: Space | None = None,
        moments: Moments = Dense(),
        rectify: bool = True,
        **options: Any,
    ) -> None:
        numbers: dict[str, Any] = {"betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, self.recipe(space, moments, rectify), lr=lr, **numbers, **options)

    @staticmethod
    def recipe(space: Space | None = None, moments: Moments = Dense(), rectify: bool = True) -> Recipe:
        """The five answers of this optimizer."""
        return Recipe(space=space, moments=moments, rule=rules.AdaBelief(rectify))
