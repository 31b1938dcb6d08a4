"""The executor for updates that go entry by entry: tensors of any shape, laid end to end."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from metrize.step.assignment import Assignment, as_real
from metrize.step.batch import Batch
from metrize.step.bucket import Bucket
from metrize.step.sizes import portion_size
from metrize.step.state import end_to_end, stacked

_COPIES = 8  # that a journey keeps alive of a portion, with the points and gradients that are laid end to end for it


class Flat(Bucket):
    """Every average of all members lies in one buffer, of which the states hold views; one journey for a portion of it.

    A portion holds many small tensors or a part of a large one, so that a step takes as many launches as there are
    portions, and not tensors.
    """

    @classmethod
    def accepts(cls, assignment: Assignment) -> bool:
        a = assignment
        kept = {key for part, spec in a.declared.items() if part != "moments" for key in spec}
        simple = a.elementwise and a.recipe.step_size.scope is None and a.memory == "contiguous" and kept == {"step"}
        lie = a.in_place >= a.slots.keys() and a.declared["moments"].keys() == a.slots.keys()
        return simple and lie and len({*a.storages.values()}) < 2 and a.copies

    @classmethod
    def pays(cls, assignment: Assignment) -> bool:
        return assignment.device == "cuda"  # on the host a launch costs nothing, and copies are not free

    @classmethod
    def together(cls, assignment: Assignment) -> Any:
        a = assignment
        return a.recipe, a.space, a.stored, a.variant, tuple(a.storages.items())

    @classmethod
    def temporary(cls, assignment: Assignment) -> tuple[int, int]:
        """Points, gradients and a few copies of a portion."""
        each = (_COPIES + 2 * assignment.narrow) * assignment.dtype.itemsize
        return each * assignment.numel, each * portion_size(assignment.device)

    def arrange(self) -> None:
        self._steps = stacked(self.states, "step")
        self._buffers = {key: end_to_end(self.states, key) for key in self.keys if key != "step"}
        self._ends = list(itertools.accumulate((p.numel() for p in map(as_real, self.params)), initial=0))
        self._size = portion_size(self.assignment.device)

    def apply(self) -> None:
        grads = dict(zip(self.present, self.gradients, strict=True))
        self.gradients = []
        for members in self._runs():
            self._go(members, [grads.pop(i) for i in members])
        torch.autograd.graph.increment_version([self.params[i] for i in self.present])

    def _runs(self) -> Iterator[list[int]]:
        """Members side by side with equal counts, as many as make up a portion."""
        run: list[int] = []
        counts = self._steps.tolist()
        for i in self.present:
            if run and not (
                i == run[-1] + 1
                and counts[i] == counts[run[0]]
                and self._ends[i + 1] - self._ends[run[0]] <= self._size
            ):
                yield run
                run = []
            run.append(i)
        if run:
            yield run

    def _go(self, members: Sequence[int], grads: list[Tensor]) -> None:
        """One step of neighbours, portion by portion: of more than one only where it is a single large tensor."""
        points = [as_real(self.params[i]).view(-1) for i in members]
        count = self._steps[members[0] : members[0] + 1].clone()
        start, length = self._ends[members[0]], sum(map(len, points))
        own = torch.cat(points) if len(points) > 1 else points[0]
        grad = torch.cat([g.reshape(-1) for g in grads]) if len(grads) > 1 else grads[0].reshape(-1)
        for at in range(0, length, self._size):
            cut = slice(at, min(at + self._size, length))
            self._portion(own[cut], grad[cut], start + at, count.clone())
        if len(points) > 1:
            torch._foreach_copy_(points, list(torch.split(own, [len(p) for p in points])))
        self._steps[members[0] : members[-1] + 1].add_(1)

    def _portion(self, points: Tensor, grad: Tensor, start: int, count: Tensor) -> None:
        a = self._as_one(points.shape)
        state = {key: buffer[start : start + len(points)].unsqueeze(0) for key, buffer in self._buffers.items()}
        Batch(a, self.numbers, [points], grad.unsqueeze(0), {**state, "step": count}, bool(self.spans), True).step()

    @functools.cached_property
    def _as_one(self) -> Callable[[torch.Size], Assignment]:
        """The assignment of a portion, whose averages are stored as those of its members."""
        moments = next(iter(self.assignment.storages.values()), self.recipe.moments)
        recipe = self.recipe.replace(moments=moments)
        return functools.cache(lambda shape: dataclasses.replace(self.assignment, recipe=recipe, shape=shape))
