"""Reading back what runs have written: one run folder, or a comparison that holds several."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from metrize.lab.config import FolderError, RunConfig, made, read
from metrize.lab.durable import write_text
from metrize.lab.events import Evaluated, Record, read_records
from metrize.lab.summary import Summary
from metrize.lab.sweep import Grid, at_point, edges, numeric, points, value_of, widened
from metrize.lab.tasks import Profile, task_of

# Fields that `RunConfig.label` already speaks of, and the seed, over which a report averages.
_IN_LABEL = ("optimizer", "space", "options", "seed")


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run as it lies on disk.

    Args:
        config: what was run.
        summary: its figures.
        records: what was measured on the way.
        profiles: curves of the finished model.
    """

    config: RunConfig
    summary: Summary
    records: Sequence[Record]
    profiles: Sequence[Profile] = ()

    def series(self, kind: type[Record], key: str) -> list[float | None]:
        """One field of all records of a kind, in order: ``series(Evaluated, "loss")``; None where there is none."""
        return [_value(record, key) for record in self.records if isinstance(record, kind)]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Several methods under one setting; written to ``comparison.json`` so that it can be gone on with.

    With a grid, every method is first tried with seed 0 at each of its points. Then the point with the lowest held-out
    loss runs with other seeds, so that the seed that chose it does not count.

    Args:
        methods: one configuration a method; their own seeds do not count.
        seeds: each method runs with so many seeds: 0, 1, ..., or after trials 1, 2, ...
        target: held-out loss whose first crossing is timed; None takes what the second best method
            ends with.
        grid: the options that are swept, with their values, which take the place of the methods' own.
        extend: how often the grid may still grow beyond an edge at which a method has its best value.

    Raises:
        ValueError: no method, no seed, a grid that cannot grow, or two methods that cannot be told apart.
    """

    methods: Sequence[RunConfig]
    seeds: int = 1
    target: float | None = None
    grid: Grid = dataclasses.field(default_factory=dict)
    extend: int = 0

    def __post_init__(self) -> None:
        if not self.methods or self.seeds < 1:
            raise ValueError("a comparison needs at least one method and one seed")
        if self.extend and not numeric(self.grid):
            raise ValueError("only a sweep of three numbers or more has edges beyond which it can be extended")
        configs = [config for _, config in self._tried()] or self.methods
        for alike in (labels(configs), labels(self.methods)):
            if len(set(map(slug, alike))) < len(alike):
                raise ValueError("two methods of the comparison are the same: " + ", ".join(labels(self.methods)))

    def runs(self, folder: Path) -> Iterator[tuple[str, RunConfig]]:
        """Place in the folder, and configuration, of every run that is compared; seed 0 of all methods comes first.

        What the trials tell, which are over by then, is read from the folder.
        """
        best = self.best(folder) if self.grid else dict(enumerate(self.methods))
        for (index, seed), name in self._finals().items():
            if index in best:
                yield name, dataclasses.replace(best[index], seed=seed)

    def wider(self, folder: Path) -> Comparison | None:
        """The same with a grid that reaches beyond the edges at which a method has its best value; None: it need not.

        All methods take the new values, so that they have as many trials as each other.
        """
        at_edge = {name: [value_of(config, name) for config in self.best(folder).values()
                          if name in edges(config, self.grid)] for name in numeric(self.grid)}  # fmt: skip
        if not self.extend or not any(at_edge.values()):
            return None
        grid = {name: widened(values, at_edge[name]) if at_edge.get(name) else values
                for name, values in self.grid.items()}  # fmt: skip
        return dataclasses.replace(self, grid=grid, extend=self.extend - 1)

    def names(self) -> list[str]:
        """The places of all runs; a method that fails in all of its trials leaves its own empty."""
        return [*(name for name, _ in self.trials()), *self._finals().values()]

    def finals(self) -> list[str]:
        """The places of the runs that are compared, without trials."""
        return list(self._finals().values())

    def trials(self) -> list[tuple[str, RunConfig]]:
        """Place and configuration of every trial; there is none without a grid."""
        configs = [dataclasses.replace(config, seed=0) for _, config in self._tried()]
        return [(f"trials/{slug(label)}", config) for label, config in zip(labels(configs), configs, strict=True)]

    def best(self, folder: Path) -> dict[int, RunConfig]:
        """The best trial of each method by its place among the methods; one that never arrived has none."""
        return {index: min(ends, key=lambda one: one[0])[1] for index, ends in self.ends(folder).items() if ends}

    def ends(self, folder: Path) -> dict[int, list[tuple[float, RunConfig]]]:
        """Held-out loss and configuration of the trials that arrived, by the method's place among the methods."""
        found: dict[int, list[tuple[float, RunConfig]]] = {index: [] for index in range(len(self.methods))}
        for (index, _), (name, config) in zip(self._tried(), self.trials(), strict=True):
            if (loss := end_of(folder / name)) is not None:
                found[index].append((loss, config))
        return found

    def _tried(self) -> list[tuple[int, RunConfig]]:
        """The methods at each point of the grid, and their places among the methods."""
        if not self.grid:
            return []
        return [(i, at_point(config, point)) for point in points(self.grid) for i, config in enumerate(self.methods)]

    def _finals(self) -> dict[tuple[int, int], str]:
        """Place of each method, by its place among the methods, and seed."""
        first = 1 if self.grid else 0
        slugs = [slug(label) for label in labels(self.methods)]
        return {
            (index, seed): f"{name}-seed{seed}"
            for seed in range(first, first + self.seeds)
            for index, name in enumerate(slugs)
        }

    def save(self, folder: Path) -> None:
        """Write ``comparison.json`` into the folder."""
        write_text(folder / "comparison.json", json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Comparison:
        """Read ``comparison.json`` of a folder.

        Raises:
            FileNotFoundError: the folder is not a comparison.
            FolderError: it is damaged, or of another version.
        """

        def comparison(content: Any) -> Comparison:
            methods = [made(RunConfig, method) for method in content["methods"]]
            return made(cls, {**content, "methods": methods})

        return read(folder / "comparison.json", comparison)


def read_runs(folder: Path) -> list[Run]:
    """The finished runs of a run folder, of a comparison, or of any folder of run folders.

    Raises:
        FileNotFoundError: there is no finished run.
        FolderError: a run is damaged, or of another version.
    """
    if (folder / "config.json").exists():
        folders = [folder]
    elif (folder / "comparison.json").exists():
        folders = [folder / name for name in Comparison.load(folder).finals()]
    else:
        folders = sorted(path.parent for path in folder.glob("*/config.json"))
    finished = [_read(path) for path in folders if is_finished(path)]
    if not finished:
        raise FileNotFoundError(f"no finished run in {folder}")
    return finished


def is_finished(folder: Path) -> bool:
    """Whether a run has written its last file."""
    return (folder / "summary.json").exists()


def failure_of(folder: Path) -> str | None:
    """What ended a trial before it was finished; None where nothing did."""
    file = folder / "failed.json"
    return read(file, lambda content: str(content["error"])) if file.exists() else None


def end_of(folder: Path) -> float | None:
    """The last held-out loss of a run; None where it diverged, failed, or is not finished."""
    if not is_finished(folder):
        return None
    return read(folder / "summary.json", lambda content: made(Summary, content)).final_eval_loss


def by_method(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs that differ in their seed only, under a label that tells the methods apart."""
    grouped: dict[str, list[Run]] = {}
    for label, run in zip(labels([run.config for run in runs]), runs, strict=True):
        grouped.setdefault(label, []).append(run)
    return grouped


def labels(configs: Sequence[RunConfig]) -> list[str]:
    """The label of each configuration, with whatever else differs among them, such as ``lr=0.01`` or ``layers=4``."""
    varied = [name for name in _other_fields() if not _same(configs, name)]
    return [
        " ".join([config.label, *(word for name in varied for word in _told(config, name, configs))])
        for config in configs
    ]


def shared_settings(configs: Sequence[RunConfig]) -> dict[str, Any]:
    """The settings that all configurations agree on and that no label repeats."""
    return {name: getattr(configs[0], name) for name in _other_fields() if _same(configs, name)}


def slug(label: str) -> str:
    """A label as a folder name: ``SGD momentum=0.5 on Stiefel()`` gives ``sgd-momentum-0.5-on-stiefel``."""
    return re.sub(r"[^a-z0-9.]+", "-", label.lower()).strip("-.")


def _read(folder: Path) -> Run:
    config, summary = RunConfig.load(folder), read(folder / "summary.json", lambda content: made(Summary, content))
    try:
        task_of(config)
    except ValueError as error:
        raise FolderError(f"{folder / 'config.json'}: {error}") from error
    file, records = folder / "profiles.json", read_records(folder / "metrics.jsonl")
    if summary.steps and not records:
        raise FolderError(f"{folder / 'metrics.jsonl'} holds no records of the {summary.steps} steps of the run")
    profiles = read(file, lambda every: [made(Profile, content) for content in every]) if file.exists() else []
    return Run(config, summary, records, tuple(profiles))


def _value(record: Record, key: str) -> float | None:
    figures = record.figures if isinstance(record, Evaluated) else {}
    value: float | None = figures[key] if key in figures else getattr(record, key, None)
    return value


def _other_fields() -> list[str]:
    return [field.name for field in dataclasses.fields(RunConfig) if field.name not in _IN_LABEL]


def _told(config: RunConfig, name: str, configs: Sequence[RunConfig]) -> list[str]:
    """A setting as words; of the arguments of a model, only those that differ."""
    value = getattr(config, name)
    if not isinstance(value, dict):
        return [f"{name}={value}"]
    shared = set.intersection(*(set(map(str, getattr(other, name).items())) for other in configs))
    return [f"{key}={one}" for key, one in value.items() if str((key, one)) not in shared]


def _same(configs: Sequence[RunConfig], name: str) -> bool:
    return all(getattr(config, name) == getattr(configs[0], name) for config in configs)
