"""Grams."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from metrize import rules
from metrize.moments import Dense, Moments
from metrize.optim.groups import Params
from metrize.optim.optimizer import Optimizer
from metrize.recipe import Recipe
from metrize.spaces import Space


class Grams(Optimizer):
    """Adam's lengths along the signs of the gradient (arXiv:2412.17107).

    ``p <- (1 - lr weight_decay) p - lr |u| sign(g)`` with the direction u of Adam. A composition:
    ``Adam`` in ``rules.Cautious(mask="sign")``, which goes around any other rule as well.

    Args:
        params: a module, parameters, named parameters or groups.
        lr: learning rate; AdamW's.
        betas: decay of the averages of g and g^2.
        eps: added outside the root.
        weight_decay: decoupled.
        space: of every parameter; None takes each parameter's declared space, else a vector space.
        moments: storage of the averages.
        options: ``maximize``, ``skip_nonfinite``.

    Raises:
        ValueError: a number out of range or an unknown option.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
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
        return Recipe(space=space, moments=moments, rule=rules.Cautious(rules.Adam(), mask="sign"))
