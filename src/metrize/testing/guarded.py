"""Averages that notice when what they gave is changed."""

from __future__ import annotations

from torch import Tensor

from metrize.moments import Averages


class Guarded(Averages):
    """Averages that remember what a rule was given, and whether it is still the same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._given: dict[str, tuple[Tensor, Tensor]] = {}
        self._changed: dict[str, None] = {}

    def changed(self) -> list[str]:
        """Averages that someone else changed in place."""
        for name in [*self._given]:
            self._look(name)
        return [*self._changed]

    def update(self, name: str, value: Tensor, decay: float | Tensor, gain: float | Tensor) -> Tensor:
        self._look(name)
        return self._gave(name, super().update(name, value, decay, gain))

    def raise_(self, name: str, value: Tensor) -> Tensor:
        self._look(name)
        return self._gave(name, super().raise_(name, value))

    def again(self, name: str) -> Tensor:
        return self._gave(name, super().again(name))

    def read(self, name: str) -> Tensor:
        self._look(name)
        return self._gave(name, super().read(name))

    def _gave(self, name: str, average: Tensor) -> Tensor:
        self._given.setdefault(name, (average, average.clone()))
        return average

    def _look(self, name: str) -> None:
        given = self._given.pop(name, None)
        if given is not None and not given[0].equal(given[1]):
            self._changed[name] = None
