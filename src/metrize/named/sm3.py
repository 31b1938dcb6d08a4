"""SM3."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from metrize.moments import Cover, Dense, Moments, Split
from metrize.optim.groups import Params
from metrize.optim.optimizer import Optimizer
from metrize.recipe import Recipe
from metrize.rules import Whitened


class SM3(Optimizer):
    """AdaGrad with one number for each slice of a tensor along each of its dimensions (arXiv:1901.11150).

    ``v = min_i A_i + g^2``, ``A_i <- max of v over the slice``, ``m <- momentum m + (1 - momentum) g / sqrt(v + eps)``,
    ``p <- (1 - lr weight_decay) p - lr m``. Tensors with fewer than two dimensions keep the whole sum of squares.

    Args:
        params: a module, parameters, named parameters or groups.
        lr: learning rate, with a warm-up.
        momentum: 0 keeps no m.
        eps: added to v.
        weight_decay: decoupled; the paper has none.
        variant: ``"II"`` as above, or ``"I"``: A_i grows by the largest square of its slice.
        first_moment: storage of m.
        options: ``maximize``, ``skip_nonfinite``.

    Raises:
        SpaceError: a parameter that is off its declared space, by name.
        ValueError: a number out of range or an unknown option.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.1,
        momentum: float = 0.9,
        eps: float = 1e-30,
        weight_decay: float = 0.0,
        *,
        variant: Literal["II", "I"] = "II",
        first_moment: Moments = Dense(),
        **options: Any,
    ) -> None:
        numbers: dict[str, Any] = {"momentum": momentum, "eps": eps, "clip": None}
        recipe = self.recipe(variant, first_moment)
        super().__init__(params, recipe, lr=lr, weight_decay=weight_decay, **numbers, **options)

    @staticmethod
    def recipe(variant: Literal["II", "I"] = "II", first_moment: Moments = Dense()) -> Recipe:
        """The five answers of this optimizer."""
        return Recipe(moments=Split(first_moment, Cover(variant)), rule=Whitened("sum"))
