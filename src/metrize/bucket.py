"""Buckets: parameters that one kernel call can update together, and the journey of a step through them."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from metrize.decay import added, prior_weight, shrink_after_, shrink_before_
from metrize.frames import FrameError
from metrize.framing import Framing
from metrize.groups import name_of
from metrize.moments import Averages
from metrize.recipe import Recipe
from metrize.rounding import Nearest
from metrize.rules import Metric
from metrize.rules.base import Pass, UndeclaredError
from metrize.seams import Seam, by_windows
from metrize.spaces import Space
from metrize.spaces.base import compute_dtype
from metrize.spaces.declare import check_point, naming
from metrize.state import State, keeps_master, real, slots, stacked, state_spec

_CHUNK = 2**18  # numbers of a 16-bit parameter widened at a time, so that the copies stay in cache


@dataclasses.dataclass
class Bucket:
    """Parameters of one group with one recipe and one space.

    A step visits all buckets phase by phase, so that what must cross processes can cross in one message for the whole
    model: `gather` (take the gradients) - `statistics` (small sums every process must agree on) - `settle` (those sums)
    - `apply`. No parameter is changed before `apply`.

    Args:
        recipe: of the group.
        space: where these parameters live.
        group: the parameter group, whose numbers are read at every step.
        indices: places of the members in the group.
        params: what is stepped for each member: the parameter itself, or what this process steps in its stead.
        states: state of each member.
        counts: whether what is measured of them counts in sums, or another process counts the same.
        seams: where each member lies in its whole tensor, if they are parts.
    """

    recipe: Recipe
    space: Space
    group: dict[str, Any]
    indices: list[int]
    params: list[Tensor]
    states: list[State]
    counts: bool = True
    seams: Sequence[Seam] = ()

    def __post_init__(self) -> None:
        self.only: int | None = None  # the one member whose gradient counts, for steps inside of backward
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
            if grad is not None and self.only in (None, i):
                if grad.layout != torch.strided:
                    raise TypeError(_sparse(name_of(self.group, self.indices[i]), grad))
                self.present.append(i)
                self.gradients.append(real(grad.resolve_conj()))

    def statistics(self) -> Tensor | None:
        """This bucket's share of a sum over the scope of its step size, to be complete before `apply`."""
        return None

    def settle(self, total: Tensor) -> None:
        """Take in the sum of `statistics` over the whole scope and over all processes."""

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
        if self.seams:
            by_windows([self.seams[i] for i in self.present], params, grads, state, self._apply_kernel)
        else:
            self._apply_kernel(params, grads, state)

    def _apply_kernel(self, params: list[Tensor], grads: list[Tensor], state: dict[str, list[Tensor]]) -> None:
        if params[0].dtype == compute_dtype(params[0].dtype):
            self.recipe.rule.fused(params, grads, state, self.group, self.recipe.decay)
        else:
            self._apply_widened(params, grads, state)

    def _apply_widened(self, params: list[Tensor], grads: list[Tensor], state: dict[str, list[Tensor]]) -> None:
        """16-bit parameters: the same kernel on float32 copies of a chunk at a time, rounded once."""
        rounding = self.recipe.rounding
        for i, p in enumerate(params):
            single = {key: values[i] for key, values in state.items()}
            averages = {key: _flat(value) for key, value in single.items() if value.shape == p.shape}
            for piece, at in enumerate(range(0, p.numel(), _CHUNK)):
                cut = slice(at, at + _CHUNK)
                rest = averages["rounding.rest"][cut] if "rounding.rest" in averages else None
                wide, grad = rounding.widen(_flat(p)[cut], rest), _flat(grads[i])[cut].float()
                pieces = {key: [value[cut]] for key, value in averages.items()} | {"step": [single["step"]]}
                self.recipe.rule.fused([wide], [grad], pieces, self.group, self.recipe.decay)
                rounding.narrow_(_flat(p)[cut], wide, rest, rounding.draw(single, piece))


class Stacked(Bucket):
    """Equal tensors in one batch ``[B, *shape]``: any space, any storage, any rule."""

    def arrange(self) -> None:
        self._dtype = compute_dtype(self.params[0].dtype)
        self._master = keeps_master(self.space, self.params[0])
        shape = real(self.params[0]).shape
        self._batch = self.space.batch_shape(shape)
        free = math.prod(self.recipe.frame.shape(shape)) if self.space.flat else self.space.dim(shape)
        self._metric = Metric(self.space.sq_norm, max(1, free))  # of an empty tensor it is 0
        self._slots = slots(self.recipe, self.space, shape, self._dtype, self.group)
        self._stack = {key: stacked(self.states, key) for key in self.keys}
        self._versions: list[int] = []
        self._frame_moves = self.recipe.frame.moves and self.space.flat and self.recipe.decay != "cautious"

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

    def statistics(self) -> Tensor | None:
        if self.recipe.step_size.scope is None or not self.present or not self.params[0].numel():
            return None
        shares = [self._measure(*part) for part in self._parts()]
        return torch.stack(shares).sum(0)

    def settle(self, total: Tensor) -> None:
        for _, _, state in self._parts():
            self.recipe.step_size.settle(total, state, self.group)

    def apply(self) -> None:
        for part in self._parts():
            with self._telling(part[0]):
                self._step(*part)
        self.gradients = []
        self._versions = [p._version for p in self.params]

    def _parts(self) -> list[tuple[list[int], Tensor, State]]:
        """Members, gradients and states that can go together.

        All, or one by one where some have no gradient now, or where the frame does not treat all steps alike.
        """
        steps = self._stack["step"]
        alike = not self.recipe.frame.delay or bool((steps == steps[0]).all())
        if len(self.present) == len(self.params) and alike:
            return [(self.present, self.gradients[0], self._stack)]
        grads = self.gradients if len(self.present) < len(self.params) else self.gradients[0].unbind()
        rows = [{key: value[i : i + 1] for key, value in self._stack.items()} for i in self.present]
        return [([i], g.unsqueeze(0), row) for i, g, row in zip(self.present, grads, rows, strict=True)]

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

    def _measure(self, members: list[int], grad: Tensor, state: State) -> Tensor:
        stack = self._points([real(self.params[i]) for i in members], state)
        return self.recipe.step_size.measure(self._descent(grad, stack), stack, state, self.group)

    def _step(self, members: list[int], grad: Tensor, state: State) -> None:
        """One journey: lift - enter - rule - leave - step size - move."""
        space, decay, group = self.space, self.recipe.decay, self.group
        params = [real(self.params[i]) for i in members]
        stack = self._points(params, state)
        points = space.points(stack)
        state["step"].add_(1)
        if not stack.numel() and not self.seams:  # an empty part of a tensor keeps the counts that all parts keep
            return
        grad = self._descent(grad, stack)
        averages = Averages(self.recipe.moments, state, self._slots, self.recipe.frame.delay)
        framing = Framing(self.recipe.frame, space, self._batch, state, averages)
        looks = bool(averages.step[0] <= 0)
        rate = self._rate(stack, points, state)
        if not looks:
            shrink_before_(decay, points, rate, space, group)
        section = space.section_at(points, state)
        if turn := space.turn(section):
            framing.turned(turn, points)
        coords = space.lift(points, space.points(grad), section)
        framing.open(coords)
        if not looks:
            gain = _per_member(self.recipe.rule.gain(averages.step, group), points)
            direction = self._direction(coords, points, averages, framing)
            velocity = self._move_(points, direction, rate * gain, section, framing, coords)
            shrink_after_(decay, points, velocity, rate, space, group)
        if float(group["lr"]) != 0:  # a step of length zero leaves every bit where it is
            space.polish_(points, state["step"], state)
        self._scatter(stack, params, state)
        framing.close(coords)  # last, so that a basis that cannot be renewed leaves a finished step

    def _descent(self, grad: Tensor, stack: Tensor) -> Tensor:
        """The gradient of what is to be made small, in the dtype of the arithmetic."""
        grad = (grad.neg() if self.group["maximize"] else grad).to(self._dtype)
        return added(self.recipe.decay, grad, stack, self.space, self.group)

    def _direction(self, coords: Tensor, points: Tensor, averages: Averages, framing: Framing) -> Tensor:
        """The rule, in the coordinates of the frame."""
        inner, hyper = self.recipe.step_size.scaled(framing.enter(coords), framing.state, self.group)
        rule, weight = self.recipe.rule, prior_weight(self.recipe.decay, self.space, self.group)
        direction: Tensor = self._ask(rule.direction, inner, averages, hyper)
        if not weight:
            return direction
        return direction + self._ask(rule.prior, framing.enter(points), averages, hyper).mul_(weight)

    def _ask(self, way: Pass, coords: Tensor, averages: Averages, hyper: dict[str, Any]) -> Any:
        """What a method of the rule makes of coordinates."""
        try:
            return way(coords, averages, hyper, self._metric)
        except KeyError as error:
            raise UndeclaredError(self.recipe.rule, error, averages.slots, hyper) from error

    def _move_(
        self, points: Tensor, direction: Tensor, rate: float | Tensor, section: Any, framing: Framing, coords: Tensor
    ) -> Tensor | None:
        """Out of the frame and along the space; the velocity, unless the frame itself moved the points."""
        if self._frame_moves:
            self.recipe.frame.move_(points, direction, rate, framing.state, coords)
            return None
        velocity = self.recipe.step_size.velocity(framing.leave(direction, coords), rate)
        self.space.move_(points, velocity, section, framing.state)
        return velocity

    def _rate(self, stack: Tensor, points: Tensor, state: State) -> float | Tensor:
        """The length of the step: a number, or one for each member, shaped to multiply points."""
        return _per_member(self.recipe.step_size.rate(stack, state, self.group), points)

    @contextlib.contextmanager
    def _telling(self, members: list[int]) -> Iterator[None]:
        """Say for which parameter a basis or a root could not be found."""
        try:
            yield
        except FrameError as error:
            at = self.indices[members[error.member // math.prod(self._batch)]]
            raise FrameError(f"parameter {name_of(self.group, at)!r}: {error}", error.member) from None

    def _points(self, params: list[Tensor], state: State) -> Tensor:
        """``[B, *shape]`` in the dtype of the arithmetic: the parameters, or the masters of 16-bit ones."""
        now = _stack(params)
        if not self._master:
            exact = now.dtype == self._dtype
            return now if exact else self.recipe.rounding.widen(now, state.get("rounding.rest"))
        # where the parameter is no longer the rounded master, someone wrote to it, and what was written counts
        master = state["master"]
        return master.copy_(torch.where(master.to(now.dtype) == now, master, now.to(self._dtype)))

    def _scatter(self, stack: Tensor, params: list[Tensor], state: State) -> None:
        """Write rows of the stack to the parameters they do not already share memory with."""
        rounding = self.recipe.rounding
        if params[0].dtype == self._dtype or self._master or isinstance(rounding, Nearest):
            _copy(stack, params)
            return
        for i, (p, wide) in enumerate(zip(params, stack, strict=True)):
            row = {key: value[i] for key, value in state.items()}
            rounding.narrow_(p, wide, row.get("rounding.rest"), rounding.draw(row))


def _stack(tensors: list[Tensor]) -> Tensor:
    return tensors[0].unsqueeze(0) if len(tensors) == 1 else torch.stack(tensors)


def _per_member(value: float | Tensor, points: Tensor) -> float | Tensor:
    """A number, or one for each member, shaped to multiply points."""
    if not isinstance(value, Tensor) or not value.ndim:
        return float(value)
    return value.to(points).reshape(-1, *(1,) * (points.ndim - 1))


def _copy(stack: Tensor, params: list[Tensor]) -> None:
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
