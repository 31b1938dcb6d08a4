"""Scion."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from metrize import rules
from metrize.decay import Decay
from metrize.named.by_role import ByRole
from metrize.norms import RMS, ColumnNorm, Norm, SignHead, Spectral
from metrize.norms.layout import Layout
from metrize.optim.groups import Params
from metrize.optim.optimizer import Optimizer
from metrize.recipe import Recipe
from metrize.roles import Role
from metrize.roles.sandbox import Example


class Scion(Optimizer):
    """Steepest descent in a norm for each role, inside the ball of that norm (arXiv:2502.07529).

    ``m <- b m + (1 - b) g``, ``p <- (1 - lr) p - lr radius dual(m)``. With ``constrained=False`` p does not shrink.
    Given a module, the norm follows the role: hidden matrices RMS -> RMS, convolutions likewise, real inputs
    ``max(1, sqrt(out / in)) polar``, embeddings rows of root mean square 1, the last layer the sign divided by its
    width, vectors their root mean square. Given parameters: matrices RMS -> RMS, kernels as convolutions, vectors their
    root mean square; or what a group names as its ``norm`` and ``radius``.

    Args:
        params: a module, parameters, named parameters or groups.
        lr: share of the way to the boundary in one step.
        momentum: b. (Scion's own code counts the other way: its momentum is 1 - b.)
        radius: of the ball of everything but the last layer.
        head_radius: of the ball of the last layer, or of a table that is tied to it; the most sensitive number.
        constrained: shrink by ``1 - lr``, so that weights that start inside their ball stay there.
        accuracy: of polar factors, see `metrize.norms.Spectral`.
        example: what one forward pass of the module takes, to find fused matrices; see `metrize.plan`.
        options: ``maximize``, ``skip_nonfinite``, and ``weight_decay`` if not constrained.

    Raises:
        SpaceError: a parameter whose shape its norm cannot measure, by name.
        ValueError: a number out of range.
    """

    norms: ClassVar[dict[str, Norm]] = {
        "input": Spectral("muon"),
        "embedding": ColumnNorm("rms"),
        "head": SignHead(),
        "tied": SignHead(),
        "router": SignHead(),
        "conv": Spectral("conv"),
        "gain": RMS(),
        "bias": RMS(),
        "scalar": RMS(),
        "elementwise": RMS(),
    }
    """The norm of each role that is not a hidden matrix."""

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        *,
        radius: float = 1.0,
        head_radius: float = 1.0,
        constrained: bool = True,
        accuracy: str = "muon",
        example: Example | None = None,
        **options: Any,
    ) -> None:
        decay: Decay = "constrained" if constrained else "decoupled"

        def of(role: Role) -> dict[str, Any]:
            size = head_radius if role.kind in ("head", "tied") else radius
            return {"recipe": self.recipe(_norm_of(role, accuracy), decay), "radius": size}

        numbers: dict[str, Any] = {"momentum": momentum, "radius": radius}
        divide = ByRole(of, _by_shape, example)
        super().__init__(params, self.recipe(decay=decay), lr=lr, divide=divide, **numbers, **options)

    @staticmethod
    def recipe(norm: Norm = Spectral("rms", "muon"), decay: Decay = "constrained") -> Recipe:
        """The five answers of this optimizer, about a parameter with this norm."""
        return Recipe(rule=rules.Steepest(norm), decay=decay)


def _norm_of(role: Role, accuracy: str) -> Norm:
    norm = Scion.norms.get(role.kind, Spectral("rms"))
    known = {"layout": role.layout, "accuracy": accuracy}
    return norm.replace(**{key: value for key, value in known.items() if hasattr(norm, key)})


def _by_shape(parameter: Tensor, among: list[Tensor]) -> Role:
    """What Scion takes a parameter for that comes without its module; complex numbers count as pairs."""
    dimensions = parameter.ndim
    if dimensions < 2 or parameter.is_complex() or not parameter.numel():
        return Role("bias")
    return Role("hidden") if dimensions == 2 else Role("conv", Layout(unfold=True))
