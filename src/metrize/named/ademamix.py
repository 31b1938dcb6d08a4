"""AdEMAMix."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from metrize import rules
from metrize.moments import Dense, Moments
from metrize.optim.groups import Params
from metrize.optim.optimizer import Optimizer
from metrize.recipe import Recipe
from metrize.spaces import Space


class AdEMAMix(Optimizer):
    """Adam with a second, slow average of the gradient (arXiv:2409.03137).

    ``p <- (1 - lr weight_decay) p - lr (m1 / (1 - b1^t) + alpha(t) m2) / (sqrt(v / (1 - b2^t)) + eps)``, where m1 is
    the average of g that forgets with b1, and m2 with b3(t). Give both warm-ups the length of the run, as the paper
    does; without them a large alpha can diverge early. It keeps three numbers for each parameter, or three
    bytes in ``Quantized()``.

    Args:
        params: a module, parameters, named parameters or groups.
        lr: learning rate; AdamW's, or a little less.
        betas: b1, b2 and b3.
        alpha: weight of the slow average; the paper takes 2 to 10.
        eps: added outside the root.
        weight_decay: decoupled.
        space: of every parameter; None takes each parameter's declared space, else a vector space.
        moments: storage of the averages.
        alpha_warmup: steps over which alpha grows from 0.
        beta3_warmup: steps over which b3 grows from b1.
        options: ``maximize``, ``skip_nonfinite``, ``decay`` and other slots of the recipe.

    Raises:
        ValueError: a number out of range or an unknown option.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        alpha: float = 5.0,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        space: Space | None = None,
        moments: Moments = Dense(),
        alpha_warmup: int = 0,
        beta3_warmup: int = 0,
        **options: Any,
    ) -> None:
        numbers: dict[str, Any] = {"betas": betas, "alpha": alpha, "eps": eps, "weight_decay": weight_decay}
        numbers |= {"alpha_warmup": alpha_warmup, "beta3_warmup": beta3_warmup}
        super().__init__(params, self.recipe(space, moments), lr=lr, **numbers, **options)

    @staticmethod
    def recipe(space: Space | None = None, moments: Moments = Dense()) -> Recipe:
        """The five answers of this optimizer."""
        return Recipe(space=space, moments=moments, rule=rules.AdEMAMix())
