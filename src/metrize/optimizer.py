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
from metrize.bucket import Bucket, Fused
from metrize.exchange import Exchange, agree
from metrize.frames import Frame
from metrize.framing import point_shape
from metrize.groups import Params, name_of, named_members, newly_declared, settle, space_of
from metrize.kinds import alone, kind_of
from metrize.linalg import all_finite
from metrize.part import Spec, parse
from metrize.recipe import Recipe, parse_recipe
from metrize.rounding import Rounding
from metrize.rules.steepest import Dualized
from metrize.spaces import Space, SpaceError, declare
from metrize.spaces.base import parse_space
from metrize.spaces.declare import check_point, declared_space, naming
from metrize.state import new_state, real, state_spec


def _trains(p: Tensor) -> bool:
    """Whether a parameter needs state: a frozen one does not, until it is thawed or handed a gradient."""
    return p.requires_grad or p.grad is not None


# what may change in place, by `module.to`, assignments to `data` and thawing
_TRAITS = (id, operator.attrgetter("dtype", "shape"), Tensor.stride, _trains)


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
        probe = not self.state and self._is_probe()
        self.init_state()
        if not probe:
            self._run(self.buckets)
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
            self._buckets = self._build()
            self._signature = self._sign()

    @property
    def buckets(self) -> list[Bucket]:
        """The parameters as they are stepped together, as of the last `init_state`."""
        return self._buckets or []

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
        signature: list[Any] = [len(self.state), declare.revision()]
        for state in self.state.values():
            signature.extend(map(id, state.values()))  # offloading exchanges them
        for group in self.param_groups:
            signature.append((group["recipe"], group["spaces"], parse_recipe(group["recipe"]).rule.variant(group)))
            for trait in _TRAITS:
                signature.extend(map(trait, group["params"]))
        return signature

    def _is_probe(self) -> bool:
        """Whether a framework asks a fresh optimizer to allocate its state, by a step with lr 0 and zero gradients."""
        if any(float(group["lr"]) != 0 for group in self.param_groups):
            return False
        grads = (p.grad for group in self.param_groups for p in group["params"])
        return not any(grad is not None and bool(grad.any()) for grad in grads)

    def _run(self, buckets: list[Bucket]) -> None:
        for bucket in buckets:
            bucket.gather()
        if not self._may_step(buckets):
            for bucket in buckets:
                bucket.gradients = []
            return
        exchange = Exchange()
        agree(buckets, exchange)
        for bucket in buckets:
            exchange.to_owners(bucket)
            bucket.compute()
            exchange.from_owners(bucket)
            bucket.apply()

    def _may_step(self, buckets: list[Bucket]) -> bool:
        """Whether the gradients are usable; decided for the whole model before anything is touched."""
        if all_finite([g for bucket in buckets if bucket.group["skip_nonfinite"] for g in bucket.gradients]):
            return True
        self.param_groups[0]["skipped_steps"] += 1
        warnings.warn(
            f"the gradient of {self._first_nonfinite()!r} is not finite: step skipped, nothing was changed "
            '(counted in param_groups[0]["skipped_steps"]; skip_nonfinite=False takes such steps)',
            RuntimeWarning,
            stacklevel=6,
        )
        return False

    def _first_nonfinite(self) -> str:
        for group in self.param_groups:
            for index, p in enumerate(group["params"]):
                if p.grad is not None and not all_finite([p.grad]):
                    return name_of(group, index)
        return "a parameter"

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

    def _build(self) -> list[Bucket]:
        members: dict[Any, tuple[type[Bucket], Recipe, Space, dict[str, Any], list[int]]] = {}
        known = {id(p) for p, state in self.state.items() if "phase" in state}
        for at, group in enumerate(self.param_groups):
            recipe = parse_recipe(group["recipe"])
            for index, p in enumerate(group["params"]):
                if not _trains(p):
                    continue
                space = space_of(group, index, recipe)
                kind = kind_of(recipe, space, p, group)
                key = (at, kind, space, p.dtype, p.device, *alone(kind, p, index))
                members.setdefault(key, (kind, recipe, space, group, []))[-1].append(index)
                self._ensure_state(group, index, space, kind)
        self._stagger(known)
        self._seed()
        return [
            kind(recipe, space, group, chosen, [self.state[group["params"][i]] for i in chosen])
            for kind, recipe, space, group, chosen in members.values()
        ]

    def _stagger(self, known: set[int]) -> None:
        """Spread the refreshes of new frames over their period, the costly ones first, each where least is to do."""
        costs: dict[Frame, dict[Tensor, float]] = defaultdict(dict)
        for group in self.param_groups:
            recipe = parse_recipe(group["recipe"])
            for index, p in enumerate(group["params"]):
                if "phase" in self.state.get(p, {}):
                    shape = point_shape(space_of(group, index, recipe), real(p).shape)
                    costs[recipe.frame][p] = recipe.frame.cost(shape)
        for frame, members in costs.items():
            load: dict[int, float] = defaultdict(float)
            places = range(min(frame.period, len(members)))  # a period may be longer than any list
            for p in sorted(members, key=lambda p: (id(p) not in known, -members[p])):
                if id(p) not in known:
                    self.state[p]["phase"].fill_(min(places, key=load.__getitem__))
                load[int(self.state[p]["phase"]) % frame.period] += members[p]

    def _seed(self) -> None:
        """Give each parameter random numbers of its own: a fresh seed is its place in the optimizer, counted from 1."""
        members = (p for group in self.param_groups for p in group["params"])
        for place, p in enumerate(members, start=1):
            for key, seed in self.state.get(p, {}).items():
                if key.rpartition(".")[2] == "seed" and not seed.any():
                    seed.fill_(place)

    def _ensure_state(self, group: dict[str, Any], index: int, space: Space, kind: type[Bucket]) -> None:
        recipe = parse_recipe(group["recipe"])
        p = group["params"][index]
        spec = self.spec(group, index)
        for key, value in self.state[p].items():
            if key in spec and tuple(value.shape) != tuple(spec[key][0]):  # a kernel would write past the end
                raise ValueError(
                    f"parameter {name_of(group, index)!r} has shape {tuple(p.shape)} now, but its state {key} has "
                    f"{tuple(value.shape)}; change both together, or delete optimizer.state[parameter] to start anew"
                )
        missing = {key: spec[key] for key in spec.keys() - self.state[p].keys()}
        if missing:
            host = torch.device("cpu")
            with naming(name_of(group, index)):
                check_point(space, p)
            fresh = new_state(spec, recipe, space, p, p.device if kind is Fused else host)
            self.state[p].update({key: fresh[key] for key in spec if key in missing})
        for key, (_, dtype) in spec.items():
            self.state[p][key] = self.state[p][key].to(dtype)  # a model converted between steps


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
