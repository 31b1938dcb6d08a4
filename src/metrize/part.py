"""Parts: frozen values that read and print as one recipe, so that it can travel in a checkpoint as text."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import importlib
import math
import os
import sys
from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch

from metrize.values import MisfitError, alternatives, fitted, hints_of, holds_nan, plain, wanted

Spec = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Declared state: key -> (shape, dtype)."""

_CONSTANTS = {"inf": math.inf, "nan": math.nan}


class _Chosen:
    """Stands below the dataclasses, because jsonargparse asks for the class of a value only where one base is none.

    Of a class all of whose bases are dataclasses it would make the annotated one, which may be a contract.
    """

    __slots__ = ()


@dataclasses.dataclass(frozen=True)
class Part(_Chosen):
    """A value of a recipe: a frozen dataclass of numbers, strings, None, tuples of them, and other parts.

    Every subclass is known by its name, so ``parse(repr(part)) == part``; the text is what checkpoints hold. Numbers of
    numpy and torch become plain ones when the part is made, and a value that its annotation does not allow is refused.
    A class that is defined again takes the place of the one before; the name of another class is refused.
    ``class Rule(Part, abstract=True)`` makes a contract, of which only subclasses are parts.
    """

    known: ClassVar[dict[str, type[Part]]] = {}
    contracts: ClassVar[dict[str, type[Part]]] = {}
    revision: ClassVar[int] = 0
    """How often a class was defined again."""
    source: ClassVar[str | None] = None
    """The file that defines the class, where there is one."""

    fixed: ClassVar[tuple[str, ...]] = ()
    """Arguments that a resumed run has to share, because they say what state means whose names and shapes are equal."""

    matrices: ClassVar[bool] = False
    """Whether it takes the dimensions of a tensor for rows and columns, so that it cannot read complex numbers as
    pairs."""

    def __init_subclass__(cls, abstract: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.source = _source_of(cls.__module__)
        _refuse_taken_name(cls)
        parse.cache_clear()  # it holds parts of the class before
        for names in (Part.known, Part.contracts):
            Part.revision += names.pop(cls.__name__, None) is not None
        (Part.contracts if abstract else Part.known)[cls.__name__] = cls
        if "__repr__" not in vars(cls):  # dataclass would print the qualified name
            cls.__repr__ = Part.__repr__  # type: ignore[method-assign]
        if own := vars(cls).get("__post_init__"):
            cls.__post_init__ = _checked_first(own)  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        """Make the values of all fields plain; runs before a subclass's own.

        Raises:
            TypeError: a contract, or a value that the annotation of its field does not allow.
            ValueError: a number that is NaN.
        """
        if type(self) in Part.contracts.values():
            raise TypeError(_is_contract(type(self)))
        for name, hint in hints_of(type(self)).items():
            object.__setattr__(self, name, _fitted(self, name, hint))

    def __repr__(self) -> str:
        """The recipe with all arguments."""
        told = [f"{f.name}={getattr(self, f.name)!r}" for f in dataclasses.fields(self)]
        return f"{type(self).__name__}({', '.join(told)})"

    def __str__(self) -> str:
        """The recipe with defaults left out, as a person would write it."""
        fields = [(f, getattr(self, f.name)) for f in dataclasses.fields(self)]
        told = [f"{f.name}={_text(value)}" for f, value in fields if value != _default(f)]
        return f"{type(self).__name__}({', '.join(told)})"

    def replace(self, **changes: Any) -> Self:
        """A copy with some arguments changed."""
        return dataclasses.replace(self, **changes)


Part.contracts["Part"] = Part


def kinds_of(contract: type[Part]) -> list[type[Part]]:
    """The parts that keep a contract, by name."""
    known = [cls for cls in Part.known.values() if issubclass(cls, contract)]
    return sorted(known, key=lambda cls: cls.__name__)


def _checked_first(own: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(own)
    def post_init(self: Part, *arguments: Any) -> None:
        Part.__post_init__(self)
        own(self, *arguments)

    return post_init


def _fitted(part: Part, name: str, hint: Any) -> Any:
    value = getattr(part, name)
    told = f"{type(part).__name__}({name}={value!r})"
    try:
        value = plain(value)
        if holds_nan(value):
            raise ValueError(f"{told}: {name} is NaN; give {wanted(hint)}")
        return fitted(value, hint)
    except MisfitError:
        contracts = [cls for cls in alternatives(hint) if isinstance(cls, type) and issubclass(cls, Part)]
        if not contracts:
            raise TypeError(f"{told}: {name} is {wanted(hint)}") from None
        fits = ", ".join(f"{cls.__module__}.{cls.__name__}" for contract in contracts for cls in kinds_of(contract))
        raise TypeError(f"{told}: {value!r} is no {contracts[0].__name__.lower()}; it may be {fits}") from None


def _is_contract(cls: type[Part]) -> str:
    fits = ", ".join(kind.__name__ for kind in kinds_of(cls))
    return f"{cls.__name__} is a contract; use one of {fits or 'its subclasses'}"


def _source_of(module: str) -> str | None:
    """The file of the module that defines a class, which may be loaded under more than one name."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") != module:
        frame = frame.f_back  # type: ignore[assignment]
    file = frame and frame.f_globals.get("__file__")
    return os.path.realpath(file) if file else None


def _refuse_taken_name(cls: type[Part]) -> None:
    known = Part.known.get(cls.__name__) or Part.contracts.get(cls.__name__)
    if known is None or (
        known.__qualname__ == cls.__qualname__
        and (known.__module__ == cls.__module__ or (cls.source is not None and known.source == cls.source))
    ):
        return
    here, there = (f"{each.__module__}.{each.__qualname__}" for each in (cls, known))
    raise TypeError(f"{here} has the name of {there}, and a recipe knows parts by name; choose another name")


def _text(value: Any) -> str:
    return str(value) if isinstance(value, Part) else repr(value)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def known_parts() -> dict[str, type[Part]]:
    """Every part by name: those of the library, which are imported here if they were not yet, and the user's own."""
    importlib.import_module("metrize.public")
    return Part.known


@functools.lru_cache(maxsize=1024)
def parse(text: str) -> Part:
    """Read a part from its text, such as ``"Stiefel(blocks=21)"``; nothing is evaluated.

    Args:
        text: ``Name(argument=literal, ...)``, where a literal may be another part.

    Raises:
        ValueError: the text is no part, or names an unknown part or argument.
    """
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"cannot read {text!r} as a part such as 'Stiefel(blocks=2)': {error.msg}") from None
    part = _build(tree, text)
    if not isinstance(part, Part):
        raise ValueError(f"{text!r} is not a part; write it like 'Stiefel(blocks=2)'")
    return part


def _build(node: ast.expr, text: str) -> Any:
    if isinstance(node, ast.Name):  # `Stiefel` is short for `Stiefel()`
        return _CONSTANTS[node.id] if node.id in _CONSTANTS else _class_of(node.id, text)()
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and ast.unparse(node.operand) in _CONSTANTS:
        return -_CONSTANTS[ast.unparse(node.operand)]
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(_build(entry, text) for entry in node.elts)
    if not isinstance(node, ast.Call):
        try:
            return ast.literal_eval(node)
        except ValueError:
            raise ValueError(f"{ast.unparse(node)!r} in {text!r} is not a number, a string or a part") from None
    if not isinstance(node.func, ast.Name) or node.args or any(k.arg is None for k in node.keywords):
        raise ValueError(f"write {text!r} with named arguments only, like 'Stiefel(blocks=2)'")
    cls = _class_of(node.func.id, text)
    arguments = {str(k.arg): _build(k.value, text) for k in node.keywords}
    try:
        return cls(**arguments)
    except TypeError as error:
        names = ", ".join(f.name for f in dataclasses.fields(cls))
        raise ValueError(f"{text!r}: {error}; {cls.__name__} takes {names or 'no arguments'}") from None


def _class_of(name: str, text: str) -> type[Part]:
    if name in Part.contracts:
        raise ValueError(f"{text!r}: {_is_contract(Part.contracts[name])}")
    if name not in Part.known and name not in (known := known_parts()):
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; known parts: {', '.join(sorted(known))}"
        own = "; if it is your own, import the module that defines it before loading"
        raise ValueError(f"unknown part {name!r} in {text!r}{hint}{own}")
    return Part.known[name]


def offers(part: Part, shortcut: str, *meant: str) -> bool:
    """Whether a shortcut stands for these methods: no subclass overrides one of them and leaves the shortcut as it is.

    Args:
        part: the part.
        shortcut: name of the method that says the same in another way.
        meant: names of the methods it stands for.
    """
    cls: Any = type(part)
    return stands_for(cls, shortcut, *meant)


@functools.lru_cache(maxsize=4096)
def stands_for(cls: type, shortcut: str, *meant: str) -> bool:
    """As `offers`, for all parts of a class."""

    def definer(name: str) -> type:
        return next(base for base in cls.__mro__ if name in vars(base))

    return all(issubclass(definer(shortcut), definer(name)) for name in meant)


def choice(part: Part, field: str, allowed: tuple[str, ...]) -> None:
    """Refuse an option that does not exist.

    Raises:
        ValueError: naming the part, the value and what it may be.
    """
    value = getattr(part, field)
    if value not in allowed:
        options = ", ".join(repr(a) for a in allowed)
        raise ValueError(f"{type(part).__name__}({field}={value!r}): {field} is one of {options}")
