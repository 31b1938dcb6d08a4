"""Rules around rules."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from metrize.moments import Averages, Kind
from metrize.norms import Norm
from metrize.part import Spec, offers
from metrize.rules.adam import Adam
from metrize.rules.base import DIRECTION, Kernel, Metric, Pass, Rule, direction_of


@dataclasses.dataclass(frozen=True)
class Around(Rule, abstract=True):
    """What rules share that change what goes into another rule or comes out of it: ``D = transform(rule(prepare(g)))``.

    A subclass overrides `prepare`, `transform` or both, and inherits all else from the rule inside: its numbers,
    averages, passes, norm and natural gradient. ``Cautious(rule=Lion())`` is a part like any other then.

    Args:
        rule: the rule inside.
    """

    rule: Rule = dataclasses.field(default_factory=Adam)

    fixed: ClassVar[tuple[str, ...]] = ("rule",)

    by_entry: ClassVar[bool] = False
    """Whether `prepare` and `transform` take each entry by itself.

    Large tensors go through the rule in pieces, and shards are stepped alone, only where that is so. A subclass says so
    itself: what it inherits does not count for the methods that it overrides.
    """

    early: ClassVar[bool] = False
    """Whether `transform` acts before a duality map in which entries meet, such as Muon's orthogonalization."""

    def over(self, rule: Rule) -> Rule:
        """This part, with those inside it that are around a rule too, around another rule; once, if it is already."""
        if self._worn(rule):
            return rule
        return self.replace(rule=self.rule.over(rule) if isinstance(self.rule, Around) else rule)

    def _worn(self, rule: Rule) -> bool:
        if not isinstance(rule, Around) or type(rule) is not type(self):
            return False
        own = [field.name for field in dataclasses.fields(self) if field.name != "rule"]
        same = all(getattr(rule, name) == getattr(self, name) for name in own)
        return same and (not isinstance(self.rule, Around) or self.rule._worn(rule.rule))

    def prepare(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        """The gradient as the rule inside shall see it; called once in each of the rule's passes.

        Args:
            coords: ``[B, *batch, *point]``, not to be changed in place.
            averages: those of the rule inside and of this one.
            hyper: numbers of the parameter group.
            metric: of the space.
        """
        return coords

    def transform(
        self, direction: Tensor, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric
    ) -> Tensor:
        """The direction of this rule.

        Args:
            direction: of the rule inside, ``[B, *batch, *point]``, not to be changed in place.
            coords: the gradient as it came, not to be changed in place.
            averages: as for `prepare`.
            hyper: as for `prepare`.
            metric: as for `prepare`.
        """
        return direction

    def direction(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        return self.mapped(self.toward(coords, averages, hyper, metric), averages, hyper, metric)

    def toward(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        work = self.rule.toward if self._maps else direction_of(self.rule)
        return self._finish(work, coords, averages, hyper, metric)

    def mapped(self, toward: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        return self.rule.mapped(toward, averages, hyper, metric) if self._maps else toward

    @property
    def _maps(self) -> bool:
        """Whether the duality map of the rule inside comes after `transform`."""
        early = self.early or type(self).transform is Around.transform
        return early and offers(self.rule, "toward", "direction") and offers(self.rule, "mapped", "direction")

    def _look(self, work: Pass, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Any:
        return work(self.prepare(coords, averages, hyper, metric), averages, hyper, metric)

    def _finish(self, work: Pass, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        direction = self._look(work, coords, averages, hyper, metric)
        return self.transform(direction, coords, averages, hyper, metric)

    @property
    def _alone(self) -> bool:
        """Whether this class itself says that it works entry by entry."""
        return self.by_entry and offers(self, "by_entry", "prepare", "transform")

    def passes(self, hyper: dict[str, Any], ahead: Collection[str] = ()) -> tuple[Pass, ...]:
        if not (self._alone and offers(self.rule, "passes", *DIRECTION)):
            return ()
        inner = self.rule.passes(hyper, ahead)
        last = len(inner) - 1
        return tuple(functools.partial(self._finish if i == last else self._look, work) for i, work in enumerate(inner))

    def elementwise(self, hyper: dict[str, Any]) -> bool:
        return self._alone and offers(self.rule, "elementwise", *DIRECTION) and self.rule.elementwise(hyper)

    def kernel(self, decay: str, hyper: dict[str, Any]) -> Kernel | None:
        changed = type(self).prepare is not Around.prepare or type(self).transform is not Around.transform
        if changed or not offers(self.rule, "kernel", "gain", "passes", *DIRECTION):
            return None
        return self.rule.kernel(decay, hyper)

    # all else is that of the rule inside

    @property
    def flat_only(self) -> bool:  # type: ignore[override]
        """That of the rule inside."""
        return self.rule.flat_only

    @property
    def kernel_counts(self) -> bool:  # type: ignore[override]
        """That of the rule inside."""
        return self.rule.kernel_counts

    @property
    def optional(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of the rule inside."""
        return self.rule.optional

    @property
    def norm_of_steps(self) -> Norm | None:
        """That of the rule inside; for a `transform` that leaves its ball, a subclass says None."""
        return self.rule.norm_of_steps

    def in_norm(self) -> Norm:
        return self.rule.in_norm()

    def with_norm(self, norm: Norm) -> Self:
        return self.replace(rule=self.rule.with_norm(norm))

    def hyper(self) -> dict[str, Any]:
        return self.rule.hyper()

    def variant(self, hyper: dict[str, Any]) -> Any:
        return self.rule.variant(hyper)

    def check_hyper(self, hyper: dict[str, Any]) -> None:
        self.rule.check_hyper(hyper)

    def check_shape(self, shape: torch.Size) -> None:
        self.rule.check_shape(shape)

    def averages(self, hyper: dict[str, Any]) -> dict[str, Kind]:
        return self.rule.averages(hyper)

    def averages_of(self, shape: torch.Size, hyper: dict[str, Any]) -> dict[str, Kind]:
        inner = self.rule.averages(hyper)
        own = {name: kind for name, kind in self.averages(hyper).items() if name not in inner}
        return {**self.rule.averages_of(shape, hyper), **own}

    def small_spec(self, shape: torch.Size, batch: tuple[int, ...], dtype: torch.dtype, hyper: dict[str, Any]) -> Spec:
        return self.rule.small_spec(shape, batch, dtype, hyper)

    def revisits(self, hyper: dict[str, Any]) -> tuple[str, ...]:
        return self.rule.revisits(hyper)

    def turning(
        self, turn: Callable[[Tensor], Tensor], averages: Averages, hyper: dict[str, Any]
    ) -> Callable[[Tensor], Tensor]:
        return self.rule.turning(turn, averages, hyper)

    def gain(self, step: Tensor, hyper: dict[str, Any]) -> float | Tensor:
        return self.rule.gain(step, hyper)

    @property
    def has_prior(self) -> bool:
        """Whether the rule inside has one."""
        return self.rule.has_prior

    def prior(self, points: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        return self.rule.prior(points, averages, hyper, metric)
