"""Steepest descent in the modular norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from metrize import rules
from metrize.norms import Modular
from metrize.optim.method import Nothing
from metrize.optim.optimizer import Optimizer
from metrize.recipe import Recipe


class ModularNorm(Optimizer):
    """Steepest descent in the modular norm of a whole network (arXiv:2405.14813).

    ``m_l <- b m_l + (1 - b) g_l``, ``p_l <- (1 - lr weight_decay) p_l - lr t_l dual_l(m_l)``, where the budgets t_l of
    the weights come from the masses and sensitivities of the network's parts: an update has modular norm lr.

    Args:
        params: the weights in the order of the network's norms, from input to output, or pairs with their names. Biases
            and gains have no place in the modular norm; train them with another group.
        network: built from `metrize.norms.atom`, `bond`, `parallel`, `residual` and ``@``.
        lr: modular norm of a step; the same for every width and depth.
        momentum: b; 0 keeps no state.
        weight_decay: decoupled.
        nesterov: look ahead along the momentum.
        options: ``maximize``, ``skip_nonfinite``.

    Raises:
        SpaceError: a weight whose shape its norm cannot measure, by name.
        ValueError: another number of weights than the network has.
    """

    def __init__(
        self,
        params: Sequence[nn.Parameter] | Sequence[tuple[str, nn.Parameter]],
        network: Modular,
        lr: float | Tensor = 1e-2,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        *,
        nesterov: bool = False,
        **options: Any,
    ) -> None:
        numbers: dict[str, Any] = {"momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
        groups: Any = params if isinstance(params, Nothing) else _in_norms(list(params), network)
        super().__init__(groups, self.recipe(), lr=lr, **numbers, **options)

    @staticmethod
    def recipe() -> Recipe:
        """The five answers of this optimizer; each group adds the norm of its weight."""
        return Recipe(rule=rules.Steepest())


def _in_norms(weights: list[Any], network: Modular) -> list[dict[str, Any]]:
    if len(weights) != len(network.norms):
        raise ValueError(
            f"{len(weights)} weights for a network with {len(network.norms)}; list them from input to output"
        )
    parts = zip(weights, network.norms, network.budgets, strict=True)
    return [{"params": [weight], "norm": norm, "radius": budget} for weight, norm, budget in parts]
