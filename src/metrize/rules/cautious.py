"""Masks of a direction by the signs of the gradient."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from metrize.moments import Averages
from metrize.norms import Norm
from metrize.part import choice
from metrize.rules.around import Around
from metrize.rules.base import Metric, per_point


@dataclasses.dataclass(frozen=True)
class Cautious(Around):
    """Only entries whose direction has the sign of the gradient move (arXiv:2411.16085): ``D = s u [u g > 0]``.

    u is the direction of the rule inside; where a duality map takes all entries together, such as the
    orthogonalization of Muon, u is what goes into the map. Both are in the coordinates of the frame and of the space.
    Averages are not masked, and weight decay is not. The scale s makes up for what is left out.

    Args:
        rule: the rule inside.
        mask: ``"positive"`` as above; ``"signbit"`` keeps entries whose sign bits agree, so that a zero gradient counts
            as positive; ``"sign"`` leaves out nothing and turns each entry along the gradient, ``D = |u| sign(g)``
            (Grams, arXiv:2412.17107).
        rescale: ``"mean"``: ``s = 1 / max(mean of the mask, 1e-3)``; ``"paper"``: ``s = n / (sum of the mask + 1)`` of
            the n entries of a tensor; ``"none"``: 1. With ``mask="sign"`` there is nothing to make up for.

    Raises:
        ValueError: an unknown option.
    """

    mask: Literal["positive", "signbit", "sign"] = "positive"
    rescale: Literal["mean", "paper", "none"] = "mean"

    early: ClassVar[bool] = True

    def __post_init__(self) -> None:
        choice(self, "mask", ("positive", "signbit", "sign"))
        choice(self, "rescale", ("mean", "paper", "none"))

    @property
    def by_entry(self) -> bool:  # type: ignore[override]
        """Whether nothing is counted."""
        return self.mask == "sign" or self.rescale == "none"

    @property
    def norm_of_steps(self) -> Norm | None:
        """That of the rule inside, unless a direction that is rescaled leaves its ball."""
        norm = self.rule.norm_of_steps
        last = norm is not None and self._maps and not norm.elementwise
        return norm if self.by_entry or last else None

    def transform(
        self, direction: Tensor, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric
    ) -> Tensor:
        if self.mask == "sign":
            return direction.abs() * coords.sign()
        opposed = direction.signbit() != coords.signbit() if self.mask == "signbit" else direction * coords <= 0
        kept = torch.where(opposed, 0, direction)
        if self.rescale == "none":
            return kept
        return kept * per_point(self._scale(metric.sq_norm((~opposed).to(direction)), metric.dim), kept)

    def _scale(self, count: Tensor, dim: int) -> Tensor:
        return dim / (count + 1) if self.rescale == "paper" else (count / dim).clamp(min=1e-3).reciprocal()
