"""Steepest descent under any norm."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from metrize import rules
from metrize.norms import Frobenius, Norm
from metrize.optim.groups import Params
from metrize.optim.optimizer import Optimizer
from metrize.recipe import Recipe
from metrize.spaces import Space


class NormSGD(Optimizer):
    """Steepest descent with momentum under a norm of choice (arXiv:2409.20325).

    ``m <- b m + (1 - b) g``, ``p <- (1 - lr weight_decay) p - lr dual(m)`` where ``dual(m)`` has norm 1, or
    ``||m||_dual`` with ``length="full"``. Normalised SGD is the norm `Frobenius`, sign descent `MaxEntry`, spectral
    descent `Spectral`.

    Args:
        params: a module, parameters, named parameters or groups.
        lr: length of the step in the norm.
        norm: in which it is steepest, of every parameter.
        momentum: b; 0 keeps no state.
        weight_decay: decoupled.
        nesterov: look ahead along the momentum.
        length: ``"normalised"``: the size of the gradient does not count; ``"full"``: it does, as in gradient descent.
        space: of every parameter; None takes each parameter's declared space, else a vector space.
        options: ``maximize``, ``skip_nonfinite``.

    Raises:
        SpaceError: a parameter whose shape the norm cannot measure, by name.
        ValueError: a number out of range.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        norm: Norm = Frobenius(),
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        *,
        nesterov: bool = False,
        length: Literal["normalised", "full"] = "normalised",
        space: Space | None = None,
        **options: Any,
    ) -> None:
        numbers: dict[str, Any] = {"momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
        super().__init__(params, self.recipe(norm, length, space), lr=lr, **numbers, **options)

    @staticmethod
    def recipe(
        norm: Norm = Frobenius(),
        length: Literal["normalised", "full"] = "normalised",
        space: Space | None = None,
    ) -> Recipe:
        """The five answers of this optimizer."""
        return Recipe(space=space, rule=rules.Steepest(norm, length))
