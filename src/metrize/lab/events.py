"""What happens in a run, as plain values; the measured ones are also the lines of ``metrics.jsonl``."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar, TypeVar

from metrize.lab.config import FolderError, made
from metrize.lab.durable import append, first_line, sync, write_text


@dataclasses.dataclass(frozen=True)
class Began:
    """The run is built and about to train.

    Args:
        folder: where the run is kept.
        label: short name of the method.
        first_step: steps already done, 0 unless resumed.
        steps: steps of the whole run.
        parameters: numbers in the model.
    """

    folder: Path
    label: str
    first_step: int
    steps: int
    parameters: int


@dataclasses.dataclass(frozen=True)
class Stepped:
    """One optimizer step.

    Args:
        step: counted from 1.
        seconds: training time so far, without evaluations and checkpoints.
        loss: of the batch, before the step.
    """

    kind: ClassVar[str] = "train"
    step: int
    seconds: float
    loss: float


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """The held-out part was evaluated.

    Args:
        step: steps done.
        seconds: training time so far.
        loss: on the held-out part.
        figures: what else the task measures, by key; None where it is not finite.
    """

    kind: ClassVar[str] = "eval"
    step: int
    seconds: float
    loss: float
    figures: Mapping[str, float | None]


@dataclasses.dataclass(frozen=True)
class SpaceChecked:
    """The constrained weights were checked.

    Args:
        step: steps done.
        seconds: training time so far.
        error: the largest distance of a constrained weight from its space.
    """

    kind: ClassVar[str] = "space"
    step: int
    seconds: float
    error: float


@dataclasses.dataclass(frozen=True)
class Saved:
    """A checkpoint is complete on disk."""

    step: int
    file: Path


Record = Stepped | Evaluated | SpaceChecked
Event = Began | Record | Saved
_Kind = TypeVar("_Kind", Stepped, Evaluated, SpaceChecked)
_KINDS: dict[str, type[Record]] = {record.kind: record for record in (Stepped, Evaluated, SpaceChecked)}


class Journal:
    """The records of one run, in memory and in ``metrics.jsonl``.

    Args:
        file: the file, which is written anew; None keeps them in memory only.
        records: what it holds to begin with.
    """

    def __init__(self, file: Path | None, records: Iterable[Record] = ()) -> None:
        self._file, self.records = file, list(records)
        if file:
            write_text(file, "".join(_line(record) for record in self.records))

    def add(self, record: Record) -> None:
        """Append one record; its line is with the operating system when this returns."""
        self.records.append(record)
        if self._file:
            append(self._file, _line(record))

    def of(self, kind: type[_Kind]) -> list[_Kind]:
        """All records of one kind, in order."""
        return [record for record in self.records if isinstance(record, kind)]

    def sync(self) -> None:
        """Wait until all lines are on the disk."""
        if self._file:
            sync(self._file)


def read_records(file: Path) -> list[Record]:
    """The records of a ``metrics.jsonl``; a last line that was cut short by a kill is left out.

    Args:
        file: the file; a missing one has no records.

    Raises:
        FolderError: another line is damaged.
    """
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    return [_read(file, number, line) for number, line in enumerate(lines, start=1)]


def finite(values: Iterable[float]) -> list[float | None]:
    """The values as JSON can hold them: None where one is not finite."""
    return [value if math.isfinite(value) else None for value in values]


def _read(file: Path, number: int, line: bytes) -> Record:
    try:
        content = json.loads(line)
        return made(_KINDS[content.pop("kind")], content)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise FolderError(f"{file}: line {number} is damaged: {first_line(error)}") from error


def _line(record: Record) -> str:
    return json.dumps({"kind": record.kind, **dataclasses.asdict(record)}, allow_nan=False) + "\n"
