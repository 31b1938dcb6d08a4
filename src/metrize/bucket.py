"""Buckets: parameters that one kernel call can update together, and the journey of a step through them."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from metrize.groups import name_of
from metrize.moments import Averages
from metrize.recipe import Recipe
from metrize.rules import Metric
from metrize.spaces import Space
from metrize.spaces.base import compute_dtype
from metrize.spaces.declare import check_point, naming
from metrize.state import State, keeps_master, real, stacked, state_spec

_CHUNK = 2**18  # numbers of a 16-bit parameter widened at a time, so that the copies stay in cache


@dataclasses.dataclass
class Bucket:
    """Parameters of one group with one recipe and one space.

    A step visits all buckets phase by phase, so that what must cross processes can cross in one message for the whole
    model: `gather` (take the gradients) - `statistics` (small sums every process must agree on) - exchange -
    `compute` (whole tensors) - exchange back - `apply`. Nothing is changed before `apply`.

    Args:
        recipe: of the group.
        space: where these parameters live.
        group: the parameter group, whose numbers are read at every step.
        indices: places of the members in the group.
        states: state of each member.
    """

    recipe: Recipe
    space: Space
    group: dict[str, Any]
    indices: list[int]
    states: list[State]

    def __post_init__(self) -> None:
        self.params: list[Tensor] = [self.group["params"][i] for i in self.indices]
        self.present: list[int] = []
        self.gradients: list[Tensor] = []
        # wrappers may keep things of their own in the same dicts
        self.keys = list(state_spec(self.recipe, self.space, self.params[0], self.group))
        self.arrange()
        # kept alive, so that no later tensor is taken for one of these
        self.arranged = [[state[key] for key in self.keys] for state in self.states]

    def arrange(self) -> None:
        """Lay the states out as the kernels want them."""

    def gather(self) -> None:
        """Take the gradients there are; a member without one keeps its own count of steps.

        Raises:
            TypeError: a sparse gradient, by name.
        """
        self.present, self.gradients = [], []
        for i, p in enumerate(self.params):
            grad = p.grad
            if grad is not None:
                if grad.layout != torch.strided:
                    raise TypeError(_sparse(name_of(self.group, self.indices[i]), grad))
                self.present.append(i)
                self.gradients.append(real(grad.resolve_conj()))

    def statistics(self) -> list[Tensor]:
        """Partial sums that have to be complete over all processes before `compute`."""
        return []

    def compute(self) -> None:
        """Work that needs whole tensors."""

    def apply(self) -> None:
        """Write the new values of averages and parameters, and let go of the gradients."""
        raise NotImplementedError


class Fused(Bucket):
    """Vector spaces whose update is exactly one of torch's one-pass kernels; shapes may differ."""

    def arrange(self) -> None:
        for p, state in zip(self.params, self.states, strict=True):
            like = real(p.detach())
            for key in self.keys:
                value = state[key]
                if value.shape == like.shape and value.stride() != like.stride():
                    state[key] = torch.empty_like(like, dtype=value.dtype).copy_(value)
        self._state = {key: [state[key] for state in self.states] for key in self.keys}

    def apply(self) -> None:
        if not self.present:
            return
        params = [real(self.params[i]) for i in self.present]
        grads = [_like(grad, p) for grad, p in zip(self.gradients, params, strict=True)]
        state = {key: [values[i] for i in self.present] for key, values in self._state.items()}
        self.gradients = []
        torch._foreach_add_(state["step"], 1)
        if params[0].dtype == compute_dtype(params[0].dtype):
            self.recipe.rule.fused(params, grads, state, self.group, self.recipe.decay)
        else:
            self._apply_widened(params, grads, state)

    def _apply_widened(self, params: list[Tensor], grads: list[Tensor], state: dict[str, list[Tensor]]) -> None:
        """16-bit parameters: the same kernel on float32 copies of a chunk at a time, rounded once."""
        for i, p in enumerate(params):
            averages = {key: _flat(values[i]) for key, values in state.items() if key != "step"}
            for at in range(0, p.numel(), _CHUNK):
                cut = slice(at, at + _CHUNK)
                wide, grad = _flat(p)[cut].float(), _flat(grads[i])[cut].float()
                pieces = {key: [value[cut]] for key, value in averages.items()} | {"step": [state["step"][i]]}
                self.recipe.rule.fused([wide], [grad], pieces, self.group, self.recipe.decay)
                _flat(p)[cut].copy_(wide)


class Stacked(Bucket):
    """Equal tensors in one batch ``[B, *shape]``: any space, any storage, any rule."""

    def arrange(self) -> None:
        self._dtype = compute_dtype(self.params[0].dtype)
        self._master = keeps_master(self.space, self.params[0])
        dim = self.space.dim(real(self.params[0]).shape)
        self._metric = Metric(self.space.sq_norm, max(1, dim))  # of an empty tensor, or of O(1), it is 0
        self._stack = {key: stacked(self.states, key) for key in self.keys}
        self._versions: list[int] = []

    def gather(self) -> None:
        """As any bucket, and look at points that someone else wrote to since the last step.

        Raises:
            SpaceError: such a point is off its space, by name.
        """
        super().gather()
        if not self.space.flat and self._versions != [p._version for p in self.params]:
            self._check_points()
        if len(self.present) == len(self.params):
            self.gradients = [_stack(self.gradients)]

    def apply(self) -> None:
        if len(self.present) == len(self.params):
            self._step(self.present, self.gradients[0], self._stack)
        else:  # some have no gradient now: the others go one by one
            for i, grad in zip(self.present, self.gradients, strict=True):
                self._step([i], grad.unsqueeze(0), {key: value[i : i + 1] for key, value in self._stack.items()})
        self.gradients = []
        self._versions = [p._version for p in self.params]

    def _check_points(self) -> None:
        for i, p in enumerate(self.params):
            known = bool(self._versions)
            if known and p._version == self._versions[i]:
                continue
            with naming(name_of(self.group, self.indices[i])):
                # a new bucket may hold what was a 16-bit parameter until now; polishing takes care of that
                check_point(self.space, p, p.dtype if known else torch.bfloat16)
            if known:
                row = {key: value[i : i + 1] for key, value in self._stack.items()}
                self.space.init_state(self.space.points(p.detach().unsqueeze(0).to(self._dtype)), row)

    def _step(self, members: list[int], grad: Tensor, state: State) -> None:
        """One journey: lift - enter - rule - leave - step size - move."""
        recipe, space = self.recipe, self.space
        params = [real(self.params[i]) for i in members]
        stack = self._points(params, state)
        points = space.points(stack)
        grad = self._decayed(stack, points, (grad.neg() if self.group["maximize"] else grad).to(self._dtype))
        state["step"].add_(1)
        section = space.section_at(points, state)
        averages = Averages(recipe.moments, state, space.points, self._dtype)
        if turn := space.turn(section):
            averages.turn(recipe.rule.linear(self.group), turn)
        coords = recipe.frame.enter(space.lift(points, space.points(grad), section), state)
        direction = recipe.frame.leave(recipe.rule.direction(coords, averages, self.group, self._metric), state)
        averages.keep()
        space.move_(points, recipe.step_size.velocity(direction, self.group), section, state)
        if float(self.group["lr"]) != 0:  # a step of length zero leaves every bit where it is
            space.polish_(points, state["step"], state)
        _scatter(stack, params)

    def _points(self, params: list[Tensor], state: State) -> Tensor:
        """``[B, *shape]`` in the dtype of the arithmetic: the parameters, or the masters of 16-bit ones."""
        now = _stack(params)
        if not self._master:
            return now.to(self._dtype)
        # where the parameter is no longer the rounded master, someone wrote to it, and what was written counts
        master = state["master"]
        return master.copy_(torch.where(master.to(now.dtype) == now, master, now.to(self._dtype)))

    def _decayed(self, stack: Tensor, points: Tensor, grad: Tensor) -> Tensor:
        """Weight decay by the recipe's convention: on the points in place, or on a copy of the gradient."""
        decay = float(self.group["weight_decay"])
        if not decay or self.space.compact:
            return grad
        if self.recipe.decay == "l2":
            return grad.add(stack, alpha=decay)
        self.space.shrink_(points, 1 - float(self.group["lr"]) * decay)
        return grad


def _stack(tensors: list[Tensor]) -> Tensor:
    return tensors[0].unsqueeze(0) if len(tensors) == 1 else torch.stack(tensors)


def _scatter(stack: Tensor, params: list[Tensor]) -> None:
    """Write rows of the stack to the parameters they do not already share memory with."""
    if len(params) > 1 or params[0].data_ptr() != stack.data_ptr():
        torch._foreach_copy_(params, list(stack.unbind()))


def _like(grad: Tensor, parameter: Tensor) -> Tensor:
    """The gradient in the parameter's memory layout, which the one-pass kernels take for granted."""
    if grad.stride() == parameter.stride() and grad.dtype == parameter.dtype:
        return grad
    return torch.empty_like(parameter).copy_(grad)


def _flat(tensor: Tensor) -> Tensor:
    """All numbers in memory order; a view, for tensors without gaps."""
    return tensor.as_strided((tensor.numel(),), (1,))


def _sparse(name: str, grad: Tensor) -> str:
    return (
        f"parameter {name!r} has a sparse gradient ({grad.layout}), which no rule here can use; "
        "build its module with sparse=False, or train it with torch.optim.SparseAdam"
    )
