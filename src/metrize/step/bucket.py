"""Buckets: parameters that are stepped together, and the phases of a step. Executors are the kinds of buckets."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from metrize.step.assignment import Assignment, as_real
from metrize.step.group import name_of, numbers_of
from metrize.step.state import State
from metrize.step.windows import ShardSpan


@dataclasses.dataclass
class Bucket:
    """Parameters with one assignment and equal numbers, as an executor steps them.

    A step visits all buckets phase by phase, so that what must cross processes can cross in one message for the whole
    model: `gather` (take the gradients) - `statistics` (small sums every process must agree on) - `receive` (those
    sums) - `apply`. No parameter is changed before `apply`.

    Args:
        assignment: of all members, or of the first where shapes may differ.
        group: a parameter group, whose numbers are read at every step; those of other members' groups are equal.
        places: the group of each member, and its place in it.
        params: what is stepped for each member: the parameter itself, or what this process steps in its stead.
        states: state of each member.
        contributes: whether this process adds what it measures of the members to sums, or another one does.
        spans: where each member lies in its whole tensor, if they are parts.
    """

    assignment: Assignment
    group: dict[str, Any]
    places: list[tuple[dict[str, Any], int]]
    params: list[Tensor]
    states: list[State]
    contributes: bool = True
    spans: Sequence[ShardSpan] = ()

    def __post_init__(self) -> None:
        self.recipe, self.space = self.assignment.recipe, self.assignment.space
        self.numbers: dict[str, Any] = {}
        self.present: list[int] = []
        self.gradients: list[Tensor] = []
        # wrappers may keep things of their own in the same dicts
        self.keys = list(self.assignment.spec)
        self.arrange()
        # kept alive, so that no later tensor is taken for one of these
        self.arranged = [[state[key] for key in self.keys] for state in self.states]

    @classmethod
    def accepts(cls, assignment: Assignment) -> bool:
        """Whether this executor can take the step of such a tensor."""
        raise NotImplementedError

    @classmethod
    def pays(cls, assignment: Assignment) -> bool:
        """Whether it is a fast way on the device of the tensor."""
        return True

    @classmethod
    def together(cls, assignment: Assignment) -> Any:
        """What tensors must have in common to be in one bucket; None: this one stays alone."""
        return assignment

    @classmethod
    def temporary(cls, assignment: Assignment) -> tuple[int, int]:
        """Bytes that one member adds to the temporaries of a step, and the most that these can be in one bucket.

        An estimate from above.
        """
        raise NotImplementedError

    @classmethod
    def counts_on(cls, assignment: Assignment, target: Tensor) -> torch.device:
        """The device of counts: the host's, where reading them waits for nothing."""
        return torch.device("cpu")

    def arrange(self) -> None:
        """Lay the states out as the kernels want them."""

    def gather(self, among: Sequence[int] | None = None) -> None:
        """Take the gradients there are; a member without one keeps its own count of steps.

        Args:
            among: members to look at; None: all.

        Raises:
            TypeError: a sparse gradient, by name.
        """
        self.numbers = numbers_of(self.group)
        self.present, self.gradients = [], []
        for i in range(len(self.params)) if among is None else among:
            grad = self.params[i].grad
            if grad is not None:
                if grad.layout != torch.strided:
                    raise TypeError(_sparse(self.name(i), grad))
                self.present.append(i)
                self.gradients.append(as_real(grad.resolve_conj()))

    def name(self, member: int) -> str:
        """The name of a member, for errors."""
        return name_of(*self.places[member])

    def statistics(self) -> Tensor | None:
        """This bucket's share of a sum over the scope of its step size, to be complete before `apply`."""
        return None

    def receive(self, total: Tensor) -> None:
        """Take in the sum of `statistics` over the whole scope and over all processes."""

    def show(self) -> None:
        """Let the groups tell what their step size has found, for those who log it."""
        shown = {key: self.numbers[key] for key in self.recipe.step_size.shown() if key in self.numbers}
        if shown:
            for group, _ in self.places:
                group.update(shown)

    def apply(self) -> None:
        """Write the new values of averages and parameters, and let go of the gradients."""
        raise NotImplementedError


def _sparse(name: str, grad: Tensor) -> str:
    return (
        f"parameter {name!r} has a sparse gradient ({grad.layout}), which no rule here can use; "
        "build its module with sparse=False, or train it with torch.optim.SparseAdam"
    )
