"""The sentence that a comparison comes to: who is lowest, by how much, and whether the seeds tell the two apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from metrize.lab.report.table import Column, Row, Stat
from metrize.lab.runs import Comparison, end_of
from metrize.lab.sweep import edges

_LOSS = "final_eval_loss"


def separated(better: Stat, others: Sequence[Stat], highest: bool = False) -> bool:
    """Whether every seed is better than every seed of the others, each of which has two seeds at least.

    Args:
        better: figures of the method.
        others: those of all other methods that have any.
        highest: the highest figure is the best one, in place of the lowest.
    """
    sign = -1 if highest else 1
    known = [[sign * value for value in stat.known] for stat in (better, *others) if stat.known]
    return len(known) > 1 and all(len(one) > 1 for one in known) and all(max(known[0]) < min(one) for one in known[1:])


def verdict(table: Sequence[Row], folder: Path) -> str:
    """What a comparison comes to, in words; empty for a single method.

    A method wins where the held-out loss of each of its seeds is below that of each seed of every other method.

    Args:
        table: a row a method.
        folder: of the comparison, or of its runs.
    """
    if len(table) < 2:
        return ""
    swept = Comparison.load(folder) if (folder / "comparison.json").exists() else None
    notes = [] if swept is None or not swept.grid else _notes(swept, folder)
    return " ".join([_who_wins(table), *notes])


def best_rows(known: Sequence[Column], table: Sequence[Row]) -> dict[str, str]:
    """The label of the best row by column key, where the seeds separate it from every other one."""
    return {column.key: label for column in known if (label := _best(table, column))}


def _best(table: Sequence[Row], column: Column) -> str | None:
    stats = {row.label: stat for row in table if (stat := row.stats[column.key]).known}
    means = {label: stat.mean or 0.0 for label, stat in stats.items()}
    if column.best is None or len(set(means.values())) < 2:
        return None
    best = next(label for label, mean in means.items() if mean == column.best(list(means.values())))
    others = [stat for label, stat in stats.items() if label != best]
    return best if column.exact or separated(stats[best], others, highest=column.best is max) else None


def _who_wins(table: Sequence[Row]) -> str:
    ends = {row.label: stat for row in table if (stat := row.stats[_LOSS]).known and None not in stat.values}
    ranked = sorted(ends, key=lambda label: ends[label].mean or 0.0)
    if not ranked:
        return "All methods diverged."
    first = ranked[0]
    if len(ranked) == 1:
        return f"Only {first} came to its end with every seed; its held-out loss is {ends[first].mean:.4f}."
    second, seeds = ranked[1], len(ends[first].values)
    losses = f"{ends[first].mean:.4f} against {ends[second].mean:.4f} of {second}"
    if separated(ends[first], [ends[label] for label in ranked[1:]]):
        return (
            f"{first} wins: held-out loss {losses}, each the mean of {seeds} seeds, and its worst seed is better than "
            "the best of every other method."
        )
    if seeds < 2:
        return f"Not separated: {first} is lowest, {losses}, but one seed says nothing about the spread."
    return f"Not separated: {first} is lowest, {losses}, but the ranges of their {seeds} seeds overlap."


def _notes(swept: Comparison, folder: Path) -> list[str]:
    """How many trials there were, and which methods may be better beyond their grid."""
    trials, best = swept.trials(), swept.best(folder)
    lost = sum(end_of(folder / name) is None for name, _ in trials)
    each = len(trials) // len(swept.methods)
    told = [f"Each method had {each} trials" + (f"; {lost} of all diverged or failed." if lost else ".")]
    for index, config in best.items():
        if found := edges(config, swept.grid):
            whose = f"The best {' and '.join(found)} of {swept.methods[index].label}"
            told.append(f"{whose} lies at the edge of its grid; widen it.")
    missing = [config.label for index, config in enumerate(swept.methods) if index not in best]
    return told + [f"No trial of {label} came to its end." for label in missing]
