"""Adam-mini."""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from metrize import rules
from metrize.groups import Params, named_members
from metrize.moments import Blocks, Dense, Moments, Split
from metrize.optimizer import Optimizer
from metrize.recipe import Recipe

_HEADS = ("q_proj", "k_proj", "wq", "wk", "query", "key")
_ROWS = ("embed", "embd", "wte", "output", "lm_head", "v_proj", "wv", "value", "o_proj", "wo", "attn.proj", "mlp")
_NO_DECAY = ("norm", "ln", "bias")


class AdamMini(Optimizer):
    """AdamW with one number for each block of a tensor in place of the squares (arXiv:2406.16793).

    ``v_b <- b2 v_b + (1 - b2) mean(g^2 over block b)``, all else as `AdamW`. The names of the parameters decide what a
    block is, as in the authors' code:

    - biases: every entry;
    - queries and keys (``q_proj``, ``k_proj``, ``wq``, ``wk``, ``query``, ``key``): the rows of a head;
    - embeddings, output layers, values, projections of attention and perceptrons (``embed``, ``embd``, ``wte``,
      ``lm_head``, ``output``, ``v_proj``, ``wv``, ``value``, ``o_proj``, ``wo``, ``attn.proj``, ``mlp``,
      ``feed_forward``): each row;
    - all others, such as norms and convolutions: the tensor.

    Without names every row is a block. Parameters with ``norm``, ``ln`` or ``bias`` in their name are not decayed.

    Args:
        params: a module, named parameters, or groups of them.
        lr: learning rate.
        betas: decay of the averages of g and g^2.
        eps: added outside the root.
        weight_decay: decoupled.
        head_dim: rows of a head in queries and keys; None: every row of theirs is a block.
        blocks: patterns of names, such as ``"*.qkv.weight"``, and the blocks of the parameters that match; the first
            one that does counts more than the rules above.
        first_moment: storage of the average of g.
        options: ``maximize``, ``skip_nonfinite``.

    Raises:
        SpaceError: a parameter that is off its declared space, by name.
        ValueError: a number out of range, or rows that cannot be cut into the blocks.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        head_dim: int | None = None,
        blocks: Mapping[str, Blocks] | None = None,
        first_moment: Moments = Dense(),
        **options: Any,
    ) -> None:
        def recipe(name: str, p: Tensor) -> Recipe:
            return self.recipe(_blocks_of(name, p, head_dim, blocks or {}), first_moment)

        default = self.recipe(Blocks("rows"), first_moment)
        numbers: dict[str, Any] = {"betas": betas, "eps": eps, "weight_decay": weight_decay}
        divide = functools.partial(_by_name, recipe_of=recipe)
        super().__init__(params, default, lr=lr, divide=divide, **numbers, **options)

    @staticmethod
    def recipe(blocks: Blocks = Blocks("rows"), first_moment: Moments = Dense()) -> Recipe:
        """The five answers of this optimizer."""
        return Recipe(moments=Split(first_moment, blocks), rule=rules.Adam())


def _by_name(params: Any, recipe_of: Any) -> Any:
    """Groups of equal recipe and decay, where there are names."""
    entries = named_members(params)
    if not entries or not isinstance(entries[0], tuple):
        return entries
    parts: dict[tuple[Recipe, bool], list[tuple[str, Tensor]]] = {}
    for name, p in entries:
        key = recipe_of(name, p), any(part in name for part in _NO_DECAY)
        parts.setdefault(key, []).append((name, p))
    return [
        {"recipe": recipe, **({"weight_decay": 0.0} if spared else {}), "params": members}
        for (recipe, spared), members in parts.items()
    ]


def _blocks_of(name: str, p: Tensor, head_dim: int | None, told: Mapping[str, Blocks]) -> Blocks:
    """What a block of this parameter is.

    Raises:
        ValueError: its rows are no multiple of those of a head.
    """
    if not p.is_floating_point():  # codes of a frozen weight
        return Blocks("tensor")
    for pattern, blocks in told.items():
        if fnmatch.fnmatchcase(name, pattern):
            return blocks
    if "bias" in name:
        return Blocks("rows")
    if any(part in name for part in _HEADS):
        return _heads(name, p.shape[0], head_dim)
    return Blocks("rows") if any(part in name for part in (*_ROWS, "feed_forward")) else Blocks("tensor")


def _heads(name: str, rows: int, head_dim: int | None) -> Blocks:
    if head_dim is None:
        return Blocks("rows")
    if head_dim < 1 or rows % head_dim:
        raise ValueError(f"parameter {name!r} has {rows} rows, and head_dim={head_dim} does not divide them")
    return Blocks("rows", rows // head_dim)
