"""Shampoo, as first described and in its distributed form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from metrize import rules
from metrize.moments import Dense, Moments
from metrize.optim.groups import Params
from metrize.optim.optimizer import Optimizer
from metrize.recipe import Recipe

Exponents = float | Mapping[int, float | Sequence[float]] | None
Graft = Literal["none", "sgd", "adagrad", "rmsprop", "adam"]


class Shampoo(Optimizer):
    """Shampoo (arXiv:1802.09568): a matrix root of the summed gradients for each mode of a tensor.

    ``H_i <- H_i + U_i U_i^T`` with U_i the unfolding of the gradient G along mode i, from ``H_i = eps I``, and for k
    modes ``W <- W - lr G ×_1 H_1^(-1/2k) ... ×_k H_k^(-1/2k)``: for a matrix ``L^(-1/4) G R^(-1/4)``.

    Args:
        params: a module, parameters, named parameters or groups.
        lr: learning rate.
        eps: what the factors start with.
        weight_decay: decoupled.
        exponent: in place of ``1 / (2 k)``, one number (0.5 as in arXiv:2406.17748), or a mapping from k to a number
            or to one for each mode; 0 leaves a mode alone.
        precondition_frequency: steps between two computations of the roots.
        max_dim: longer dimensions are cut into blocks of so many, and each block is preconditioned by itself; None:
            8192. A block ``m x n`` keeps ``2 (m^2 + n^2)`` numbers, and the roots cost ``m^3 + n^3``.
        moments: storage of averages, of which this form has none.
        options: ``maximize``, ``skip_nonfinite``.

    Raises:
        SpaceError: a parameter that lives on a manifold; `SOAP` trains it.
        ValueError: a number out of range.
        FrameError: (in a step) there were no roots three times in a row, by name.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.1,
        eps: float = 1e-4,
        weight_decay: float = 0.0,
        *,
        exponent: Exponents = None,
        precondition_frequency: int = 1,
        max_dim: int | None = None,
        moments: Moments = Dense(),
        **options: Any,
    ) -> None:
        rule = rules.Shampoo(exponents=_exponents(exponent), period=precondition_frequency, max_dim=max_dim)
        super().__init__(params, self.recipe(moments, rule), lr=lr, eps=eps, weight_decay=weight_decay, **options)

    @staticmethod
    def recipe(moments: Moments = Dense(), rule: rules.Shampoo = rules.Shampoo()) -> Recipe:
        """The five answers of this optimizer."""
        return Recipe(moments=moments, rule=rule)


class DistributedShampoo(Optimizer):
    """Shampoo with momentum, averages, blocks and grafting (arXiv:2309.06497).

    ``L_i <- b2 L_i + (1 - b2) U_i U_i^T`` (the sum where b2 is 1), ``m <- b1 m + (1 - b1) G``, and in every block
    ``D = m / (1 - b1^t) ×_i (L_i / (1 - b2^t) + eps I)^(-1/2k)``, stretched to the length of the grafted direction.

    Args:
        params: a module, parameters, named parameters or groups.
        lr: learning rate; that of the grafted method is a good start.
        betas: decay of m and of the factors.
        epsilon: added to the factors.
        weight_decay: decoupled.
        max_preconditioner_dim: longer dimensions are cut into blocks.
        merge_dims: take neighbouring dimensions together first, as far as `max_preconditioner_dim` allows; a small
            matrix becomes a vector then, and its preconditioner that of the whole of it.
        precondition_frequency: steps between two computations of the roots.
        start_preconditioning_step: the first step with roots; -1: `precondition_frequency`.
        use_bias_correction: divide by ``1 - b^t``.
        grafting: ``"sgd"``, ``"adagrad"``, ``"rmsprop"``, ``"adam"`` or ``"none"``.
        grafting_beta2: decay of the grafted method's squares.
        grafting_epsilon: added to their root.
        exponent_override: as `exponent` of `Shampoo`.
        moments: storage of the averages.
        options: ``maximize``, ``skip_nonfinite``.

    Raises:
        SpaceError: a parameter that lives on a manifold; `SOAP` trains it.
        ValueError: a number out of range.
        FrameError: (in a step) there were no roots three times in a row, by name.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        betas: tuple[float, float] = (0.9, 1.0),
        epsilon: float = 1e-12,
        weight_decay: float = 0.0,
        max_preconditioner_dim: int = 1024,
        precondition_frequency: int = 1,
        start_preconditioning_step: int = -1,
        *,
        merge_dims: bool = True,
        use_bias_correction: bool = True,
        grafting: Graft = "none",
        grafting_beta2: float = 0.999,
        grafting_epsilon: float = 1e-10,
        exponent_override: Exponents = None,
        moments: Moments = Dense(),
        **options: Any,
    ) -> None:
        rule = rules.Shampoo(
            exponents=_exponents(exponent_override),
            max_dim=max_preconditioner_dim,
            merge_dims=merge_dims,
            period=precondition_frequency,
            start=precondition_frequency if start_preconditioning_step == -1 else start_preconditioning_step,
            bias_correction=use_bias_correction,
            graft=grafting,
        )
        numbers: dict[str, Any] = {"graft_beta": grafting_beta2, "graft_eps": grafting_epsilon, "eps": epsilon}
        super().__init__(
            params, self.recipe(moments, rule), lr=lr, betas=betas, weight_decay=weight_decay, **numbers, **options
        )

    @staticmethod
    def recipe(
        moments: Moments = Dense(), rule: rules.Shampoo = rules.Shampoo(max_dim=1024, merge_dims=True)
    ) -> Recipe:
        """The five answers of this optimizer."""
        return Recipe(moments=moments, rule=rule)


def _exponents(given: Exponents) -> float | tuple[tuple[float, ...], ...] | None:
    """As the rule reads them."""
    if not isinstance(given, Mapping):
        return given
    return tuple((order, *(told if isinstance(told, Sequence) else (told,))) for order, told in given.items())
