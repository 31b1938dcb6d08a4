"""Adam and AdamW."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor

from metrize import rules
from metrize.moments import Dense, Moments
from metrize.optim.groups import Params
from metrize.optim.optimizer import Optimizer
from metrize.recipe import Recipe
from metrize.spaces import Space


class Adam(Optimizer):
    """Adam on any space (arXiv:1412.6980; on manifolds arXiv:2305.16901).

    ``m <- b1 m + (1 - b1) g``, ``v <- b2 v + (1 - b2) g^2``,
    ``p <- move(p, -lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps))``. On a vector space bit for bit
    ``torch.optim.Adam(fused=True)``; on a manifold g is the gradient lifted to the global tangent space. The paper's
    own numbers there are ``betas=(0.9, 0.99)``.

    Args:
        params: a module, parameters, named parameters or groups.
        lr: learning rate: the length of the first step of each free coordinate (an angle, on Stiefel).
        betas: decay of the averages of g and g^2.
        eps: added outside the root.
        weight_decay: L2, added to the gradient; nothing on compact spaces.
        space: of every parameter; None takes each parameter's declared space, else a vector space.
        moments: storage of the averages.
        second_moment: ``"elementwise"``, or ``"scalar"``: one for each point.
        options: ``maximize``, ``skip_nonfinite``, ``rounding``.

    Raises:
        SpaceError: a parameter its space cannot hold or that is off its space, by name.
        ValueError: a number out of range or an unknown option.
    """

    decay: ClassVar[Literal["decoupled", "l2"]] = "l2"

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        space: Space | None = None,
        moments: Moments = Dense(),
        second_moment: Literal["elementwise", "scalar"] = "elementwise",
        **options: Any,
    ) -> None:
        recipe = self.recipe(space, moments, second_moment)
        super().__init__(params, recipe, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, **options)

    @classmethod
    def recipe(
        cls,
        space: Space | None = None,
        moments: Moments = Dense(),
        second_moment: Literal["elementwise", "scalar"] = "elementwise",
    ) -> Recipe:
        """The five answers of this optimizer."""
        return Recipe(space=space, moments=moments, rule=rules.Adam(second_moment), decay=cls.decay)


class AdamW(Adam):
    """Adam with decoupled weight decay (arXiv:1711.05101): ``p <- (1 - lr weight_decay) p`` before the step.

    On a vector space bit for bit ``torch.optim.AdamW(fused=True)``. Arguments as `Adam`.
    """

    decay: ClassVar[Literal["decoupled", "l2"]] = "decoupled"

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        **options: Any,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, **options)
