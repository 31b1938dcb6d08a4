"""Flora."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from metrize import rules
from metrize.moments import RandomProjection
from metrize.optim.groups import Params
from metrize.optim.optimizer import Optimizer
from metrize.recipe import Recipe
from metrize.step_sizes import Relative


class Flora(Optimizer):
    """Adafactor whose average lies behind a random projection that only its seed remembers (arXiv:2402.03293).

    ``v <- b2_t v + (1 - b2_t) g^2`` as means of rows and columns, ``b2_t = 1 - t^decay_rate``, ``U = g / sqrt(v)``;
    ``M = b1 C P^T + (1 - b1) U``, ``D = M / max(1, RMS(M) / clip)``, ``C <- b1 C + (1 - b1) U P``, with a new P at
    every `period`-th step; ``p <- (1 - a weight_decay) p - a D`` with ``a = lr max(least, RMS(p))``. Which tensors are
    compressed says `metrize.RandomProjection`; the others keep their average as it is.

    The published code keeps no average by default; here b1 is 0.9, as there would be nothing to compress.

    Args:
        params: a module, parameters, named parameters or groups.
        lr: learning rate, relative to the size of the parameter.
        rank: of the projection.
        period: steps between two draws of P.
        momentum: b1, decay of the average; 0 keeps none.
        decay_rate: of b2.
        clip: bound on the root mean square of the step before the learning rate; None: none.
        eps: added to v, and the least size of a parameter; or the first alone.
        weight_decay: decoupled.
        scale_parameter: False: ``a = lr``.
        relative_step: ``a`` has ``min(lr, 1 / sqrt(t))`` in place of lr.
        max_aspect: matrices longer than so many times their shorter side, such as embeddings, are not compressed.
        options: ``maximize``, ``skip_nonfinite``, ``rounding``.

    Raises:
        ValueError: a number out of range or an unknown option.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        rank: int = 256,
        period: int = 1000,
        momentum: float = 0.9,
        decay_rate: float = -0.8,
        clip: float | None = 1.0,
        eps: tuple[float, float] | float = (1e-30, 1e-3),
        weight_decay: float = 0.0,
        *,
        scale_parameter: bool = True,
        relative_step: bool = False,
        max_aspect: float = 4.0,
        **options: Any,
    ) -> None:
        floor, least = eps if isinstance(eps, tuple | list) else (eps, 1e-3)
        step_size = Relative("capped" if relative_step else "given", scale_parameter, least)
        recipe = self.recipe(rank, period, max_aspect, step_size)
        numbers: dict[str, Any] = {"momentum": momentum, "decay_rate": decay_rate, "clip": clip, "eps": floor}
        super().__init__(params, recipe, lr=lr, weight_decay=weight_decay, **numbers, **options)

    @staticmethod
    def recipe(
        rank: int = 256, period: int = 1000, max_aspect: float = 4.0, step_size: Relative = Relative("given")
    ) -> Recipe:
        """The five answers of this optimizer."""
        storage = RandomProjection(rank, period, max_aspect)
        return Recipe(moments=storage, rule=rules.ClippedAverage(), step_size=step_size)
