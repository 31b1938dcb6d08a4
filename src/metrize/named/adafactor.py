"""Adafactor."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from metrize.moments import Dense, Factored, Moments, Split
from metrize.optim.groups import Params
from metrize.optim.optimizer import Optimizer
from metrize.recipe import Recipe
from metrize.rules import Whitened
from metrize.step_sizes import Relative

Dialect = Literal["hf", "fairseq", "torch", "optax"]

_STORAGES = {
    "hf": Factored("last"),
    "fairseq": Factored("last"),
    "torch": Factored("last", floor=None),
    "optax": Factored("largest", min_size=128),
}


class Adafactor(Optimizer):
    """Adam with factored squares and steps relative to the parameter (arXiv:1804.04235).

    ``v <- b2_t v + (1 - b2_t) g^2`` as means of rows and columns (`Factored`), with ``b2_t = 1 - t^decay_rate``;
    ``U = g / sqrt(v)``, ``U <- U / max(1, RMS(U) / clip)``; ``p <- p - a_t m``, where m is U or its average, and
    ``a_t = rho_t max(eps2, RMS(p))``, ``rho_t = min(lr, 1 / sqrt(t))``.

    Its implementations differ, and a dialect does what they do:

    - ``"hf"`` (transformers) and ``"fairseq"``: the last two dimensions are factored, eps1 is added to v, weight decay
      shrinks p by ``a_t weight_decay``. fairseq's growth of lr from tensor to tensor is a mistake, and not repeated.
    - ``"torch"``: as these, but eps1 bounds ``sqrt(v)`` and the mean of R from below, weight decay shrinks p by
      ``lr weight_decay``, and the step is relative though lr is given. eps1 of None is the machine epsilon of the
      arithmetic, which is never that of 16 bits here.
    - ``"optax"`` (and the paper's code): the largest two dimensions are factored if both are 128 or more; weight decay
      shrinks p by ``weight_decay lr / initial_lr``.

    In all of them the step size multiplies the average of U; transformers and optax average ``a_t U``, which is the
    same as long as ``a_t`` does not change.

    Args:
        params: a module, parameters, named parameters or groups.
        lr: bound on rho, or rho itself; None: 0.01, as a bound.
        eps: eps1, and the least size of a parameter, or eps1 alone; None: ``(1e-30, 1e-3)``, for
            torch ``(None, 1e-3)``.
        clip: bound on the root mean square of U, for each tensor; None: none.
        decay_rate: of b2.
        momentum: decay of the average of U (their beta1); 0 keeps none.
        weight_decay: as the dialect says.
        dialect: of which implementation.
        scale_parameter: False leaves ``max(eps2, RMS(p))`` out of the step.
        relative_step: whether lr is a bound; None: if it is not given, and in torch's dialect always.
        warmup_init: a relative step begins with ``rho_t = min(1e-6 t, 1 / sqrt(t))``.
        dims: which two dimensions are factored, ``"largest"`` or ``"last"``; None: as the dialect says. The last two
            are those of the kernel in a convolution, where they save little.
        min_size: tensors whose smaller one of the two is below keep all squares; None: as the dialect says.
        first_moment: storage of the average of U.
        options: ``maximize``, ``skip_nonfinite``.

    Raises:
        SpaceError: a parameter that is off its declared space, by name.
        ValueError: a number out of range or an unknown option.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor | None = None,
        eps: tuple[float | None, float] | float | None = None,
        clip: float | None = 1.0,
        decay_rate: float = -0.8,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        *,
        dialect: Dialect = "hf",
        scale_parameter: bool = True,
        relative_step: bool | None = None,
        warmup_init: bool = False,
        dims: Literal["largest", "last"] | None = None,
        min_size: int | None = None,
        first_moment: Moments = Dense(),
        **options: Any,
    ) -> None:
        if relative_step is None:
            relative_step = lr is None or dialect == "torch"
        if warmup_init and not relative_step:
            raise ValueError(f"warmup_init=True with lr={lr}: it is a schedule of the relative step")
        if eps is None:
            eps = None if dialect == "torch" else 1e-30, 1e-3
        floor, least = eps if isinstance(eps, tuple | list) else (eps, 1e-3)
        schedule: Any = "warmup" if warmup_init else "capped" if relative_step else "given"
        recipe = self.recipe(dialect, Relative(schedule, scale_parameter, least), dims, min_size, first_moment)
        numbers: dict[str, Any] = {"momentum": momentum, "clip": clip, "eps": floor, "decay_rate": decay_rate}
        lr = 1e-2 if lr is None else lr
        super().__init__(params, recipe, lr=lr, weight_decay=weight_decay, **numbers, **options)

    @staticmethod
    def recipe(
        dialect: Dialect = "hf",
        step_size: Relative = Relative(),
        dims: Literal["largest", "last"] | None = None,
        min_size: int | None = None,
        first_moment: Moments = Dense(),
    ) -> Recipe:
        """The five answers of this optimizer."""
        if dialect not in _STORAGES:
            raise ValueError(f"Adafactor(dialect={dialect!r}): dialect is one of {', '.join(map(repr, _STORAGES))}")
        given = {key: value for key, value in (("dims", dims), ("min_size", min_size)) if value is not None}
        return Recipe(
            moments=Split(first_moment, _STORAGES[dialect].replace(**given)),
            rule=Whitened(floor="clamped" if dialect == "torch" else "added"),
            step_size=step_size,
            decay="given" if dialect == "torch" else "independent" if dialect == "optax" else "decoupled",
        )
