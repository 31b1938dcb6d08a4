"""FAdam."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from metrize import rules
from metrize.decay import Decay
from metrize.moments import Dense, Moments
from metrize.optim.groups import Params
from metrize.optim.optimizer import Optimizer
from metrize.recipe import Recipe
from metrize.spaces import Space


class FAdam(Optimizer):
    """Adam as natural gradient descent under a diagonal Fisher information (arXiv:2405.12807).

    The gradient is divided by S, a power of the Fisher information, and clipped to a root mean square for each tensor;
    the average is of the result, ``m <- b1 m + (1 - b1) n``; weight decay is the natural gradient of a Gaussian prior,
    ``p <- p - lr (m + weight_decay w)`` with ``w = p / S`` clipped likewise. See `metrize.rules.FAdam`. The first steps
    are ``1 - b1`` as long as later ones, as m is not corrected. The loss should be a log-likelihood, in nats.

    Args:
        params: a module, parameters, named parameters or groups.
        lr: learning rate.
        betas: decay of the averages of n and of g^2.
        eps: bound on what is added in S.
        weight_decay: per `decay`.
        eps2: what is added in S, relative to the root mean square of g; the published form has none.
        power: of the Fisher information in S; 1/2 as in Adam, or 1.
        clip: bound on the root mean square; None: none.
        form: ``"paper"``, or ``"published"`` as in the published port, see `metrize.rules.FAdam`.
        decay: convention of weight decay.
        space: of every parameter; None takes each parameter's declared space, else a vector space.
        moments: storage of m and of the Fisher information.
        options: ``maximize``, ``skip_nonfinite``.

    Raises:
        SpaceError: a parameter its space cannot hold or that is off its space, by name.
        ValueError: a number out of range or an unknown option.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-3,
        *,
        eps2: float = 0.01,
        power: float = 0.5,
        clip: float | None = 1.0,
        form: Literal["paper", "published"] = "paper",
        decay: Decay = "natural",
        space: Space | None = None,
        moments: Moments = Dense(),
        **options: Any,
    ) -> None:
        numbers: dict[str, Any] = {"betas": betas, "eps": eps, "power": power, "clip": clip}
        if form == "paper":
            numbers["eps2"] = eps2
        recipe = self.recipe(form, decay, space, moments)
        super().__init__(params, recipe, lr=lr, weight_decay=weight_decay, **numbers, **options)

    @staticmethod
    def recipe(
        form: Literal["paper", "published"] = "paper",
        decay: Decay = "natural",
        space: Space | None = None,
        moments: Moments = Dense(),
    ) -> Recipe:
        """The five answers of this optimizer."""
        return Recipe(space=space, moments=moments, rule=rules.FAdam(form), decay=decay)
