"""The arguments of an optimizer: which there are, what kind of value each takes, and what is said to any other."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import re
import types
import typing
from collections.abc import Iterable, Mapping
from numbers import Integral, Number, Real
from typing import Any, Literal

import torch
from torch import Tensor

from metrize.values import MisfitError, alternatives, fitted, hints_of, plain, wanted

APART = ("params", "example", "divide")
"""Arguments that are about the tensors handed over, and say nothing of how they are trained."""

SYNONYMS = {
    "update_proj_gap": "period",
    "proj_type": "side",
    "clip_threshold": "clip",
    "max_preconditioner_dim": "max_precond_dim",
    "max_precond_dim": "max_preconditioner_dim",
}
"""Names that other libraries give to arguments of the same meaning; a group may use them."""

_RELATED = {
    "ns_steps": "accuracy",
    "ns_coefficients": "accuracy",
    "adjust_lr_fn": "scale",
    "beta1": "momentum",
    "max_preconditioner_dim": "max_dim",
    "max_precond_dim": "max_dim",
}
_FLAGS = {
    "fused": "{owner} takes torch's fused kernel wherever it can; leave out fused",
    "foreach": "{owner} steps tensors of one kind together of itself; leave out foreach",
    "capturable": "{owner} decides on the host what a step does; leave out capturable",
    "differentiable": "{owner} cannot be differentiated through; use torch.optim for differentiable",
    "amsgrad": "{owner} has no flag amsgrad: that is metrize.AMSGrad",
    "use_muon": "use_muon is for groups of metrize.Muon, and {owner} does not know it",
}


def arguments_of(cls: Any) -> dict[str, str]:
    """The arguments that a class names, or hands on to the class it is made of, and their annotations."""
    return _arguments_of(cls)


@functools.cache
def _arguments_of(cls: type) -> dict[str, str]:
    found: dict[str, str] = {}
    for base in cls.__mro__:
        if base is torch.optim.Optimizer:
            break
        if "__init__" not in vars(base):
            continue
        named = dict(inspect.signature(base.__init__).parameters)  # type: ignore[misc]
        kinds = [parameter.kind for parameter in named.values()]
        for name, parameter in list(named.items())[1:]:
            if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                found.setdefault(name, _text(parameter.annotation))
        if further := vars(base).get("further"):
            found = {field.name: _text(field.type) for field in dataclasses.fields(further)} | found
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    itself = cls.__mro__[1] is torch.optim.Optimizer  # others make their recipe themselves
    return {name: annotation for name, annotation in found.items() if name not in (*APART, "" if itself else "recipe")}


known: dict[str, type] = {}
"""The optimizers of the library, by name."""


@functools.cache
def _places(cls: type) -> list[str]:
    return list(inspect.signature(cls.__init__).parameters)[1:]  # type: ignore[misc]


def given(cls: type, positional: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name, without what is `APART`; words, and several numbers, as Python's own.

    Raises:
        TypeError: a value of another kind than the argument's.
        ValueError: a word that is none of the argument's.
    """
    names = _places(cls)
    together = {**dict(zip(names, positional, strict=False)), **named}
    annotations = arguments_of(cls)
    return {
        name: _checked(cls, name, value, annotations.get(name, ""))
        for name, value in together.items()
        if name not in APART
    }


def in_place_of(
    cls: type, told: Mapping[str, Any], positional: tuple[Any, ...], named: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call with the values of `given`."""
    names = _places(cls)
    first = [told.get(name, value) for name, value in zip(names, positional, strict=False)]
    return (*first, *positional[len(names) :]), {**named, **{name: told[name] for name in named if name in told}}


def named_after(told: Mapping[str, Any], error: Exception) -> str | None:
    """What an error of a part says, with the argument before it that gave the part's field its value.

    Args:
        told: arguments by name.
        error: it shows fields with values, such as ``Eigenbasis(period=-1): ...`` for ``precondition_frequency=-1``.
    """
    seen = {value for field, value in re.findall(r"(\w+)=([-+.\w]+)", str(error)) if field not in told}
    names = [f"{name}={value!r}" for name, value in told.items() if repr(plain(value)) in seen]
    return f"{' or '.join(names)}: {error}" if names else None


def foreign(key: str, value: Any) -> bool:
    """Whether a key of a group is an option, here or in another library, and no word of a framework."""
    if key in ("amsgrad", "differentiable"):
        return bool(value)  # which torch writes into every group
    return key in all_arguments() or key in SYNONYMS or key in _RELATED or key == "use_muon"


def unknown(key: str, owner: str, options: Iterable[str]) -> str:
    """What is said to an option that does not exist."""
    options = list(options)
    if key in _FLAGS:
        return _FLAGS[key].format(owner=owner)
    ours = next((name for name in (SYNONYMS.get(key), _RELATED.get(key)) if name in options), None)
    if ours:
        return f"{owner} has no option {key!r}; its own is {ours!r}"
    close = [] if key in all_arguments() else difflib.get_close_matches(key, options, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"options: {', '.join(options)}"
    return f"unknown option {key!r} of {owner}; {hint}"


def all_arguments() -> set[str]:
    """Those of all optimizers of the library."""
    return {name for cls in known.values() for name in arguments_of(cls)}


def number(key: str, value: Any) -> Any:
    """A number as Python's own; a 0-d tensor stays, so that it can be changed in place.

    Raises:
        TypeError: it is something else.
        ValueError: it is a NaN, or several.
    """
    if getattr(value, "shape", None) == () and not isinstance(value, Tensor | Number):
        value = value.item()  # an array of no dimension
    if isinstance(value, Tensor):
        _check_tensor(key, value)
    elif isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{key} is {_seen(value)}; give a number")
    if value != value:
        raise ValueError(f"{key}=nan: not a number")
    if isinstance(value, Tensor):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def several(key: str, value: Any, count: int) -> tuple[Any, ...]:
    """Numbers as a tuple of Python's own.

    Raises:
        TypeError: it is something else.
        ValueError: there are more or fewer.
    """
    if len(getattr(value, "shape", ())) == 1:  # of an array
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise TypeError(f"{key} is {_seen(value)}; give {count} numbers")
    numbers = tuple(number(key, one) for one in value)
    if len(numbers) != count:
        raise ValueError(f"{key}={value}: give {count} numbers")
    return numbers


def flag(key: str, value: Any) -> bool:
    """True or False as Python's own.

    Raises:
        TypeError: it is something else.
    """
    plain = value.item() if getattr(value, "shape", None) == () else value
    if not isinstance(plain, bool | int) or plain not in (0, 1):
        raise TypeError(f"{key} is {_seen(value)}; give True or False")
    return bool(plain)


def like(key: str, value: Any, default: Any) -> Any:
    """A value of the kind of a default: True or False, several numbers, or one."""
    if isinstance(default, bool):
        return flag(key, value)
    return several(key, value, len(default)) if isinstance(default, tuple) else number(key, value)


def _checked(cls: type, name: str, value: Any, annotation: str) -> Any:
    """A value of the kind that its argument is annotated with, as far as numbers and words go."""
    kinds = {kind.strip() for kind in annotation.split(" | ")} if "[" not in annotation else {annotation}
    if value is None and "None" in kinds:
        return value
    if kinds <= {"float", "int", "Tensor", "None"}:
        number(name, value)
    elif kinds <= {"bool", "None"}:
        flag(name, value)
    elif annotation in ("tuple[float, float]", "tuple[float, float, float]"):
        several(name, value, annotation.count("float"))
    elif _is_plain(hint := argument_hint(cls, name)):
        return _fitted(name, plain(value), hint)
    return value


def _fitted(name: str, value: Any, hint: Any) -> Any:
    """A plain value as its annotation has it.

    Raises:
        TypeError: it is of another kind.
        ValueError: a word that the annotation does not list.
    """
    refusal = f"{name}={value!r}: {name} is {wanted(hint)}"
    try:
        value = fitted(value, hint)
    except MisfitError:
        raise TypeError(refusal) from None
    kinds = [kind for kind in alternatives(hint) if typing.get_origin(kind) is Literal]
    words = [word for kind in kinds for word in typing.get_args(kind)]
    if isinstance(value, str) and words and value not in words:
        raise ValueError(refusal)
    return value


@functools.cache
def argument_hint(cls: type, name: str) -> Any:
    """The annotation of an argument of a class, with its names resolved."""
    for base in cls.__mro__:
        if "__init__" in vars(base) and name in (found := typing.get_type_hints(base.__init__)):  # type: ignore[misc]
            return found[name]
        if further := vars(base).get("further"):
            return hints_of(further).get(name, Any)
    return Any


def _is_plain(hint: Any) -> bool:
    """Whether it asks for words, numbers, tuples or mappings, and for nothing else that a text could stand for."""
    kinds = list(alternatives(hint))
    return any(typing.get_origin(kind) in (Literal, tuple, Mapping) for kind in kinds) and all(
        typing.get_origin(kind) in (Literal, tuple, Mapping) or kind in (float, int, types.NoneType) for kind in kinds
    )


def _check_tensor(key: str, value: Tensor) -> None:
    if value.numel() != 1:
        raise ValueError(f"{key} has shape {tuple(value.shape)}; give one number")
    if value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{key} is {value!r}; give a number")


def _seen(value: Any) -> str:
    return f"the text {value!r}" if isinstance(value, str) else repr(value)


def _text(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", repr(annotation))
