"""H-Fac."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from metrize import rules
from metrize.optim.groups import Params
from metrize.optim.optimizer import Optimizer
from metrize.recipe import Recipe


class HFac(Optimizer):
    """Momentum and squares of a matrix as rows and columns only (arXiv:2406.09958).

    ``p <- (1 - lr weight_decay) p - lr D``, where D is the clipped gradient over its factored root mean square, plus
    what the averages of its row and column means are ahead of the means now (see `metrize.rules.HFac`). No code of the
    authors is public, and this is written from the formula.

    Args:
        params: a module, parameters, named parameters or groups.
        lr: learning rate.
        betas: decay of the averages of g and g^2.
        eps: added to the squares, and outside the root for tensors with fewer than two dimensions, which take Adam's
            step.
        clip: bound on the root mean square of the scaled gradient, for each tensor; None: none.
        weight_decay: decoupled.
        sign: signs take the place of the scaling, and squares are not kept; our own reading.
        options: ``maximize``, ``skip_nonfinite``.

    Raises:
        SpaceError: a parameter that was declared to live on a curved space, by name.
        ValueError: a number out of range.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-30,
        clip: float | None = 1.0,
        weight_decay: float = 0.0,
        *,
        sign: bool = False,
        **options: Any,
    ) -> None:
        numbers: dict[str, Any] = {"betas": betas, "eps": eps, "clip": clip}
        super().__init__(params, self.recipe(sign), lr=lr, weight_decay=weight_decay, **numbers, **options)

    @staticmethod
    def recipe(sign: bool = False) -> Recipe:
        """The five answers of this optimizer."""
        return Recipe(rule=rules.HFac(sign))
