"""Adalayer."""

from __future__ import annotations

import math
from typing import Any, Literal

from torch import Tensor

from metrize import rules
from metrize.moments import Blocks, Dense, Moments, Split
from metrize.named.by_role import ByRole
from metrize.optim.groups import Params
from metrize.optim.optimizer import Optimizer
from metrize.recipe import Recipe
from metrize.roles import Role
from metrize.roles.role import VECTORS
from metrize.roles.sandbox import Example
from metrize.step.assignment import as_real

Hidden = Literal["adaptive", "frozen", "sgd"]

_ADAPTIVE = VECTORS | {"head", "tied"}
_OPTIONS = {"head": ("rows", "tensor"), "embedding": ("rows", "tensor"), "hidden": ("adaptive", "frozen", "sgd")}


class Adalayer(Optimizer):
    """AdamW with one second moment for each matrix, and each row of the last layer (arXiv:2407.07972).

    ``v_b <- b2 v_b + (1 - b2) mean(g^2 over block b)``, all else as `AdamW`. A block is

    - each row of the last layer, all weights that feed one logit; with ``head="tensor"``, the study's plain Adalayer,
      the whole of it;
    - the embedding, or with ``embedding="rows"`` each of its rows, which is better where tokens differ in frequency;
    - each of the matrices in a fused one, such as query, key and value, cut into equal parts where they differ in size;
    - every other tensor.

    Given a module, roles are inferred as in `metrize.plan`; given parameters, each is one block, and a group may name
    its own ``"recipe"``, such as ``Adalayer.recipe(Blocks("rows"))``.

    Args:
        params: a module, parameters, named parameters or groups.
        lr: learning rate.
        betas: decay of the averages of g and g^2.
        eps: added outside the root.
        weight_decay: decoupled.
        head: blocks of the last layer, or of a table that is tied to it.
        embedding: blocks of embeddings.
        hidden: of all but the last layer, vectors such as norms, and embeddings with rows: ``"adaptive"``;
            ``"frozen"``: v is measured in the first `freeze_after` steps, which the study takes with lr 0, and kept;
            ``"sgd"``: no v at all, the bias-corrected momentum with a learning rate of its own.
        freeze_after: see ``hidden="frozen"``.
        hidden_lr: learning rate under ``hidden="sgd"``; None: `lr`.
        example: what one forward pass of the module takes, to find fused matrices; see `metrize.plan`.
        first_moment: storage of the average of g.
        options: ``maximize``, ``skip_nonfinite``.

    Raises:
        SpaceError: a parameter that is off its declared space, by name.
        ValueError: a number out of range or an unknown option.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 3e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-15,
        weight_decay: float = 0.0,
        *,
        head: Literal["rows", "tensor"] = "rows",
        embedding: Literal["rows", "tensor"] = "tensor",
        hidden: Hidden = "adaptive",
        freeze_after: int = 1000,
        hidden_lr: float | Tensor | None = None,
        example: Example | None = None,
        first_moment: Moments = Dense(),
        **options: Any,
    ) -> None:
        _check(head=head, embedding=embedding, hidden=hidden)
        by_rows = {"head": head == "rows", "tied": head == "rows", "embedding": embedding == "rows"}

        def of(role: Role) -> dict[str, Any]:
            rows = by_rows.get(role.kind, False)
            adaptive = rows or role.kind in _ADAPTIVE
            recipe = self.recipe(_blocks_of(role, rows), _rule(hidden, adaptive), first_moment)
            slow = adaptive or hidden != "sgd" or hidden_lr is None
            return {"recipe": recipe} if slow else {"recipe": recipe, "lr": hidden_lr}

        numbers: dict[str, Any] = {"betas": betas, "eps": eps, "weight_decay": weight_decay}
        if hidden == "frozen":
            numbers["freeze_after"] = freeze_after
        default = self.recipe(Blocks(), _rule(hidden, False), first_moment)
        super().__init__(params, default, lr=lr, divide=ByRole(of, _by_shape, example), **numbers, **options)

    @staticmethod
    def recipe(blocks: Blocks = Blocks(), rule: rules.Rule = rules.Adam(), first_moment: Moments = Dense()) -> Recipe:
        """The five answers of this optimizer."""
        return Recipe(moments=Split(first_moment, blocks), rule=rule)


def _check(**given: str) -> None:
    for name, value in given.items():
        if value not in _OPTIONS[name]:
            raise ValueError(f"Adalayer({name}={value!r}): {name} is one of {', '.join(map(repr, _OPTIONS[name]))}")


def _rule(hidden: Hidden, adaptive: bool) -> rules.Rule:
    if hidden == "frozen":
        return rules.FrozenAdam(then="averaged" if adaptive else "frozen")
    return rules.Adam("none") if hidden == "sgd" and not adaptive else rules.Adam()


def _blocks_of(role: Role, rows: bool) -> Blocks:
    """One for each output or table row, or for each matrix in the tensor."""
    layout, table = role.layout, role.kind in ("embedding", "tied")
    side: Literal["rows", "columns"] = "columns" if layout.transposed and not table else "rows"
    if rows:
        return Blocks(side)
    if role.kind == "expert" and not layout.block_rows:
        return Blocks("rows")  # a bank: its first dimension counts matrices
    if layout.split and role.kind not in VECTORS:
        return Blocks(side, layout.outer * sum(layout.split) // math.gcd(*layout.split))
    return Blocks()


def _by_shape(parameter: Tensor, among: list[Tensor]) -> Role:
    """What a parameter is taken for that comes without its module; complex numbers count as pairs."""
    return Role("hidden") if as_real(parameter).ndim > 1 else Role("gain")
