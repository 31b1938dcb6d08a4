"""CAME."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from metrize import rules
from metrize.moments import Dense, Factored, Moments, Split
from metrize.optim.groups import Params
from metrize.optim.optimizer import Optimizer
from metrize.recipe import Recipe


class CAME(Optimizer):
    """Confidence-guided Adafactor (arXiv:2307.02047).

    The gradient is divided by the root of its factored mean square and clipped to ``U``; its average m is divided by
    the root of the factored average of ``(U - m)^2``, so that entries which disagree with their average move less (see
    `metrize.rules.CAME`). Tensors with fewer than two dimensions move along m.

    Args:
        params: a module, parameters, named parameters or groups.
        lr: learning rate; the authors take half to nine tenths of AdamW's.
        betas: decay of the averages of U, of g^2 and of (U - m)^2.
        eps: added to the last two of them.
        clip: bound on the root mean square of U, for each tensor; None: none.
        weight_decay: decoupled.
        dims: which two dimensions are factored: the ``"largest"``, or the ``"last"``, as in the authors' code, which in
            a convolution are those of its kernel and save little.
        first_moment: storage of m.
        options: ``maximize``, ``skip_nonfinite``.

    Raises:
        SpaceError: a parameter that is off its declared space, by name.
        ValueError: a number out of range or an unknown option.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 2e-4,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        eps: tuple[float, float] = (1e-30, 1e-16),
        clip: float | None = 1.0,
        weight_decay: float = 0.0,
        *,
        dims: Literal["largest", "last"] = "largest",
        first_moment: Moments = Dense(),
        **options: Any,
    ) -> None:
        numbers: dict[str, Any] = {"betas": betas, "eps": eps, "clip": clip}
        recipe = self.recipe(dims, first_moment)
        super().__init__(params, recipe, lr=lr, weight_decay=weight_decay, **numbers, **options)

    @staticmethod
    def recipe(dims: Literal["largest", "last"] = "largest", first_moment: Moments = Dense()) -> Recipe:
        """The five answers of this optimizer."""
        return Recipe(moments=Split(first_moment, Factored(dims)), rule=rules.CAME())
