"""The averages of a tensor that is stepped piece by piece."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from metrize.moments import Averages, Cut, Stream


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
        return self._streams[name].again(self.cut) if self._now.get(name) is None else self.again(name)

    def lend(self) -> dict[str, Tensor]:
        """The piece of every average as it was kept, to be changed in place."""
        return {name: stream.again(self.cut) for name, stream in self._streams.items()}

    def write_back(self, lent: dict[str, Tensor]) -> None:
        """Keep what `lend` gave and someone changed."""
        for name, average in lent.items():
            self._streams[name].give_back(self.cut, average)

    @property
    def count(self) -> float | Tensor:
        return self._count
