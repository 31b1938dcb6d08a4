"""A run small enough to be killed a hundred times, and what is compared of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import metrize
from metrize.lab import methods
from metrize.lab.config import RunConfig
from metrize.lab.durable import draft_of
from metrize.lab.models import Model
from metrize.lab.sharded import take_over


def config_of(folder: Path, **changes: Any) -> RunConfig:
    """A short run of a tiny model on a text of its own."""
    text = folder / "text"
    text.write_text("".join(f"{i} squared is {i * i}.\n" for i in range(400)))
    model = {"width": 8, "layers": 1, "heads": 2, "context": 8}
    short: dict[str, Any] = {
        "lr": 1e-2,
        "steps": 20,
        "batch_size": 4,
        "eval_every": 6,
        "checkpoint_every": 5,
        "threads": 1,
    }
    return RunConfig("text", model=model, text_file=str(text), **{**short, **changes})


def measured(folder: Path) -> list[dict[str, Any]]:
    """Every line of the metrics, without the time it took."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def digest(folder: Path, step: int) -> str:
    """SHA-256 of all weights and all optimizer state after a step."""
    model, optimizer = loaded(folder, step)
    return hashlib.sha256(b"".join(_bytes(model.state_dict(), optimizer.state_dict()["state"]))).hexdigest()


def loaded(folder: Path, step: int) -> tuple[Model, metrize.Optimizer]:
    """A checkpoint as one process takes it over, whoever wrote it."""
    file = folder / f"checkpoint-{step}.pt"
    model, optimizer = methods.build(RunConfig.load(folder))
    take_over(file if file.exists() else file.with_suffix(""), model, optimizer)
    return model, optimizer


def assert_same_run(folder: Path, other: Path, step: int) -> None:
    """The metrics and the weights of both are the same, bit for bit, and nothing half-written is left."""
    assert measured(folder) == measured(other)
    assert digest(folder, step) == digest(other, step)
    assert not list(folder.glob(draft_of(Path("*")).name))


def _bytes(*values: Any) -> list[bytes]:
    found: list[bytes] = []
    for value in values:
        if isinstance(value, dict):
            found += _bytes(*(value[key] for key in sorted(value)))
        else:
            found.append(value.numpy().tobytes())
    return found
