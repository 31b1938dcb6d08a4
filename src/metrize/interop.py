"""To and from the constrained weights of others: torch's `orthogonal` parametrization, and geoopt.

A conversion makes a new parameter with the value of the old one. Optimizers built before keep the old one, and so move
nothing from then on: build a new one afterwards. If one weight of a model cannot be converted, none is.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from metrize.ambient import isolated
from metrize.spaces.base import Space, SpaceError
from metrize.spaces.declare import constrain, naming, spaces_of
from metrize.spaces.hyperbolic import Hyperbolic
from metrize.spaces.lorentz import Lorentz
from metrize.spaces.orthogonal import Orthogonal
from metrize.spaces.poincare import PoincareBall
from metrize.spaces.spd import SPD
from metrize.spaces.sphere import Sphere
from metrize.spaces.stiefel import Stiefel
from metrize.spaces.vector import Vector

Place = tuple[str, nn.Module, str]  # the weight's name in the model, the module that owns it, its name in there
_MAPS = (None, "matrix_exp", "cayley", "householder")


@isolated
def from_parametrization(model: nn.Module, name: str | None = None, space: Space | None = None) -> nn.Module:
    """Make plain constrained weights of those that ``torch.nn.utils.parametrizations.orthogonal`` computes.

    Args:
        model: a module with such weights at any depth.
        name: of one of them in the model, such as ``"encoder.weight"``; None converts all that there are.
        space: where they live from now on; None: `Orthogonal()` if square, else `Stiefel()`.

    Returns:
        The model. Values are the same bit for bit, where they are on the space to its tolerance.

    Raises:
        AttributeError: no weight of this name is computed so.
        SpaceError: a weight that the space cannot hold, or that another parametrization changes as well, by name.
    """
    found = [
        (f"{path}.{own}" if path else own, module, own)
        for path, module in model.named_modules()
        if parametrize.is_parametrized(module)
        for own, chain in module.parametrizations.items()
        if any(isinstance(link, parametrizations._Orthogonal) for link in chain)
    ]
    plan = []
    for place in _named(found, name, "that torch's `orthogonal` computes"):
        with naming(place[0]), torch.no_grad():
            plan.append((place, *_computed(place, space)))
    for (_, module, own), value, where in plan:
        chain: Any = module.parametrizations
        original = chain[own].original
        chain[own].original = nn.Parameter(original.detach().clone(), original.requires_grad)  # others may share it
        parametrize.remove_parametrizations(module, own)
        _put([("", module, own)], nn.Parameter(value, original.requires_grad), where)
    return model


@isolated
def to_parametrization(model: nn.Module, name: str | None = None, orthogonal_map: str | None = None) -> nn.Module:
    """Let ``torch.nn.utils.parametrizations.orthogonal`` compute what are constrained weights now.

    Args:
        model: a module with weights on `Stiefel` or `Orthogonal` at any depth, in float32 or float64.
        name: of one of them in the model; None converts all constrained weights.
        orthogonal_map: ``"matrix_exp"``, ``"cayley"`` or ``"householder"``; None leaves the choice to torch.

    Returns:
        The model. Values are the same up to rounding.

    Raises:
        AttributeError: no constrained weight of this name.
        SpaceError: a weight that torch's `orthogonal` cannot hold, by name: on another space, stacked from blocks,
            tied, or in 16 bits.
        ValueError: an unknown map.
    """
    if orthogonal_map not in _MAPS:
        raise ValueError(f"orthogonal_map={orthogonal_map!r} is none of {', '.join(map(repr, _MAPS))}")
    plan = _constrained(model, name)
    for weight, (places, space) in plan.items():
        with naming(places[0][0]):
            _parametrizable(weight, places, space)
    for weight, (places, _) in plan.items():
        _put(places, nn.Parameter(weight.detach().clone(), weight.requires_grad), None)
        devices = [weight.device] if weight.device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # torch draws the complement from the global generator
            parametrizations.orthogonal(places[0][1], places[0][2], orthogonal_map)
    return model


@isolated
def from_geoopt(model: nn.Module, name: str | None = None) -> nn.Module:
    """Make plain constrained weights of geoopt's manifold parameters.

    Its Stiefel manifolds become `Stiefel` (`Orthogonal` if square), its spheres `Sphere` along the last axis, its
    `PoincareBall(c)` one of curvature -c, its `Lorentz(k)` one of curvature -1/k, its `SymmetricPositiveDefinite`
    `SPD`, and its Euclidean space no constraint. Of its metrics on Stiefel only the canonical one exists here.

    Args:
        model: a module with manifold parameters at any depth.
        name: of one of them in the model; None converts all that there are.

    Returns:
        The model. Values are the same bit for bit, where they are on the space to its tolerance.

    Raises:
        ImportError: geoopt is not installed.
        AttributeError: no manifold parameter of this name.
        SpaceError: a manifold that has no counterpart here, by name.
    """
    geoopt = _geoopt()
    theirs = {p: places for p, places in _holders(model).items() if isinstance(p, geoopt.ManifoldParameter)}
    plan = []
    for p, places in _named_weights(theirs, name, "that is a geoopt.ManifoldParameter").items():
        with naming(places[0][0]):
            value = p.detach().as_subclass(Tensor).clone()
            space = _of_manifold(geoopt, p, value)
            plan.append((places, nn.Parameter(_on(space, value), p.requires_grad), space))
    for conversion in plan:
        _put(*conversion)
    return model


@isolated
def to_geoopt(model: nn.Module, name: str | None = None) -> nn.Module:
    """Make geoopt's manifold parameters of constrained weights.

    `Stiefel` and `Orthogonal` become its canonical Stiefel manifold, `Sphere` of radius 1 along the last axis its
    sphere, hyperbolic spaces along the last axis those of the same curvature, `SPD` of
    the affine metric its namesake, and `Vector` its Euclidean space.

    Args:
        model: a module with constrained weights at any depth.
        name: of one of them in the model; None converts all constrained weights.

    Returns:
        The model. Values are the same bit for bit.

    Raises:
        ImportError: geoopt is not installed.
        AttributeError: no constrained weight of this name.
        SpaceError: a space that has no counterpart there, by name.
    """
    geoopt = _geoopt()
    plan = []
    for weight, (places, space) in _constrained(model, name).items():
        with naming(places[0][0]):
            plan.append((places, weight, _manifold_of(geoopt, space, weight)))
    for places, weight, manifold in plan:
        _put(places, geoopt.ManifoldParameter(weight.detach().clone(), manifold, weight.requires_grad), None)
    return model


def _computed(place: Place, space: Space | None) -> tuple[Tensor, Space]:
    """The value of a parametrized weight, and where it shall live."""
    _, module, own = place
    chain: Any = module.parametrizations
    if len(chain[own]) > 1:
        links = ", ".join(type(link).__name__ for link in chain[own])
        raise SpaceError(f"computed by a chain of parametrizations ({links}), which do not keep it on a manifold")
    value = getattr(module, own).detach().clone(memory_format=torch.contiguous_format)
    where = space or _by_shape(value)
    return _on(where, value), where


@functools.singledispatch
def _is_orthogonal(space: Space) -> bool:
    """Whether torch's `orthogonal` parametrizes the same set."""
    return False


@_is_orthogonal.register(Stiefel)
def _(space: Stiefel) -> bool:
    return space.blocks == 1


def _parametrizable(weight: Tensor, places: list[Place], space: Space) -> None:
    """Refuse what torch's `orthogonal` cannot express."""
    if not _is_orthogonal(space):
        raise SpaceError(f"torch's `orthogonal` knows whole matrices with orthonormal rows or columns, and not {space}")
    if len(places) > 1:
        names = ", ".join(name for name, _, _ in places)
        raise SpaceError(f"tied ({names}), and torch computes a weight for one module only")
    if weight.dtype not in (torch.float32, torch.float64):
        raise SpaceError(f"torch's `orthogonal` works in float32 and float64, and this weight is {weight.dtype}")


def _of_manifold(geoopt: Any, parameter: Any, value: Tensor) -> Space:
    """The space that the manifold of geoopt's parameter is."""
    manifold = parameter.manifold
    if isinstance(manifold, geoopt.Stiefel):
        return _by_shape(value)
    if isinstance(manifold, geoopt.Sphere) and manifold.projector is None:
        return Sphere(axis=-1)
    if isinstance(manifold, geoopt.PoincareBall):
        return PoincareBall(curvature=-float(manifold.c))
    if isinstance(manifold, geoopt.Lorentz):
        return Lorentz(curvature=-1 / float(manifold.k))
    if isinstance(manifold, geoopt.SymmetricPositiveDefinite):
        return SPD()
    if isinstance(manifold, geoopt.Euclidean):
        return Vector()
    raise SpaceError(f"on geoopt's {manifold}, which has no counterpart here; take it out of the model first")


@functools.singledispatch
def _counterpart(space: Space, geoopt: Any, weight: Tensor) -> Any:
    """The manifold of geoopt that a space is; None: there is none."""
    return geoopt.Euclidean() if space.flat else None


@_counterpart.register(Stiefel)
def _(space: Stiefel, geoopt: Any, weight: Tensor) -> Any:
    whole = space.blocks == 1 and weight.shape[-2] >= weight.shape[-1]
    return geoopt.CanonicalStiefel() if whole else None


@_counterpart.register(Sphere)
def _(space: Sphere, geoopt: Any, weight: Tensor) -> Any:
    unit = space.radius == 1 and space._dims(weight.ndim) == (weight.ndim - 1,)
    return geoopt.Sphere() if unit else None


@_counterpart.register(PoincareBall)
def _(space: PoincareBall, geoopt: Any, weight: Tensor) -> Any:
    return geoopt.PoincareBall(c=-space.curvature) if _along_last(space, weight) else None


@_counterpart.register(Lorentz)
def _(space: Lorentz, geoopt: Any, weight: Tensor) -> Any:
    return geoopt.Lorentz(k=-1 / space.curvature) if _along_last(space, weight) else None


@_counterpart.register(SPD)
def _(space: SPD, geoopt: Any, weight: Tensor) -> Any:
    whole = space.metric == "affine" and space.blocks == 1
    return geoopt.SymmetricPositiveDefinite() if whole else None


def _along_last(space: Hyperbolic, weight: Tensor) -> bool:
    return space.axis % weight.ndim == weight.ndim - 1


def _manifold_of(geoopt: Any, space: Space, weight: Tensor) -> Any:
    """The manifold of geoopt that a space is."""
    if (manifold := _counterpart(space, geoopt, weight)) is not None:
        return manifold
    raise SpaceError(
        f"geoopt has no counterpart of {space} for shape {tuple(weight.shape)}: it knows orthonormal columns of whole "
        "matrices, and unit vectors and hyperbolic points along the last axis"
    )


def _by_shape(value: Tensor) -> Stiefel:
    return Orthogonal() if value.shape[-2] == value.shape[-1] else Stiefel()


def _on(space: Space, value: Tensor) -> Tensor:
    """A value of its own, moved only where it is off the space."""
    space.check(value)
    if not float(space.error_of(value)) <= space.tolerance(value.shape, value.dtype):
        space.project_(value)
    return value


def _put(places: list[Place], parameter: nn.Parameter, space: Space | None) -> None:
    """Give a parameter to its modules, on a space or free."""
    for _, module, own in places:
        constrain(module, own, None)
        setattr(module, own, parameter)
        if space is not None and not space.flat:
            constrain(module, own, space, project=False)


def _holders(model: nn.Module) -> dict[nn.Parameter, list[Place]]:
    """Every parameter with all of its places."""
    found: dict[nn.Parameter, list[Place]] = {}
    for path, module in model.named_modules():
        for own, p in module._parameters.items():
            if p is not None:
                found.setdefault(p, []).append((f"{path}.{own}" if path else own, module, own))
    return found


def _constrained(model: nn.Module, name: str | None) -> dict[nn.Parameter, tuple[list[Place], Space]]:
    """The constrained weights with all of their places, each once."""
    spaces = spaces_of(model)
    declared = {p: ps for p, ps in _holders(model).items() if any(place[0] in spaces for place in ps)}
    chosen = _named_weights(declared, name, "that is constrained")
    return {p: (ps, next(spaces[place[0]] for place in ps if place[0] in spaces)) for p, ps in chosen.items()}


def _named_weights(
    found: dict[nn.Parameter, list[Place]], name: str | None, what: str
) -> dict[nn.Parameter, list[Place]]:
    chosen = _named((place for places in found.values() for place in places), name, what)
    return {p: places for p, places in found.items() if any(place in chosen for place in places)}


def _named(found: Iterable[Place], name: str | None, what: str) -> list[Place]:
    """All of them, or the one that is asked for."""
    places = list(found)
    chosen = [place for place in places if name in (None, place[0])]
    if name is not None and not chosen:
        names = ", ".join(repr(place[0]) for place in places)
        raise AttributeError(f"no weight {name!r} {what}; there is {names or 'none'}")
    return chosen


def _geoopt() -> Any:
    try:
        return importlib.import_module("geoopt")
    except ImportError as error:
        raise ImportError("converting from or to geoopt needs it installed: pip install geoopt") from error
