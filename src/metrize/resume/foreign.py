"""Checkpoints of torch.optim and bitsandbytes, in this library's words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metrize.moments import Dense, Factored, Split
from metrize.norms import MatrixNorm, Spectral
from metrize.recipe import Recipe
from metrize.resume.saved import SavedGroup
from metrize.resume.settings import differences
from metrize.rules import AdaGrad, Adam, Lion, Momentum, Rule, Steepest, Whitened
from metrize.step_sizes import Relative
from metrize.step_sizes.decaying import falling

State = dict[str, Any]
Group = dict[str, Any]

# how torch computes, and what is an option of the recipe here
_TORCH_ONLY = {"foreach", "fused", "capturable", "differentiable", "params", "param_names"}
_QUANTIZED = "__bnb_optimizer_quant_state__"
_MUON = {"ns_coefficients": (3.4445, -4.7750, 2.0315), "ns_steps": 5, "eps": 1e-7}

# names of those without a counterpart, by what only their groups hold
_STRANGERS = {
    "RMSprop": {"alpha", "centered"},
    "Adadelta": {"rho"},
    "Rprop": {"etas"},
    "ASGD": {"lambd"},
    "LBFGS": {"tolerance_grad"},
    "RAdam": {"betas", "decoupled_weight_decay"},
    "Adamax": {"betas", "capturable"},
}


def read_foreign(own: Recipe | None, at: int, group: Group, states: list[State]) -> SavedGroup:
    """A group that another library wrote.

    Args:
        own: the recipe that shall go on, where that decides between readings.
        at: place of the group.
        group: its numbers.
        states: of its parameters.

    Raises:
        ValueError: nobody knows who wrote it, or there is no counterpart.
    """
    try:
        if any(_QUANTIZED in state or "state1" in state for state in states):
            return _bitsandbytes(own, group, states)
        for name, (marks, reading) in _READINGS.items():
            if marks <= group.keys():
                return _named(f"torch.optim.{name}", group, reading(group, states))
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise ValueError(f"group {at} of the checkpoint cannot be read: {type(error).__name__}: {error}") from None
    for name, marks in _STRANGERS.items():
        if marks <= group.keys():
            raise ValueError(f"group {at} of the checkpoint is of torch.optim.{name}, which has no counterpart here")
    raise ValueError(f"group {at} of the checkpoint names no recipe: it was not written by this library")


Reading = tuple[Recipe, dict[str, Any], set[str], list[State], dict[str, Any]]
"""Recipe, numbers under new names, keys that are no numbers here, states, options that have to be alike."""


def _named(origin: str, group: Group, reading: Reading) -> SavedGroup:
    recipe, numbers, gone, states, options = reading
    kept = {key: value for key, value in group.items() if key not in _TORCH_ONLY | gone} | numbers
    names = list(group["param_names"]) if "param_names" in group else None
    count = len(states)
    if "maximize" in group:
        options = {**options, "maximize": group["maximize"]}
    return SavedGroup(recipe, kept, states, names, [None] * count, [None] * count, origin, options)


def _decay(group: Group, options: dict[str, Any], usual: bool) -> Any:
    """Whether weight decay is decoupled; older versions of torch do not say it."""
    decoupled = group.get("decoupled_weight_decay", usual)
    if "decoupled_weight_decay" in group:
        options["decoupled_weight_decay"] = decoupled
    return "decoupled" if decoupled else "l2"


def _renamed(states: list[State], names: dict[str, str]) -> list[State]:
    return [{new: state[old] for old, new in names.items() if state.get(old) is not None} for state in states]


def _adam(group: Group, states: list[State]) -> Reading:
    options: dict[str, Any] = {"amsgrad": group["amsgrad"]}
    recipe = Recipe(rule=Adam(amsgrad=group["amsgrad"]), decay=_decay(group, options, False))
    keys = ("step", "exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if group["amsgrad"] else ()))
    return recipe, {}, {"amsgrad", "decoupled_weight_decay"}, _renamed(states, {k: k for k in keys}), options


def _nadam(group: Group, states: list[State]) -> Reading:
    options: dict[str, Any] = {}
    recipe = Recipe(rule=Adam(nesterov=True), decay=_decay(group, options, False))
    found = _renamed(states, {key: key for key in ("step", "exp_avg", "exp_avg_sq")})
    for state, kept in zip(states, found, strict=True):
        if "mu_product" in state:
            kept["momentum_bias"] = 1 - torch.as_tensor(state["mu_product"], dtype=torch.float64)
    return recipe, {}, {"decoupled_weight_decay"}, found, options


def _sgd(group: Group, states: list[State]) -> Reading:
    found = _renamed(states, {"momentum_buffer": "momentum_buffer"})
    for kept in found:
        if kept:
            kept["step"] = 1.0  # not kept there; all that counts is that the first step is over
    options = {key: group[key] for key in ("nesterov", "dampening")}
    return Recipe(rule=Momentum(), decay="l2"), {}, set(), found, options


def _adagrad(group: Group, states: list[State]) -> Reading:
    found = _renamed(states, {"step": "step", "sum": "sum"})
    for kept in found:
        if group["initial_accumulator_value"] and "sum" in kept:  # which is kept apart here
            kept["sum"] = (kept["sum"] - group["initial_accumulator_value"]).clamp(min=0)
    recipe = Recipe(rule=AdaGrad(), step_size=falling(group["lr_decay"], 1.0), decay="l2")
    return recipe, {}, {"lr_decay"}, found, {"lr_decay": group["lr_decay"]}


def _adafactor(group: Group, states: list[State]) -> Reading:
    floor, least = group["eps"]
    recipe = Recipe(
        moments=Split(Dense(), Factored("last", floor=None)),
        rule=Whitened(floor="clamped"),
        step_size=Relative("capped", True, least),
        decay="given",
    )
    found = _renamed(
        states, {"step": "step", "row_var": "exp_avg_sq.row", "col_var": "exp_avg_sq.col", "variance": "exp_avg_sq"}
    )
    for kept in found:
        if "exp_avg_sq.row" in kept:
            kept["exp_avg_sq.row"] = kept["exp_avg_sq.row"].squeeze(-1)
            kept["exp_avg_sq.col"] = kept["exp_avg_sq.col"].squeeze(-2)
    numbers = {"clip": group["d"], "decay_rate": group["beta2_decay"], "eps": floor, "momentum": 0.0}
    return recipe, numbers, {"d", "beta2_decay"}, found, {}


def _muon(group: Group, states: list[State]) -> Reading:
    for key, usual in _MUON.items():
        value = tuple(group[key]) if isinstance(group[key], list) else group[key]
        if value != usual:
            raise ValueError(f"the checkpoint is of torch.optim.Muon({key}={value}), which has no counterpart here")
    scale: Any = "adam" if group["adjust_lr_fn"] == "match_rms_adamw" else "muon"
    found = _renamed(states, {"momentum_buffer": "exp_avg"})
    for kept in found:
        if kept:
            kept["step"] = 1.0
    options = {"nesterov": group["nesterov"]}
    return Recipe(rule=Steepest(Spectral(scale, "muon"))), {}, {*_MUON, "adjust_lr_fn"}, found, options


_READINGS: dict[str, tuple[set[str], Callable[[Group, list[State]], Reading]]] = {
    "Muon": ({"ns_steps", "ns_coefficients", "adjust_lr_fn"}, _muon),
    "Adafactor": ({"beta2_decay", "d"}, _adafactor),
    "NAdam": ({"momentum_decay", "betas"}, _nadam),
    "Adagrad": ({"lr_decay", "initial_accumulator_value"}, _adagrad),
    "Adam": ({"amsgrad", "betas"}, _adam),
    "SGD": ({"momentum", "dampening", "nesterov"}, _sgd),
}


def _bitsandbytes(own: Recipe | None, group: Group, states: list[State]) -> SavedGroup:
    """Adam or Lion in blocks of 8 bits: ``value = qmap[code] * absmax[block]``."""
    flat = [{**state.get(_QUANTIZED, {}), **{k: v for k, v in state.items() if k != _QUANTIZED}} for state in states]
    two = any("state2" in state for state in flat)
    rule: Rule = Adam() if two else Lion()
    if not two and (own is None or type(own.rule) is not type(rule)):
        raise ValueError(
            "the checkpoint is of a bitsandbytes optimizer with one average; only Lion's can be read, for metrize.Lion"
        )
    names = {"1": "exp_avg", "2": "exp_avg_sq"} if two else {"1": "exp_avg"}
    found = []
    for state in flat:
        kept = {name: _dequantized(state, end) for end, name in names.items() if f"state{end}" in state}
        found.append({**kept, "step": float(state["step"])} if kept else {})
    recipe = Recipe(rule=rule if own is None or two else rule.with_norm(own.rule.in_norm()))
    numbers = {key: group[key] for key in group if key not in {"alpha", "t_alpha", "t_beta3", "eps" if not two else ""}}
    return _named("bitsandbytes", numbers, (recipe, {}, set(), found, {}))


def _dequantized(state: State, end: str) -> Tensor:
    codes: Tensor = state[f"state{end}"]
    if codes.dtype != torch.uint8:
        return codes
    values, scale = state[f"qmap{end}"][codes.long()].flatten(), state.get(f"absmax{end}")
    if scale is None:  # one scale for the whole tensor
        return (values * state[f"max{end}"]).view(codes.shape)
    fitting = [size for size in (256, 2048, 64, 128, 512, 1024, 4096) if -(-codes.numel() // size) == scale.numel()]
    if not fitting:
        raise ValueError(f"absmax{end} of the checkpoint has {scale.numel()} scales for {codes.numel()} numbers")
    return (values * scale.repeat_interleave(fitting[0])[: codes.numel()]).view(codes.shape)


def check_origin(saved: SavedGroup, recipe: Recipe, group: Group, name: str) -> None:
    """Refuse a foreign group whose steps are others than those of the optimizer that shall go on.

    Args:
        saved: the foreign group.
        recipe: of the optimizer's group.
        group: its numbers.
        name: of a parameter.

    Raises:
        ValueError: naming the option.
    """
    theirs = saved.recipe
    if type(theirs.rule) is not type(recipe.rule):
        raise ValueError(
            f"parameter {name!r} was trained by {saved.origin}, which is {theirs} here, and this optimizer has "
            f"{recipe}; build the optimizer of that recipe"
        )
    for option, value in saved.options.items():
        if (own := _own_option(option, recipe, group)) != value:
            raise ValueError(
                f"parameter {name!r} was trained by {saved.origin} with {option}={value}, and this optimizer has "
                f"{option}={own}: {_REMEDIES.get(option, 'build it with ' + option + '=' + repr(value))}"
            )
    norm, their_norm = recipe.rule.in_norm(), theirs.rule.in_norm()
    if isinstance(norm, MatrixNorm) and isinstance(their_norm, MatrixNorm):  # which matrices, theirs does not say
        theirs = theirs.with_norm(their_norm.replace(layout=norm.layout))
    same = theirs.replace(space=recipe.space, moments=recipe.moments, rounding=recipe.rounding)
    if (
        same.decay != recipe.decay
        and saved.origin == "torch.optim.Adam"
        and "decoupled_weight_decay" not in saved.options
    ):
        same = same.replace(decay=recipe.decay)  # an older version of torch, which does not say it
    if found := differences(same, recipe):
        raise ValueError(
            f"parameter {name!r} was trained by {saved.origin}, and steps in another way: {', '.join(found)}"
        )


_REMEDIES = {
    "amsgrad": "amsgrad=True is metrize.AMSGrad, and amsgrad=False metrize.Adam or AdamW",
    "decoupled_weight_decay": "True is metrize.AdamW, or decay='decoupled'; False is metrize.Adam, or decay='l2'",
}


def _own_option(option: str, recipe: Recipe, group: Group) -> Any:
    if option == "amsgrad":
        return getattr(recipe.rule, "amsgrad", False)
    if option == "decoupled_weight_decay":
        return recipe.decay == "decoupled"
    if option == "lr_decay":
        return getattr(recipe.step_size, "decay", 0.0)
    return group.get(option)
