"""AdaGrad."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from metrize import rules
from metrize.decay import Decay
from metrize.moments import Dense, Moments
from metrize.optim.groups import Params
from metrize.optim.optimizer import Optimizer
from metrize.recipe import Recipe
from metrize.spaces import Space
from metrize.step_sizes import Given, StepSize
from metrize.step_sizes.decaying import falling


class AdaGrad(Optimizer):
    """The gradient over the root of the sum of all its squares (Duchi, Hazan and Singer, JMLR 12, 2011).

    ``h <- h + g^2``, ``p <- p - lr / (1 + lr_decay (t - 1)) g / (sqrt(h) + eps)``. On a vector space and without
    `lr_decay` and `initial_accumulator_value` bit for bit ``torch.optim.Adagrad(fused=True)``.

    Args:
        params: a module, parameters, named parameters or groups.
        lr: learning rate.
        lr_decay: how fast it falls.
        weight_decay: per `decay`.
        initial_accumulator_value: where h starts.
        eps: added outside the root.
        decay: convention of weight decay.
        space: of every parameter; None takes each parameter's declared space, else a vector space.
        moments: storage of h; with `Cover` this is SM3 (arXiv:1901.11150) without momentum.
        options: ``maximize``, ``skip_nonfinite``.

    Raises:
        SpaceError: a parameter its space cannot hold or that is off its space, by name.
        ValueError: a number out of range or an unknown option.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        decay: Decay = "l2",
        space: Space | None = None,
        moments: Moments = Dense(),
        **options: Any,
    ) -> None:
        numbers: dict[str, Any] = {"initial_accumulator_value": initial_accumulator_value, "eps": eps}
        recipe = self.recipe(falling(lr_decay, 1.0), decay, space, moments)
        super().__init__(params, recipe, lr=lr, weight_decay=weight_decay, **numbers, **options)

    @staticmethod
    def recipe(
        step_size: StepSize = Given(),
        decay: Decay = "l2",
        space: Space | None = None,
        moments: Moments = Dense(),
    ) -> Recipe:
        """The five answers of this optimizer."""
        return Recipe(space=space, moments=moments, rule=rules.AdaGrad(), step_size=step_size, decay=decay)
