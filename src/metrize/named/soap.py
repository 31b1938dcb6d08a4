"""SOAP: Adam in the eigenbasis of Shampoo's factors."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from metrize import rules
from metrize.frames import Eigenbasis
from metrize.moments import Dense, Moments
from metrize.optim.groups import Params
from metrize.optim.optimizer import Optimizer
from metrize.recipe import Recipe
from metrize.spaces import Space


class SOAP(Optimizer):
    """Adam in the eigenbasis of Shampoo's factors, on any space (arXiv:2409.11321).

    ``G' = Q_L^T G Q_R``; Adam's m and v of G';
    ``W <- W - lr sqrt(1 - b2^t) / (1 - b1^t) Q_L (m / (sqrt(v) + eps)) Q_R^T``; then ``W <- (1 - lr weight_decay) W``.
    Vectors and numbers are Adam's. On a manifold it works in the free coordinates of the lifted gradient; of those of
    `Stiefel`, B is rotated and A is Adam's.

    Args:
        params: a module, parameters, named parameters or groups.
        lr: learning rate; the best one is one to three times Adam's.
        betas: decay of the averages of g and g^2.
        shampoo_beta: decay of the factors; -1 takes the second of `betas`.
        eps: added to the root of v before v is corrected, so that it counts ``1 / sqrt(1 - b2^t)`` times as much.
        weight_decay: decoupled, after the step.
        precondition_frequency: f, steps between two refreshes of a basis.
        max_precond_dim: a longer dimension has no basis.
        merge_dims: take neighbouring dimensions together, as far as `max_precond_dim` allows.
        precondition_1d: vectors have a basis too.
        normalize_grads: the direction has a root mean square of 1.
        data_format: of the 4-D tensors that are merged, ``"channels_first"`` or ``"channels_last"``.
        correct_bias: False leaves out the factor ``sqrt(1 - b2^t) / (1 - b1^t)``.
        one_sided: only the shorter dimension of a matrix has a basis.
        refresh: ``"auto"``, ``"qr"``, ``"eigh"`` or ``"thin"``; see `Eigenbasis`.
        tolerance: a basis so near to its factor's eigenvectors is not refreshed; see `Eigenbasis`.
        faithful: the steps of the authors' code: the first one only looks at the gradient, and every parameter is
            refreshed in the same step, by QR. Without, the first step is taken in the basis of its own gradient, and
            refreshes are spread over the steps.
        space: of every parameter; None takes each parameter's declared space, else a vector space.
        moments: storage of the averages; ``Factored()`` is the paper's variant with Adafactor inside.
        options: ``maximize``, ``skip_nonfinite``.

    Raises:
        SpaceError: a parameter its space cannot hold or that is off its space, by name.
        ValueError: a number out of range or an unknown option.
        FrameError: (in a step) a factor could not be decomposed in three refreshes in a row, by name.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 3e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        shampoo_beta: float = -1,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        precondition_frequency: int = 10,
        max_precond_dim: int = 10000,
        merge_dims: bool = False,
        precondition_1d: bool = False,
        normalize_grads: bool = False,
        data_format: Literal["channels_first", "channels_last"] = "channels_first",
        correct_bias: bool = True,
        *,
        one_sided: bool = False,
        refresh: Literal["auto", "qr", "eigh", "thin"] = "auto",
        tolerance: float = 0.0,
        faithful: bool = False,
        space: Space | None = None,
        moments: Moments = Dense(),
        **options: Any,
    ) -> None:
        frame = Eigenbasis(
            period=precondition_frequency,
            shampoo_beta=shampoo_beta,
            max_precond_dim=max_precond_dim,
            one_sided=one_sided,
            merge_dims=merge_dims,
            precondition_1d=precondition_1d,
            data_format=data_format,
            refresh="qr" if faithful and refresh == "auto" else refresh,
            tolerance=tolerance,
            faithful=faithful,
        )
        recipe = self.recipe(space, frame, moments, correct_bias, normalize_grads)
        super().__init__(params, recipe, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, **options)

    @staticmethod
    def recipe(
        space: Space | None = None,
        frame: Eigenbasis = Eigenbasis(shampoo_beta=-1),
        moments: Moments = Dense(),
        correct_bias: bool = True,
        normalize_grads: bool = False,
    ) -> Recipe:
        """The five answers of this optimizer."""
        rule = rules.Adam(bias_correction="step" if correct_bias else False, normalized=normalize_grads)
        return Recipe(space=space, frame=frame, moments=moments, rule=rule, decay="after")
