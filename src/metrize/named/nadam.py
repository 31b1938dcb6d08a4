"""NAdam."""

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


class NAdam(Optimizer):
    """Adam that looks ahead along its momentum (Dozat 2016), as ``torch.optim.NAdam``.

    With ``mu_t = b1 (1 - 0.96^(t momentum_decay) / 2)``, in place of Adam's ``m / (1 - b1^t)`` it takes
    ``mu_(t+1) m / (1 - mu_1 ... mu_(t+1)) + (1 - mu_t) g / (1 - mu_1 ... mu_t)``.

    Args:
        params: a module, parameters, named parameters or groups.
        lr: learning rate.
        betas: decay of the averages of g and g^2.
        eps: added outside the root.
        weight_decay: per `decay`.
        momentum_decay: how fast mu_t rises from about ``b1 / 2`` to b1; infinity: it is b1 from the start.
        decay: convention of weight decay; ``"decoupled"`` is torch's ``decoupled_weight_decay=True``.
        space: of every parameter; None takes each parameter's declared space, else a vector space.
        moments: storage of the averages.
        options: ``maximize``, ``skip_nonfinite``.

    Raises:
        SpaceError: a parameter its space cannot hold or that is off its space, by name.
        ValueError: a number out of range or an unknown option.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        *,
        decay: Decay = "l2",
        space: Space | None = None,
        moments: Moments = Dense(),
        **options: Any,
    ) -> None:
        numbers: dict[str, Any] = {"betas": betas, "eps": eps, "momentum_decay": momentum_decay}
        recipe = self.recipe(decay, space, moments)
        super().__init__(params, recipe, lr=lr, weight_decay=weight_decay, **numbers, **options)

    @staticmethod
    def recipe(decay: Decay = "l2", space: Space | None = None, moments: Moments = Dense()) -> Recipe:
        """The five answers of this optimizer."""
        return Recipe(space=space, moments=moments, rule=rules.Adam(nesterov=True), decay=decay)
