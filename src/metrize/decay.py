"""Conventions of weight decay."""

from __future__ import annotations

from typing import Any, Literal, get_args

from torch import Tensor

from metrize.spaces import Space

Decay = Literal["decoupled", "l2", "after", "independent", "cautious", "constrained"]
DECAYS: tuple[str, ...] = get_args(Decay)


def added(convention: Decay, grad: Tensor, stack: Tensor, space: Space, group: dict[str, Any]) -> Tensor:
    """The gradient of the penalised loss, ``g + weight_decay p``, under ``"l2"``; else the gradient as it is."""
    decay = float(group["weight_decay"])
    return grad.add(stack, alpha=decay) if convention == "l2" and decay and not space.compact else grad


def shrink_before_(convention: Decay, points: Tensor, space: Space, group: dict[str, Any]) -> None:
    """Shrink the points in place before they move, where the convention does it then."""
    share = _share(convention, group)
    if share and convention not in ("l2", "after", "cautious"):
        space.shrink_(points, 1 - share)


def shrink_after_(convention: Decay, points: Tensor, velocity: Tensor, space: Space, group: dict[str, Any]) -> None:
    """As `shrink_before_`, for the conventions that wait for the step.

    ``"cautious"`` shrinks only the entries that the step itself brings nearer to zero.
    """
    share = _share(convention, group)
    if share and convention == "after":
        space.shrink_(points, 1 - share)
    elif share and convention == "cautious" and not space.compact:
        before = points - velocity
        points.sub_(before * (before * velocity < 0), alpha=share)


def _share(convention: Decay, group: dict[str, Any]) -> float:
    """The share of a parameter that is taken away in one step."""
    lr = float(group["lr"])
    if convention == "constrained":
        return lr
    if convention == "independent":
        peak = float(group.get("initial_lr", lr))
        return float(group["weight_decay"]) * (lr / peak if peak else 1.0)
    return lr * float(group["weight_decay"])
