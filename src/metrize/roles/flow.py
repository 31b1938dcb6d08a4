"""What is known of the numbers in each storage while a forward pass is watched."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Iterable

from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from metrize.roles.lens import Lens


@dataclasses.dataclass(frozen=True)
class Facts:
    """Where numbers come from; sets of parameters are the bits of an integer.

    Args:
        upstream: every parameter they depend on.
        frontier: the matrices they depend on through no later matrix.
        live: they depend on data: they are activations and no weights.
        product: they are products of activations, as attention scores are.
        lenses: parameters that lie in this storage, or copies of them.
    """

    upstream: int = 0
    frontier: int = 0
    live: bool = False
    product: bool = False
    lenses: tuple[Lens, ...] = ()

    def joined(self, other: Facts) -> Facts:
        """What is known of a storage when numbers of the other kind are written into it."""
        return Facts(
            self.upstream | other.upstream,
            self.frontier | other.frontier,
            self.live or other.live,
            self.product or other.product,
            self.lenses,
        )


UNKNOWN = Facts(live=True)
"""A tensor from outside that is neither parameter nor buffer is data."""


class Flow:
    """Facts of every storage, for as long as it lives.

    Args:
        model: its parameters and buffers are no data.
    """

    def __init__(self, model: nn.Module) -> None:
        named = dict(model.named_parameters())
        self._bits = {name: 1 << at for at, name in enumerate(named)}
        # the weak reference keeps the address of a dead storage from being used again
        self._facts: dict[int, tuple[Facts, StorageWeakRef]] = {}
        self._weights: set[int] = set()
        self.tables = union(self._bits[name] for name, p in named.items() if p.ndim > 1)
        for buffer in model.buffers():
            self.put(buffer, Facts())
        for name, parameter in named.items():
            self._watch(name, parameter)

    def bit(self, name: str) -> int:
        """The set that holds one parameter."""
        return self._bits[name]

    def names(self, bits: int) -> set[str]:
        """The parameters of a set."""
        return {name for name, bit in self._bits.items() if bits & bit}

    def of(self, tensor: Tensor) -> Facts:
        """What is known of a tensor's numbers."""
        known = self._facts.get(address(tensor))
        return known[0] if known else UNKNOWN

    def put(self, tensor: Tensor, facts: Facts) -> None:
        """Take in what is known of a tensor; facts of weights stay as they are."""
        where = address(tensor)
        if where and where not in self._weights:
            self._facts[where] = facts, StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]

    def lens(self, tensor: Tensor) -> Lens | None:
        """The parameter that a tensor is a view of, or a view of a copy of."""
        lenses = self.of(tensor).lenses
        before = (lens for lens in reversed(lenses) if lens.offset <= tensor.storage_offset())
        return next(before, None)

    def _watch(self, name: str, parameter: Tensor) -> None:
        """Several parameters may share a storage; they lie in it one after another."""
        where = address(parameter)
        if not where:
            return
        others = self.of(parameter) if where in self._weights else Facts()
        self._weights.discard(where)
        lenses = sorted((*others.lenses, Lens.of(name, parameter)), key=lambda lens: lens.offset)
        self.put(parameter, Facts(others.upstream | self.bit(name), lenses=tuple(lenses)))
        self._weights.add(where)


def address(tensor: Tensor) -> int:
    """Of the tensor's storage; 0 where it has none, as sparse tensors."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):
        return 0


def union(sets: Iterable[int]) -> int:
    """Of sets of parameters."""
    return functools.reduce(operator.or_, sets, 0)
