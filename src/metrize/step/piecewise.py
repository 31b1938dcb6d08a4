"""The executor for vector spaces whose tensors are stepped piece by piece."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from metrize.moments import boxes
from metrize.step.assignment import Assignment, as_real
from metrize.step.batch import Batch
from metrize.step.bucket import Bucket
from metrize.step.journey import Trip, descent, journey, per_member, stack
from metrize.step.pieces import Pieces
from metrize.step.sizes import batch_size, batched_size, piece_size
from metrize.step.state import State, stacked
from metrize.step.windows import by_windows


class Piecewise(Bucket):
    """Small equal tensors in batches of bounded size; a large one piece by piece.

    Averages are read, updated, used and written for one piece before the next is looked at, so that the temporaries of
    a step are as large as a few pieces, and stay in cache.
    """

    @classmethod
    def accepts(cls, assignment: Assignment) -> bool:
        recipe, storages = assignment.recipe, assignment.storages
        alone = recipe.frame.trivial and recipe.step_size.piecewise and assignment.decay.elementwise
        if not (assignment.plain and alone and assignment.passes and assignment.memory == "contiguous"):
            return False
        if assignment.declared["rule"]:
            return False
        revisited = recipe.rule.revisits(assignment.numbers)
        return (
            assignment.streams
            and all(storages[name].rereads for name in revisited if name in storages)
            and len({storage.layout(assignment.shape) for storage in storages.values()} - {None}) < 2
        )

    @classmethod
    def together(cls, assignment: Assignment) -> Any:
        return assignment if assignment.numel <= batched_size(assignment.device) else None

    @classmethod
    def temporary(cls, assignment: Assignment) -> tuple[int, int]:
        """Copies of a piece, and wide ones of 16-bit parameters and gradients."""
        each = assignment.dtype.itemsize
        most = 10 * each * piece_size(assignment.device, assignment.numel)
        return (10 + 2 * assignment.narrow) * each * assignment.numel, most

    def arrange(self) -> None:
        for state in self.states:
            for key in self.keys:
                state[key] = state[key].contiguous()
        self._stack = {key: stacked(self.states, key) for key in self.keys}
        self._rows: dict[int, State] = {}
        a = self.assignment
        self._size = piece_size(a.device, a.numel)
        # sums over the model are made by rows
        any_layout = tuple(a.shape) if self.recipe.step_size.scope is not None else (a.numel,)
        layout = next(filter(None, (storage.layout(a.shape) for storage in a.storages.values())), any_layout)
        align = math.lcm(*(storage.align for storage in a.storages.values()))
        self._cuts = boxes(layout, self._size, align)
        self._one = torch.empty(1, dtype=a.dtype, device=self.params[0].device)  # what numbers of a member are cast to
        self._large = self.params[0].numel() > self._size
        lent = all(storage.lends for storage in a.storages.values())
        self._kernel = a.kernel if lent and (a.device == "cpu" or (a.device == "cuda" and a.given)) else None

    def statistics(self) -> Tensor | None:
        if self.recipe.step_size.scope is None or not self.present or not self.params[0].numel():
            return None
        if self._large:
            shares = [
                share for i, grad in zip(self.present, self.gradients, strict=True) for share in self._measured(i, grad)
            ]
        else:
            shares = [batch.measure() for batch in self._batches()]
        return torch.stack(shares).sum(0)

    def receive(self, total: Tensor) -> None:
        every = len(self.present) == len(self.params)
        for state in [self._stack] if every else map(self._row, self.present):
            self.recipe.step_size.receive(total, state, self.numbers)
        self.show()

    def apply(self) -> None:
        if not self.present:
            return
        if self._large:
            for i, grad in zip(self.present, self.gradients, strict=True):
                self._go_through(i, grad)
        else:
            for batch in self._batches():
                batch.step()
        torch.autograd.graph.increment_version([self.params[i] for i in self.present])
        self.gradients = []

    def _measured(self, i: int, grad: Tensor) -> Iterator[Tensor]:
        """What the step size adds up over the model, piece by piece."""
        whole, state = as_real(self.params[i]).unsqueeze(0), self._row(i)
        pieces, grads = self._cuts.split(whole), self._cuts.split(grad.contiguous().unsqueeze(0))
        rest, step_size = state.get("rounding.rest"), self.recipe.step_size
        kept = ["step", *self.assignment.declared["step_size"]]
        for cut, piece, part in zip(self._cuts, pieces, grads, strict=True):
            points = self._widened(piece, None if rest is None else cut.of(rest))
            own = {key: cut.of(state[key]) if state[key].shape == whole.shape else state[key] for key in kept}
            yield step_size.measure(descent(self.assignment, part, points, self.numbers), points, own, self.numbers)

    def _row(self, i: int) -> State:
        if i not in self._rows:
            self._rows[i] = {key: value[i : i + 1] for key, value in self._stack.items()}
        return self._rows[i]

    def _batches(self) -> Iterator[Batch]:
        """Members, gradients and states that lie side by side, as many as make up a piece."""
        most = max(1, batch_size(self.assignment.device, self._size) // max(1, self.params[0].numel()))
        at = 0
        while at < len(self.present):
            first, end = self.present[at], at + 1
            while end < len(self.present) and end - at < most and self.present[end] == first + end - at:
                end += 1
            state = {key: value[first : first + end - at] for key, value in self._stack.items()}
            params = [self.params[i] for i in self.present[at:end]]
            yield Batch(self.assignment, self.numbers, params, stack(self.gradients[at:end]), state, bool(self.spans))
            at = end

    def _go_through(self, i: int, grad: Tensor) -> None:
        """One journey of a large tensor."""
        a, whole, state = self.assignment, as_real(self.params[i]).unsqueeze(0), self._row(i)
        state["step"].add_(1)
        averages = Pieces(a, state, self._cuts)
        trip = self._trip(whole, state, averages)
        pieces, grads = self._cuts.split(whole), self._cuts.split(grad.contiguous().unsqueeze(0))
        for look in a.passes[:-1]:
            for k in averages.along():
                trip.look(look, pieces[k], grads[k])
        simple = self._kernel is None and not a.narrow
        for k in averages.along():
            if simple:
                journey(trip, pieces[k], grads[k])
            elif a.narrow:
                self._step_narrow(trip, i, k, pieces[k], grads[k])
            else:
                self._fused_(trip, i, pieces[k], grads[k])
        averages.close()

    def _step_narrow(self, trip: Trip, i: int, k: int, stored: Tensor, grad: Tensor) -> None:
        """A piece of a 16-bit parameter is widened, stepped, and rounded once."""
        rounding, rest = self.assignment.rounding, trip.state.get("rounding.rest")
        left = None if rest is None else self._cuts[k].of(rest)
        wide = rounding.widen(stored, left)
        if self._kernel is None:
            journey(trip, wide, grad)
        else:
            self._fused_(trip, i, wide, grad)
        rounding.narrow_(stored, wide, left, rounding.draw({key: v[0] for key, v in trip.state.items()}, k))

    def _trip(self, whole: Tensor, state: State, averages: Pieces) -> Trip:
        a, recipe = self.assignment, self.recipe
        rate = float(self.numbers["lr"]) if a.given else self._rate(whole, state)
        length = rate * per_member(recipe.rule.gain(averages.step, self.numbers), self._one) if a.gains else rate
        last = a.passes[-1]
        return Trip(a, self.numbers, state, averages, last, rate, length, fused=a.linear and not a.decay.after_step)

    def _rate(self, whole: Tensor, state: State) -> float | Tensor:
        rate = per_member(self.recipe.step_size.rate(whole, state, self.numbers), self._one)
        return float(rate) if whole.device.type == "cpu" else rate

    def _widened(self, points: Tensor, rest: Tensor | None) -> Tensor:
        return self.assignment.rounding.widen(points, rest) if self.assignment.narrow else points

    def _fused_(self, trip: Trip, i: int, points: Tensor, grad: Tensor) -> None:
        """Torch's own kernel, on a piece whose averages are read before it and written after it."""
        averages = trip.averages
        assert isinstance(averages, Pieces)
        lent, step = averages.lend(), trip.state["step"].to(points.device, non_blocking=True)
        state = {name: [average] for name, average in lent.items()} | {"step": [step[0]]}
        grad, numbers = trip.seen(grad.to(points.dtype))
        numbers = numbers if self.assignment.given else {**numbers, "lr": trip.rate}

        def kernel(params: list[Tensor], grads: list[Tensor], own: dict[str, list[Tensor]]) -> None:
            assert self._kernel is not None
            self._kernel(params, grads, own, numbers)

        if self.spans:
            span = dataclasses.replace(self.spans[i], start=self.spans[i].start + averages.cut.start)
            by_windows([span], [points], [grad], state, kernel)
        else:
            kernel([points], [grad], state)
        averages.write_back(lent)
