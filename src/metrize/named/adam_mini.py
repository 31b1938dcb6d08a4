"""Adam-mini."""

from __future__ import annotations

import fnmatch
import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import Tensor, nn

from metrize import rules
from metrize.moments import Blocks, Dense, Moments, Split
from metrize.optim.checkpoint import read_groups
from metrize.optim.groups import Params, named_members
from metrize.optim.optimizer import Optimizer
from metrize.recipe import Recipe, parse_recipe
from metrize.resume import SavedGroup
from metrize.roles import Role, infer
from metrize.roles.role import VECTORS
from metrize.roles.sandbox import Example

Told = Callable[[str, Tensor], tuple[Blocks, bool]]
"""The blocks of a parameter, and whether it is spared weight decay."""

_HEADS = ("q_proj", "k_proj", "wq", "wk", "query", "key")
_ROWS = (
    "embed",
    "embd",
    "wte",
    "output",
    "lm_head",
    "v_proj",
    "wv",
    "value",
    "o_proj",
    "wo",
    "attn.proj",
    "mlp",
    "feed_forward",
)
_NO_DECAY = ("norm", "ln", "bias")


class AdamMini(Optimizer):
    """AdamW with one number for each block of a tensor in place of the squares (arXiv:2406.16793).

    ``v_b <- b2 v_b + (1 - b2) mean(g^2 over block b)``, all else as `AdamW`. Given a module, the roles of its
    parameters decide what a block is, as in `metrize.plan`:

    - biases, and tensors of no known role: every slice of the first dimension;
    - linear maps and embeddings: each output, or each row of the table; queries and keys that go by one of the names
      below: the rows of a head;
    - gains of normalisation layers and kernels of convolutions: the tensor.

    Given named parameters, their names decide, as in the authors' code:

    - biases: every entry;
    - queries and keys (``q_proj``, ``k_proj``, ``wq``, ``wk``, ``query``, ``key``): the rows of a head;
    - embeddings, output layers, values, projections of attention and perceptrons (``embed``, ``embd``, ``wte``,
      ``lm_head``, ``output``, ``v_proj``, ``wv``, ``value``, ``o_proj``, ``wo``, ``attn.proj``, ``mlp``,
      ``feed_forward``): each row;
    - all others, such as norms and convolutions: the tensor. A warning lists the matrices among them.

    Without names, or with numbers for names, every row is a block. Gains and biases (parameters with ``norm``, ``ln``
    or ``bias`` in their name) are not decayed.

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
        example: what one forward pass of the module takes, for roles that are known better; see `metrize.plan`.
        options: ``maximize``, ``skip_nonfinite``.

    Raises:
        SpaceError: a parameter that is off its declared space, by name.
        TypeError: ``head_dim`` or ``blocks`` for parameters without names.
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
        example: Example | None = None,
        **options: Any,
    ) -> None:
        def reader(members: Any) -> Told:
            names = _Names(head_dim, blocks or {})
            return _Roles(names, infer(members, example).roles) if isinstance(members, nn.Module) else names

        def recipe(blocks: Blocks) -> Recipe:
            return self.recipe(blocks, first_moment)

        default = recipe(Blocks("rows"))
        by_name = {"head_dim": head_dim, "blocks": blocks}
        divide = functools.partial(_divided, reader=reader, recipe_of=recipe, by_name=by_name)
        numbers: dict[str, Any] = {"betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, default, lr=lr, divide=divide, **numbers, **options)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As of any optimizer; blocks that went by names, as in the first version, go on as they are in the checkpoint.

        Raises:
            ValueError: as of any optimizer.
        """
        own = self.param_groups
        self.param_groups = self._grouped_by_names(read_groups(self, state_dict)) or own
        try:
            super().load_state_dict(state_dict)
        except Exception:
            self.param_groups = own
            raise

    def _grouped_by_names(self, saved: list[SavedGroup]) -> list[dict[str, Any]] | None:
        """The parameters in the groups of a checkpoint, where names explain what is another block there than here."""
        place = {n: (group, i) for group in self.param_groups for i, n in enumerate(group.get("param_names", ()))}

        def at(name: str) -> Recipe:
            return parse_recipe(place[name][0]["recipe"])

        def p(name: str) -> Tensor:
            group, index = place[name]
            return cast("Tensor", group["params"][index])

        if sorted(place) != sorted(name for group in saved for name in group.names or ()):
            return None
        told = _Names(self._arguments.get("head_dim"), self._arguments.get("blocks") or {})
        others = [(group.recipe, name) for group in saved for name in group.names or () if group.recipe != at(name)]
        if not others or any(recipe != _with_blocks(at(name), told.before(name, p(name))) for recipe, name in others):
            return None
        return [_gathered(group, [place[name] for name in group.names]) for group in saved if group.names]

    @staticmethod
    def recipe(blocks: Blocks = Blocks("rows"), first_moment: Moments = Dense()) -> Recipe:
        """The five answers of this optimizer."""
        return Recipe(moments=Split(first_moment, blocks), rule=rules.Adam())


class _Names:
    """What a block is, by the parameter's name."""

    def __init__(self, head_dim: int | None, told: Mapping[str, Blocks]) -> None:
        self.head_dim, self.told = head_dim, told
        self.unread: list[str] = []

    def __call__(self, name: str, p: Tensor) -> tuple[Blocks, bool]:
        spared = _has(name, _NO_DECAY)
        blocks = self.told_for(name)
        if blocks is None and "bias" not in name and _has(name, _HEADS):
            blocks = _heads(name, p.shape[0], self.head_dim)
        if blocks is None and ("bias" in name or name.isdigit() or _has(name, _ROWS)):
            blocks = Blocks("rows")
        if blocks is None and p.ndim > 1 and not spared and "conv" not in name:
            self.unread.append(name)
        return blocks or Blocks("tensor"), spared

    def before(self, name: str, p: Tensor) -> Blocks:
        """As in the first version, to which a number was a name like any other."""
        return Blocks("tensor") if name.isdigit() and not self.told_for(name) else self(name, p)[0]

    def told_for(self, name: str) -> Blocks | None:
        """What the user told."""
        return next((blocks for pattern, blocks in self.told.items() if fnmatch.fnmatchcase(name, pattern)), None)


class _Roles:
    """What a block is, by the parameter's role in its module."""

    def __init__(self, names: _Names, roles: Mapping[str, Role]) -> None:
        self.names, self.roles = names, roles
        self.unread: list[str] = []

    def __call__(self, name: str, p: Tensor) -> tuple[Blocks, bool]:
        role, blocks = self.roles[name], self.names.told_for(name)
        if blocks is None and not role.settled:
            self.unread.append(name)
        if blocks is None and role.kind == "hidden" and not role.layout.transposed and _has(name, _HEADS):
            blocks = _heads(name, p.shape[0], self.names.head_dim)
        return blocks or _blocks_of(role), role.kind in VECTORS


def _divided(
    params: Any, reader: Callable[[Any], Told], recipe_of: Callable[[Blocks], Recipe], by_name: Mapping[str, Any]
) -> Any:
    """Groups of equal recipe and decay, where there is a module or there are names."""
    entries = named_members(params)
    if not entries or not isinstance(entries[0], tuple):
        for option, value in by_name.items() if entries else ():
            if value:
                raise TypeError(
                    f"{option}={value!r} goes by the names of parameters, and these have none; hand over the module, "
                    "or model.named_parameters()"
                )
        return entries
    told: Any = reader(params)
    parts: dict[tuple[Recipe, bool], list[tuple[str, Tensor]]] = {}
    for name, p in entries:
        blocks, spared = told(name, p) if p.is_floating_point() else (Blocks("tensor"), False)
        parts.setdefault((recipe_of(blocks), spared), []).append((name, p))
    _warn_of_unread(told.unread)
    return [
        {"recipe": recipe, **({"weight_decay": 0.0} if spared else {}), "params": members}
        for (recipe, spared), members in parts.items()
    ]


def _with_blocks(recipe: Recipe, blocks: Blocks) -> Recipe:
    return recipe.replace(moments=recipe.moments.with_squares(blocks))


def _gathered(saved: SavedGroup, places: list[tuple[dict[str, Any], int]]) -> dict[str, Any]:
    """A group of these members of groups, with the recipe of a saved one."""
    members = {
        key: [group[key][index] for group, index in places] for key in ("params", "param_names", "spaces", "shapes")
    }
    records = {key: tuple(members[key]) for key in ("spaces", "shapes")}
    return {**places[0][0], **members, **records, "recipe": repr(saved.recipe)}


def _warn_of_unread(names: list[str]) -> None:
    if names:
        warnings.warn(
            f"AdamMini cannot tell what the blocks of {', '.join(names)} are, so that a whole tensor or slice of it "
            f"shares one second moment; hand over the module, or say more with blocks={{{names[0]!r}: Blocks('rows')}}",
            UserWarning,
            stacklevel=5,
        )


def _blocks_of(role: Role) -> Blocks:
    """One for each output of a linear map, row of a table or entry of a vector; kernels and gains are one."""
    if role.kind in ("conv", "gain"):
        return Blocks("tensor")
    table = role.kind in ("embedding", "tied", "expert")  # a bank: its first dimension counts matrices
    return Blocks("columns" if role.layout.transposed and not table else "rows")


def _has(name: str, parts: tuple[str, ...]) -> bool:
    return any(part in name for part in parts)


def _heads(name: str, rows: int, head_dim: int | None) -> Blocks:
    if head_dim is None:
        return Blocks("rows")
    if head_dim < 1 or rows % head_dim:
        raise ValueError(f"parameter {name!r} has {rows} rows, and head_dim={head_dim} does not divide them")
    return Blocks("rows", rows // head_dim)
