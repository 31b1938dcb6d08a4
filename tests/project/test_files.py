"""What stands at the root agrees with the package."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import metrize

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_version_and_licence_are_told_once_and_alike() -> None:
    yaml = pytest.importorskip("yaml")
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == PROJECT["version"] == metrize.__version__
    assert cited["license"] == PROJECT["license"] == "Apache-2.0"
    licence = (ROOT / "LICENSE").read_text()
    assert "Apache License" in licence
    assert "Copyright 2026 the metrize authors" in licence
    assert f"## {metrize.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_workflow_runs_what_is_there() -> None:
    yaml = pytest.importorskip("yaml")
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert commands
    assert all((ROOT / command).stat().st_mode & 0o100 for command in commands)
    tested = jobs["everything"]["strategy"]["matrix"]["python"]
    told = [
        c.rpartition(" ")[2] for c in PROJECT["classifiers"] if c.startswith("Programming Language :: Python :: 3.")
    ]
    assert tested == told


def test_the_oldest_torch_is_the_one_that_is_tested_and_told() -> None:
    (torch,) = PROJECT["dependencies"]
    assert f"{torch.removeprefix('torch>=')} and newer" in (ROOT / "docs/compatibility.md").read_text()
    pinned = (ROOT / "constraints.txt").read_text().strip().removeprefix("torch==")
    assert ".".join(pinned.split(".")[:2]) in (ROOT / "docs/compatibility.md").read_text()


@pytest.mark.parametrize("page", ["CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "README.md"])
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text()):
        assert link.startswith("https://") or (ROOT / link).exists(), link


def test_contributors_are_sent_to_files_that_exist() -> None:
    for name in re.findall(r"`((?:src|tests|docs)/[\w/.]+)`", (ROOT / "CONTRIBUTING.md").read_text()):
        assert (ROOT / name).exists(), name
