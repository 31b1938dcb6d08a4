"""Muon."""

from __future__ import annotations

import functools
from typing import Any, ClassVar, Literal

from torch import Tensor

from metrize import rules
from metrize.arguments import flag, unknown
from metrize.frames import Frame, Identity
from metrize.linalg import is_flat_piece
from metrize.linalg.orthogonalize import Accuracy
from metrize.named.by_role import ByRole
from metrize.norms import Spectral
from metrize.norms.layout import Layout
from metrize.optim.groups import Params
from metrize.optim.method import Method, method_of
from metrize.optim.optimizer import Optimizer
from metrize.recipe import Recipe, as_recipe, parse_recipe
from metrize.roles import Role
from metrize.roles.rules import DEFAULTS
from metrize.roles.sandbox import Example
from metrize.spaces import SpaceError
from metrize.step.group import trains
from metrize.step_sizes import Given, StepSize

MATRICES = frozenset({"hidden", "conv", "recurrent", "expert", "bilinear", "lora-b"})
"""Roles that Muon trains; embeddings, first and last layers, routers, vectors and A of adapters go to Adam."""


class Muon(Optimizer):
    """Momentum, orthogonalized (https://kellerjordan.github.io/posts/muon): steepest descent in the spectral norm.

    ``m <- b m + (1 - b) g``, ``u = b m + (1 - b) g`` (or m), ``p <- (1 - lr weight_decay) p - lr f polar(u)``. Given a
    module, hidden matrices take this step and everything else one of AdamW, as `metrize.plan` tells them apart; given
    parameters, all of them must be matrices, or kernels of convolutions, which are read as matrices
    ``[out, in * k * k]``. Weight decay spares what a plan spares: embeddings, routers, vectors and unknown tensors.

    Args:
        params: a module; or parameters that are matrices, named parameters or groups, which may have a ``layout``.
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

    marks: ClassVar[tuple[str, ...]] = ("use_muon",)

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
            return _others({**adam, **DEFAULTS[role.kind].numbers}, rest or {})

        recipe = self.recipe(norm, frame, step_size)
        divide = ByRole(of, functools.partial(_as_matrix, type(self).__name__), example)
        super().__init__(params, recipe, lr=lr, divide=divide, **numbers, **options)

    @classmethod
    def _read(cls, group: dict[str, Any], method: Method) -> dict[str, Any]:
        group = super()._read(group, method)
        if flag("use_muon", group.get("use_muon", True)):
            return group
        divide: Any = method.divide
        return {**divide.options(Role("bias")), **group}  # as the rest of a model

    @classmethod
    def divide_shapes(cls, entries: list[tuple[str, Tensor]]) -> list[dict[str, Any]]:
        """Groups for tensors of which nothing but shapes is known, with the roles that these suggest."""
        divide: Any = method_of(cls, {}).divide
        groups: list[dict[str, Any]] = divide.of_shapes(entries)
        return groups

    @staticmethod
    def recipe(
        norm: Spectral = Spectral("muon", "muon"), frame: Frame = Identity(), step_size: StepSize = Given()
    ) -> Recipe:
        """The five answers of this optimizer, about a matrix."""
        return Recipe(frame=frame, rule=rules.Steepest(norm), step_size=step_size)


def _others(usual: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    """A group of the rest of a model; a recipe of the user's own takes the numbers that it reads, and no others.

    Raises:
        TypeError: a number that the rest does not read.
    """
    recipe = told.get("recipe", usual["recipe"])
    known = ["lr", "weight_decay", *(as_recipe(recipe) or parse_recipe(recipe)).hyper()]
    for key in told.keys() - {"recipe", "lr_mult", "maximize", "skip_nonfinite", *known}:
        raise TypeError("in rest: " + unknown(key, str(recipe), known))
    usual = {key: value for key, value in usual.items() if key in known}
    return {**usual, "recipe": recipe, **told}


def _as_matrix(method: str, parameter: Tensor, among: list[Tensor]) -> Role:
    """How a parameter that comes without its module is read; kernels of convolutions are unfolded."""
    whole = not parameter.is_complex() and not is_flat_piece(parameter)
    if parameter.ndim < 2 and whole and trains(parameter):
        raise SpaceError(
            f"shape {tuple(parameter.shape)}, and {method} trains matrices, which have two dimensions at least; hand "
            f"over the module, metrize.{method}(model), which gives every parameter what suits its role, or put this "
            "one into a group with a recipe of its own, such as recipe='Recipe()'. A framework that makes the groups "
            "itself, such as the Trainer, takes a factory (docs: guide/frameworks)"
        )
    return Role("hidden", Layout(unfold=any(p.ndim > 2 for p in among)))
