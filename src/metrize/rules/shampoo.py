"""Shampoo."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from metrize.frames.refresh import give_up
from metrize.linalg.eigenbasis import LinAlgError
from metrize.linalg.modes import finite_members, merged, mode_gram_, mode_product
from metrize.linalg.roots import inverse_power
from metrize.moments import Averages, Kind
from metrize.part import Spec, choice
from metrize.rules.base import Metric, Rule, number, per_point

_LONGEST = 8192  # a factor and its root of this size take half a GiB
_HOPELESS = (
    "its Kronecker factors have had no roots three times in a row. Look for gradients near the end of the range of "
    "float32, clip them, or raise eps"
)
_GRAFTS = ("none", "sgd", "adagrad", "rmsprop", "adam")


@dataclasses.dataclass(frozen=True)
class Shampoo(Rule):
    """Shampoo (arXiv:1802.09568), with averages, blocks and grafting (arXiv:2309.06497).

    For each mode i of a gradient with k of them, ``L_i <- b2 L_i + (1 - b2) U_i U_i^T`` of its unfolding U_i, or the
    sum where b2 is 1; ``D = M ×_1 (L_1 / (1 - b2^t) + eps I)^-e ... ×_k (L_k / (1 - b2^t) + eps I)^-e`` with
    ``M = m / (1 - b1^t)``, ``m <- b1 m + (1 - b1) g``, and ``e = 1 / (2 k)``. With the factors of a single gradient a
    matrix D is its polar factor. Numbers of the group: ``betas`` (b1, b2), ``eps``, ``graft_beta``, ``graft_eps``.

    Args:
        exponents: another e, one number; or for tensors of some order k, each as ``(k, e)`` or ``(k, e_1, ..., e_k)``.
            0 leaves a mode alone.
        max_dim: longer modes are cut, and every block is preconditioned by itself; None: 8192.
        merge_dims: take neighbouring dimensions together, from left to right, as long as their product is at most
            `max_dim`.
        period: steps between two computations of the roots.
        start: the first step with roots; until then D is the grafted direction, or M.
        bias_correction: False leaves out the divisions by ``1 - b^t``.
        graft: whose length D takes, block by block, of a direction made of M: ``"sgd"`` M itself, ``"adagrad"``
            ``M / (sqrt(sum g^2) + eps)``, ``"rmsprop"`` the same with an average of squares, ``"adam"`` with a
            corrected one; ``"none"`` leaves D as it is.

    Raises:
        ValueError: an unknown option or a number out of range.
        FrameError: (when used) there were no roots three times in a row.
    """

    exponents: float | tuple[tuple[float, ...], ...] | None = None
    max_dim: int | None = None
    merge_dims: bool = False
    period: int = 1
    start: int = 1
    bias_correction: bool = True
    graft: Literal["none", "sgd", "adagrad", "rmsprop", "adam"] = "none"

    matrices: ClassVar[bool] = True
    flat_only: ClassVar[bool] = True
    fixed: ClassVar[tuple[str, ...]] = ("merge_dims",)

    def __post_init__(self) -> None:
        choice(self, "graft", _GRAFTS)
        for name in ("period", "start", "max_dim"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"Shampoo({name}={value}): at least 1")
        if self.merge_dims and self.max_dim is None:
            raise ValueError("Shampoo(merge_dims=True): say up to which max_dim")
        told = self.exponents if isinstance(self.exponents, tuple) else ((1, self.exponents or 0.0),)
        if not all(len(entry) in (2, 1 + entry[0]) and min(entry) >= 0 for entry in told):
            raise ValueError(
                f"Shampoo(exponents={self.exponents}): a number of at least 0, or for each order k of a tensor (k, e) "
                "or (k, e_1, ..., e_k)"
            )

    def hyper(self) -> dict[str, Any]:
        return {"betas": (0.0, 1.0), "eps": 1e-4, "graft_beta": 0.999, "graft_eps": 1e-10}

    def variant(self, hyper: dict[str, Any]) -> bool:
        return number(hyper["betas"][0]) != 0

    def check_hyper(self, hyper: dict[str, Any]) -> None:
        beta1, beta2 = hyper["betas"]
        if not (0 <= number(beta1) < 1 and 0 <= number(beta2) <= 1):
            raise ValueError(
                f"betas={hyper['betas']}: two numbers from 0 to less than 1; the second may be 1, for a sum"
            )
        if not number(hyper["eps"]) > 0:
            raise ValueError(f"eps={hyper['eps']}: a number above 0, since factors start without full rank")
        if not (0 <= number(hyper["graft_beta"]) < 1 and number(hyper["graft_eps"]) >= 0):
            raise ValueError(
                f"graft_beta={hyper['graft_beta']}, graft_eps={hyper['graft_eps']}: a number from 0 to less than 1 and "
                "one of at least 0"
            )

    def averages(self, hyper: dict[str, Any]) -> dict[str, Kind]:
        first: dict[str, Kind] = {"exp_avg": "linear"} if self.variant(hyper) else {}
        return first if self.graft in ("none", "sgd") else {**first, "graft_sq": "square"}

    def small_spec(self, shape: torch.Size, batch: tuple[int, ...], dtype: torch.dtype, hyper: dict[str, Any]) -> Spec:
        sizes, spec = self._sizes(shape), Spec()
        for name, place in self._blocks(sizes):
            for mode in self._exponents(len(sizes)):
                square = (place[mode].stop - place[mode].start,) * 2
                spec |= {f"{name}.factor_{mode}": (square, dtype), f"{name}.root_{mode}": (square, dtype)}
        return spec | {"failures": ((), torch.int64)}

    def direction(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        folded = (len(coords), *self._sizes(coords.shape[1:]))
        momentum = self._momentum(coords, averages, hyper)
        grafted = self._grafted(momentum, coords, averages, hyper).reshape(folded)
        grad, momentum = finite_members(coords).reshape(folded), momentum.reshape(folded)
        started = per_point(averages.step >= self.start, momentum).bool()
        due, failed = self._due(averages.step), set()
        direction = torch.empty_like(momentum)
        for name, place in self._blocks(folded[1:]):
            at = (slice(None), *place)
            failed |= self._learn(name, grad[at], due, averages, hyper)
            block = self._preconditioned(name, momentum[at], averages)
            if self.graft != "none":
                block *= _norm(grafted[at]) / (_norm(block) + 1e-16)
            direction[at] = torch.where(started, block, grafted[at])
        self._count(due, failed, averages.small("failures"))
        return direction.reshape(coords.shape)

    def _momentum(self, coords: Tensor, averages: Averages, hyper: dict[str, Any]) -> Tensor:
        beta1 = number(hyper["betas"][0])
        if not beta1:
            return coords
        exp_avg = averages.update("exp_avg", coords, beta1, 1 - beta1)
        return exp_avg / per_point(1 - beta1**averages.step, coords) if self.bias_correction else exp_avg

    def _grafted(self, momentum: Tensor, coords: Tensor, averages: Averages, hyper: dict[str, Any]) -> Tensor:
        """The direction that lends its length, made of the same momentum."""
        if self.graft in ("none", "sgd"):
            return momentum
        beta = 1.0 if self.graft == "adagrad" else number(hyper["graft_beta"])
        squares = averages.update("graft_sq", coords, beta, 1.0 if beta == 1 else 1 - beta)
        if self.graft == "adam":
            squares = squares / per_point(1 - beta**averages.step, coords)
        eps = max(number(hyper["graft_eps"]), torch.finfo(coords.dtype).tiny)
        return momentum / (squares.sqrt() + eps)

    def _learn(self, name: str, grad: Tensor, due: list[int], averages: Averages, hyper: dict[str, Any]) -> set[int]:
        """Add the gradient of a block to its factors and renew the roots of some members; the members that failed."""
        beta2, eps, failed = number(hyper["betas"][1]), number(hyper["eps"]), set()
        bias2 = 1 - beta2**averages.step if self.bias_correction and beta2 < 1 else torch.ones_like(averages.step)
        for mode, exponent in self._exponents(grad.ndim - 1).items():
            factor, root = (averages.small(f"{name}.{kind}_{mode}") for kind in ("factor", "root"))
            mode_gram_(factor, grad, mode, beta2, 1 - beta2 if beta2 < 1 else 1.0)
            for i in due:
                try:
                    root[i] = inverse_power(factor[i] / float(bias2[i]), exponent, eps)
                except LinAlgError:
                    failed.add(i)
        return failed

    def _preconditioned(self, name: str, block: Tensor, averages: Averages) -> Tensor:
        for mode in self._exponents(block.ndim - 1):
            block = mode_product(block, averages.small(f"{name}.root_{mode}"), mode)
        return block

    def _due(self, step: Tensor) -> list[int]:
        due = (step == self.start) | ((step > self.start) & (step % self.period == 0))
        return [int(i) for i in due.nonzero()]

    def _count(self, due: list[int], failed: set[int], failures: Tensor) -> None:
        for i in due:
            failures[i] = failures[i] + 1 if i in failed else 0
            give_up(failures[i], _HOPELESS, i)

    def _sizes(self, shape: torch.Size) -> torch.Size:
        """The shape whose modes have factors; a number is a vector of one."""
        if self.merge_dims and self.max_dim is not None:
            return merged(shape, self.max_dim)
        return shape or torch.Size([1])

    def _blocks(self, sizes: Iterable[int]) -> Iterator[tuple[str, tuple[slice, ...]]]:
        """Names and places of the blocks of a tensor."""
        cuts = [_cuts(size, self.max_dim or _LONGEST) for size in sizes]
        for at, place in enumerate(itertools.product(*cuts)):
            yield f"block_{at}", place

    def _exponents(self, order: int) -> dict[int, float]:
        """e of every mode that is preconditioned, of a tensor with so many."""
        entries = self.exponents if isinstance(self.exponents, tuple) else ()
        usual = self.exponents if isinstance(self.exponents, int | float) else 1 / (2 * order)
        told = next((entry[1:] for entry in entries if entry[0] == order), (usual,))
        each = told * order if len(told) == 1 else told
        return {mode: e for mode, e in enumerate(each) if e}


def _cuts(size: int, longest: int) -> list[slice]:
    return [slice(at, min(at + longest, size)) for at in range(0, size, max(longest, 1))]


def _norm(block: Tensor) -> Tensor:
    """Frobenius norm of each member, shaped to multiply it."""
    return torch.linalg.vector_norm(block, dim=tuple(range(1, block.ndim)), keepdim=True)
