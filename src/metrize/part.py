"""Parts: frozen values that read and print as one sentence, so that a recipe can travel in a checkpoint as text."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
from typing import Any, ClassVar, Self

import torch

Spec = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Declared state: key -> (shape, dtype)."""


@dataclasses.dataclass(frozen=True)
class Part:
    """A value of a recipe: a frozen dataclass of numbers, strings, None and other parts.

    Every subclass is known by its name, so ``parse(repr(part)) == part``; the text is what checkpoints hold.
    """

    known: ClassVar[dict[str, type[Part]]] = {}

    matrices: ClassVar[bool] = False
    """Whether it takes the dimensions of a tensor for rows and columns, so that it cannot read complex numbers as
    pairs."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Part.known[cls.__name__] = cls

    def __str__(self) -> str:
        """The sentence with defaults left out, as a person would write it."""
        fields = [(f, getattr(self, f.name)) for f in dataclasses.fields(self)]
        told = [f"{f.name}={_text(value)}" for f, value in fields if value != _default(f)]
        return f"{type(self).__name__}({', '.join(told)})"

    def replace(self, **changes: Any) -> Self:
        """A copy with some arguments changed."""
        return dataclasses.replace(self, **changes)


def _text(value: Any) -> str:
    return str(value) if isinstance(value, Part) else repr(value)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


@functools.lru_cache(maxsize=1024)
def parse(sentence: str) -> Part:
    """Read a part from its sentence, such as ``"Stiefel(blocks=21)"``; nothing is evaluated.

    Args:
        sentence: ``Name(argument=literal, ...)``, where a literal may be another part.

    Raises:
        ValueError: the text is no such sentence, or names an unknown part or argument.
    """
    try:
        tree = ast.parse(sentence, mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"cannot read {sentence!r} as a part such as 'Stiefel(blocks=2)': {error.msg}") from None
    part = _build(tree, sentence)
    if not isinstance(part, Part):
        raise ValueError(f"{sentence!r} is not a part; write it like 'Stiefel(blocks=2)'")
    return part


def _build(node: ast.expr, sentence: str) -> Any:
    if isinstance(node, ast.Name):  # `Stiefel` is short for `Stiefel()`
        return _class_of(node.id, sentence)()
    if not isinstance(node, ast.Call):
        try:
            return ast.literal_eval(node)
        except ValueError:
            raise ValueError(f"{ast.unparse(node)!r} in {sentence!r} is not a number, a string or a part") from None
    if not isinstance(node.func, ast.Name) or node.args or any(k.arg is None for k in node.keywords):
        raise ValueError(f"write {sentence!r} with named arguments only, like 'Stiefel(blocks=2)'")
    cls = _class_of(node.func.id, sentence)
    arguments = {str(k.arg): _build(k.value, sentence) for k in node.keywords}
    try:
        return cls(**arguments)
    except TypeError as error:
        names = ", ".join(f.name for f in dataclasses.fields(cls))
        raise ValueError(f"{sentence!r}: {error}; {cls.__name__} takes {names or 'no arguments'}") from None


def _class_of(name: str, sentence: str) -> type[Part]:
    if name not in Part.known:
        close = difflib.get_close_matches(name, Part.known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; known parts: {', '.join(sorted(Part.known))}"
        raise ValueError(f"unknown part {name!r} in {sentence!r}{hint}")
    return Part.known[name]


def choice(part: Part, field: str, allowed: tuple[str, ...]) -> None:
    """Refuse an option that does not exist.

    Raises:
        ValueError: naming the part, the value and what it may be.
    """
    value = getattr(part, field)
    if value not in allowed:
        options = ", ".join(repr(a) for a in allowed)
        raise ValueError(f"{type(part).__name__}({field}={value!r}): {field} is one of {options}")
