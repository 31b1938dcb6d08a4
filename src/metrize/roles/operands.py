"""How torch's operations use the parameters among their arguments."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

How = Literal["matrix", "conv", "lookup", "table", "add", "multiply", "place", "pointwise", "other"]

# argument -> (contracted dimension, output dimension) of that factor; None: it has no outputs
_PRODUCTS: dict[str, dict[int, tuple[int, int | None]]] = {
    "mm": {0: (1, 0), 1: (0, 1)},
    "addmm": {1: (1, 0), 2: (0, 1)},
    "_addmm_activation": {1: (1, 0), 2: (0, 1)},
    "bmm": {0: (2, 1), 1: (1, 2)},
    "baddbmm": {1: (2, 1), 2: (1, 2)},
    "addbmm": {1: (2, 1), 2: (1, 2)},
    "mv": {0: (1, 0), 1: (0, None)},
    "addmv": {1: (1, 0), 2: (0, None)},
    "dot": {0: (0, None), 1: (0, None)},
    "linear": {0: (-1, -2), 1: (1, 0)},
    "_grouped_mm": {0: (-1, -2), 1: (-2, -1)},
}
_PLACING = {"cat", "stack", "where", "index_put", "copy", "masked_scatter", "slice_scatter", "repeat"}
# a weight remains one under these, with constants and other weights
_COPYING = {"_to_copy", "clone", "contiguous", "copy", "detach", "lift_fresh_copy", "native_dropout", "masked_fill"}
_KEEPING = {"cat", "mul", "div", "add", "sub", "neg", "tril", "triu", "where", "_weight_norm_interface", *_COPYING}
_DATA = ("input", "query", "key", "value", "hx")  # a parameter here stands among the activations
_DRAWING = ("rand", "normal", "uniform", "bernoulli", "exponential", "multinomial", "poisson")
_PICKING = {"embedding", "_embedding_bag", "_embedding_bag_forward_only", "index", "index_select", "gather"}


@dataclasses.dataclass(frozen=True)
class Operand:
    """A tensor among the arguments of an operation.

    Args:
        index: of the argument.
        argument: its name in the operation's schema.
        tensor: the tensor.
    """

    index: int
    argument: str
    tensor: Tensor


def name_of(func: Any) -> str:
    """``aten::addmm_`` -> ``addmm``."""
    name: str = func._schema.name.partition("::")[2]
    return name.rstrip("_")


def operands(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Operand]:
    """Every tensor among the arguments, those in lists too."""
    return list(_operands(func, args, kwargs))


def _operands(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Operand]:
    for index, argument in enumerate(func._schema.arguments):
        value = args[index] if index < len(args) else kwargs.get(argument.name)
        for tensor in value if isinstance(value, list | tuple) else [value]:
            if isinstance(tensor, Tensor):
                yield Operand(index, argument.name, tensor)


def is_product(name: str) -> bool:
    """Whether the operation multiplies matrices."""
    return name in _PRODUCTS


def factor(name: str, operand: Operand) -> bool:
    """Whether the operand is a factor of a matrix product or the kernel of a convolution."""
    return operand.index in _PRODUCTS.get(name, {}) or (name == "convolution" and operand.argument == "weight")


def product_dims(name: str, operand: Operand) -> tuple[int, int | None]:
    """The dimension of a factor that the product sums over, and that of its outputs."""
    inner, outer = _PRODUCTS[name][operand.index]
    return inner % operand.tensor.ndim, None if outer is None else outer % operand.tensor.ndim


def is_random(name: str) -> bool:
    """Whether the operation draws numbers; they stand for data where no data comes in."""
    return name.startswith(_DRAWING)


def keeps_weight(name: str) -> bool:
    """Whether a weight is still one after this operation with constants and other weights."""
    return name in _KEEPING or name.startswith(("upsample", "_upsample"))  # positions for other sizes


def copies(name: str) -> bool:
    """Whether the operation returns its argument's numbers where they were."""
    return name in _COPYING


def picks_rows(name: str) -> bool:
    """Whether the operation picks entries of its first argument."""
    return name in _PICKING


def picked_dims(name: str, args: tuple[Any, ...], out: Tensor, dims: list[int | None]) -> list[int | None] | None:
    """The dimension of the parameter for each dimension of what `picks_rows` made; None where that is not known.

    Args:
        name: of the operation.
        args: its arguments.
        out: what it returned.
        dims: the parameter's dimension for each one of the first argument.
    """
    if name == "embedding" or (name == "index" and len(args[1]) == 1):  # `table[index]`
        lead = out.ndim - len(dims) + 1
        return [dims[0]] * lead + dims[1:] if lead >= 0 else None
    return dims if name in ("index_select", "gather") and out.ndim == len(dims) else None


def how(func: Any, operand: Operand) -> How:
    """The use of a parameter by an operation that takes it for no matrix and no table."""
    name = name_of(func)
    if "norm" in name and operand.argument in ("weight", "bias"):
        return "multiply" if operand.argument == "weight" else "add"
    if name in ("add", "sub", "rsub") or operand.argument == "bias" or name in _PRODUCTS:
        return "add"
    if name in ("mul", "div", "_prelu_kernel", "addcmul"):
        return "multiply"
    if name in _PLACING or operand.argument in _DATA:
        return "place"
    return "pointwise" if torch.Tag.pointwise in func.tags else "other"
