"""Tasks of one's own, and the training loop as people run it: resumed bit for bit, and refused in one line."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from metrize import lab
from metrize.cli import main
from metrize.lab.config import RunConfig
from metrize.lab.host import autocast
from metrize.lab.schedule import SCHEDULES, factor
from metrize.lab.tasks import Task
from metrize.lab.trainer import Interrupted, train

pytest.importorskip("cyclopts")

MODULE = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from metrize import lab

def make_model(width=8, plain=False):
    if plain:
        return nn.Linear(4, 2)
    return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, 2))

def loss(model, batch):
    inputs, targets = batch
    return nn.functional.cross_entropy(model(inputs), targets)

def accuracy(model, batches):
    return sum((model(x).argmax(-1) == y).float().mean().item() for x, y in batches) / len(batches)

x = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
data = TensorDataset(x, (x[:, 0] > 0).long())
train = DataLoader(torch.utils.data.Subset(data, range(64)), batch_size=8, shuffle=True)
rest = DataLoader(torch.utils.data.Subset(data, range(64, 80)), batch_size=8)
task = lab.task(model=make_model, train=train, loss=loss, held_out=rest, figures={"accuracy": accuracy})

def batches(batch_size, generator):
    order = torch.randperm(64, generator=generator)
    for chosen in order.split(batch_size):
        yield x[chosen], data.tensors[1][chosen]

def made():
    return lab.task(model=make_model, train=batches, loss=loss, held_out=[data[64:]])

def nothing():
    return None
number = 3
def fails():
    raise KeyError("x")
no_module = lab.task(model=lambda: 3, train=train, loss=loss, held_out=rest)
no_loss = lab.task(model=make_model, train=train, loss=lambda m, b: "low", held_out=rest)
vector = lab.task(model=make_model, train=train, loss=lambda m, b: m(b[0]), held_out=rest)
raises = lab.task(model=make_model, train=train, loss=lambda m, b: b["x"], held_out=rest)
empty = lab.task(model=make_model, train=[], loss=loss, held_out=rest)
none_held = lab.task(model=make_model, train=train, loss=loss, held_out=[])
no_number = lab.task(model=make_model, train=train, loss=loss, held_out=rest, figures={"f": lambda m, b: "high"})
def drift(model, batches):
    return sum(layer.running_mean.abs().sum().item() for layer in model if isinstance(layer, nn.BatchNorm1d))
shared = lab.task(model=make_model, train=train, loss=loss, held_out=rest, figures={"drift": drift})
"""
LOOPS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cosine": {"schedule": "cosine", "warmup": 0.3, "clip": 0.1, "accumulate": 3, "weight_decay": 0.1},
    "wsd": {"schedule": "wsd", "warmup": 2.0},
    "bf16": {"dtype": "bf16", "schedule": "linear"},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_task_module.py").write_text(MODULE)
    return folder


@pytest.fixture(autouse=True)
def in_the_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def lines(folder: Path) -> list[dict[str, Any]]:
    read = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key != "seconds"} for line in read]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", ["task", "made"])
def test_a_resumed_run_is_the_straight_one(name: str, loop: str, tmp_path: Path) -> None:
    config = RunConfig(f"own_task_module:{name}", "AdamW", lr=1e-2, steps=12, batch_size=8, eval_every=4, **LOOPS[loop])
    train(config, tmp_path / "straight")
    count = itertools.count(1)
    with pytest.raises(Interrupted):
        train(config, tmp_path / "stopped", stop=lambda: next(count) == 5)
    torch.rand(3)  # what the caller draws meanwhile changes nothing
    train(config, tmp_path / "stopped", resume=True)
    assert lines(tmp_path / "stopped") == lines(tmp_path / "straight")
    weights = [torch.load(tmp_path / run / "checkpoint-12.pt")["model"] for run in ("straight", "stopped")]
    assert all(torch.equal(one, weights[1][key]) for key, one in weights[0].items())


def test_processes_evaluate_and_resume_the_buffers_of_the_first(tmp_path: Path) -> None:
    config = RunConfig("own_task_module:shared", steps=4, batch_size=8, eval_every=2, nproc=2)
    train(config, tmp_path / "straight")
    count = itertools.count(1)
    with pytest.raises(Interrupted):
        train(config, tmp_path / "stopped", stop=lambda: next(count) == 3)
    train(config, tmp_path / "stopped", resume=True)
    drifts = [line["figures"]["drift"] for line in lines(tmp_path / "straight") if line["kind"] == "eval"]
    assert drifts[0] == 0.0 < drifts[1] < drifts[2]
    assert lines(tmp_path / "stopped") == lines(tmp_path / "straight")


def test_autocast_follows_the_device_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    model = nn.Linear(2, 2)
    with autocast("bf16", model):
        assert model(torch.ones(1, 2)).dtype == torch.bfloat16


def test_a_run_leaves_the_callers_random_numbers_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    train(RunConfig("own_task_module:task", steps=2, eval_every=0), tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_seed_decides_weights_order_and_dropout(seed: int, tmp_path: Path) -> None:
    config = RunConfig("own_task_module:task", steps=3, seed=seed)
    for run in ("first", "second"):
        train(config, tmp_path / run)
    train(dataclasses.replace(config, seed=seed + 1), tmp_path / "other")
    assert lines(tmp_path / "first") == lines(tmp_path / "second") != lines(tmp_path / "other")


def test_the_gradient_of_a_step_is_the_mean_over_its_batches(tmp_path: Path) -> None:
    """Three batches of 16 are one of 48 from the same pass, in a model without noise."""
    words: dict[str, Any] = {"optimizer": "SGD", "lr": 0.5, "steps": 1, "model": {"plain": True}}
    base = RunConfig("own_task_module:made", **words)
    train(dataclasses.replace(base, batch_size=16, accumulate=3), tmp_path / "three")
    train(dataclasses.replace(base, batch_size=48), tmp_path / "one")
    three, one = lines(tmp_path / "three"), lines(tmp_path / "one")
    assert [line["loss"] for line in three] == pytest.approx([line["loss"] for line in one], rel=1e-5)
    assert three[-1]["loss"] < three[0]["loss"]


def test_compare_trains_a_task_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "own_task_module:task", "--steps", "4", "--model", "width=6", "--schedule", "cosine", "--json"]
    methods = ["--method", "AdamW lr=1e-2", "--method", "Muon lr=0.02 rest={'lr': 1e-2}"]
    assert main([*words, *methods, "--out", str(tmp_path / "out")]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert len(rows) == 2
    assert all(row["accuracy"]["mean"] >= 0.0 for row in rows)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nothing", "returned None"),
        ("number", "is a int"),
        ("fails", "failed: KeyError"),
        ("missing", "cannot find"),
        ("no_module", "torch.nn.Module"),
        ("no_loss", "loss gave a str"),
        ("vector", "loss gave a tensor of shape (8, 2)"),
        ("raises", "TypeError"),
        ("empty", "train yields no batch"),
        ("none_held", "held_out yields no batch"),
        ("no_number", "figure 'f' gave a str"),
    ],
)
def test_a_wrong_task_is_one_line(name: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", f"own_task_module:{name}", "--steps", "2"]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (["--schedule", "cosin"], "known: constant, linear, cosine, wsd"),
        (["--warmup", "-3"], "0 to 2"),
        (["--warmup", "5"], "0 to 2"),
        (["--warmup", "nan"], "0 to 2"),
        (["--clip", "0"], "clip"),
        (["--accumulate", "0"], "accumulate"),
        (["--dtype", "int8"], "known: bf16"),
    ],
)
def test_a_wrong_loop_is_one_line(option: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "own_task_module:task", "--steps", "2", *option]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("wrong", [{"model": nn.Linear(1, 1)}, {"train": 3}, {"loss": 1.0}, {"figures": {"a": 3}}])
def test_what_no_task_is_made_of_is_refused(wrong: dict[str, Any]) -> None:
    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch).sum()

    loader = DataLoader(TensorDataset(torch.zeros(2, 1)))
    right: dict[str, Any] = {"model": lambda: nn.Linear(1, 1), "train": loader, "loss": loss, "held_out": loader}
    assert isinstance(lab.task(**right), Task)
    with pytest.raises(TypeError, match=next(iter(wrong))):
        lab.task(**{**right, **wrong})


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_rises_and_falls(schedule: str) -> None:
    factors = [factor(schedule, step, 20, 4) for step in range(20)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4] == 1.0
    assert sorted(factors[4:], reverse=True) == factors[4:]
    assert factors[-1] > 0
    assert (factors[-1] == 1.0) == (schedule == "constant")
    assert factor(schedule, 12, 20, 4) == pytest.approx({"linear": 0.5, "cosine": 0.5}.get(schedule, 1.0))


def test_settings_at_their_defaults_are_not_in_the_plain_form() -> None:
    assert "schedule" not in RunConfig().plain()  # so that older checkpoints go on
    assert RunConfig(clip=1.0).plain()["clip"] == 1.0
