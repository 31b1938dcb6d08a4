"""The executor for everything: equal tensors in one batch."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from metrize.frames import FrameError
from metrize.spaces import SpaceError
from metrize.spaces.declare import check_point, naming
from metrize.step.assignment import Assignment
from metrize.step.batch import Batch
from metrize.step.bucket import Bucket
from metrize.step.journey import stack
from metrize.step.sizes import batch_size, batched_size
from metrize.step.state import State, stacked

_ROUGH = 10.0  # errors of the longest steps, in the tolerance of a starting point; they come near 1


class Stacked(Bucket):
    """Equal tensors in one batch ``[B, *shape]``: any space, any storage, any rule."""

    @classmethod
    def accepts(cls, assignment: Assignment) -> bool:
        return True

    @classmethod
    def together(cls, assignment: Assignment) -> Any:
        return assignment if assignment.numel <= batched_size(assignment.device) else None

    @classmethod
    def temporary(cls, assignment: Assignment) -> tuple[int, int]:
        """Copies that a journey through all its parts keeps alive, rows of stacks, and what bases are turned into."""
        alone = cls.together(assignment) is None
        copies = 6 + 2 * assignment.narrow + (0 if alone else 2)
        beside = (spec for part, spec in assignment.declared.items() if part != "moments")
        bases = sum(math.prod(shape) * dtype.itemsize for spec in beside for shape, dtype in spec.values())
        return copies * assignment.dtype.itemsize * assignment.numel + bases, sys.maxsize

    def arrange(self) -> None:
        self._stack = {key: stacked(self.states, key) for key in self.keys}
        a = self.assignment
        self._most = max(1, batch_size(a.device, sys.maxsize) // max(1, a.numel))  # members of a batch
        self._versions: list[int] = []
        self._polished = False
        self._batches: list[tuple[list[int], Batch]] = []

    def gather(self, among: Sequence[int] | None = None) -> None:
        """As any bucket, and look at points that someone else wrote to since the last step, or since the last polish.

        Raises:
            SpaceError: such a point is off its space, by name.
        """
        super().gather(among)
        if not self.space.flat and self._versions != [p._version for p in self.params]:
            self._check_points()
        if not self.space.flat:
            self._check_drift()
        self._batches = self._parts()

    def statistics(self) -> Tensor | None:
        if self.recipe.step_size.scope is None or not self.present or not self.params[0].numel():
            return None
        return torch.stack([batch.measure() for _, batch in self._batches]).sum(0)

    def receive(self, total: Tensor) -> None:
        for _, batch in self._batches:
            self.recipe.step_size.receive(total, batch.state, self.numbers)
        self.show()

    def apply(self) -> None:
        for members, batch in self._batches:
            with self._telling(members):
                batch.step()
        self.gradients, self._batches = [], []
        self._versions = [p._version for p in self.params]

    def _parts(self) -> list[tuple[list[int], Batch]]:
        """Members that can go together.

        All, or one by one where some have no gradient now, or where the frame does not treat all steps alike.
        """
        if self.present and len(self.present) == len(self.params) and self._alike():
            return [self._neighbours(at, at + self._most) for at in range(0, len(self.params), self._most)]
        return [
            ([i], self._batch([i], grad.unsqueeze(0), {key: value[i : i + 1] for key, value in self._stack.items()}))
            for i, grad in zip(self.present, self.gradients, strict=True)
        ]

    def _neighbours(self, first: int, end: int) -> tuple[list[int], Batch]:
        members = self.present[first:end]
        every = len(members) == len(self.params)
        state = self._stack if every else {key: value[first:end] for key, value in self._stack.items()}
        return members, self._batch(members, stack(self.gradients[first:end]), state)

    def _batch(self, members: list[int], grad: Tensor, state: State) -> Batch:
        params = [self.params[i] for i in members]
        return Batch(self.assignment, self.numbers, params, grad, state, bool(self.spans))

    def _alike(self) -> bool:
        steps = self._stack["step"]
        return not self.recipe.frame.delay or bool((steps == steps[0]).all())

    def _check_points(self) -> None:
        for i, p in enumerate(self.params):
            known = bool(self._versions)
            if known and p._version == self._versions[i]:
                continue
            with naming(self.name(i)):
                # a new bucket may hold what was a 16-bit parameter until now; polishing takes care of that
                check_point(self.space, p, p.dtype if known else torch.bfloat16)
            if known:
                row = {key: value[i : i + 1] for key, value in self._stack.items()}
                self.space.init_state(self.space.points(p.detach().unsqueeze(0).to(self.assignment.dtype)), row)

    def _check_drift(self) -> None:
        """Before a polish, which heals rounding alone: writes through ``data`` leave versions as they are.

        On the host only: elsewhere the answer would have to be waited for in every step.
        """
        if self.assignment.device != "cpu":
            return
        due = self.space.polishes(self._stack["step"] + 1).tolist()
        members = [i for i in self.present if due[i]]
        if not members or not self.params[0].numel():
            return
        points = self.space.points(stack([self.params[i].detach() for i in members]).to(self.assignment.dtype))
        errors = self.space.error(points).reshape(len(members), -1).amax(1)
        off = (errors > self._drift()).tolist()
        for at, member in enumerate(members):
            if not off[at]:
                continue
            with naming(self.name(member)):
                raise SpaceError(
                    f"its error on {self.space} is {float(errors[at]):.3g}, which no rounding explains: it was written "
                    f"to through `data`; put it back with `{self.space}.project_(parameter)`, and write to it under "
                    "torch.no_grad()"
                )
        self._polished = True

    def _drift(self) -> float:
        """The largest error that rounding leaves in a point, of long steps or of 16 bits."""
        a = self.assignment
        stored = a.stored if self._polished else torch.bfloat16  # it may have had 16 bits before this bucket was made
        return max(_ROUGH * self.space.tolerance(a.shape, a.dtype), self.space.tolerance(a.shape, stored))

    @contextlib.contextmanager
    def _telling(self, members: list[int]) -> Iterator[None]:
        """Say for which parameter a basis or a root could not be found."""
        try:
            yield
        except FrameError as error:
            name = self.name(members[error.member // math.prod(self.assignment.batch)])
            raise FrameError(f"parameter {name!r}: {error}", error.member) from None
