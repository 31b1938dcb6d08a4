"""The code of the guide to frameworks runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from toys import imported

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "frameworks.md"


@pytest.mark.filterwarnings("ignore")
def test_the_examples_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("transformers", "accelerate", "lightning"):
        imported(name)
    monkeypatch.chdir(tmp_path)  # where they write their checkpoints
    text = PAGE.read_text()
    fences = list(re.finditer(r"^```py\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    assert len(fences) == 9
    namespace: dict[str, object] = {"__name__": "example"}
    for fence in fences:
        above = "\n" * text.count("\n", 0, fence.start(1))
        exec(compile(above + fence[1], str(PAGE), "exec"), namespace)
