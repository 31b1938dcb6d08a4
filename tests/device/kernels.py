"""What an operation of torch costs on a CUDA device: launches of kernels, and bytes that they read and write."""
# ruff: noqa: SIM905 - long lists of names are read as text

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

FREE = frozenset(
    "detach alias view _unsafe_view _reshape_alias as_strided expand permute transpose t slice select unbind split "
    "split_with_sizes unsqueeze squeeze diagonal view_as_real view_as_complex unfold lift_fresh _conj _neg_view "
    "empty empty_strided empty_like new_empty new_empty_strided resolve_conj resolve_neg".split()
)
"""Views and allocations: no kernel runs."""

WAITS = frozenset(
    "_local_scalar_dense is_nonzero nonzero equal masked_select _unique2 unique_dim linalg_matrix_exp "
    "_linalg_check_errors _linalg_eigh _linalg_svd linalg_eig _linalg_solve_ex linalg_inv_ex".split()
)
"""Operations after which CUDA hands a number to the host, whatever the values are (ATen/native/cuda)."""

INDEXED = frozenset(("index", "index_put", "_index_put_impl"))
_OVERWRITES = frozenset("copy zero fill normal uniform random _foreach_copy _foreach_zero".split())
_TENSORS = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}  # of one launch, by the number of lists
_CHUNK, _BLOCKS = 65536, 320  # numbers of a block, and blocks of one launch


def base_name(schema: Any) -> str:
    """``mul`` for ``aten::mul_``."""
    return str(schema.name).rpartition("::")[2].rstrip("_")


def cost(schema: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> tuple[int, int]:
    """Launches and bytes of one call, all of whose tensors are on the device.

    A call for lists is what the loop in ATen's MultiTensorApply.cuh makes of it; any other kernel is one launch.
    """
    base, reads, writes, lists = base_name(schema), [], [], []
    given = dict(zip((arg.name for arg in schema.arguments), args, strict=False)) | kwargs
    for arg in schema.arguments:
        value = given.get(arg.name)
        tensors = [x for x in tree_leaves(value) if isinstance(x, Tensor) and (x.ndim or x.device.type == "meta")]
        if _is_written(arg, base):
            writes += tensors
            reads += [] if arg.is_out or base in _OVERWRITES else tensors
        else:
            reads += tensors
        if isinstance(value, (list, tuple)) and tensors:
            lists.append(tensors)
    known = {id(x) for x in writes}
    writes += [x for x in tree_leaves(out) if isinstance(x, Tensor) and id(x) not in known]
    nbytes = sum(map(_touched, _distinct(reads))) + sum(map(_touched, writes))
    return _launches(base, lists, bool(known), reads + writes), nbytes


def _is_written(arg: Any, base: str) -> bool:
    # the fused kernels write gradients only where a scaler asks them to
    written = arg.alias_info is not None and arg.alias_info.is_write
    return written and not (base.startswith("_fused") and arg.name == "grads")


def _launches(base: str, lists: list[list[Tensor]], in_place: bool, tensors: list[Tensor]) -> int:
    if base == "_foreach_norm":  # sums of blocks are collected by a kernel of their own, in memory that is cleared
        return multi_tensor_launches([x.numel() for x in lists[0]], 1) + 2
    if base.startswith(("_foreach", "_fused")) and lists:
        depth = len(lists) - base.startswith("_fused") + (not in_place)
        return multi_tensor_launches([x.numel() for x in lists[0]], depth)
    if base in ("cat", "stack") and lists:
        return max(1, -(-len(lists[0]) // 128))
    return int(any(x.numel() for x in tensors))


def multi_tensor_launches(sizes: Sequence[int], depth: int) -> int:
    """Launches of one operation on lists.

    Args:
        sizes: numbers of each tensor of a list.
        depth: how many lists.
    """
    most = _TENSORS.get(depth, 30)
    launches = tensors = blocks = 0
    for size in filter(None, sizes):
        tensors += 1
        for left in range(-(-size // _CHUNK), 0, -1):
            blocks += 1
            if blocks == _BLOCKS or (left == 1 and tensors == most):
                launches, blocks, tensors = launches + 1, 0, int(left > 1)
    return launches + (blocks > 0)


def _distinct(tensors: list[Tensor]) -> list[Tensor]:
    """Memory that a kernel is given twice, as in ``dot(x, x)``, is read once."""
    return list({(x.untyped_storage()._cdata, x.storage_offset(), x.shape): x for x in tensors}.values())


def _touched(x: Tensor) -> int:
    """Bytes of the memory behind a tensor; what is broadcast counts once."""
    sizes = (n if stride else min(n, 1) for n, stride in zip(x.shape, x.stride(), strict=True))
    return x.element_size() * torch.Size(sizes).numel()
