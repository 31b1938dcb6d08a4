"""COAP."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from metrize import frames
from metrize.moments import Moments, Quantized
from metrize.named.inner import Inner, inner_numbers, inner_recipe, taken
from metrize.optim.groups import Params
from metrize.optim.optimizer import Optimizer
from metrize.part import Part
from metrize.recipe import Recipe


class COAP(Optimizer):
    """Adam in a subspace that follows the gradient's correlation with its average (arXiv:2412.00071).

    ``A = G Q``, ``m <- b1 m + (1 - b1) A``, ``v <- b2 v + (1 - b2) A^2``,
    ``p <- p - lr sqrt(1 - b2^t) / (1 - b1^t) scale (m / (sqrt(v) + eps)) Q^T``, then ``p <- (1 - lr weight_decay) p``.
    Every `period` steps Q takes a gradient step or, every `reproject`-th time, is computed from scratch, for much less
    than singular vectors cost (see `metrize.frames.COAP`). Convolutions are projected in both channel dimensions. Small
    convolutions, vectors and other tensors take Adam's own step; a group may hold another recipe.

    Args:
        params: a module, parameters, named parameters or groups.
        lr: learning rate.
        betas: decay of the averages of A and A^2.
        eps: added to the root of v, which is not corrected for bias; None: 1e-6, and 1e-30 for Adafactor.
        weight_decay: decoupled, applied after the step.
        rank: of every matrix; None: its shorter side divided by `ratio`.
        ratio: see `rank`.
        conv_ratio: a convolution keeps ``d / sqrt(conv_ratio)`` of d channels; None: all of them.
        period: steps between two changes of the basis.
        reproject: recompute the basis from scratch at every `reproject`-th change.
        scale: factor on the step of projected parameters.
        inner: ``"adam"``; ``"8bit"``: Adam with averages in 8 bits; or ``"adafactor"``: factored squares,
            ``b2_t = 1 - t^-0.8``, clipped, and decay before the step; only the first of `betas` counts.
        moments: storage of the averages; None: as `inner` says.
        options: other arguments of `metrize.frames.COAP` (``normalize``, ``carry``, ``conv_above``, ``stagger``,
            ``dtype``).

    Raises:
        ValueError: a number out of range or an unknown option.
        FrameError: (in a step) three gradients in a row that no basis could be made of, by the parameter's name.
    """

    further: ClassVar[type[Part]] = frames.COAP

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float | None = None,
        weight_decay: float = 0.0,
        *,
        rank: int | None = None,
        ratio: float = 2.0,
        conv_ratio: float | None = 2.0,
        period: int = 32,
        reproject: int = 5,
        scale: float = 1.0,
        inner: Inner = "adam",
        moments: Moments | None = None,
        **options: Any,
    ) -> None:
        sizes: dict[str, Any] = {"rank": rank, "ratio": ratio, "conv_ratio": conv_ratio}
        recipe = self.recipe(
            inner, moments, **sizes, period=period, reproject=reproject, scale=scale, **taken(self.further, options)
        )
        numbers: dict[str, Any] = {"weight_decay": weight_decay, **inner_numbers(inner, betas, eps)}
        super().__init__(params, recipe, lr=lr, **numbers, **options)

    @staticmethod
    def recipe(inner: Inner = "adam", moments: Moments | None = None, **options: Any) -> Recipe:
        """The five answers of this optimizer; `options` are those of `metrize.frames.COAP`."""
        quantized = Quantized(block=4096, signed=True, smallest=0)  # as published, whatever the size of the tensor
        return inner_recipe(frames.COAP(**options), inner, moments, quantized)
