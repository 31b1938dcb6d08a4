"""Tiger."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from metrize import rules
from metrize.moments import Dense, Moments
from metrize.norms import MaxEntry
from metrize.optim.groups import Params
from metrize.optim.optimizer import Optimizer
from metrize.recipe import Recipe
from metrize.spaces import Space


class Tiger(Optimizer):
    """Sign of the momentum with one slow average (https://github.com/bojone/tiger): `Signum` with other numbers.

    ``m <- b m + (1 - b) g``, ``p <- (1 - lr weight_decay) p - lr sign(m)``. The original multiplies lr by the root
    mean square of each weight: ``step_size=step_sizes.Relative("given")`` in the groups of matrices, with an lr near
    2e-3.

    Args:
        params: a module, parameters, named parameters or groups.
        lr: learning rate; Lion's.
        momentum: b.
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
        lr: float | Tensor = 1e-3,
        momentum: float = 0.965,
        weight_decay: float = 0.01,
        *,
        space: Space | None = None,
        moments: Moments = Dense(),
        **options: Any,
    ) -> None:
        numbers: dict[str, Any] = {"momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, self.recipe(space, moments), lr=lr, **numbers, **options)

    @staticmethod
    def recipe(space: Space | None = None, moments: Moments = Dense()) -> Recipe:
        """The five answers of this optimizer."""
        return Recipe(space=space, moments=moments, rule=rules.Steepest(MaxEntry()))
