"""Which outputs of a fused projection are queries, keys and values, or gate and up: gradients tell.

The output of every matrix is cut from its graph, so that the gradient of what attention sees, with respect to it, is
nonzero for exactly those outputs that feed it directly; rotations, reshapes and norms in between do not matter.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from metrize.roles.flow import address
from metrize.roles.role import solid

_QUERY, _KEY, _VALUE, _GATE, _UP = 1, 2, 4, 8, 16
_LONGEST_PATTERN = 8

_WEIGHT_AT: dict[Callable[..., Any], int] = {  # the argument whose outputs are the last dimension of the result
    F.linear: 1,
    torch.addmm: 2,
    torch.baddbmm: 2,
    **dict.fromkeys((torch.mm, torch.matmul, torch.bmm, Tensor.mm, Tensor.matmul, Tensor.bmm, Tensor.__matmul__), 1),
}
_CONVOLUTIONS = {
    F.conv1d,
    F.conv2d,
    F.conv3d,
    F.conv_transpose1d,
    F.conv_transpose2d,
    F.conv_transpose3d,
}
_PRODUCTS = {torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__}
_SOFTMAX = {torch.softmax, F.softmax, Tensor.softmax}


class Pattern(NamedTuple):
    """How the outputs of a fused weight are arranged.

    Attributes:
        split: as in a layout.
        outer: as in a layout.
        inner: as in a layout.
        reason: what they are.
    """

    split: tuple[int, ...]
    outer: int
    inner: int
    reason: str


class Probe(TorchFunctionMode):
    """Watches a forward pass that keeps its graph.

    Args:
        model: whose weights are probed.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        named = ((name, p) for name, p in model.named_parameters() if len(solid(p.shape)) > 1)
        self._weights = {address(p): name for name, p in named if address(p)}
        self._cuts: dict[Tensor, str] = {}
        self._labels: dict[str, Tensor] = {}
        self._generator = torch.Generator().manual_seed(0)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self._see_attention(*_first_three(args, kwargs))
        elif func in _PRODUCTS:
            self._see_product(*args[:2])
        elif func is F.glu:
            self._see_halves(args[0], kwargs.get("dim", args[1] if len(args) > 1 else -1))
        elif func in _SOFTMAX:
            self._see_scores(args[0] if args else kwargs["input"])
        out = func(*args, **kwargs)
        return self._cut(func, args, kwargs, out)

    def patterns(self) -> dict[str, Pattern]:
        """How the outputs of each fused weight are arranged."""
        found = {name: pattern(labels.tolist()) for name, labels in self._labels.items()}
        return {name: arranged for name, arranged in found.items() if arranged}

    def _cut(self, func: Any, args: Any, kwargs: Any, out: Any) -> Any:
        """The result of an operation with a weight, as if it came from outside."""
        if func not in _WEIGHT_AT and func not in _CONVOLUTIONS and func is not torch.einsum:
            return out
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        names = [self._weights.get(address(tensor)) for tensor in tensors]
        if not any(names) or not isinstance(out, Tensor) or not out.is_floating_point():
            return out
        leaf = out.detach().requires_grad_(torch.is_grad_enabled())
        at = _WEIGHT_AT.get(func)
        name = names[at] if at is not None and at < len(names) else None
        if name:
            self._cuts[leaf] = name
        return leaf.clone()  # models may write into it

    def _see_attention(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        for label, tensor in ((_QUERY, query), (_KEY, key), (_VALUE, value)):
            for leaf, grad in self._gradients(tensor):
                self._label(leaf, _columns(grad), label)

    def _see_scores(self, scores: Tensor) -> None:
        """Attention written out: the score of the last query and the first key depends on just these two tokens."""
        if scores.ndim < 3 or scores.shape[-1] != scores.shape[-2] or scores.shape[-1] < 2:
            return
        corner = torch.zeros_like(scores)
        corner[..., -1, 0] = 1
        for leaf, grad in self._gradients(scores, corner):
            rows = grad.reshape(-1, grad.shape[-1])
            if len(rows) % scores.shape[-1] or leaf.ndim < 2:
                continue
            tokens = rows.reshape(-1, scores.shape[-1], rows.shape[-1]).ne(0)
            if not tokens[:, 1:-1].any():
                self._label(leaf, tokens[:, -1].any(0), _QUERY)
                self._label(leaf, tokens[:, 0].any(0), _KEY)

    def _see_product(self, one: Any, other: Any) -> None:
        """``act(gate) * up``: two factors that depend on different halves of one output."""
        if not (isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape):
            return
        first = {leaf: _columns(grad) for leaf, grad in self._gradients(one)}
        for leaf, grad in self._gradients(other) if first else ():
            columns = _columns(grad)
            if leaf in first and _are_halves(first[leaf], columns):
                self._label(leaf, first[leaf], _GATE)
                self._label(leaf, columns, _UP)

    def _see_halves(self, tensor: Tensor, dim: int) -> None:
        half = tensor.shape[dim] // 2
        self._see_product(tensor.narrow(dim, 0, half), tensor.narrow(dim, half, half))

    def _gradients(self, tensor: Tensor, cotangent: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
        """The cut outputs that a tensor depends on directly, and the gradient of a random functional of it."""
        leaves = [leaf for leaf in _reachable(tensor) if leaf in self._cuts]
        if not leaves:
            return []
        if cotangent is None:
            cotangent = torch.rand(tensor.shape, generator=self._generator).to(tensor) + 0.5
        grads = torch.autograd.grad(tensor, leaves, cotangent, retain_graph=True, allow_unused=True)
        return [(leaf, grad) for leaf, grad in zip(leaves, grads, strict=True) if grad is not None]

    def _label(self, leaf: Tensor, columns: Tensor, label: int) -> None:
        labels = self._labels.setdefault(self._cuts[leaf], torch.zeros(leaf.shape[-1], dtype=torch.int64))
        if labels.shape == columns.shape:
            labels |= columns.cpu().long() * label


def pattern(labels: list[int]) -> Pattern | None:
    """How runs of equal labels repeat.

    Args:
        labels: one for each output of a matrix.

    Returns:
        None where all labels are one, or no short pattern repeats.
    """
    runs = [(label, len(list(run))) for label, run in itertools.groupby(labels)]
    sizes = range(1, min(len(runs), _LONGEST_PATTERN) + 1)
    size = next((s for s in sizes if len(runs) % s == 0 and runs == runs[:s] * (len(runs) // s)), 1)
    if size == 1:
        return None
    lengths, outer = [length for _, length in runs[:size]], len(runs) // size
    inner = math.gcd(*lengths) if outer > 1 else 1
    gates = {label for label, _ in runs} <= {_GATE, _UP}
    reason = "halves of a gated layer" if gates else "fused projections of attention"
    return Pattern(tuple(length // inner for length in lengths), outer, inner, reason)


def _columns(grad: Tensor) -> Tensor:
    return grad.reshape(-1, grad.shape[-1]).ne(0).any(0)


def _are_halves(one: Tensor, other: Tensor) -> bool:
    return bool((one ^ other).all()) and int(one.sum()) == int(other.sum())


def _first_three(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    named = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
    return named["query"], named["key"], named["value"]


def _reachable(tensor: Tensor) -> Iterator[Tensor]:
    """The leaves of a tensor's graph."""
    stack, seen = [tensor.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            yield variable
        stack.extend(following for following, _ in node.next_functions)
