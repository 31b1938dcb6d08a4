"""Vector spaces whose tensors are updated piece by piece."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from metrize.bucket import Bucket, Stacked, _per_member, _stack
from metrize.decay import shrink_after_, shrink_before_
from metrize.frames import Identity
from metrize.moments import Averages, Cut, Stream, boxes
from metrize.recipe import Recipe
from metrize.rules import Rule
from metrize.rules.base import Pass
from metrize.seams import by_windows
from metrize.spaces import Space
from metrize.spaces.base import compute_dtype
from metrize.state import State, real, slots
from metrize.step_sizes import Given, Relative


def streamable(recipe: Recipe, space: Space, p: Tensor, group: dict[str, Any]) -> bool:
    """Whether this recipe can work on pieces of this tensor."""
    alone = (recipe.step_size.by_entry or isinstance(recipe.step_size, Relative)) and recipe.decay != "natural"
    plain = space.flat and isinstance(recipe.frame, Identity) and alone
    if not plain or not passes_of(recipe.rule, group) or not p.is_contiguous():
        return False
    shape, dtype = real(p).shape, compute_dtype(p.dtype)
    if recipe.rule.small_spec(shape, (), dtype, group):
        return False
    kept = {
        slot.name: recipe.moments.of(shape, slot.kind) for slot in slots(recipe, space, shape, dtype, group).values()
    }
    return (
        all(storage.streams for storage in kept.values())
        and all(kept[name].rereads for name in recipe.rule.revisits(group) if name in kept)
        and len({storage.layout(shape) for storage in kept.values()} - {None}) < 2
    )


def passes_of(rule: Rule, group: dict[str, Any]) -> tuple[Pass, ...]:
    """How the rule goes through a tensor in pieces; not at all where a class behind it has another direction."""
    told, done = (next(cls for cls in type(rule).__mro__ if key in vars(cls)) for key in ("passes", "direction"))
    return rule.passes(group) if issubclass(told, done) else ()


def piece_size(p: Tensor) -> int:
    """Numbers of a piece: few enough to stay in a core's cache, or to be small beside a tensor on a device."""
    return 2**17 if p.device.type == "cpu" else max(2**20, p.numel() // 8)


class Streamed(Stacked):
    """Small equal tensors in batches of bounded size; a large one piece by piece.

    Averages are read, updated, used and written for one piece before the next is looked at, so that the temporaries of
    a step are as large as a few pieces, and stay in cache.
    """

    def arrange(self) -> None:
        for state in self.states:
            for key in self.keys:
                state[key] = state[key].contiguous()
        super().arrange()
        p = real(self.params[0])
        storages = {name: self.recipe.moments.of(p.shape, slot.kind) for name, slot in self._slots.items()}
        self._ahead = frozenset(name for name, storage in storages.items() if storage.ahead)
        self._size = piece_size(p)
        measures = self.recipe.step_size.scope is not None
        any_layout = tuple(p.shape) if measures else (p.numel(),)  # sums are made by rows
        layout = next(filter(None, (storage.layout(p.shape) for storage in storages.values())), any_layout)
        self._cuts = boxes(layout, self._size, math.lcm(*(storage.align for storage in storages.values())))
        usual = self.recipe.decay == "decoupled" or (self.recipe.decay == "l2" and not measures)
        kernel = usual and self.recipe.step_size.by_entry and p.device.type in ("cpu", "cuda")
        fusable = kernel and self.recipe.rule.fusable(self.group)
        self._one_pass = fusable and all(storage.lends for storage in storages.values())

    def gather(self) -> None:
        Bucket.gather(self)

    def statistics(self) -> Tensor | None:
        if self.recipe.step_size.scope is None or not self.present or not self.params[0].numel():
            return None
        if self._large:
            shares = [share for i, grad in self._members() for share in self._measure_pieces(i, grad)]
        else:
            shares = [self._measure(*batch) for batch in self._batches()]
        return torch.stack(shares).sum(0)

    def _measure_pieces(self, i: int, grad: Tensor) -> Iterator[Tensor]:
        stack, state = real(self.params[i]).unsqueeze(0), self._row(i)
        grad, rest = grad.contiguous().unsqueeze(0), state.get("rounding.rest")
        kept = ["step", *self.recipe.step_size.state_spec(self.params[i].shape, self._dtype)]
        for cut in self._cuts:
            points = cut.of(stack)
            if points.dtype != self._dtype:
                points = self.recipe.rounding.widen(points, None if rest is None else cut.of(rest))
            own = {key: cut.of(state[key]) if state[key].shape == stack.shape else state[key] for key in kept}
            yield self.recipe.step_size.measure(self._descent(cut.of(grad), points), points, own, self.group)

    @property
    def _large(self) -> bool:
        return self.params[0].numel() > self._size

    def _members(self) -> Iterator[tuple[int, Tensor]]:
        yield from zip(self.present, self.gradients, strict=True)

    def _row(self, i: int) -> State:
        return {key: value[i : i + 1] for key, value in self._stack.items()}

    def apply(self) -> None:
        if self._large:
            for i, grad in self._members():
                self._go_through(i, grad)
        else:
            for members, grad, state in self._batches():
                self._step(members, grad, state)
        self.gradients = []

    def _batches(self) -> Iterator[tuple[list[int], Tensor, State]]:
        """Members, gradients and states that lie side by side, as many as make up a piece."""
        most = max(1, self._size // max(1, self.params[0].numel()))
        at = 0
        while at < len(self.present):
            first, end = self.present[at], at + 1
            while end < len(self.present) and end - at < most and self.present[end] == first + end - at:
                end += 1
            state = {key: value[first : first + end - at] for key, value in self._stack.items()}
            yield self.present[at:end], _stack(self.gradients[at:end]), state
            at = end

    def _go_through(self, i: int, grad: Tensor) -> None:
        """One journey of a large tensor."""
        stack, grad, state = real(self.params[i]).unsqueeze(0), grad.contiguous().unsqueeze(0), self._row(i)
        state["step"].add_(1)
        one = torch.empty(1, dtype=self._dtype, device=stack.device)
        rate = self._rate(stack, one, state)
        rate = float(rate) if stack.device.type == "cpu" else rate
        averages = Pieces(self.recipe.moments, state, self._slots)
        *looks, last = self.recipe.rule.passes(self.group, self._ahead)
        for look in looks:
            for cut in averages.along(self._cuts):
                self._ask(look, *self._seen(self._descent(cut.of(grad), cut.of(stack)), state, averages))
        gain = _per_member(self.recipe.rule.gain(averages.step, self.group), one)
        rounding, whole = self.recipe.rounding, state.get("rounding.rest")
        for piece, cut in enumerate(averages.along(self._cuts)):
            points, rest = cut.of(stack), None if whole is None else cut.of(whole)
            exact = points.dtype == self._dtype
            wide = points if exact else rounding.widen(points, rest)
            if self._one_pass:
                self._fused_(i, wide, cut.of(grad).to(self._dtype), averages, rate)
            else:
                coords = self._descent(cut.of(grad), wide)
                shrink_before_(self.recipe.decay, wide, rate, self.space, self.group)
                direction = self._ask(last, *self._seen(coords, state, averages))
                self._advance_(wide, direction, rate, rate * gain)
            if not exact:
                rounding.narrow_(points, wide, rest, rounding.draw({key: v[0] for key, v in state.items()}, piece))
        averages.close()

    def _seen(self, coords: Tensor, state: State, averages: Pieces) -> tuple[Tensor, Pieces, dict[str, Any]]:
        """What the rule sees of a piece."""
        coords, hyper = self.recipe.step_size.scaled(coords, state, self.group)
        return coords, averages, hyper

    def _fused_(self, i: int, points: Tensor, grad: Tensor, averages: Pieces, rate: float | Tensor) -> None:
        """Torch's own kernel, on a piece whose averages are read before it and written after it."""
        lent, step = averages.lend(), averages.state["step"].to(points.device)
        state = {name: [average] for name, average in lent.items()} | {"step": [step[0]]}
        grad, hyper = self.recipe.step_size.scaled(grad, averages.state, self.group)
        hyper = hyper if isinstance(self.recipe.step_size, Given) else {**hyper, "lr": rate}

        def kernel(params: list[Tensor], grads: list[Tensor], own: dict[str, list[Tensor]]) -> None:
            self.recipe.rule.fused(params, grads, own, hyper, self.recipe.decay)

        if self.seams:
            seam = dataclasses.replace(self.seams[i], start=self.seams[i].start + averages.cut.start)
            by_windows([seam], [points], [grad], state, kernel)
        else:
            kernel([points], [grad], state)
        averages.take_back(lent)

    def _advance_(self, points: Tensor, direction: Tensor, rate: float | Tensor, length: float | Tensor) -> None:
        """``p <- p - length D``, in one pass where weight decay does not ask for more."""
        if self.recipe.decay in ("after", "cautious"):
            velocity = self.recipe.step_size.velocity(direction, length)
            points.add_(velocity)
            shrink_after_(self.recipe.decay, points, velocity, rate, self.space, self.group)
        elif isinstance(length, Tensor):
            points.addcmul_(direction, length, value=-1)
        else:
            points.add_(direction, alpha=-length)


class Pieces(Averages):
    """Averages of one piece of a tensor after the other."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.cut = Cut(())
        self._streams: dict[str, Stream] = {
            name: self._storage(name).stream(slot, self.state) for name, slot in self.slots.items()
        }
        self._fresh: set[str] = set()
        self._settled: set[str] = set()
        self._now: dict[str, Tensor | None] = {}
        self._count = super().count

    def along(self, cuts: list[Cut]) -> Iterator[Cut]:
        """One pass over the tensor."""
        for self.cut in cuts:
            self._now.clear()
            yield self.cut
        self._now.clear()
        for name in self._fresh:
            self._streams[name].settle()
        self._settled |= self._fresh
        self._fresh.clear()

    def close(self) -> None:
        """The step is over."""
        for stream in self._streams.values():
            stream.close()

    def update(self, name: str, value: Tensor, decay: float | Tensor, gain: float | Tensor) -> Tensor:
        if name in self._settled:
            return self.again(name)
        return self._streams[name].update(self.cut, value, decay, gain)

    def observe(self, name: str, value: Tensor, decay: float | Tensor, gain: float | Tensor) -> None:
        self._now[name] = self._streams[name].observe(self.cut, value, decay, gain)
        self._fresh.add(name)

    def observed(self, name: str) -> bool:
        return name in self._settled or name in self._now

    def again(self, name: str) -> Tensor:
        now = self._now.get(name)
        return self._streams[name].again(self.cut) if now is None else now

    def whiten(
        self, name: str, value: Tensor, floor: float, clamped: bool = False, scale: float | Tensor = 1.0
    ) -> Tensor:
        result = None if clamped else self._streams[name].whiten(self.cut, value, floor, scale)
        return super().whiten(name, value, floor, clamped, scale) if result is None else result

    def _owns(self, name: str) -> bool:
        return self._streams[name].fresh

    def read(self, name: str) -> Tensor:
        return self.again(name)

    def lend(self) -> dict[str, Tensor]:
        """The piece of every average as it was kept, to be changed in place."""
        return {name: stream.again(self.cut) for name, stream in self._streams.items()}

    def take_back(self, lent: dict[str, Tensor]) -> None:
        """Keep what `lend` gave and someone changed."""
        for name, average in lent.items():
            self._streams[name].give_back(self.cut, average)

    @property
    def count(self) -> float | Tensor:
        return self._count
