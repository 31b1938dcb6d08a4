"""One forward pass, watched: how each parameter is used, and what lies between it and the output."""

from __future__ import annotations

import dataclasses
import itertools
import re
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from metrize.roles import operands as ops
from metrize.roles.flow import Facts, Flow, address, union
from metrize.roles.lens import Lens
from metrize.roles.operands import How, Operand
from metrize.roles.role import solid


@dataclasses.dataclass(frozen=True)
class Use:
    """One use of a parameter.

    Args:
        how: by what kind of operation.
        contracted: of a matrix: dimensions of the parameter that are summed over.
        outputs: of a matrix: dimensions of the parameter that make the outputs. A factor of a weight has neither.
        span: of a matrix: the first output that is used, and how many.
        partial: of a matrix: only some of its inputs are used.
        beside: of a matrix: the other factor is this parameter.
        groups: of a convolution.
        transposed: of a convolution.
    """

    how: How
    contracted: frozenset[int] = frozenset()
    outputs: frozenset[int] = frozenset()
    span: tuple[int, int] = (0, 0)
    partial: bool = False
    beside: str = ""
    groups: int = 1
    transposed: bool = False


@dataclasses.dataclass
class Trace:
    """What a forward pass showed; parameters by name.

    Args:
        uses: of each parameter.
        fed: matrices with a matrix, convolution or table upstream.
        consumed: parameters upstream of some matrix.
        returned: parameters that the output depends on; None where the output holds no tensor.
        skipped: matrices whose output is added to a stream that passes them by.
        normalised: matrices whose output is normalised, or scaled entry by entry.
        routed: matrices whose output is ranked.
    """

    uses: dict[str, list[Use]]
    fed: set[str] = dataclasses.field(default_factory=set)
    consumed: set[str] = dataclasses.field(default_factory=set)
    returned: set[str] | None = None
    skipped: set[str] = dataclasses.field(default_factory=set)
    normalised: set[str] = dataclasses.field(default_factory=set)
    routed: set[str] = dataclasses.field(default_factory=set)

    def ends(self, name: str) -> bool:
        """Whether a matrix is the last before the output, and no part of a trunk."""
        inner = self.consumed | self.skipped | self.normalised
        return name not in inner and (self.returned is None or name in self.returned)


@dataclasses.dataclass(frozen=True)
class _Call:
    """One operation and what is known of its tensors."""

    func: Any
    name: str
    args: tuple[Any, ...]
    operands: list[Operand]
    facts: list[Facts]
    lenses: list[Lens | None]

    @property
    def live(self) -> bool:
        return ops.is_random(self.name) or any(facts.live for facts in self.facts)

    def others(self, at: int) -> int:
        """Parameters upstream of the other operands."""
        return union(facts.upstream for i, facts in enumerate(self.facts) if i != at)


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches the operations of a forward pass.

    Args:
        model: whose parameters are watched.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._flow = Flow(model)
        self._trace = Trace({name: [] for name, _ in model.named_parameters()})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        operands = ops.operands(func, args, kwargs or {})
        facts = [self._flow.of(operand.tensor) for operand in operands]
        lenses = [self._flow.lens(operand.tensor) for operand in operands]
        call = _Call(func, ops.name_of(func), args, operands, facts, lenses)
        self._write(call, self._result(call), [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)])
        return out

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would load its compiler, for seconds, to keep it out of here; `untouched` keeps it out already."""
        return False

    def finish(self, output: Any) -> Trace:
        """What was seen, now that the pass returned its output."""
        leaves = [leaf for leaf in _leaves(output) if isinstance(leaf, Tensor)]
        if leaves:
            self._trace.returned = self._flow.names(union(self._flow.of(leaf).upstream for leaf in leaves))
        return self._trace

    def _write(self, call: _Call, result: Facts, outs: list[Tensor]) -> None:
        given = {address(operand.tensor) for operand in call.operands}
        for out in outs:
            number = out.is_floating_point() or out.is_complex()
            facts = result if number else Facts(live=result.live)  # a choice passes no gradient on
            if address(out) not in given:
                self._flow.put(out, dataclasses.replace(facts, lenses=_copies(call, out)))
            elif call.func._schema.is_mutable:
                self._flow.put(out, self._flow.of(out).joined(facts))

    def _result(self, call: _Call) -> Facts:
        """What is known of the operation's output. Uses of parameters are noted on the way."""
        self._note_flow(call)
        heavy = union(self._note_operand(call, at) for at in range(len(call.operands)))
        upstream = union(facts.upstream for facts in call.facts)
        if heavy:
            return Facts(upstream, heavy, call.live)
        looked_up = call.name.startswith(("embedding", "_embedding_bag"))
        frontier = 0 if looked_up else union(facts.frontier for facts in call.facts)
        product = ops.is_product(call.name) or any(facts.product for facts in call.facts)
        return Facts(upstream, frontier, call.live, product)

    def _note_flow(self, call: _Call) -> None:
        """What the operation tells of the matrices right before it."""
        if re.search(r"(layer|batch|group|rms)_norm", call.name):
            self._trace.normalised |= self._flow.names(call.facts[0].frontier)
        elif call.name == "topk":
            self._trace.routed |= self._flow.names(call.facts[0].frontier)
        elif call.name == "mul" and any(lens and len(solid(lens.shape)) == 1 for lens in call.lenses):
            self._trace.normalised |= self._flow.names(union(facts.frontier for facts in call.facts))
        elif call.name in ("add", "addcmul", "lerp"):
            for one, other in itertools.permutations([facts for facts in call.facts if facts.live], 2):
                stream, branch = one.upstream & self._flow.tables, other.upstream & self._flow.tables
                if stream and stream != branch and stream | branch == branch:
                    self._trace.skipped |= self._flow.names(other.frontier & ~stream)

    def _note_operand(self, call: _Call, at: int) -> int:
        """Note the use of the parameter that this operand is; returns the weights that act as matrices here."""
        lens, facts = call.lenses[at], call.facts[at]
        if lens is None:
            weights = 0 if facts.live else facts.upstream & self._flow.tables
            heavy = weights if ops.factor(call.name, call.operands[at]) else 0
        else:
            use = _use(call, at, lens)
            if use:
                self._trace.uses[lens.name].append(use)
            heavy = self._flow.bit(lens.name) & self._flow.tables if use and _is_heavy(use, call) else 0
        if heavy:
            others = call.others(at)
            self._trace.consumed |= self._flow.names(others)
            if others & self._flow.tables:
                self._trace.fed |= self._flow.names(heavy)
        return heavy


def _largest(call: _Call) -> int:
    """Entries of the largest parameter among the operands, which the others change."""
    return max(o.tensor.numel() for o, lens in zip(call.operands, call.lenses, strict=True) if lens)


def _is_heavy(use: Use, call: _Call) -> bool:
    return use.how in ("matrix", "conv") or (use.how == "other" and call.live)


def _use(call: _Call, at: int, lens: Lens) -> Use | None:
    """How a parameter is used here; None where the operation leaves it a weight."""
    operand = call.operands[at]
    if lens.rows:
        return Use("table") if _is_table(call, at, lens) else None
    if call.name == "convolution" and operand.argument == "weight":
        return Use("conv", groups=call.args[8], transposed=call.args[6])
    if ops.factor(call.name, operand):
        return _matrix(call, at, lens)
    if ops.picks_rows(call.name):
        return Use("lookup") if operand.index == 0 and len(solid(lens.shape)) <= 2 else None
    if ops.keeps_weight(call.name) and not call.live and operand.tensor.numel() == _largest(call):
        return None
    return Use("table") if _is_table(call, at, lens) else Use(ops.how(call.func, operand))


def _matrix(call: _Call, at: int, lens: Lens) -> Use:
    tensor, beside = call.operands[at].tensor, _beside(call, at)
    if beside and not call.live:
        return Use("matrix", beside=beside)
    inner, outer = ops.product_dims(call.name, call.operands[at])
    contracted = lens.span(tensor, inner)
    outputs = () if outer is None else lens.span(tensor, outer)
    span = (lens.first(tensor, outputs[-1]), tensor.shape[outer]) if len(outputs) == 1 and outer is not None else (0, 0)
    partial = bool(contracted) and tensor.shape[inner] < lens.size(contracted)
    return Use("matrix", frozenset(contracted), frozenset(outputs), span, partial, beside)


def _beside(call: _Call, at: int) -> str:
    """The parameter that is the other factor."""
    factors = [i for i, operand in enumerate(call.operands) if i != at and ops.factor(call.name, operand)]
    return next((lens.name for i in factors if (lens := call.lenses[i])), "")


def _is_table(call: _Call, at: int, lens: Lens) -> bool:
    """Whether a table is added where its rows are no activations: to attention scores, or across the width."""
    operand = call.operands[at]
    if len(solid(lens.shape)) < 2:
        return False
    if operand.argument in ("attn_mask", "attn_bias"):
        return True
    dims = [dim for dim in lens.dims_of(operand.tensor) if dim is not None]
    scores = any(facts.product for i, facts in enumerate(call.facts) if i != at)
    return call.name == "add" and bool(dims) and (scores or dims[-1] != solid(lens.shape)[-1])


def _copies(call: _Call, out: Tensor) -> tuple[Lens, ...]:
    """The parameter that an output still is: a copy, a part of it, or a weight made from it."""
    picked = ops.picks_rows(call.name)
    if not picked and not ops.copies(call.name) and (call.live or not ops.keeps_weight(call.name)):
        return ()
    for operand, lens in sorted(zip(call.operands, call.lenses, strict=True), key=lambda pair: -pair[0].tensor.numel()):
        if lens is None:
            continue
        dims = lens.dims_of(operand.tensor)
        found = ops.picked_dims(call.name, call.args, out, dims) if picked else dims
        if found is not None and len(found) == out.ndim:
            rows = picked and len(solid(lens.shape)) <= 2
            return (lens.copied(operand.tensor, found, out, rows),)
    return ()


def _leaves(output: Any) -> list[Any]:
    """What an output holds; one level deep into objects that torch does not know."""
    leaves = tree_leaves(output)
    inside = [tree_leaves(vars(leaf)) for leaf in leaves if hasattr(leaf, "__dict__") and not isinstance(leaf, Tensor)]
    return [*leaves, *itertools.chain(*inside)]
