"""The sentence above a report, on results that were planted."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from test_report import ADAM, STIEFEL, seeds, write

from metrize.lab.report import draw_report
from metrize.lab.report.table import Stat
from metrize.lab.report.verdict import separated
from metrize.lab.runs import Comparison, Run

SGD = dataclasses.replace(ADAM, optimizer="SGD")


def ends(*methods: tuple[float, ...]) -> list[Run]:
    """Runs of three methods that end with these losses, a loss a seed."""
    return [
        one
        for config, losses in zip((ADAM, SGD, STIEFEL), methods, strict=False)
        for one in seeds(config, *([2.0, loss] for loss in losses))
    ]


@pytest.mark.parametrize(
    ("losses", "start"),
    [
        ([(0.1, 0.2), (0.3, 0.4)], "Adam wins: held-out loss 0.1500 against 0.3500 of SGD, each the mean of 2 seeds"),
        ([(0.3, 0.4), (0.1, 0.2), (0.5, 0.6)], "SGD wins: held-out loss 0.1500 against 0.3500 of Adam"),
        ([(0.1, 0.35), (0.3, 0.4)], "Not separated: Adam is lowest, 0.2250 against 0.3500 of SGD, but the ranges"),
        ([(0.1, 0.2), (0.3, 0.4), (0.15, 9.0)], "Not separated: Adam is lowest, 0.1500 against 0.3500 of SGD, but"),
        ([(0.1,), (0.3,)], "Not separated: Adam is lowest, 0.1000 against 0.3000 of SGD, but one seed"),
    ],
)
def test_who_wins_is_told_by_the_seeds(tmp_path: Path, losses: list[tuple[float, ...]], start: str) -> None:
    report = draw_report(write(tmp_path / "runs", ends(*losses)))
    assert report.verdict.startswith(start)
    assert f"<p>{start}" in report.page.read_text()


def test_methods_that_diverged_cannot_win(tmp_path: Path) -> None:
    lost = {"final_eval_loss": None, "diverged": True}
    whole, broken = seeds(ADAM, [2.0, 0.5], [2.0, 0.6]), seeds(SGD, [2.0, 0.1], [2.0, 0.1], **lost)
    assert draw_report(write(tmp_path / "one", whole + broken)).verdict.startswith("Only Adam came to its end")
    both = seeds(ADAM, [2.0, 0.5], **lost) + seeds(SGD, [2.0, 0.1], **lost)
    assert draw_report(write(tmp_path / "all", both)).verdict == "All methods diverged."
    assert draw_report(write(tmp_path / "alone", whole)).verdict == ""


def test_a_best_point_at_the_edge_of_its_grid_is_told(tmp_path: Path) -> None:
    swept = Comparison([ADAM, SGD], seeds=1, grid={"lr": [1e-3, 1e-2, 1e-1]})
    tried = {(method.optimizer, lr): 1.0 for method in swept.methods for lr in swept.grid["lr"]}
    tried[("Adam", 1e-2)] = tried[("SGD", 1e-1)] = 0.5
    write(tmp_path / "trials", [])
    for name, config in swept.trials():
        (one,) = seeds(config, [2.0, tried[(config.optimizer, config.lr)]])
        folder = write(tmp_path / "written" / name, [one])
        (tmp_path / name).parent.mkdir(exist_ok=True)
        next(folder.iterdir()).rename(tmp_path / name)
    for name, config in swept.runs(tmp_path):
        if not name.startswith("trials/"):
            (one,) = seeds(config, [2.0, 0.5])
            folder = write(tmp_path / "written" / name, [dataclasses.replace(one, config=config)])
            next(folder.iterdir()).rename(tmp_path / name)
    swept.save(tmp_path)
    verdict = draw_report(tmp_path).verdict
    assert "Each method had 3 trials." in verdict
    assert "The best lr of SGD lies at the edge of its grid; widen it." in verdict
    assert "The best lr of Adam" not in verdict


def test_only_what_the_seeds_separate_is_bold(tmp_path: Path) -> None:
    apart = draw_report(write(tmp_path / "apart", ends((0.1, 0.2), (0.3, 0.4)))).page.read_text()
    assert 'class="best">0.1500' in apart
    close = draw_report(write(tmp_path / "close", ends((0.1, 0.35), (0.3, 0.4)))).page.read_text()
    assert 'class="best"' not in close


def test_separation_needs_two_seeds_of_each_and_looks_the_right_way() -> None:
    assert separated(Stat((1.0, 2.0)), [Stat((3.0, 4.0)), Stat((2.5, 9.0))])
    assert not separated(Stat((1.0, 2.0)), [Stat((3.0,))])
    assert not separated(Stat((1.0, 2.0)), [])
    assert not separated(Stat((1.0, 2.0)), [Stat((2.0, 3.0))])
    assert separated(Stat((3.0, 4.0)), [Stat((1.0, 2.0))], highest=True)
    assert not separated(Stat((1.0, 2.0)), [Stat((3.0, 4.0))], highest=True)
