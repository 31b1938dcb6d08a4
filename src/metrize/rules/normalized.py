"""A steepest direction over the root of its own mean square."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import torch
from torch import Tensor

from metrize.moments import Averages, Kind
from metrize.norms import Norm, Spectral
from metrize.norms.layout import Layout
from metrize.part import Spec, choice
from metrize.rules.around import Around
from metrize.rules.base import Metric, Rule, number
from metrize.rules.steepest import Steepest


@dataclasses.dataclass(frozen=True)
class Normalized(Around):
    """Orthogonalize first, adapt then (NorMuon, arXiv:2510.05491; AdaMuon, arXiv:2507.11005).

    Of the direction O of the rule inside, ``v <- b2 v + (1 - b2) O^2``, ``O' = O / (sqrt(v) + eps)``, brought to the
    length of `length`. Nothing is corrected for its start. Matrices are those that the layout of the norm tells: heads
    and experts each have their own v and length. Numbers of the group: ``beta2``, ``eps``, and those of the rule.

    Args:
        rule: the rule inside, in a norm of matrices.
        by: v is the mean of O^2 over the inputs of each of the ``"rows"``; over the longer side, ``"short"``; or one
            number for each of the ``"entries"``, which the storage of averages keeps.
        length: of the step of each ``out x in`` matrix: ``"preserve"``: ``||O||_F``; ``"rms"``:
            ``0.2 sqrt(out in)``, a root mean square of 0.2, which takes AdamW's learning rates.
        sign: what the rule orthogonalizes is replaced by its signs.

    Raises:
        ValueError: an unknown option; a rule that is in no norm of matrices; a number of the group out of range.
    """

    rule: Rule = dataclasses.field(default_factory=lambda: Steepest(Spectral()))
    by: Literal["rows", "short", "entries"] = "rows"
    length: Literal["preserve", "rms"] = "preserve"
    sign: bool = False

    def __post_init__(self) -> None:
        choice(self, "by", ("rows", "short", "entries"))
        choice(self, "length", ("preserve", "rms"))
        if not hasattr(self.rule.in_norm(), "layout"):
            raise ValueError(f"{self}: {self.rule} is in no norm of matrices; use Steepest(norm=Spectral())")

    @property
    def norm_of_steps(self) -> Norm | None:
        """None: what is adapted has left the ball."""
        return None

    def hyper(self) -> dict[str, Any]:
        return {**super().hyper(), "beta2": 0.95, "eps": 1e-8}

    def check_hyper(self, hyper: dict[str, Any]) -> None:
        super().check_hyper(hyper)
        if not 0 <= number(hyper["beta2"]) < 1:
            raise ValueError(f"beta2={hyper['beta2']}: a number from 0 to less than 1")
        if not number(hyper["eps"]) >= 0:
            raise ValueError(f"eps={hyper['eps']}: a number of at least 0")

    def averages(self, hyper: dict[str, Any]) -> dict[str, Kind]:
        kept = super().averages(hyper)
        return {**kept, "direction_sq": "square"} if self.by == "entries" else kept

    def small_spec(self, shape: torch.Size, batch: tuple[int, ...], dtype: torch.dtype, hyper: dict[str, Any]) -> Spec:
        spec = super().small_spec(shape, batch, dtype, hyper)
        if self.by == "entries":
            return spec
        try:
            pieces = self._layout.matrix_shapes(shape)
        except ValueError:  # a frozen parameter may have any shape, and keeps nothing
            return spec
        kept = sum(count * (outputs if self._rows(outputs, inputs) else inputs) for count, outputs, inputs in pieces)
        return {**spec, "direction_sq": ((kept,), dtype)}

    def mapped(self, toward: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        direction = super().mapped(toward.sign() if self.sign else toward, averages, hyper, metric)
        whole = self._layout.pieces(direction)
        adapted = self._adapted(direction, whole, averages, hyper)
        return self._layout.assemble(
            [self._scaled(new, old) for new, old in zip(adapted, whole, strict=True)], direction
        )

    @property
    def _layout(self) -> Layout:
        layout: Layout = self.rule.in_norm().layout  # type: ignore[attr-defined]
        return layout

    def _rows(self, outputs: int, inputs: int) -> bool:
        """Whether rows have a number each, and not columns."""
        return self.by == "rows" or outputs >= inputs

    def _adapted(
        self, direction: Tensor, pieces: list[Tensor], averages: Averages, hyper: dict[str, Any]
    ) -> list[Tensor]:
        """O', matrix by matrix."""
        beta2, eps = number(hyper["beta2"]), max(number(hyper["eps"]), torch.finfo(direction.dtype).tiny)
        if self.by == "entries":
            square = averages.update("direction_sq", direction, beta2, 1 - beta2)
            return self._layout.pieces(direction / averages.root("direction_sq", square).add_(eps))
        dims = [-1 if self._rows(*piece.shape[-2:]) else -2 for piece in pieces]
        means = [piece.square().mean(dim, keepdim=True) for piece, dim in zip(pieces, dims, strict=True)]
        kept = averages.small("direction_sq")
        kept.lerp_(torch.cat([mean.flatten(1) for mean in means], 1).to(kept), 1 - beta2)
        roots = torch.split(kept.sqrt() + eps, [mean[0].numel() for mean in means], 1)
        return [p / r.reshape(m.shape).to(p) for p, m, r in zip(pieces, means, roots, strict=True)]

    def _scaled(self, adapted: Tensor, direction: Tensor) -> Tensor:
        """At the length of `length`, matrix by matrix; 0 stays 0."""
        size = torch.linalg.matrix_norm(adapted, keepdim=True).clamp(min=torch.finfo(adapted.dtype).tiny)
        if self.length == "rms":
            return adapted * (0.2 * math.sqrt(math.prod(adapted.shape[-2:])) / size)
        return adapted * (torch.linalg.matrix_norm(direction, keepdim=True) / size)
