"""NorMuon and AdaMuon."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from metrize import rules
from metrize.frames import Frame, Identity
from metrize.named.muon import Muon
from metrize.norms import Spectral
from metrize.optim.groups import Params
from metrize.recipe import Recipe
from metrize.step_sizes import Given, StepSize


class NorMuon(Muon):
    """Muon whose rows are brought to one size on average (arXiv:2510.05491).

    ``O = polar(u)`` as in `Muon`, ``v <- b2 v + (1 - b2) mean over the inputs of O^2``, ``O' = O / (sqrt(v) + eps)``,
    ``p <- (1 - lr weight_decay) p - lr f ||O|| O' / ||O'||``, with one number of v for each row of a matrix. The
    paper's own length, a root mean square of 0.2, is ``rules.Normalized(length="rms")``. With ``accuracy="exact"``
    the rows of wide matrices are equal already.

    Args:
        params: as for `Muon`: a module, or parameters that are matrices.
        lr: length of the step of a matrix; Muon's.
        momentum: b.
        weight_decay: decoupled.
        beta2: b2.
        eps: added outside the root.
        options: other arguments of `Muon`.

    Raises:
        SpaceError: a parameter that is no matrix, by name.
        ValueError: a number out of range or an unknown option.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        *,
        beta2: float = 0.95,
        eps: float = 1e-8,
        **options: Any,
    ) -> None:
        super().__init__(params, lr, momentum, weight_decay, beta2=beta2, eps=eps, **options)

    @staticmethod
    def recipe(
        norm: Spectral = Spectral("muon", "muon"), frame: Frame = Identity(), step_size: StepSize = Given()
    ) -> Recipe:
        """The five answers of this optimizer, about a matrix."""
        return Recipe(frame=frame, rule=rules.Normalized(rules.Steepest(norm)), step_size=step_size)


class AdaMuon(NorMuon):
    """Muon of signs, divided entry by entry by the root of its mean square (arXiv:2507.11005).

    ``O = polar(sign(u))``, ``v <- b2 v + (1 - b2) O^2``, ``O' = O / (sqrt(v) + eps)``,
    ``p <- (1 - lr weight_decay) p - 0.2 lr sqrt(out in) O' / ||O'||``: a root mean square of 0.2, near that of AdamW.

    Args:
        params: as for `Muon`: a module, or parameters that are matrices.
        lr: learning rate; AdamW's.
        momentum: b.
        weight_decay: decoupled.
        options: other arguments of `NorMuon`; a `scale` of `Muon` is without effect.

    Raises:
        SpaceError: a parameter that is no matrix, by name.
        ValueError: a number out of range or an unknown option.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 6e-4,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(params, lr, momentum, weight_decay, **{"scale": "unit", **options})

    @staticmethod
    def recipe(
        norm: Spectral = Spectral("unit", "muon"), frame: Frame = Identity(), step_size: StepSize = Given()
    ) -> Recipe:
        """The five answers of this optimizer, about a matrix."""
        rule = rules.Normalized(rules.Steepest(norm), by="entries", length="rms", sign=True)
        return Recipe(frame=frame, rule=rule, step_size=step_size)
