"""GaLore."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor

from metrize import frames
from metrize.moments import Moments
from metrize.named.inner import Inner, inner_numbers, inner_recipe, taken
from metrize.optim.groups import Params
from metrize.optim.optimizer import Optimizer
from metrize.part import Part
from metrize.recipe import Recipe


class GaLore(Optimizer):
    """Adam in the leading singular subspace of the gradient (arXiv:2403.03507).

    ``A = G Q``, ``m <- b1 m + (1 - b1) A``, ``v <- b2 v + (1 - b2) A^2``,
    ``p <- p - lr sqrt(1 - b2^t) / (1 - b1^t) scale (m / (sqrt(v) + eps)) Q^T``, then ``p <- (1 - lr weight_decay) p``,
    with the first `rank` right singular vectors Q of the gradient of every `period`-th step (the left ones for wide
    matrices). Tensors that are no matrix, or too small for the rank, take Adam's own step. An embedding is a matrix
    too; a group may hold another recipe, such as ``GaLore.recipe(rank=64)`` or ``AdamW.recipe()``.

    Args:
        params: a module, parameters, named parameters or groups.
        lr: learning rate.
        betas: decay of the averages of A and A^2.
        eps: added to the root of v, which is not corrected for bias; None: 1e-6, and 1e-30 for Adafactor.
        weight_decay: decoupled, applied after the step.
        rank: of the subspace.
        period: steps between two refreshes of a parameter's basis.
        scale: factor on the step of projected parameters.
        side: which dimension is projected, see `metrize.frames.GaLore`.
        inner: ``"adam"``; ``"8bit"``: Adam with averages in 8 bits; or ``"adafactor"``: factored squares,
            ``b2_t = 1 - t^-0.8``, clipped, and decay before the step; only the first of `betas` counts.
        moments: storage of the averages; None: as `inner` says.
        options: other arguments of `metrize.frames.GaLore` (``method``, ``carry``, ``stagger``, ``dtype``).

    Raises:
        ValueError: a number out of range or an unknown option.
        FrameError: (in a step) three gradients in a row that no basis could be made of, by the parameter's name.
    """

    further: ClassVar[type[Part]] = frames.GaLore

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float | None = None,
        weight_decay: float = 0.0,
        *,
        rank: int = 128,
        period: int = 200,
        scale: float = 0.25,
        side: Literal["std", "reverse_std", "left", "right", "full"] = "std",
        inner: Inner = "adam",
        moments: Moments | None = None,
        **options: Any,
    ) -> None:
        recipe = self.recipe(
            inner, moments, rank=rank, period=period, scale=scale, side=side, **taken(self.further, options)
        )
        numbers: dict[str, Any] = {"weight_decay": weight_decay, **inner_numbers(inner, betas, eps)}
        super().__init__(params, recipe, lr=lr, **numbers, **options)

    @staticmethod
    def recipe(inner: Inner = "adam", moments: Moments | None = None, **options: Any) -> Recipe:
        """The five answers of this optimizer; `options` are those of `metrize.frames.GaLore`."""
        return inner_recipe(frames.GaLore(**options), inner, moments)
