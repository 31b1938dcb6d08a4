"""The averages of a tensor that is stepped piece by piece."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

from torch import Tensor

from metrize.moments import Averages, Boxes, Stream, accumulate_
from metrize.step.assignment import Assignment


class Pieces(Averages):
    """Averages of one piece of a tensor after the other.

    Args:
        assignment: of the tensor.
        state: of one parameter, stacked, ``[1, ...]`` each.
        cuts: the pieces.
    """

    def __init__(self, assignment: Assignment, state: dict[str, Tensor], cuts: Boxes) -> None:
        super().__init__(assignment.recipe.moments, state, assignment.slots)
        self.cuts, self.cut, self._at = cuts, cuts[0], 0
        self._views: dict[str, Sequence[Tensor]] = {}  # of averages that are used and changed where they lie
        self._streams: dict[str, Stream] = {}
        for name, storage in assignment.storages.items():
            if name in assignment.in_place:
                self._views[name] = cuts.split(state[name])
            else:
                self._streams[name] = storage.stream(self.slots[name], state)
        self._fresh: set[str] = set()
        self._settled: set[str] = set()
        self._now: dict[str, Tensor | None] = {}

    def along(self) -> Iterator[int]:
        """One pass over the tensor: the place of each piece."""
        for at, cut in enumerate(self.cuts):
            self._at, self.cut = at, cut
            self._now.clear()
            yield at
        self._now.clear()
        for name in self._fresh & self._streams.keys():
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
        if name in self._views:
            accumulate_(self._views[name][self._at], value, decay, gain, self.slots[name].kind)
            return self._views[name][self._at]
        return self._streams[name].update(self.cut, value, decay, gain)

    def observe(self, name: str, value: Tensor, decay: float | Tensor, gain: float | Tensor) -> None:
        if name in self._views:
            self._now[name] = self.update(name, value, decay, gain)
            self._fresh.add(name)
            return
        self._now[name] = self._streams[name].observe(self.cut, value, decay, gain)
        self._fresh.add(name)

    def observed(self, name: str) -> bool:
        return name in self._settled or name in self._now

    def again(self, name: str) -> Tensor:
        if name in self._views:
            return self._views[name][self._at]
        now = self._now.get(name)
        return self._streams[name].again(self.cut) if now is None else now

    def whiten(
        self, name: str, value: Tensor, floor: float, clamped: bool = False, scale: float | Tensor = 1.0
    ) -> Tensor:
        result = None if clamped or name in self._views else self._streams[name].whiten(self.cut, value, floor, scale)
        return super().whiten(name, value, floor, clamped, scale) if result is None else result

    def _owns(self, name: str) -> bool:
        return name in self._streams and self._streams[name].fresh

    def read(self, name: str) -> Tensor:
        return self._views[name][self._at] if name in self._views else self.again(name)

    def lend(self) -> dict[str, Tensor]:
        """The piece of every average as it was kept, to be changed in place."""
        return {name: self.again(name) for name in self.slots}

    def write_back(self, lent: dict[str, Tensor]) -> None:
        """Keep what `lend` gave and someone changed."""
        for name, stream in self._streams.items():
            stream.give_back(self.cut, lent[name])

    @functools.cached_property
    def count(self) -> float | Tensor:
        return super().count
