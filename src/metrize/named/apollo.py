"""APOLLO and APOLLO-Mini."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor

from metrize import frames
from metrize.moments import Moments
from metrize.named.inner import inner_numbers, inner_recipe, taken
from metrize.optim.groups import Params
from metrize.optim.optimizer import Optimizer
from metrize.part import Part
from metrize.recipe import Recipe


class APOLLO(Optimizer):
    """The gradient, scaled as Adam in a random subspace would scale it (arXiv:2412.05270).

    ``A = G Q``, ``m <- b1 m + (1 - b1) A``, ``v <- b2 v + (1 - b2) A^2``, ``c_j = |m / (sqrt(v) + eps)|_j / |A|_j``
    for each channel j of the longer side, ``D = sqrt(scale) c G``, ``|D|`` at most 1.01 times what it was before;
    ``p <- p - lr sqrt(1 - b2^t) / (1 - b1^t) D``, then ``p <- (1 - lr weight_decay) p``. Tensors that are no matrix,
    or too small for the rank, take Adam's own step; a group may hold another recipe.

    Args:
        params: a module, parameters, named parameters or groups.
        lr: learning rate.
        betas: decay of the averages of A and A^2.
        eps: added to the root of v, which is not corrected for bias; None: 1e-6.
        weight_decay: decoupled, applied after the step.
        mini: APOLLO-Mini: other defaults of the three numbers that follow.
        rank: of the subspace; None: 256, and 1 for APOLLO-Mini.
        scale: the step is multiplied by its root; None: 1, and 128 for APOLLO-Mini.
        granularity: one c for each ``"channel"`` or one for the ``"tensor"``; None: channel, and tensor for
            APOLLO-Mini.
        period: steps between two draws of the subspace.
        moments: storage of the averages; None: dense.
        options: other arguments of `metrize.frames.APOLLO` (``projection``, ``growth``, ``carry``, ``stagger``,
            ``dtype``).

    Raises:
        ValueError: a number out of range or an unknown option.
        FrameError: (in a step) three gradients in a row that no basis could be made of, by the parameter's name.
    """

    further: ClassVar[type[Part]] = frames.APOLLO

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float | None = None,
        weight_decay: float = 0.0,
        *,
        mini: bool = False,
        rank: int | None = None,
        scale: float | None = None,
        granularity: Literal["channel", "tensor"] | None = None,
        period: int = 200,
        moments: Moments | None = None,
        **options: Any,
    ) -> None:
        given = {"rank": rank, "scale": scale, "granularity": granularity}
        chosen = {key: value for key, value in given.items() if value is not None}
        recipe = self.recipe(mini, moments, period=period, **chosen, **taken(self.further, options))
        numbers: dict[str, Any] = {"weight_decay": weight_decay, **inner_numbers("adam", betas, eps)}
        super().__init__(params, recipe, lr=lr, **numbers, **options)

    @staticmethod
    def recipe(mini: bool = False, moments: Moments | None = None, **options: Any) -> Recipe:
        """The five answers of this optimizer; `options` are those of `metrize.frames.APOLLO`."""
        small = {"rank": 1, "scale": 128.0, "granularity": "tensor"} if mini else {}
        return inner_recipe(frames.APOLLO(**{**small, **options}), "adam", moments)
