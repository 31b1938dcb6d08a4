"""Gradients without their mean, and gradients and directions of bounded size."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from metrize.moments import Averages
from metrize.norms import Norm
from metrize.rules.around import Around
from metrize.rules.base import Metric, number, per_point


@dataclasses.dataclass(frozen=True)
class Centralized(Around):
    """The rule sees the gradient without the mean of each row (gradient centralization, arXiv:2004.01461).

    A row is all that belongs to one index of the first dimension, such as the weights of one output; vectors stay as
    they are. For tensors in a vector space.

    Args:
        rule: the rule inside.
    """

    @property
    def flat_only(self) -> bool:  # type: ignore[override]
        """True: on a manifold rows of coordinates have no meaning."""
        return True

    def prepare(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        if coords.ndim < 3:
            return coords
        return coords - coords.mean(tuple(range(2, coords.ndim)), keepdim=True)


@dataclasses.dataclass(frozen=True)
class GradientLimited(Around):
    """The rule sees a gradient whose norm is at most `grad_limit`: ``g <- g / max(1, ||g|| / grad_limit)``.

    The norm is that of each point, in the metric of its space; ``torch.nn.utils.clip_grad_norm_`` takes that of a whole
    model. Numbers of the group: ``grad_limit``, and those of the rule.

    Args:
        rule: the rule inside.

    Raises:
        ValueError: a limit that is not positive.
    """

    def hyper(self) -> dict[str, Any]:
        return {**super().hyper(), "grad_limit": 1.0}

    def check_hyper(self, hyper: dict[str, Any]) -> None:
        super().check_hyper(hyper)
        _check_limit("grad_limit", hyper)

    def prepare(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        return _limited(coords, metric.sq_norm(coords).sqrt(), hyper["grad_limit"])


@dataclasses.dataclass(frozen=True)
class UpdateLimited(Around):
    """A direction whose root mean square is at most `update_limit`: ``D = u / max(1, RMS(u) / update_limit)``.

    That of Adafactor (arXiv:1804.04235, section 6), around any rule. Numbers of the group: ``update_limit``, and those
    of the rule.

    Args:
        rule: the rule inside.

    Raises:
        ValueError: a limit that is not positive.
    """

    @property
    def norm_of_steps(self) -> Norm | None:
        """That of the rule inside: a shorter direction stays in its ball."""
        return self.rule.norm_of_steps

    def hyper(self) -> dict[str, Any]:
        return {**super().hyper(), "update_limit": 1.0}

    def check_hyper(self, hyper: dict[str, Any]) -> None:
        super().check_hyper(hyper)
        _check_limit("update_limit", hyper)

    def transform(
        self, direction: Tensor, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric
    ) -> Tensor:
        return _limited(direction, (metric.sq_norm(direction) / metric.dim).sqrt(), hyper["update_limit"])


def _check_limit(name: str, hyper: dict[str, Any]) -> None:
    if not number(hyper[name]) > 0:
        raise ValueError(f"{name}={hyper[name]}: a number above 0")


def _limited(value: Tensor, size: Tensor, limit: Any) -> Tensor:
    return value / per_point((size / number(limit)).clamp(min=1), value)
