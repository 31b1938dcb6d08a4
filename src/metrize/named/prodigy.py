"""Prodigy."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from metrize import rules, step_sizes
from metrize.optim.groups import Params
from metrize.optim.optimizer import Optimizer
from metrize.recipe import Recipe


class Prodigy(Optimizer):
    """Prodigy (arXiv:2306.06101): Adam that finds its own learning rate.

    The step is Adam's with the rate ``d lr``, where d grows from ``d0`` until the weights leave the region in which the
    loss is linear; see `metrize.step_sizes.Prodigy` for the formula, which also works with other rules and norms.

    Args:
        params: a module, parameters, named parameters or groups.
        lr: a factor on the rate that is found, for schedules; leave it at 1.
        betas: decay of the averages of ``d g`` and ``(d g)^2``.
        beta3: decay of the sums that estimate d; None: the root of the second beta.
        eps: added outside the root, times d.
        weight_decay: decoupled, times the rate; L2 with ``decouple=False``.
        decouple: the convention of weight decay.
        use_bias_correction: Adam's, in the rate.
        safeguard_warmup: leave lr out of the sum that d is divided by.
        d0: the first estimate.
        d_coef: factor on the estimate.
        growth_rate: largest growth of d in one step; None: unlimited.
        slice_p: estimate d from every p-th entry only, to save memory.
        options: ``maximize``, ``skip_nonfinite``.

    Raises:
        SpaceError: a parameter that does not live in a vector space, by name.
        ValueError: a number out of range.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        beta3: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        decouple: bool = True,
        use_bias_correction: bool = False,
        safeguard_warmup: bool = False,
        d0: float = 1e-6,
        d_coef: float = 1.0,
        growth_rate: float | None = None,
        slice_p: int = 1,
        **options: Any,
    ) -> None:
        step_size = step_sizes.Prodigy(
            beta3=beta3,
            d0=d0,
            d_coef=d_coef,
            growth_rate=growth_rate,
            safeguard_warmup=safeguard_warmup,
            bias_correction=use_bias_correction,
            slice_p=slice_p,
        )
        numbers: dict[str, Any] = {"betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, self.recipe(step_size, decouple), lr=lr, **numbers, **options)

    @staticmethod
    def recipe(step_size: step_sizes.Prodigy = step_sizes.Prodigy(), decouple: bool = True) -> Recipe:
        """The five answers of this optimizer."""
        rule = rules.Adam(bias_correction=False)
        return Recipe(rule=rule, step_size=step_size, decay="decoupled" if decouple else "l2")
