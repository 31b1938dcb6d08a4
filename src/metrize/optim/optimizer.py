"""The optimizer: torch's contract around recipes and buckets."""

from __future__ import annotations

import dataclasses
import itertools
import operator
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from metrize.ambient import isolated
from metrize.arguments import arguments_of, unknown
from metrize.decay import Decay
from metrize.frames import Frame
from metrize.linalg import held
from metrize.moments import Moments
from metrize.optim import checkpoint, summary
from metrize.optim.groups import (
    Params,
    coverage,
    exchange_of,
    name_alike,
    newly_declared,
    settle,
    warn_of_idle_decay,
    warn_of_idle_ranks,
    warn_of_lost_steps,
)
from metrize.optim.method import (
    SLOTS,
    Called,
    Given,
    Method,
    Nothing,
    check_rules,
    checked,
    filled,
    groups_of,
    method_of,
    rules_of,
    slots_of,
    understood,
)
from metrize.part import Part, Spec
from metrize.patterns import Rules
from metrize.recipe import Recipe, parse_recipe
from metrize.rounding import Rounding
from metrize.rules import Around
from metrize.spaces import Space, SpaceError, declare
from metrize.spaces.declare import declared_space
from metrize.step.assembly import alike_groups, assemble
from metrize.step.assignment import assign
from metrize.step.bucket import Bucket
from metrize.step.exchange import Exchange, reduce_statistics
from metrize.step.group import name_of, trains
from metrize.step.guard import Versions, fault, usable, versions
from metrize.step_sizes import StepSize


def _address(p: Tensor) -> int:
    """Of the part that this process holds: a container may be given another."""
    return id(held(p))


# what may change in place, by `module.to`, assignments to `data` and thawing
_TRAITS = (_address, operator.attrgetter("dtype", "shape"), Tensor.stride)
_OWN = {"skipped_steps": 0, "format": checkpoint.FORMAT}  # of every group, beside its numbers


class Optimizer(Called, torch.optim.Optimizer):
    """Trains each tensor as its recipe says; one class for every method of the catalogue.

    A step is one journey: gradient - lift to the space's fixed tangent coordinates - enter the frame - the rule makes a
    direction from its averages - leave the frame - step size - move the point. On a vector space with plain averages
    the journey is one call of torch's fused kernel.

    Args:
        params: a module, parameters, named parameters, or groups. A module's declared spaces (`metrize.constrain`) are
            honoured; so are those of bare parameters. A group may hold any other argument in its own value, another
            ``"norm"``, or its own ``"recipe"``; frozen parameters are passed over.
        recipe: the five answers; or its rule alone, the text of either, or an optimizer of the catalogue or its name,
            which then trains with its own numbers.
        lr: learning rate, a number or a 0-d tensor.
        weight_decay: per the recipe's convention.
        maximize: ascend instead.
        skip_nonfinite: a step in which any gradient holds a NaN or an infinity leaves parameters, averages and counts
            untouched, and is counted in ``param_groups[0]["skipped_steps"]``.
        space, frame, moments, step_size, decay, rounding: over that of all recipes; see `Recipe`.
        around: goes around the rule of every recipe, such as ``rules.Cautious()``; see `metrize.rules.Around`.
        rules: numbers for parameters by name or pattern, such as ``{"*.bias": {"weight_decay": 0}}``, above those of
            groups, or a list of such mappings; ``lr_mult`` is a factor on the learning rate.
        divide: makes groups of a module or of a list of parameters, each with its own recipe and numbers.
        hyper: the numbers of the rule, such as ``betas`` and ``eps``.

    Raises:
        SpaceError: a parameter its space cannot hold or that is off its space, by name.
        TypeError: an unknown option, or a value that is no number.
        ValueError: a number out of range.
    """

    _buckets: list[Bucket] | None = None  # derived; rebuilt whenever parameters, spaces or recipes change
    _exchange = Exchange()
    _signature: list[Any] | None = None
    _measures = False
    _left: Versions | None = None

    def __init__(
        self,
        params: Params,
        recipe: Given = None,
        *,
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.0,
        maximize: bool = False,
        skip_nonfinite: bool = True,
        space: Space | None = None,
        frame: Frame | None = None,
        moments: Moments | None = None,
        step_size: StepSize | None = None,
        decay: Decay | None = None,
        rounding: Rounding | None = None,
        around: Around | None = None,
        rules: Rules = None,
        divide: Callable[[Any], Any] | None = None,
        **hyper: Any,
    ) -> None:
        meant = understood(recipe)
        if not isinstance(meant, type):
            slots = slots_of({"space": space, "frame": frame, "moments": moments, "step_size": step_size,
                              "decay": decay, "rounding": rounding, "around": around})  # fmt: skip
            numbers = {"lr": lr, "weight_decay": weight_decay, **hyper}
            numbers |= {"maximize": maximize, "skip_nonfinite": skip_nonfinite}
            method = Method(filled(meant, slots), numbers, divide, slots, rules_of(rules))
            self._method = self._checked(method, hyper)
        else:
            self._maker = meant
            self._arguments = {key: value for key, value in self._arguments.items() if key != "recipe"}
            self._method = method_of(meant, self._arguments)
        defaults = {**self.method.numbers, "recipe": repr(self.method.recipe), **_OWN}
        if isinstance(params, Nothing):
            self.defaults, self.param_groups, self.state = defaults, [], defaultdict(dict)
            return
        if isinstance(params, nn.Module):
            params = [{"params": params}] if any(True for _ in params.parameters()) else []
        super().__init__(params, defaults)
        check_rules(self.method.rules, [name for group in self.param_groups for name in group.get("param_names", ())])

    @isolated
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters: a module, or parameters with or without names, with their own options if wanted.

        The options are those of the constructor; ``recipe`` and ``norm`` may be others as well. A group may become
        several, where the optimizer trains the tensors of a model differently.

        Raises:
            SpaceError, TypeError, ValueError: as the constructor; nothing is added then.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        named = ["param_names" in group for group in self.param_groups]
        try:
            for group in groups_of(self, param_group):
                name_alike(self.param_groups, group)
                super().add_param_group(group)
                settle(self.param_groups[-1], parse_recipe(group["recipe"]))
        except Exception:
            del self.param_groups[len(named) :]
            for group, had in zip(self.param_groups, named, strict=True):
                if not had:
                    group.pop("param_names", None)
            raise
        for group in self.param_groups[len(named) :]:
            warn_of_idle_decay(group, parse_recipe(group["recipe"]))
            warn_of_lost_steps(group, parse_recipe(group["recipe"]))
        self._buckets = None

    def _checked(self, method: Method, hyper: Mapping[str, Any]) -> Method:
        """The method with all numbers of its rule, as Python's own.

        Raises:
            TypeError: an unknown option, or a value that is no number.
            ValueError: a number out of range.
        """
        numbers = method.recipe.hyper()
        own = [name for name in arguments_of(type(self)) if name != "recipe" and name not in SLOTS]
        for key in hyper:
            if key not in numbers and key not in own:  # a class may tell numbers that another slot does not read
                owner = str(method.recipe.rule) if type(self) is Optimizer else self._owner()
                raise TypeError(unknown(key, owner, dict.fromkeys([*own, *numbers, *SLOTS])))
        return dataclasses.replace(method, numbers=checked({**method.numbers, "recipe": method.recipe}, {}))

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
        self._take()
        return loss

    @isolated
    def _take(self) -> None:
        maybe_probe = not self.state and all(float(group["lr"]) == 0 for group in self.param_groups)
        self._arrange()
        # a framework asks a fresh optimizer to allocate its state, by a step with lr 0 and zero gradients
        if not (maybe_probe and self._exchange.agree(self._idle())):
            self._run()

    @isolated
    @torch.no_grad()
    def init_state(self) -> None:
        """Allocate the state of every parameter now instead of at the first step.

        Frameworks that load a distributed checkpoint into the optimizer's own state call this first.

        Raises:
            SpaceError: a parameter that is off its space, by name.
        """
        self._arrange()

    def _arrange(self) -> None:
        """Buckets and state for the parameters as they are now."""
        if self._buckets is None or self._signature != self._sign():
            self._discover()
            self._forget_orphans()
            if self._buckets is None and not self.state:
                warn_of_idle_ranks(self.param_groups)
            self._exchange = exchange_of(self.param_groups)
            self._buckets = assemble(self.param_groups, self.state, self._exchange)
            self._signature = self._sign()
            self._measures = any(recipe.step_size.scope is not None for recipe in self.recipes())

    @property
    def buckets(self) -> list[Bucket]:
        """The parameters as they are stepped together, as of the last `init_state`."""
        return self._buckets or []

    def state_dict(self) -> dict[str, Any]:
        """Everything a checkpoint needs: tensors, numbers and text.

        Of parameters that are sharded it holds DTensors, cut by rows where one process keeps the whole; that is a
        collective, and all processes of the mesh call it.
        """
        return checkpoint.save(self, super().state_dict)

    @isolated
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
        return {**content, "state": defaultdict(dict, apart), "_maker": self._maker, "_arguments": self._arguments}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.defaults.pop("differentiable", None)  # torch puts it there; it is no option here
        for group in self.param_groups:  # a checkpoint older than an option
            for key, value in self.defaults.items():
                group.setdefault(key, value)
        self._buckets = None

    def summary(self) -> str:
        """A line for each group: its parameters, rule and numbers, the bytes of its state, and on which space it lives.

        The bytes are those of the whole state, whether it is allocated yet or not.
        """
        return summary.summary(type(self).__name__, self.param_groups)

    def __repr__(self) -> str:
        try:
            return self.summary()
        except Exception:  # a debugger shows an optimizer that is half made, too
            return super().__repr__()

    def coverage(self) -> tuple[int, int] | None:
        """How many of the trained parameters have a basis, such as a subspace, and how many there are.

        None where no recipe has a frame, or a storage, with a basis.
        """
        return coverage(self.param_groups)

    def recipes(self) -> list[Recipe]:
        """The recipe of each parameter group."""
        return [parse_recipe(group["recipe"]) for group in self.param_groups]

    def spec(self, group: dict[str, Any], index: int) -> Spec:
        """The declared state of one parameter of a group: key -> (shape, dtype)."""
        return assign(group, index).spec

    def _sign(self) -> list[Any]:
        """What the buckets depend on; cheap, because it is compared at every step."""
        signature: list[Any] = [len(self.state), declare.revision(), Part.revision]
        for state in self.state.values():
            signature.extend(map(id, state.values()))  # offloading exchanges them
        signature += alike_groups(self.param_groups) if len(self.param_groups) > 1 else ()
        for group in self.param_groups:
            signature.append((group["recipe"], group["spaces"], parse_recipe(group["recipe"]).rule.variant(group)))
            trained = [trains(p) for p in group["params"]]
            signature += [*map(id, group["params"]), *trained]
            for trait in _TRAITS:  # a frozen one may be of any kind
                signature.extend(map(trait, itertools.compress(group["params"], trained)))
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
        buckets = self._buckets or []
        for bucket in buckets:
            bucket.gather()
        if self._measures:
            reduce_statistics(self.param_groups, buckets, self._exchange)
        for bucket in buckets:
            bucket.apply()
        self._exchange.close()
        self._left = versions(self.param_groups)

    def _finite(self) -> bool:
        """Whether this process can take a step with the gradients it holds, in groups that ask."""
        return usable(self.param_groups, self._left)

    def _skip(self) -> None:
        self.param_groups[0]["skipped_steps"] += 1
        warnings.warn(
            f"{self._first_fault()}: step skipped, nothing was changed "
            '(counted in param_groups[0]["skipped_steps"]; skip_nonfinite=False takes such steps)',
            RuntimeWarning,
            stacklevel=10,
        )

    def _first_fault(self) -> str:
        for group in self.param_groups:
            for index, p in enumerate(group["params"]):
                if p.grad is not None and (found := fault(group, index, p.grad)):
                    return found
        return "the gradient of 'a parameter of another process' is not finite"

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


def _apart(value: Any) -> Any:
    shared = isinstance(value, Tensor) and value.untyped_storage().nbytes() > value.nbytes
    return value.clone() if shared else value
