"""The optimizer: torch's contract around recipes and buckets."""

from __future__ import annotations

import difflib
import operator
import warnings
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metrize import checkpoint
from metrize.assembly import assemble, exchange_of, trains
from metrize.bucket import Bucket
from metrize.exchange import Exchange, settle_sums
from metrize.groups import Params, name_of, named_members, newly_declared, settle, space_of
from metrize.linalg import all_finite, held
from metrize.part import Part, Spec, parse
from metrize.recipe import Recipe, parse_recipe
from metrize.rounding import Rounding
from metrize.rules.steepest import Dualized
from metrize.spaces import SpaceError, declare
from metrize.spaces.base import parse_space
from metrize.spaces.declare import declared_space
from metrize.state import state_spec


def _address(p: Tensor) -> int:
    """Of the part that this process holds: a container may be given another."""
    return id(held(p))


# what may change in place, by `module.to`, assignments to `data` and thawing
_TRAITS = (id, _address, operator.attrgetter("dtype", "shape"), Tensor.stride, trains)


class Optimizer(torch.optim.Optimizer):
    """Trains each tensor as its recipe says; one class for every method of the catalogue.

    A step is one journey: gradient - lift to the space's fixed tangent coordinates - enter the frame - the rule makes a
    direction from its averages - leave the frame - step size - move the point. On a vector space with plain averages
    the journey is one call of torch's fused kernel.

    Args:
        params: a module, parameters, named parameters, or groups. A module's declared spaces (`metrize.constrain`) are
            honoured; so are those of bare parameters.
        recipe: the five answers; a group may hold its own under ``"recipe"``, or another ``"space"`` or ``"norm"``.
        lr: learning rate, a number or a 0-d tensor.
        weight_decay: per the recipe's convention.
        maximize: ascend instead.
        skip_nonfinite: a step in which any gradient holds a NaN or an infinity leaves parameters, averages and counts
            untouched, and is counted in ``param_groups[0]["skipped_steps"]``.
        rounding: of bfloat16 parameters, over that of the recipes.
        hyper: the numbers of the rule, such as ``betas`` and ``eps``.

    Raises:
        SpaceError: a parameter its space cannot hold or that is off its space, by name.
        TypeError: an unknown option.
        ValueError: a number out of range.
    """

    _buckets: list[Bucket] | None = None  # derived; rebuilt whenever parameters, spaces or recipes change
    _exchange = Exchange()
    _signature: list[Any] | None = None

    def __init__(
        self,
        params: Params,
        recipe: Recipe | None = None,
        *,
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.0,
        maximize: bool = False,
        skip_nonfinite: bool = True,
        rounding: Rounding | None = None,
        **hyper: Any,
    ) -> None:
        recipe = Recipe() if recipe is None else recipe
        members: Any = named_members(params)
        if rounding is not None:
            recipe, members = recipe.replace(rounding=rounding), _with_rounding(members, rounding)
        known = recipe.hyper()
        for key in hyper:
            if key not in known:
                raise TypeError(_unknown(key, known, recipe))
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            **known,
            **hyper,
            "maximize": maximize,
            "skip_nonfinite": skip_nonfinite,
            "recipe": repr(recipe),
            "skipped_steps": 0,
            "format": checkpoint.FORMAT,
        }
        super().__init__(members, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with their own ``recipe``, ``space`` or numbers if wanted.

        Raises:
            SpaceError, TypeError, ValueError: as the constructor; nothing is added then.
        """
        group = dict(param_group)
        group["params"] = named_members(group["params"])
        recipe = _recipe_of(group, self.defaults)
        group["recipe"] = repr(recipe)
        # numbers this group's rule reads and the optimizer's own rule does not know
        group = {key: value for key, value in recipe.hyper().items() if key not in self.defaults} | group
        _check_numbers({**self.defaults, **group}, recipe)
        super().add_param_group(group)
        try:
            settle(self.param_groups[-1], recipe)
        except Exception:
            self.param_groups.pop()
            raise
        _warn_of_idle_decay(self.param_groups[-1], recipe)
        self._buckets = None

    # a step decides on the host what to do; torch's own optimizers are left out of graphs in this way too
    @torch._disable_dynamo  # type: ignore[attr-defined]
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step.

        Args:
            closure: reevaluates the model and returns the loss.

        Raises:
            TypeError: a sparse gradient, by name, before anything is changed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        maybe_probe = not self.state and all(float(group["lr"]) == 0 for group in self.param_groups)
        self.init_state()
        # a framework asks a fresh optimizer to allocate its state, by a step with lr 0 and zero gradients
        if not (maybe_probe and self._exchange.agree(self._idle())):
            self._run()
        return loss

    @torch.no_grad()
    def init_state(self) -> None:
        """Allocate the state of every parameter now instead of at the first step.

        Frameworks that load a distributed checkpoint into the optimizer's own state call this first.

        Raises:
            SpaceError: a parameter that is off its space, by name.
        """
        if self._buckets is None or self._signature != self._sign():
            self._discover()
            self._forget_orphans()
            self._exchange = exchange_of(self)
            self._buckets = assemble(self, self._exchange)
            self._signature = self._sign()

    @property
    def buckets(self) -> list[Bucket]:
        """The parameters as they are stepped together, as of the last `init_state`."""
        return self._buckets or []

    def state_dict(self) -> dict[str, Any]:
        """Everything a checkpoint needs: tensors, numbers and text.

        Of parameters that are sharded it holds DTensors, cut anew by rows where one process keeps the whole; that is a
        collective, and all processes of the mesh call it.
        """
        return checkpoint.save(self, super().state_dict)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a checkpoint, every tensor in its own dtype.

        Raises:
            ValueError: it is of another recipe, space, shape or format; the text names the parameter. Nothing is
                changed then.
        """
        self._discover()
        checkpoint.load(self, state_dict, super().load_state_dict)
        self._buckets = None

    def __getstate__(self) -> dict[str, Any]:
        """Rows of a batch as tensors of their own: a plain pickle would write the whole batch with each of them."""
        content = super().__getstate__()
        apart = {p: {key: _apart(value) for key, value in kept.items()} for p, kept in self.state.items()}
        return {**content, "state": defaultdict(dict, apart)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.defaults.pop("differentiable", None)  # torch puts it there; it is no option here
        for group in self.param_groups:  # a checkpoint older than an option
            for key, value in self.defaults.items():
                group.setdefault(key, value)
        self._buckets = None

    def recipes(self) -> list[Recipe]:
        """The recipe of each parameter group."""
        return [parse_recipe(group["recipe"]) for group in self.param_groups]

    def spec(self, group: dict[str, Any], index: int) -> Spec:
        """The declared state of one parameter of a group: key -> (shape, dtype)."""
        recipe = parse_recipe(group["recipe"])
        return state_spec(recipe, space_of(group, index, recipe), group["params"][index], group)

    def _sign(self) -> list[Any]:
        """What the buckets depend on; cheap, because it is compared at every step."""
        signature: list[Any] = [len(self.state), declare.revision(), Part.revision]
        for state in self.state.values():
            signature.extend(map(id, state.values()))  # offloading exchanges them
        for group in self.param_groups:
            signature.append((group["recipe"], group["spaces"], parse_recipe(group["recipe"]).rule.variant(group)))
            for trait in _TRAITS:
                signature.extend(map(trait, group["params"]))
        return signature

    def _idle(self) -> bool:
        """Whether there is no gradient other than zero in this process."""
        grads = (p.grad for group in self.param_groups for p in group["params"])
        return not any(grad is not None and bool(held(grad).any()) for grad in grads)

    def _run(self) -> None:
        """One step of all parameters, phase by phase; nothing is touched before all processes agreed to take it."""
        if not self._exchange.open(self._finite()):
            self._skip()
            return
        for bucket in self.buckets:
            bucket.gather()
        settle_sums(self.param_groups, self.buckets, self._exchange)
        for bucket in self.buckets:
            bucket.apply()
        self._exchange.close()

    def _finite(self) -> bool:
        """Whether the gradients that this process holds are usable, in groups that ask for it."""
        guarded = (p.grad for group in self.param_groups if group["skip_nonfinite"] for p in group["params"])
        return all_finite([held(g) for g in guarded if g is not None and g.layout == torch.strided])

    def _skip(self) -> None:
        self.param_groups[0]["skipped_steps"] += 1
        warnings.warn(
            f"the gradient of {self._first_nonfinite()!r} is not finite: step skipped, nothing was changed "
            '(counted in param_groups[0]["skipped_steps"]; skip_nonfinite=False takes such steps)',
            RuntimeWarning,
            stacklevel=8,
        )

    def _first_nonfinite(self) -> str:
        for group in self.param_groups:
            for index, p in enumerate(group["params"]):
                if p.grad is not None and not all_finite([held(p.grad)]):
                    return name_of(group, index)
        return "a parameter of another process"

    def _discover(self) -> None:
        """Take in declarations that came to light since construction, and refuse gradients no rule can use."""
        for group in self.param_groups:
            if len(group["spaces"]) != len(group["params"]):  # someone added or took parameters in place
                group["spaces"] = tuple(map(declared_space, group["params"]))
            for index in newly_declared(group):
                if self.state.get(group["params"][index]):
                    raise SpaceError(
                        f"parameter {name_of(group, index)!r} was declared to live on "
                        f"{declared_space(group['params'][index])} after it was trained elsewhere; "
                        "declare it first, then build the optimizer"
                    )
            if newly_declared(group):
                settle(group, parse_recipe(group["recipe"]))

    def _forget_orphans(self) -> None:
        """Frameworks exchange parameters; state of the old ones would be saved for ever."""
        live = {p for group in self.param_groups for p in group["params"]}
        for parameter in [p for p in self.state if p not in live]:
            del self.state[parameter]


def _with_rounding(params: Any, rounding: Rounding) -> Any:
    """The same groups, where those with a recipe of their own round in this way too."""
    entries = list(params)
    if not entries or not isinstance(entries[0], dict):
        return entries
    return [
        {**group, "recipe": _recipe_of({"recipe": group["recipe"]}, {}).replace(rounding=rounding)}
        if "recipe" in group
        else group
        for group in entries
    ]


def _apart(value: Any) -> Any:
    shared = isinstance(value, Tensor) and value.untyped_storage().nbytes() > value.nbytes
    return value.clone() if shared else value


def _recipe_of(group: dict[str, Any], defaults: dict[str, Any]) -> Recipe:
    """The group's own recipe or the optimizer's, on the group's own space and in its own norm if it names them."""
    recipe = group.pop("recipe", None) or defaults["recipe"]
    recipe = parse_recipe(recipe) if isinstance(recipe, str) else recipe
    space, norm = group.pop("space", None), group.pop("norm", None)
    if space is not None:
        recipe = recipe.replace(space=parse_space(space) if isinstance(space, str) else space)
    if norm is None:
        return recipe
    if not isinstance(recipe.rule, Dualized):
        raise TypeError(
            f"norm={norm!r} for a group whose rule is {recipe.rule}, which has its own; use Steepest or Lion"
        )
    return recipe.replace(rule=recipe.rule.replace(norm=parse(norm) if isinstance(norm, str) else norm))


def _check_numbers(group: dict[str, Any], recipe: Recipe) -> None:
    lr = group["lr"]
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError(f"lr has shape {tuple(lr.shape)}; give one number")
    for key in ("lr", "weight_decay"):
        if not float(group[key]) >= 0:
            raise ValueError(f"{key}={group[key]}: a number of at least 0")
    recipe.rule.check_hyper(group)


def _warn_of_idle_decay(group: dict[str, Any], recipe: Recipe) -> None:
    spaces = [space_of(group, i, recipe) for i in range(len(group["params"]))]
    if float(group["weight_decay"]) and spaces and all(space.compact for space in spaces):
        warnings.warn(
            f"weight_decay={group['weight_decay']} does nothing here: every parameter of this group lives on a space "
            f"such as {spaces[0]} where the norm of a point is constant",
            UserWarning,
            stacklevel=4,
        )


def _unknown(key: str, known: dict[str, Any], recipe: Recipe) -> str:
    options = ["lr", "weight_decay", "maximize", "skip_nonfinite", *known]
    close = difflib.get_close_matches(key, options, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"options: {', '.join(options)}"
    return f"unknown option {key!r} of {recipe.rule}; {hint}"
