"""MARS."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from metrize import rules
from metrize.moments import Dense, Moments
from metrize.optim.groups import Params
from metrize.optim.optimizer import Optimizer
from metrize.recipe import Recipe
from metrize.spaces import Space


class MARS(Optimizer):
    """AdamW of a gradient with reduced variance (arXiv:2411.10438).

    ``c = g_t + gamma b1 / (1 - b1) (g_t - g_(t-1))``, ``c <- c / max(1, ||c||)`` for each tensor, then a step of AdamW
    with c in the place of g. A composition: ``Adam`` in ``rules.Mars()``, which goes around any rule with momentum.
    All tensors are trained so; the authors' code gives tensors that are no matrices to AdamW.

    Args:
        params: a module, parameters, named parameters or groups.
        lr: learning rate; up to two times AdamW's.
        betas: b1, and the decay of the average of c^2.
        eps: added outside the root.
        weight_decay: decoupled.
        gamma: share of the change of the gradient; 0 leaves the clipping.
        space: of every parameter; None takes each parameter's declared space, else a vector space.
        moments: storage of the averages and of the last gradient.
        options: ``maximize``, ``skip_nonfinite``.

    Raises:
        ValueError: a number out of range or an unknown option.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 3e-3,
        betas: tuple[float, float] = (0.95, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        gamma: float = 0.025,
        *,
        space: Space | None = None,
        moments: Moments = Dense(),
        **options: Any,
    ) -> None:
        numbers: dict[str, Any] = {"betas": betas, "eps": eps, "weight_decay": weight_decay, "gamma": gamma}
        super().__init__(params, self.recipe(space, moments), lr=lr, **numbers, **options)

    @staticmethod
    def recipe(space: Space | None = None, moments: Moments = Dense()) -> Recipe:
        """The five answers of this optimizer."""
        return Recipe(space=space, moments=moments, rule=rules.Mars(rules.Adam()))
