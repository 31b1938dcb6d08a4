"""What the README says is so: its code runs, its links lead somewhere, and its bytes are those that are predicted."""

from __future__ import annotations

import re

import pytest
import torch
from site_pages import DOCS
from torch import nn

import metrize

ROOT = DOCS.parent
TEXT = (ROOT / "README.md").read_text()


def test_its_code_runs(capsys: pytest.CaptureFixture[str]) -> None:
    for code in re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL):
        exec(compile(code, "README.md", "exec"), {"__name__": "example"})
    assert capsys.readouterr().out


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([\w./-]+)\)", TEXT)
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "mkdocs.yml"])
def test_it_counts_the_catalogue(page: str) -> None:
    counts = re.findall(r"(\d+) PyTorch optimizers", (ROOT / page).read_text())
    assert counts
    assert {*map(int, counts)} == {len(metrize.catalogue())}


def test_its_bytes_are_those_of_a_transformer() -> None:
    with torch.device("meta"):
        model = nn.TransformerEncoder(nn.TransformerEncoderLayer(256, 8, 1024), 4, enable_nested_tensor=False)
    count = sum(p.numel() for p in model.parameters())
    rows = re.findall(r"^\|[^|]*\| `metrize\.(\w+)\(model[^|]*\|[^|]*\| ([\d.]+) \|$", TEXT, re.MULTILINE)
    assert len(rows) == 6
    for name, told in rows:
        assert float(told) == pytest.approx(
            metrize.predict(model, metrize.catalogue()[name]).state / count, abs=0.05 if float(told) > 8 else 0.005
        )
