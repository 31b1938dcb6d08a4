"""ADOPT."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from metrize import rules, step_sizes
from metrize.moments import Dense, Moments
from metrize.optim.groups import Params
from metrize.optim.optimizer import Optimizer
from metrize.recipe import Recipe
from metrize.spaces import Space


class ADOPT(Optimizer):
    """Adam that converges with any b2 (arXiv:2411.02853).

    ``c = clip(g / max(sqrt(v), eps), (t - 1)^clip)``, ``m <- b1 m + (1 - b1) c``, ``p <- p - lr m``, and only then
    ``v <- b2 v + (1 - b2) g^2``: a gradient never divides itself. The first step makes v and moves nothing.

    Args:
        params: a module, parameters, named parameters or groups.
        lr: learning rate; AdamW's.
        betas: b1 and b2.
        eps: least value of the root.
        weight_decay: L2, added to the gradient, as in the authors' code; ``decay="decoupled"`` is their ``decouple``.
        space: of every parameter; None takes each parameter's declared space, else a vector space.
        moments: storage of the averages.
        clip: exponent of the bound; None: no bound, and a first gradient of 0 explodes.
        options: ``maximize``, ``skip_nonfinite``, ``decay`` and other slots of the recipe.

    Raises:
        ValueError: a number out of range or an unknown option.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.9999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        space: Space | None = None,
        moments: Moments = Dense(),
        clip: float | None = 0.25,
        **options: Any,
    ) -> None:
        numbers: dict[str, Any] = {"betas": betas, "eps": eps, "weight_decay": weight_decay, "clip": clip}
        super().__init__(params, self.recipe(space, moments), lr=lr, **numbers, **options)

    @staticmethod
    def recipe(space: Space | None = None, moments: Moments = Dense()) -> Recipe:
        """The five answers of this optimizer."""
        return Recipe(space, moments=moments, rule=rules.ADOPT(), step_size=step_sizes.Delayed(), decay="l2")
