"""The role of every parameter, from its module's type, one forward pass and the gradients of attention."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from metrize.linalg import is_flat_piece
from metrize.roles.modules import Guess, guesses
from metrize.roles.probe import Probe
from metrize.roles.role import KINDS, VECTORS, Role
from metrize.roles.sandbox import Example, run, untouched
from metrize.roles.settle import because, observed, qualified, real, settled, wide
from metrize.roles.trace import Trace, Tracer

_MATRICES = frozenset(KINDS) - VECTORS - {"elementwise"}


@dataclasses.dataclass(frozen=True)
class Inference:
    """What was found out about a model.

    Args:
        roles: of each parameter, by its first name.
        names: every name of each parameter; tied ones have several.
        unused: parameters that the forward pass did not touch; empty where there was none.
        notes: what a person should know, a sentence each.
    """

    roles: dict[str, Role]
    names: dict[str, tuple[str, ...]]
    unused: tuple[str, ...]
    notes: tuple[str, ...]


def infer(model: nn.Module, example: Example | None = None) -> Inference:
    """The role of every parameter of a model.

    Args:
        model: the model; it is left as it was.
        example: what one forward pass takes; None leaves it at what the modules' types tell.
    """
    _refuse_flat_pieces(model)
    names = _names(model)
    parameters = dict(model.named_parameters())
    known = _known(names, guesses(model))
    if example is None:
        roles, notes = _by_place(parameters, _by_type(parameters, known), known)
        unused: tuple[str, ...] = ()
    else:
        trace = watch(model, example)
        roles = {name: settled(name, p, known, trace) for name, p in parameters.items()}
        roles, notes = _split(model, example, roles, parameters)
        unused = tuple(name for name in names if not trace.uses[name])
    roles = {name: wide(role, parameters[name]) for name, role in roles.items()}
    return Inference(roles, names, unused, notes)


def _refuse_flat_pieces(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if is_flat_piece(parameter):
            raise ValueError(
                f"parameter {name!r} is a flat piece that an engine cut without regard to dimensions, and roles are of "
                "whole tensors; shard the model with torch.distributed.fsdp.fully_shard, or plan before sharding"
            )


def watch(model: nn.Module, example: Example) -> Trace:
    """One forward pass under the tracer.

    Args:
        model: the model; it is left as it was.
        example: what it takes.
    """
    try:
        with untouched(model), torch.no_grad(), Tracer(model) as tracer:
            return tracer.finish(run(model, example))
    except Exception as error:
        error.add_note("raised by the model on the example, in evaluation mode")
        raise


def _names(model: nn.Module) -> dict[str, tuple[str, ...]]:
    found: dict[Tensor, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found.setdefault(parameter, []).append(name)
    return {names[0]: tuple(names) for names in found.values()}


def _known(names: Mapping[str, tuple[str, ...]], found: Mapping[str, Guess | None]) -> dict[str, Guess | None]:
    """What modules tell of each parameter; several of them where it is tied."""
    known: dict[str, Guess | None] = {}
    for first, every in names.items():
        told = [guess for name in every if (guess := found[name])]
        kinds = {guess.role.kind for guess in told}
        known[first] = told[0] if told else None
        if "embedding" in kinds and len(kinds) > 1:
            known[first] = Guess(Role("tied", reason=f"{' and '.join(every)} are one"))
    return known


def _by_type(parameters: Mapping[str, Tensor], known: Mapping[str, Guess | None]) -> dict[str, Role]:
    roles = {name: (known[name] or observed(tuple(p.shape), [])).role for name, p in parameters.items()}
    return {name: real(role, parameters[name]) for name, role in roles.items()}


def _by_place(
    parameters: Mapping[str, Tensor], roles: dict[str, Role], known: Mapping[str, Guess | None]
) -> tuple[dict[str, Role], tuple[str, ...]]:
    """Without a forward pass: the first and the last matrix, where they are not one of a row of equal layers."""
    matrices = [name for name, role in roles.items() if role.kind in _MATRICES]
    ended = {"head", "tied"} & {role.kind for role in roles.values()}
    layer = {name: (re.sub(r"\b\d+\b", "*", name), parameters[name].shape, roles[name].kind) for name in matrices}
    layers = Counter(layer.values())
    guessed = {}
    for kind, name in (("input", matrices[:1]), ("head", [] if ended else matrices[-1:])):
        guess = known[name[0]] if name else None
        if guess and guess.open and roles[name[0]].kind != "head" and layers[layer[name[0]]] == 1:
            guessed[name[0]] = qualified(guess.role, kind, "a guess by its place")
    if not guessed:
        return roles, ()
    told = " and ".join(f"{name} for the {role.kind}" for name, role in guessed.items())
    return roles | guessed, (f"without an example, {told} is a guess",)


def _split(
    model: nn.Module, example: Example, roles: dict[str, Role], parameters: Mapping[str, Tensor]
) -> tuple[dict[str, Role], tuple[str, ...]]:
    """Roles with fused projections split as attention and gates use them."""
    if any(p.is_meta for p in parameters.values()):
        return roles, ("fused projections are not split: weights without values have no gradients",)
    probe = Probe(model)
    try:
        with untouched(model), torch.enable_grad(), probe:
            run(model, example)
    except RuntimeError as error:
        warnings.warn(f"fused projections are not split: the forward pass with gradients failed: {error}", stacklevel=4)
        return roles, ()
    for name, (split, outer, inner, reason) in probe.patterns().items():
        role = roles[name]
        if role.kind in ("hidden", "input", "expert") and not role.layout.split and not role.layout.unfold:
            layout = role.layout.replace(split=split, outer=outer, inner=inner)
            roles[name] = because(role.replace(layout=layout), reason)
    return roles, ()
