"""Conventions of weight decay."""

from __future__ import annotations

from typing import Any, Literal, get_args

from torch import Tensor

from metrize.spaces import Space

Decay = Literal["decoupled", "l2", "after", "independent", "cautious", "constrained", "given", "natural"]
DECAYS: tuple[str, ...] = get_args(Decay)


def added(convention: Decay, grad: Tensor, stack: Tensor, space: Space, group: dict[str, Any]) -> Tensor:
    """The gradient of the penalised loss, ``g + weight_decay p``, under ``"l2"``; else the gradient as it is."""
    decay = float(group["weight_decay"])
    return grad.add(stack, alpha=decay) if convention == "l2" and decay and not space.compact else grad


def prior_weight(convention: Decay, space: Space, group: dict[str, Any]) -> float:
    """The weight of a rule's prior in its direction; 0 where the convention is not ``"natural"``."""
    return float(group["weight_decay"]) if convention == "natural" and not space.compact else 0.0


def shrink_before_(
    convention: Decay, points: Tensor, rate: float | Tensor, space: Space, group: dict[str, Any]
) -> None:
    """Shrink the points in place before they move, where the convention does it then.

    Args:
        convention: of the recipe.
        points: ``[B, *point]``.
        rate: of the step size: a number, or shaped to multiply the points.
        space: of the points.
        group: numbers of the parameter group.
    """
    if convention not in ("l2", "after", "cautious", "natural") and _shrinks(convention, group):
        space.shrink_(points, 1 - _share(convention, rate, group))


def shrink_after_(
    convention: Decay,
    points: Tensor,
    velocity: Tensor | None,
    rate: float | Tensor,
    space: Space,
    group: dict[str, Any],
) -> None:
    """As `shrink_before_`, for the conventions that wait for the step.

    ``"cautious"`` shrinks only the entries that the step itself brings nearer to zero.
    """
    if convention not in ("after", "cautious") or not _shrinks(convention, group):
        return
    share = _share(convention, rate, group)
    if convention == "after":
        space.shrink_(points, 1 - share)
    elif velocity is not None and not space.compact:
        before = points - velocity
        points.sub_(before * (before * velocity < 0) * share)


def _shrinks(convention: Decay, group: dict[str, Any]) -> bool:
    return convention == "constrained" or float(group["weight_decay"]) != 0


def _share(convention: Decay, rate: float | Tensor, group: dict[str, Any]) -> float | Tensor:
    """The share of a parameter that is taken away in one step."""
    if convention == "constrained":
        return rate
    decay = float(group["weight_decay"])
    if convention == "independent":
        lr = float(group["lr"])
        peak = float(group.get("initial_lr", lr))
        return decay * (lr / peak if peak else 1.0)
    return (float(group["lr"]) if convention == "given" else rate) * decay
