"""Clipping by the norm of the lifted gradient."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from metrize.ambient import isolated
from metrize.spaces.base import Space, compute_dtype, parse_space
from metrize.spaces.declare import declared_space, naming, remind
from metrize.spaces.orthonormal import Orthonormal
from metrize.spaces.vector import Vector

_SMALL = 2**18  # numbers of a weight that is still worth copying into a batch

Clipped = nn.Module | Tensor | Iterable[Tensor] | Iterable[tuple[str, Tensor]]
Pair = tuple[Tensor, Tensor]  # a weight and its gradient


@isolated
@torch.no_grad()
def clip_lift_norm_(
    params: Clipped, max_norm: float, *, space: Space | None = None, error_if_nonfinite: bool = False
) -> Tensor:
    """Scale all gradients in place by one factor, so that their lifts together are no longer than `max_norm`.

    As ``torch.nn.utils.clip_grad_norm_``, and equal to it where nothing is constrained. A constrained weight counts
    with the norm of its gradient's lift in the metric of its space, which is all that a step can see: on `Stiefel`
    ``||A||^2 / 2 + ||B||^2``, whatever the section. What its gradient has across the manifold counts for nothing.

    Args:
        params: a module, a parameter, parameters, or named parameters; those without a gradient are left out.
        max_norm: the largest norm that is let through.
        space: of every parameter; None takes each parameter's declared space, else a vector space.
        error_if_nonfinite: refuse a norm that is not finite, at the price of waiting for the device. Otherwise such
            gradients stay as they are, and the optimizers of this library skip the step.

    Returns:
        The norm before clipping, a 0-d tensor; nothing waits for the device.

    Raises:
        ValueError: `max_norm` is no number of at least 0.
        SpaceError: a parameter that its space cannot hold, by name.
        TypeError: a sparse gradient, by name.
        RuntimeError: the norm is not finite, if that was asked for. None of these changes any gradient.

    Source: arXiv:1211.5063 for the clipping, arXiv:2305.16901 for the lift.
    """
    if not max_norm >= 0:
        raise ValueError(f"max_norm={max_norm}: a number of at least 0")
    pairs = list(_alike(_named(params), space))
    total = _together([_norm(where, same) for where, same in pairs])
    if error_if_nonfinite and not torch.isfinite(total):
        raise RuntimeError(f"the norm of the lifted gradients is {float(total)}; no gradient was changed")
    factor = torch.where(total.isfinite(), max_norm / (total + 1e-6), 1.0).clamp(max=1.0)
    for _, same in pairs:
        for _, grad in same:
            grad.mul_(factor.to(grad.device))
    return total


def _named(params: Clipped) -> dict[Tensor, str]:
    """Every parameter that has a gradient, once, with its name or its place."""
    if isinstance(params, nn.Module):
        remind(params)
        params = params.named_parameters()
    each = enumerate([params] if isinstance(params, Tensor) else params)
    named = (p if isinstance(p, tuple) else (f"#{at}", p) for at, p in each)
    return {p: name for name, p in named if p.grad is not None}


def _alike(named: dict[Tensor, str], space: Space | None) -> Iterator[tuple[Space, list[Pair]]]:
    """Weights with their gradients, those together that one call can lift."""
    found: dict[object, tuple[Space, list[Pair]]] = {}
    for at, (p, name) in enumerate(named.items()):
        grad = p.grad
        assert grad is not None
        if grad.layout != torch.strided:
            raise TypeError(f"parameter {name!r} has a sparse gradient ({grad.layout}), which cannot be lifted")
        declared = declared_space(p)
        where = space or (parse_space(declared) if declared else Vector())
        with naming(name):
            where.check(p)
        alone = where.flat or p.numel() > _SMALL
        key = at if alone else (where, p.shape, p.dtype, p.device)
        found.setdefault(key, (where, []))[1].append((p, grad))
    yield from found.values()


def _norm(space: Space, same: list[Pair]) -> Tensor:
    """The norm of all these gradients, lifted, 0-d."""
    dtype = compute_dtype(same[0][0].dtype)
    if space.flat:
        return _together(
            [
                torch.linalg.vector_norm(torch.view_as_real(grad) if grad.is_complex() else grad, dtype=dtype)
                for _, grad in same
            ]
        )
    weights, grads = (torch.stack(tensors).to(dtype) for tensors in zip(*same, strict=True))
    points = space.points(weights)
    state = {
        key: points.new_zeros(len(points), *shape, dtype=kind)
        for key, (shape, kind) in space.state_spec(same[0][0].shape, dtype).items()
    } | {"step": torch.ones(len(points))}
    return _sq_lift(space, points, space.points(grads), state).sum().sqrt()


def _sq_lift(space: Space, points: Tensor, grad: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Squared length of the lift of each gradient, ``[B, *batch]``."""
    if isinstance(space, Orthonormal):
        # G - Y Y^T G is as long as B = Yp^T G, and needs no section
        a = points.mT @ grad
        return space.sq_norm(torch.cat([a - a.mT, grad - points @ a], -2))
    space.init_state(points, state)
    return space.sq_norm(space.lift(points, grad, space.section_at(points, state)))


def _together(norms: list[Tensor]) -> Tensor:
    """The norm of a vector of norms, on the first one's device and in the widest dtype."""
    if not norms:
        return torch.tensor(0.0)
    wide = torch.float64 if any(norm.dtype == torch.float64 for norm in norms) else torch.float32
    return torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device, wide) for norm in norms]))
