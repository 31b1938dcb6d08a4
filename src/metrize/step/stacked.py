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
from metrize.spaces.declare import check_point, naming
from metrize.step.assignment import Assignment
from metrize.step.batch import Batch
from metrize.step.bucket import Bucket
from metrize.step.journey import stack
from metrize.step.sizes import batched_size
from metrize.step.state import State, stacked


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
        self._versions: list[int] = []
        self._batches: list[tuple[list[int], Batch]] = []

    def gather(self, among: Sequence[int] | None = None) -> None:
        """As any bucket, and look at points that someone else wrote to since the last step.

        Raises:
            SpaceError: such a point is off its space, by name.
        """
        super().gather(among)
        if not self.space.flat and self._versions != [p._version for p in self.params]:
            self._check_points()
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
            return [(self.present, self._batch(self.present, stack(self.gradients), self._stack))]
        return [
            ([i], self._batch([i], grad.unsqueeze(0), {key: value[i : i + 1] for key, value in self._stack.items()}))
            for i, grad in zip(self.present, self.gradients, strict=True)
        ]

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

    @contextlib.contextmanager
    def _telling(self, members: list[int]) -> Iterator[None]:
        """Say for which parameter a basis or a root could not be found."""
        try:
            yield
        except FrameError as error:
            name = self.name(members[error.member // math.prod(self.assignment.batch)])
            raise FrameError(f"parameter {name!r}: {error}", error.member) from None
