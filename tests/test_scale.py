"""The page about scale shows what its experiment computes; `python experiments/scale.py` writes it anew."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
STEPS = json.loads((ROOT / "experiments" / "scale.json").read_text())["steps"]


@pytest.fixture
def scale(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    return importlib.import_module("scale")


def test_the_page_has_the_experiment_s_tables(scale: ModuleType) -> None:
    found = scale.tables((ROOT / "experiments" / "scale.md").read_text())
    page = scale.tables((ROOT / "docs" / "scale.md").read_text())
    assert len(found) == 6
    assert found == {head: page[head] for head in found}


@pytest.mark.parametrize(("model", "gpus", "method"), [("7B", 64, "SOAP"), ("7B", 64, "Stiefel Adam")])
def test_the_experiment_s_numbers_are_the_library_s(scale: ModuleType, model: str, gpus: int, method: str) -> None:
    kept = next(s for s in STEPS if (s["model"], s["gpus"], s["method"]) == (model, gpus, method))
    found = dataclasses.asdict(scale.step(model, scale.METHODS[method], gpus))
    assert found == {key: pytest.approx(kept[key], rel=1e-6) for key in found}
