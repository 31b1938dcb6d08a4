"""The report says what the run folders say, in figures checked by hand, and needs nothing but its own file."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from metrize.lab.config import RunConfig
from metrize.lab.events import Evaluated, SpaceChecked, Stepped
from metrize.lab.report import plots
from metrize.lab.report.page import draw_report
from metrize.lab.report.table import Column, Stat, columns, default_target, figures_of, rows, useful_columns
from metrize.lab.runs import Comparison, Run, by_method, labels, read_runs, slug
from metrize.lab.tasks import Profile
from metrize.lab.trainer import Summary

ADAM = RunConfig(steps=100, eval_every=25)
STIEFEL = dataclasses.replace(ADAM, space="Stiefel()")


def run(config: RunConfig, held_out: Sequence[float], **summary: Any) -> Run:
    """A run whose evaluations, one every 25 steps from step 0 on, are given; a step takes a tenth of a second."""
    last = 25 * (len(held_out) - 1)
    records: list[Any] = [Stepped(step, step / 10, 2 - step / 100 + config.seed) for step in range(1, last + 1)]
    records += [Evaluated(25 * i, 2.5 * i, loss, {"accuracy": 0.5}) for i, loss in enumerate(held_out)]
    records += [SpaceChecked(25 * i, 2.5 * i, 1e-7) for i in range(len(held_out)) if config.space]
    figures = {
        "label": config.label,
        "seed": config.seed,
        "steps": last,
        "seconds": last / 10,
        "parameters": 1000,
        "final_train_loss": 1.0,
        "final_eval_loss": held_out[-1],
        "figures": {"accuracy": 0.5},
        "best_eval_loss": min(held_out),
        "ms_per_step": 100.0,
        "optimizer_ms_per_step": 10.0,
        "first_step_ms": 50.0,
        "state_bytes": 8000,
        "state_bytes_per_parameter": 8.0,
        "parameter_bytes": 4000,
        "space_error": 1e-7 if config.space else None,
        "skipped_steps": None,
        "diverged": False,
    }
    return Run(config, Summary(**{**figures, **summary}), records)


COLUMN = {column.key: column for column in columns([run(ADAM, [1.0])])}


def seeds(config: RunConfig, *held_out: Sequence[float], **summary: Any) -> list[Run]:
    return [run(dataclasses.replace(config, seed=seed), losses, **summary) for seed, losses in enumerate(held_out)]


def write(folder: Path, runs: Sequence[Run]) -> Path:
    for written in runs:
        place = folder / f"{slug(written.config.label)}-seed{written.config.seed}"
        place.mkdir(parents=True)
        written.config.save(place)
        (place / "summary.json").write_text(json.dumps(dataclasses.asdict(written.summary)))
        lines = ({"kind": record.kind, **dataclasses.asdict(record)} for record in written.records)
        if written.profiles:
            (place / "profiles.json").write_text(json.dumps([dataclasses.asdict(one) for one in written.profiles]))
        (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    slow = seeds(ADAM, [2.0, 1.6, 1.2, 1.0, 0.8], [2.0, 1.7, 1.3, 1.1, 0.9])
    fast = seeds(STIEFEL, [2.0, 0.95, 0.6, 0.3, 0.1], [2.0, 0.7, 0.5, 0.4, 0.3])
    return slow + fast


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory, runs: list[Run]) -> Path:
    folder = write(tmp_path_factory.mktemp("comparison"), runs)
    Comparison([ADAM, STIEFEL], seeds=2).save(folder)
    return folder


@pytest.fixture(scope="module")
def page(comparison: Path) -> str:
    return draw_report(comparison).page.read_text()


def test_a_row_has_mean_and_sample_deviation_over_the_seeds(runs: list[Run]) -> None:
    adam, stiefel = rows(runs, target=None)
    assert (adam.label, adam.seeds, stiefel.label) == ("Adam", (0, 1), "Adam on Stiefel()")
    assert adam.stats["final_eval_loss"].mean == pytest.approx(0.85)
    assert adam.stats["final_eval_loss"].std == pytest.approx(statistics.stdev([0.8, 0.9]))


def test_time_to_target_is_that_of_the_first_evaluation_at_or_below_it(runs: list[Run]) -> None:
    adam, stiefel = rows(runs, target=0.95)
    assert stiefel.stats["steps_to_target"].values == (25, 25)
    assert stiefel.stats["seconds_to_target"].values == (2.5, 2.5)
    assert adam.stats["steps_to_target"].values == (100, 100)
    assert rows(runs, target=0.8)[0].stats["steps_to_target"].values == (100, None)
    assert rows(runs, target=0.01)[1].stats["steps_to_target"].mean is None


def test_the_default_target_is_what_every_seed_of_the_second_best_reaches(runs: list[Run]) -> None:
    worse = seeds(dataclasses.replace(ADAM, optimizer="SGD"), [2.0, 1.9], [2.0, 1.9])
    assert default_target(worse + runs) == ("Adam", 0.9)


def test_a_diverged_method_sets_no_target(runs: list[Run]) -> None:
    dead = seeds(dataclasses.replace(ADAM, optimizer="SGD"), [2.0, 3.0], final_eval_loss=None, diverged=True)
    assert default_target(runs[2:] + dead) is None


@pytest.mark.parametrize(
    ("key", "values", "cell"),
    [
        ("final_eval_loss", (0.5, 0.7), ("0.6000", "± 0.1414")),
        ("final_eval_loss", (0.5,), ("0.5000", "")),
        ("final_eval_loss", (None, None), ("diverged", "")),
        ("final_eval_loss", (0.5, None, 0.7), ("0.6000", "± 0.1414 (2 of 3)")),
        ("steps_to_target", (None,), ("not reached", "")),
        ("state_bytes_per_parameter", (8.0, 8.0), ("8.00", "")),
        ("space_error", (None,), ("–", "")),
        ("accuracy", (0.5, 0.5), ("50.00%", "")),
    ],
)
def test_a_cell_says_how_many_seeds_it_speaks_of(key: str, values: tuple[float | None, ...], cell: tuple[str, str]):
    column: Column = COLUMN[key]
    assert column.cell(Stat(values)) == cell


def test_labels_tell_apart_what_the_sentence_leaves_out() -> None:
    assert labels([ADAM, dataclasses.replace(ADAM, lr=0.5)]) == ["Adam lr=0.001", "Adam lr=0.5"]
    assert labels([ADAM, dataclasses.replace(ADAM, seed=1)]) == ["Adam", "Adam"]
    models = ({}, {"layers": 4}, {"layers": 4, "skip": True})
    told = labels([dataclasses.replace(ADAM, model=model) for model in models[1:]])
    assert told == ["Adam", "Adam skip=True"]
    assert labels([dataclasses.replace(ADAM, model=model) for model in models])[1:] == [
        "Adam layers=4",
        "Adam layers=4 skip=True",
    ]


def test_runs_of_one_method_are_one_group(runs: list[Run]) -> None:
    assert {label: len(group) for label, group in by_method(runs).items()} == {"Adam": 2, "Adam on Stiefel()": 2}


def test_what_is_read_is_what_was_written(comparison: Path, runs: list[Run]) -> None:
    # a comparison is read seed by seed
    assert read_runs(comparison) == [runs[0], runs[2], runs[1], runs[3]]
    assert read_runs(comparison / "adam-seed1") == [runs[1]]


def test_a_folder_of_runs_needs_no_comparison(tmp_path: Path, runs: list[Run]) -> None:
    assert read_runs(write(tmp_path, runs)) == [runs[2], runs[3], runs[0], runs[1]]


def test_a_folder_without_a_finished_run_is_an_error(tmp_path: Path) -> None:
    ADAM.save(tmp_path)
    with pytest.raises(FileNotFoundError, match="no finished run"):
        draw_report(tmp_path)


def test_the_summary_of_a_comparison_is_its_table(comparison: Path, page: str) -> None:
    summary = json.loads((comparison / "summary.json").read_text())
    assert summary["target"] == 0.9
    adam, stiefel = summary["rows"]
    assert (adam["label"], adam["seeds"]) == ("Adam", [0, 1])
    assert stiefel["final_eval_loss"] == {"mean": pytest.approx(0.2), "std": pytest.approx(0.1 * 2**0.5)}
    assert stiefel["steps_to_target"] == {"mean": 37.5, "std": pytest.approx(12.5 * 2**0.5)}


def test_the_page_asks_for_nothing_outside_itself(page: str) -> None:
    assert not re.findall(r"""<link|<script|<img|<iframe|@import|\bsrc\s*=|url\((?!#)|href\s*=\s*["'](?!#)""", page)


def test_the_page_shows_table_figures_and_settings(page: str) -> None:
    assert "<h1>2 methods on digits</h1>" in page
    assert re.search(r"<dt>seeds</dt><dd>0, 1</dd>", page)
    assert 'class="best">0.2000<small>± 0.1414</small>' in page
    assert "0.9000, which Adam, the second best method, ends with (its worst seed)" in page
    assert page.count("<svg") == 7
    assert "mean of the last 2 steps" in page


def test_words_and_lines_follow_the_colours_of_the_page(page: str) -> None:
    assert "currentColor" in page
    assert "#1f2933" not in "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert "prefers-color-scheme: dark" in page


def test_inner_names_of_the_figures_do_not_clash(page: str) -> None:
    names = [set(re.findall(r'<(?:clipPath|path|g) id="([mp][0-9a-f]+)"', svg)) for svg in page.split("<svg")[1:]]
    assert all(names)
    assert sum(map(len, names)) == len(set().union(*names))


def test_every_figure_lies_beside_the_page(comparison: Path, page: str) -> None:
    figures = {file.stem for file in comparison.glob("*.png")}
    by = {f"{loss}-loss-by-{x}" for loss in ("train", "held-out") for x in ("step", "second")}
    assert figures == by | {"accuracy-by-step", "space-error-by-step", "memory"}


def test_the_same_runs_draw_the_same_page(comparison: Path, page: str) -> None:
    assert draw_report(comparison).page.read_text() == page


def test_a_given_target_is_kept_and_can_be_overruled(tmp_path: Path, runs: list[Run]) -> None:
    Comparison([ADAM, STIEFEL], seeds=2, target=0.5).save(write(tmp_path, runs))
    assert (draw_report(tmp_path).target, draw_report(tmp_path, target=0.25).target) == (0.5, 0.25)


def test_one_free_run_has_no_target_no_manifold_and_keeps_its_summary(tmp_path: Path, runs: list[Run]) -> None:
    folder = write(tmp_path, runs[:1]) / "adam-seed0"
    report = draw_report(folder)
    titles = {column.key for column in report.columns}
    assert titles == COLUMN.keys() - {
        "steps_to_target",
        "seconds_to_target",
        "space_error",
        "skipped_steps",
        "with_basis",
    }
    assert report.page.read_text().count("<svg") == 6
    assert read_runs(folder) == runs[:1]


def test_a_method_that_diverged_at_once_is_still_reported(tmp_path: Path, runs: list[Run]) -> None:
    dead = run(
        dataclasses.replace(ADAM, optimizer="SGD"), [2.0], final_eval_loss=None, final_train_loss=None, figures={}
    )
    text = draw_report(write(tmp_path, [runs[0], dead])).page.read_text()
    assert text.count("diverged</td>") == 3


def test_names_are_escaped(tmp_path: Path) -> None:
    odd = run(dataclasses.replace(ADAM, options={"note": "<b>&"}), [2.0, 1.0])
    text = draw_report(write(tmp_path, [odd])).page.read_text()
    assert "<b>" not in text
    assert "note=&lt;b&gt;&amp;" in text


def test_profiles_are_read_back_and_drawn_as_the_mean_with_the_range_of_the_seeds(tmp_path: Path) -> None:
    runs = [
        dataclasses.replace(
            one, profiles=(Profile("decay", "Decay by time", [0.0, 1.0], [0.0, y], {"best": [1.0, 0.1]}),)
        )
        for one, y in zip(seeds(ADAM, [2.0, 1.0], [2.0, 1.0]), (0.5, 1.5), strict=True)
    ]
    folder = write(tmp_path, runs)
    assert read_runs(folder) == runs
    draw_report(folder)
    assert (folder / "decay.png").is_file()
    curve = plots._profile_curve(runs, "decay")
    assert curve is not None
    assert (curve.low[1], curve.mean[1], curve.high[1]) == (0.5, 1.0, 1.5)
    assert math.isnan(curve.mean[0]), "zero has no place on a logarithmic axis"


def test_a_figure_without_a_value_leaves_a_gap(runs: list[Run]) -> None:
    broken = dataclasses.replace(runs[0], records=[Evaluated(25, 2.5, 1.0, {"accuracy": None})])
    assert broken.series(Evaluated, "accuracy") == [None]
    assert broken.series(Evaluated, "loss") == [1.0]
    assert not [what for what in plots._drawable({"Adam": [broken]}, figures_of(runs)) if what.key == "accuracy"]


def test_a_curve_is_the_smoothed_mean_with_the_range_of_the_seeds(runs: list[Run]) -> None:
    what = next(lines for lines in plots._LINES if lines.name == "train-loss-by-step")
    curve = plots._curve(runs[:2], what)
    assert curve is not None
    # loss of step s and seed k is 2 - s/100 + k; two steps are averaged
    assert (curve.x[0], curve.x[-1]) == (2, 100)
    assert (curve.low[-1], curve.mean[-1], curve.high[-1]) == pytest.approx((1.005, 1.505, 2.005))


def test_a_curve_ends_where_its_first_seed_ends_and_long_ones_are_thinned() -> None:
    short, long = run(ADAM, [1.0] * 21), run(ADAM, [1.0] * 41)
    what = next(lines for lines in plots._LINES if lines.name == "train-loss-by-second")
    curve = plots._curve([short, long], what)
    assert curve is not None
    assert curve.x[-1] == pytest.approx(50.0)
    assert len(curve.x) == 400


@pytest.mark.parametrize(("ends", "scale"), [((1.0, 0.5), "linear"), ((1.0, 0.01), "log")])
def test_the_axis_is_logarithmic_where_losses_span_a_decade(ends: tuple[float, float], scale: str) -> None:
    what = next(lines for lines in plots._LINES if lines.name == "held-out-loss-by-step")
    figure = plots._line_figure(what, {"Adam": [run(ADAM, ends)]})
    assert figure.axes[0].get_yscale() == scale


def test_the_table_tells_how_many_tensors_have_a_basis() -> None:
    told = run(ADAM, [1.0], with_basis=10, with_basis_of=28)
    stat = rows([told], None)[0].stats["with_basis"]
    assert COLUMN["with_basis"].cell(stat) == ("10 of 28", "")
    shown = [column.key for column in useful_columns(columns([told]), rows([told], None), None)]
    silent = run(ADAM, [1.0])
    assert "with_basis" in shown
    assert "with_basis" not in [c.key for c in useful_columns(columns([silent]), rows([silent], None), None)]
