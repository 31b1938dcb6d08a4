"""Every task that needs no files: what it trains, what it reports, and that its runs go on bit for bit."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import metrize
from metrize.lab.compare import check, compare, parse_method
from metrize.lab.config import RunConfig
from metrize.lab.data import Samples, stream, waves
from metrize.lab.events import Event, Stepped
from metrize.lab.methods import build, space_of
from metrize.lab.models import Recurrent, Subspace
from metrize.lab.report import draw_report
from metrize.lab.runs import Comparison, read_runs
from metrize.lab.tasks import TASKS, Conclusion
from metrize.lab.tasks.subspace import excess
from metrize.lab.trainer import Interrupted, Summary, train

pytest.importorskip("sklearn")

MODELS: dict[str, dict[str, Any]] = {
    "sequence": {"hidden": 12, "by": "row"},
    "subspace": {"dimension": 3},
    "wave": {"cells": 8, "reduced": 2, "layers": 1, "width": 4},
}


@pytest.fixture(autouse=True)
def short_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waves, "_INTERVALS", 6)


def tiny(task: str, **changes: Any) -> RunConfig:
    setting = RunConfig(task, lr=1e-2, model=MODELS[task], steps=10, batch_size=16, eval_every=4)
    return dataclasses.replace(setting, space=TASKS[task].space, **changes)


def measured(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.mark.parametrize("task", MODELS)
def test_a_run_goes_on_bit_for_bit(task: str, tmp_path: Path) -> None:
    asked = threading.Event()

    def stop_after_7(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 7:
            asked.set()

    config = tiny(task)
    whole = train(config, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(config, tmp_path / "paused", on_event=stop_after_7, stop=asked.is_set)
    resumed = train(config, tmp_path / "paused", resume=True)
    assert measured(tmp_path / "paused") == measured(tmp_path / "whole")
    assert resumed.figures == whole.figures
    states = [torch.load(tmp_path / run / "checkpoint-10.pt")["model"] for run in ("paused", "whole")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])
    profiles = [tmp_path / run / "profiles.json" for run in ("paused", "whole")]
    assert [file.exists() for file in profiles] == 2 * [task == "wave"]
    assert task != "wave" or profiles[0].read_text() == profiles[1].read_text()


@pytest.mark.parametrize("task", MODELS)
def test_the_summary_has_the_task_s_figures_and_the_weight_is_on_the_task_s_space(task: str, tmp_path: Path) -> None:
    summary = train(tiny(task), tmp_path / "run")
    assert list(summary.figures) == list(TASKS[task].figures)
    assert summary.space_error is not None
    assert summary.space_error < 1e-4
    losses = [line["loss"] for line in measured(tmp_path / "run") if line["kind"] == "eval"]
    assert losses[-1] < losses[0]
    assert read_runs(tmp_path / "run")[0].summary == summary


@pytest.mark.parametrize("task", MODELS)
def test_exactly_one_weight_is_constrained_and_none_frees_it(task: str) -> None:
    model, _ = build(tiny(task))
    assert list(metrize.spaces_of(model).values()) == [metrize.parse_space(str(TASKS[task].space))]
    free, _ = build(dataclasses.replace(tiny(task), space=None))
    assert metrize.spaces_of(free) == {}
    before, after = dict(free.named_parameters()), dict(model.named_parameters())
    same = {name for name, weight in after.items() if torch.allclose(weight, before[name], atol=1e-5)}
    assert same == set(after) if task != "subspace" else same == set()


@pytest.mark.parametrize(
    "task", [task if at == 0 else pytest.param(task, marks=pytest.mark.slow) for at, task in enumerate(MODELS)]
)
def test_the_report_shows_the_figures_of_the_task_alone(task: str, tmp_path: Path) -> None:
    methods = [parse_method(sentence, tiny(task)) for sentence in TASKS[task].methods[:2]]
    check(methods)
    report = compare(Comparison(methods, 2), tmp_path / "runs")
    titles = [column.title for column in report.columns]
    assert titles[2:-6] == [figure.title for figure in TASKS[task].figures.values()]
    assert ("accuracy" in report.page.read_text()) == (task == "sequence")
    assert ("Energy error by time" in report.page.read_text()) == (task == "wave")
    figures = {file.stem for file in (tmp_path / "runs").glob("*.png")}
    curves = {
        "sequence": {"accuracy-by-step"},
        "subspace": {"excess-by-step"},
        "wave": {"reconstruction-by-step", "over_psd-by-step", "energy"},
    }
    by = {f"{loss}-loss-by-{x}" for loss in ("train", "held-out") for x in ("step", "second")}
    assert figures - by - {"memory", "space-error-by-step"} == curves[task]


def test_the_energy_figure_has_methods_and_references(tmp_path: Path) -> None:
    train(tiny("wave"), tmp_path / "run")
    page = draw_report(tmp_path / "run").page.read_text()
    drawn = next(svg for svg in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL) if "energy error" in svg)
    for name in ("Adam on SymplecticStiefel()", "PSD", "POD", "full model"):
        assert f">{name}</text>" in drawn
    assert "Lines in the colour of the text need no training: PSD, POD, full model." in page
    (profile,) = read_runs(tmp_path / "run")[0].profiles
    assert profile.x == pytest.approx([0.1 * step for step in range(13)])
    assert {len(curve) for curve in (profile.y, *profile.references.values())} == {13}


def test_a_figure_that_is_not_finite_is_written_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = dataclasses.replace(TASKS["wave"], conclude=lambda *_: Conclusion({"path": 0.5, "energy": float("nan")}))
    monkeypatch.setitem(TASKS, "wave", task)
    summary = train(tiny("wave"), tmp_path / "run")
    assert (summary.figures["path"], summary.figures["energy"]) == (0.5, None)
    assert Summary(**json.loads((tmp_path / "run" / "summary.json").read_text())) == summary
    assert "<td>diverged</td>" in draw_report(tmp_path / "run").page.read_text()


@pytest.mark.parametrize(
    ("task", "words", "space"),
    [
        ("wave", None, "SymplecticStiefel()"),
        ("wave", "", "SymplecticStiefel()"),
        ("wave", "none", None),
        ("digits", None, None),
        ("digits", "Stiefel()", "Stiefel()"),
        ("subspace", "None", None),
    ],
)
def test_without_a_space_the_task_s_own_is_meant(task: str, words: str | None, space: str | None) -> None:
    assert space_of(task, words) == space


def test_a_sentence_takes_the_task_s_space_unless_it_names_one() -> None:
    setting = RunConfig("subspace")
    spaces = [parse_method(f"Adam{words}", setting).space for words in ("", " on none", " on Stiefel()")]
    assert spaces == ["Grassmann()", None, "Stiefel()"]


@pytest.mark.parametrize("task", [name for name in TASKS if name not in ("mnist", "text")])
def test_the_methods_of_a_task_can_be_built(task: str) -> None:
    check([parse_method(sentence, RunConfig(task)) for sentence in TASKS[task].methods])


def test_the_subspace_of_the_singular_vectors_has_no_excess() -> None:
    data = TASKS["subspace"].load(RunConfig("subspace"))
    assert isinstance(data, Samples)
    vectors = torch.linalg.svd(data.inputs.double(), full_matrices=False)[2]
    assert excess(vectors[:5].mT, data.inputs) == pytest.approx(0, abs=1e-10)
    other = torch.cat([vectors[:4], vectors[5:6]]).mT
    values = torch.linalg.svdvals(data.inputs.double()).square()
    expected = (values[4] - values[5]) / values[5:].sum()
    assert excess(other, data.inputs) == pytest.approx(expected.item())
    assert data.inputs.mean(0).abs().max() < 1e-6


def test_full_batches_on_grassmann_find_the_principal_subspace(tmp_path: Path) -> None:
    config = RunConfig("subspace", optimizer="SGD", options={"momentum": 0.9}, space="Grassmann()", lr=0.1)
    summary = train(dataclasses.replace(config, batch_size=1437, steps=400, eval_every=0), tmp_path / "run")
    assert summary.figures["excess"] == pytest.approx(0, abs=1e-5)


def test_the_loss_of_the_subspace_is_the_reconstruction_error() -> None:
    model = Subspace(6, 2, generator=stream(0, "weights"))
    x = torch.randn(5, 6, generator=stream(0, "x"))
    expected = (x - x @ model.basis @ model.basis.T).norm().item() ** 2 / 5
    assert model.loss(model(x), x).item() == pytest.approx(expected)


@pytest.mark.parametrize(("by", "size"), [("pixel", 1), ("row", 8)])
@pytest.mark.parametrize("activation", ["modrelu", "tanh"])
def test_the_recurrent_network_reads_in_order(by: str, size: int, activation: str) -> None:
    model = Recurrent(hidden=5, by=by, activation=activation, generator=stream(0, "weights"))
    with torch.no_grad():
        model.bias.normal_(0.0, 0.1, generator=stream(0, "bias"))
    image = torch.rand(8, 8, generator=stream(0, "image"))
    state = torch.zeros(5)
    for part in image.flatten().split(size):
        x = model.recurrent.weight @ state + model.inward.weight @ part
        b = model.bias
        state = torch.tanh(x + b) if activation == "tanh" else torch.where(x.abs() + b > 0, x + b * x.sign(), 0 * x)
    expected = model.classifier.weight @ state + model.classifier.bias
    torch.testing.assert_close(model(image[None])[0], expected)


def test_the_recurrent_network_starts_orthogonal() -> None:
    weight = Recurrent(generator=stream(0, "weights")).recurrent.weight
    torch.testing.assert_close(weight.mT @ weight, torch.eye(64), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("options", "message"), [({"by": "column"}, "pixel or row"), ({"activation": "relu"}, "tanh")])
def test_recurrent_networks_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recurrent(**options, generator=stream(0, "weights"))
