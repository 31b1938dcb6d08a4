"""A run small enough to be killed a hundred times, and what is compared of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from metrize.lab.config import RunConfig
from metrize.lab.durable import draft_of


def config_of(folder: Path, **changes: Any) -> RunConfig:
    """A short run of a tiny model on a text of its own."""
    text = folder / "text"
    text.write_text("".join(f"{i} squared is {i * i}.\n" for i in range(400)))
    model = {"width": 8, "layers": 1, "heads": 2, "context": 8}
    short: dict[str, Any] = {"steps": 20, "batch_size": 4, "eval_every": 6, "checkpoint_every": 5, "threads": 1}
    return RunConfig("text", lr=1e-2, model=model, text_file=str(text), **{**short, **changes})


def measured(folder: Path) -> list[dict[str, Any]]:
    """Every line of the metrics, without the time it took."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def digest(folder: Path, step: int) -> str:
    """SHA-256 of all weights and all optimizer state after a step."""
    content = torch.load(folder / f"checkpoint-{step}.pt", weights_only=True)
    return hashlib.sha256(b"".join(_bytes(content["model"], content["optimizer"]["state"]))).hexdigest()


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
