"""Muon."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from metrize import rules
from metrize.frames import Frame, Identity
from metrize.groups import Params
from metrize.linalg.orthogonalize import Accuracy
from metrize.named.by_role import by_role, measured, read_as_matrices
from metrize.norms import Spectral
from metrize.optimizer import Optimizer
from metrize.recipe import Recipe
from metrize.roles import Role
from metrize.roles.rules import DEFAULTS
from metrize.roles.sandbox import Example
from metrize.step_sizes import Given, StepSize

MATRICES = frozenset({"hidden", "conv", "recurrent", "expert", "bilinear", "low-rank"})
"""Roles that Muon trains; embeddings, first and last layers, routers and vectors go to Adam."""


class Muon(Optimizer):
    """Momentum, orthogonalized (https://kellerjordan.github.io/posts/muon): steepest descent in the spectral norm.

    ``m <- b m + (1 - b) g``, ``u = b m + (1 - b) g`` (or m), ``p <- (1 - lr weight_decay) p - lr f polar(u)``. Given a
    module, hidden matrices take this step and everything else one of AdamW, as `metrize.plan` tells them apart; given
    parameters, all of them must be matrices, or kernels of convolutions, which are read as matrices
    ``[out, in * k * k]``. Weight decay spares what a plan spares: embeddings, routers, vectors and unknown tensors.

    Args:
        params: a module; or parameters that are matrices, named parameters or groups. A group may say how its tensors
            are read, ``{"params": experts, "layout": Layout()}``, where that is not as above.
        lr: length of the step of a matrix, in the units of `scale`.
        momentum: b.
        weight_decay: decoupled, with the learning rate as it is given.
        nesterov: look ahead along the momentum.
        scale: f; ``"muon"`` is ``sqrt(max(1, out / in))``; ``"adam"`` is ``0.2 sqrt(max(out, in))``, which takes
            AdamW's learning rates (arXiv:2502.16982); ``"rms"`` keeps the learning rate constant over widths.
        accuracy: of the orthogonalization, see `metrize.norms.Spectral`; ``"muon"`` is the polynomial of its authors.
        rest: numbers of AdamW for everything else, over ``lr=3e-4, betas=(0.9, 0.95), eps=1e-10``, or a ``recipe``;
            its ``weight_decay`` is that of all of them.
        frame: in whose coordinates matrices keep their momentum and are orthogonalized.
        step_size: of matrices; one that measures a norm measures that of the matrix.
        example: what one forward pass of the module takes, to find fused matrices; see `metrize.plan`.
        options: ``maximize``, ``skip_nonfinite``.

    Raises:
        SpaceError: a parameter that is no matrix, by name.
        ValueError: a number out of range.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        *,
        nesterov: bool = True,
        scale: Literal["rms", "unit", "muon", "adam"] = "muon",
        accuracy: Accuracy = "muon",
        rest: dict[str, Any] | None = None,
        frame: Frame = Identity(),
        step_size: StepSize = Given(),
        example: Example | None = None,
        **options: Any,
    ) -> None:
        norm = Spectral(scale, accuracy)
        adam = {"lr": 3e-4, "betas": (0.9, 0.95), "eps": 1e-10, "recipe": Recipe(rule=rules.Adam())}
        numbers: dict[str, Any] = {"momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}

        def of(role: Role) -> dict[str, Any]:
            own = norm.replace(layout=role.layout)
            if role.kind in MATRICES:
                return {"recipe": self.recipe(own, frame, step_size)}
            return {**adam, **DEFAULTS[role.kind].numbers, **(rest or {})}

        recipe = self.recipe(norm, frame, step_size)
        super().__init__(by_role(params, of, example=example), recipe, lr=lr, **numbers, **options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add matrices, or parameters with a ``norm`` or ``recipe`` of their own; a ``layout`` says how they are read.

        Raises:
            SpaceError, TypeError, ValueError: as the constructor; nothing is added then.
        """
        super().add_param_group(read_as_matrices(param_group, type(self).__name__, self.defaults["recipe"]))

    @staticmethod
    def recipe(
        norm: Spectral = Spectral("muon", "muon"), frame: Frame = Identity(), step_size: StepSize = Given()
    ) -> Recipe:
        """The five answers of this optimizer, about a matrix."""
        return measured(Recipe(frame=frame, rule=rules.Steepest(norm), step_size=step_size), norm)
