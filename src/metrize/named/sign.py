"""Sign descent: SignSGD, Signum, Lion."""

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


class Signum(Optimizer):
    """Sign of the momentum (arXiv:1802.04434): steepest descent under the largest entry.

    ``m <- b m + (1 - b) g``, ``p <- (1 - lr weight_decay) p - lr sign(m)``, with ``sign(0) = 0``.

    Args:
        params: a module, parameters, named parameters or groups.
        lr: length of the step of every entry; a third to a tenth of Adam's.
        momentum: b; 0 keeps no state.
        weight_decay: decoupled.
        nesterov: look ahead along the momentum.
        space: of every parameter; None takes each parameter's declared space, else a vector space.
        moments: storage of the average.
        options: ``maximize``, ``skip_nonfinite``.

    Raises:
        ValueError: a number out of range.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        *,
        nesterov: bool = False,
        space: Space | None = None,
        moments: Moments = Dense(),
        **options: Any,
    ) -> None:
        numbers: dict[str, Any] = {"momentum": momentum, "nesterov": nesterov}
        super().__init__(params, self.recipe(space, moments), lr=lr, weight_decay=weight_decay, **numbers, **options)

    @staticmethod
    def recipe(space: Space | None = None, moments: Moments = Dense()) -> Recipe:
        """The five answers of this optimizer."""
        return Recipe(space=space, moments=moments, rule=rules.Steepest(MaxEntry()))


class SignSGD(Signum):
    """Sign of the gradient (arXiv:1802.04434): `Signum` without momentum, and so without state.

    ``p <- (1 - lr weight_decay) p - lr sign(g)``. Arguments as `Signum`.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(params, lr, momentum, weight_decay, **options)


class Lion(Optimizer):
    """Lion (arXiv:2302.06675): the sign of a second interpolation.

    ``p <- (1 - lr weight_decay) p - lr sign(b1 m + (1 - b1) g)``, then ``m <- b2 m + (1 - b2) g``.

    Args:
        params: a module, parameters, named parameters or groups.
        lr: length of the step of every entry; a third to a tenth of AdamW's.
        betas: b1 and b2.
        weight_decay: decoupled; three to ten times AdamW's.
        space: of every parameter; None takes each parameter's declared space, else a vector space.
        moments: storage of the average.
        options: ``maximize``, ``skip_nonfinite``.

    Raises:
        ValueError: a number out of range.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        space: Space | None = None,
        moments: Moments = Dense(),
        **options: Any,
    ) -> None:
        super().__init__(params, self.recipe(space, moments), lr=lr, betas=betas, weight_decay=weight_decay, **options)

    @staticmethod
    def recipe(space: Space | None = None, moments: Moments = Dense()) -> Recipe:
        """The five answers of this optimizer."""
        return Recipe(space=space, moments=moments, rule=rules.Lion(MaxEntry()))
