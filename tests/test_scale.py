"""The page about scale shows what its experiment computes."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STEPS = json.loads((ROOT / "experiments" / "scale.json").read_text())["steps"]


def test_the_page_has_the_experiment_s_tables() -> None:
    found = (ROOT / "experiments" / "scale.md").read_text().splitlines()
    page = (ROOT / "docs" / "scale.md").read_text().splitlines()
    rows = [line for line in found if line.startswith("|")]
    assert len(rows) > 80
    assert [line for line in page if line in rows] == [line for line in rows if line in page]
    assert not set(rows) - set(page)


@pytest.mark.parametrize(("model", "gpus", "method"), [("7B", 64, "SOAP"), ("7B", 64, "Stiefel Adam")])
def test_the_experiment_s_numbers_are_the_library_s(
    monkeypatch: pytest.MonkeyPatch, model: str, gpus: int, method: str
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    scale = importlib.import_module("scale")
    kept = next(s for s in STEPS if (s["model"], s["gpus"], s["method"]) == (model, gpus, method))
    found = dataclasses.asdict(scale.step(model, scale.METHODS[method], gpus))
    assert found == {key: pytest.approx(kept[key], rel=1e-6) for key in found}
