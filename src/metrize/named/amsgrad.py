"""AMSGrad and AdamNC, the two repairs of Adam."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from metrize import rules
from metrize.decay import Decay
from metrize.moments import Dense, Moments
from metrize.optim.groups import Params
from metrize.optim.optimizer import Optimizer
from metrize.recipe import Recipe
from metrize.spaces import Space
from metrize.step_sizes import Given, StepSize
from metrize.step_sizes.decaying import falling


class AMSGrad(Optimizer):
    """Adam whose second moment never falls (arXiv:1904.09237).

    ``m <- b1 m + (1 - b1) g``, ``v <- b2 v + (1 - b2) g^2``, ``w <- max(w, v)``, ``p <- p - a_t m / (sqrt(w) + eps)``
    with ``a_t = lr / t^lr_power``. It converges where Adam forgets rare large gradients and does not.

    Args:
        params: a module, parameters, named parameters or groups.
        lr: learning rate.
        betas: decay of the averages of g and g^2; the theory asks for ``b1 < sqrt(b2)``.
        eps: added outside the root.
        weight_decay: per `decay`.
        form: ``"paper"`` as above; ``"torch"`` divides m by ``1 - b1^t`` and w by ``1 - b2^t`` when they are used, and
            is on a vector space bit for bit ``torch.optim.AdamW(amsgrad=True, fused=True)``, or Adam with
            ``decay="l2"``.
        lr_power: the theory has 1/2.
        decay: convention of weight decay.
        space: of every parameter; None takes each parameter's declared space, else a vector space.
        moments: storage of m, v and w.
        options: ``maximize``, ``skip_nonfinite``.

    Raises:
        SpaceError: a parameter its space cannot hold or that is off its space, by name.
        ValueError: a number out of range or an unknown option.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        form: Literal["torch", "paper"] = "torch",
        lr_power: float = 0.0,
        decay: Decay = "decoupled",
        space: Space | None = None,
        moments: Moments = Dense(),
        **options: Any,
    ) -> None:
        recipe = self.recipe(form, falling(1.0, lr_power), decay, space, moments)
        super().__init__(params, recipe, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, **options)

    @staticmethod
    def recipe(
        form: Literal["torch", "paper"] = "torch",
        step_size: StepSize = Given(),
        decay: Decay = "decoupled",
        space: Space | None = None,
        moments: Moments = Dense(),
    ) -> Recipe:
        """The five answers of this optimizer."""
        if form not in ("torch", "paper"):
            raise ValueError(f"AMSGrad(form={form!r}): form is 'torch' or 'paper'")
        rule = rules.Adam(bias_correction=form == "torch", amsgrad=True)
        return Recipe(space=space, moments=moments, rule=rule, step_size=step_size, decay=decay)


class AdamNC(Optimizer):
    """Adam with a second moment that forgets nothing (arXiv:1904.09237): AdaGrad with momentum.

    ``m <- b1_t m + (1 - b1_t) g``, ``v <- v + (g^2 - v) / t``, ``p <- p - a_t m / (sqrt(v) + eps)`` with
    ``b1_t = momentum growth_rate^(t-1)`` and ``a_t = lr / t^lr_power``. With a power of 1/2 and no eps the step is
    ``lr m / sqrt(sum of g^2)``.

    Args:
        params: a module, parameters, named parameters or groups.
        lr: learning rate.
        momentum: b1; 0 keeps no m.
        eps: added outside the root; 0 in the theory.
        weight_decay: per `decay`, with the rate a_t where that is decoupled.
        growth_rate: lambda, factor on b1 from step to step.
        lr_power: 0 keeps the learning rate.
        decay: convention of weight decay.
        space: of every parameter; None takes each parameter's declared space, else a vector space.
        moments: storage of m and v.
        options: ``maximize``, ``skip_nonfinite``.

    Raises:
        SpaceError: a parameter its space cannot hold or that is off its space, by name.
        ValueError: a number out of range or an unknown option.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        momentum: float = 0.9,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        growth_rate: float = 1.0,
        *,
        lr_power: float = 0.5,
        decay: Decay = "decoupled",
        space: Space | None = None,
        moments: Moments = Dense(),
        **options: Any,
    ) -> None:
        recipe = self.recipe(falling(1.0, lr_power), decay, space, moments)
        numbers: dict[str, Any] = {"momentum": momentum, "growth_rate": growth_rate, "decay_rate": -1.0, "eps": eps}
        super().__init__(params, recipe, lr=lr, weight_decay=weight_decay, **numbers, **options)

    @staticmethod
    def recipe(
        step_size: StepSize = falling(1.0, 0.5),
        decay: Decay = "decoupled",
        space: Space | None = None,
        moments: Moments = Dense(),
    ) -> Recipe:
        """The five answers of this optimizer, whose group has ``decay_rate=-1``."""
        return Recipe(space=space, moments=moments, rule=rules.ScheduledAdam(), step_size=step_size, decay=decay)
