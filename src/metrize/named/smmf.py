"""SMMF."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from metrize.decay import Decay
from metrize.moments import RankOne
from metrize.optim.groups import Params
from metrize.optim.optimizer import Optimizer
from metrize.recipe import Recipe
from metrize.rules import ScheduledAdam
from metrize.spaces import Space


class SMMF(Optimizer):
    """Adam in about an eighth of a byte for each parameter (arXiv:2412.08894).

    Both averages are kept as matrices of rank 1, and the signs of the first at one bit each (`RankOne`). ``m <- b1_t m
    + (1 - b1_t) g``, ``v <- b2_t v + (1 - b2_t) g^2``, ``p <- (1 - lr weight_decay) p``, ``p <- p - lr m / (sqrt(v) +
    eps)``, with ``b1_t = momentum growth_rate^(t-1)`` and ``b2_t = 1 - t^decay_rate``. Its learning rate is to be
    searched again; that of AdamW is often too small. Of an embedding, rows without a gradient move too, such as that of
    ``padding_idx``: a matrix of rank 1 gives every row a share of what the others left in m.

    Args:
        params: a module, parameters, named parameters or groups.
        lr: learning rate.
        momentum: decay of the average of g at the first step; 0 keeps neither m nor signs, and m is g.
        eps: added outside the root.
        weight_decay: per `decay`.
        decay_rate: of b2; the authors take -0.5 for convolutional networks and -0.8 for transformers.
        growth_rate: factor on b1 from step to step.
        vectors: ``"matrix"``, or ``"dense"`` for averages as they are where a tensor has one dimension.
        decay: convention of weight decay.
        space: of every parameter; None takes each parameter's declared space, else a vector space.
        options: ``maximize``, ``skip_nonfinite``.

    Raises:
        SpaceError: a parameter that is off its declared space, by name.
        ValueError: a number out of range or an unknown option.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.9,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decay_rate: float = -0.5,
        growth_rate: float = 0.999,
        *,
        vectors: Literal["matrix", "dense"] = "matrix",
        decay: Decay = "decoupled",
        space: Space | None = None,
        **options: Any,
    ) -> None:
        numbers: dict[str, Any] = {"momentum": momentum, "growth_rate": growth_rate, "decay_rate": decay_rate}
        recipe = self.recipe(vectors, decay, space)
        super().__init__(params, recipe, lr=lr, eps=eps, weight_decay=weight_decay, **numbers, **options)

    @staticmethod
    def recipe(
        vectors: Literal["matrix", "dense"] = "matrix", decay: Decay = "decoupled", space: Space | None = None
    ) -> Recipe:
        """The five answers of this optimizer."""
        return Recipe(space=space, moments=RankOne(vectors), rule=ScheduledAdam(), decay=decay)
