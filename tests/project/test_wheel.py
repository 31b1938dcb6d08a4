"""The wheel is what a user gets: it is built, installed by itself and used."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import metrize

ROOT = Path(__file__).parents[2]
USE = """
import sys, metrize, torch
assert metrize.__file__.startswith(sys.argv[1]), metrize.__file__
model = torch.nn.Linear(4, 3)
optimizer = metrize.SOAP(model)
model(torch.ones(2, 4)).sum().backward()
optimizer.step()
print(metrize.__version__)
"""


def pip(*words: str) -> None:
    quiet = ["--disable-pip-version-check", "--no-deps", "--no-index", "--quiet"]
    ran = subprocess.run([sys.executable, "-m", "pip", *words, *quiet], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    pip("wheel", str(ROOT), "--no-build-isolation", "--wheel-dir", str(folder))
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    pip("install", str(wheel), "--target", str(folder))
    return folder


def run(installed: Path, *words: str) -> str:
    away = {**os.environ, "PYTHONPATH": str(installed)}
    ran = subprocess.run([sys.executable, *words], cwd=installed, env=away, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src").rglob("*") if path.is_file()}
    sources = {name for name in sources if "__pycache__" not in name}
    assert {name for name in names if ".dist-info/" not in name} == sources
    assert "metrize/py.typed" in names
    assert "metrize/lab/report/page.html.jinja" in names
    assert f"metrize-{metrize.__version__}.dist-info/licenses/LICENSE" in names


def test_what_the_wheel_says_of_itself(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        told = Parser().parsestr(content.read(f"metrize-{metrize.__version__}.dist-info/METADATA").decode())
    assert (told["Name"], told["Version"], told["License-Expression"]) == ("metrize", metrize.__version__, "Apache-2.0")
    needed = [need for need in told.get_all("Requires-Dist") if "extra ==" not in need]
    assert [need.partition(">")[0] for need in needed] == ["torch"]


def test_the_installed_package_takes_a_step(installed: Path) -> None:
    assert run(installed, "-c", USE, str(installed)).strip() == metrize.__version__


def test_the_installed_command_lists_the_catalogue(installed: Path) -> None:
    pytest.importorskip("cyclopts")
    text = run(installed, str(installed / "bin" / "metrize"), "list")
    assert all(name in text for name in metrize.catalogue())


@pytest.mark.slow
def test_the_readme_leads_from_a_wheel_to_a_report(installed: Path, tmp_path: Path) -> None:
    """Its code and commands, as they stand, in an empty folder."""
    for package in ("cyclopts", "matplotlib", "sklearn"):
        pytest.importorskip(package)
    text = (ROOT / "README.md").read_text()
    env = {**os.environ, "PYTHONPATH": str(installed), "PATH": f"{installed / 'bin'}{os.pathsep}{os.environ['PATH']}"}

    def follow(*words: str) -> str:
        ran = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    for code in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        (tmp_path / "first.py").write_text(code)
        assert "Muon" in follow(sys.executable, "first.py")
    fences = re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    commands = [line for fence in fences for line in fence.splitlines() if line.startswith("metrize ")]
    for command in commands:
        words = shlex.split(command)
        assert "SOAP" in follow(*words)
        assert "<html" in (tmp_path / words[words.index("--out") + 1] / "report.html").read_text()
    assert commands
