"""`import metrize` is cheap, and every way to a name leads to the same thing."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import metrize
from metrize import public


def fresh(code: str, *words: str) -> str:
    """What a process prints that has imported nothing yet."""
    ran = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_torch_waits_for_the_first_name() -> None:
    code = """
import sys, metrize
assert metrize.__version__ and not hasattr(metrize, "__wrapped__") and not hasattr(metrize, "_private")
assert "torch" not in sys.modules
metrize.frames
assert "torch" in sys.modules
"""
    fresh(code)


def test_every_public_name() -> None:
    assert metrize.__all__ == public.__all__
    assert set(public.__all__) <= set(dir(metrize))
    for name in public.__all__:
        assert getattr(metrize, name) is getattr(public, name)
    namespace: dict[str, object] = {}
    exec("from metrize import *", namespace)
    assert set(public.__all__) <= set(namespace)
    with pytest.raises(AttributeError, match="module 'metrize' has no attribute 'Nothing'"):
        metrize.Nothing  # noqa: B018
    with pytest.raises(ImportError, match="Nothing"):
        exec("from metrize import Nothing")


def test_no_public_name_is_hidden_by_a_module() -> None:
    modules = {path.stem for path in Path(metrize.__file__).parent.iterdir() if not path.name.startswith("__")}
    for name in modules & set(public.__all__):
        assert getattr(public, name).__name__ == f"metrize.{name}"


def test_any_module_may_come_first() -> None:
    code = """
import importlib, sys
for first in sys.argv[1:]:
    for name in [name for name in sys.modules if name.partition(".")[0] == "metrize"]:
        del sys.modules[name]
    importlib.import_module(first)
    import metrize
    assert metrize.SOAP.recipe() and metrize.optimizer.Optimizer is metrize.Optimizer, first
"""
    rooms = "optimizer optim.optimizer named named.soap optim.checkpoint frames"
    rooms += " norms rules step_sizes spaces moments roles memory recipe"
    fresh(code, *(f"metrize.{room}" for room in rooms.split()))


def test_pickles_of_the_first_version_find_the_optimizer() -> None:
    fresh("import pickle; assert pickle.loads(b'cmetrize.optimizer\\nOptimizer\\n.').__name__ == 'Optimizer'")


def test_a_recipe_is_read_where_its_parts_were_not_imported_yet() -> None:
    text = repr(metrize.Recipe(frame=metrize.frames.Eigenbasis(), moments=metrize.RankOne()))
    assert fresh("import sys; from metrize.part import parse; print(repr(parse(sys.argv[1])))", text) == text


def test_an_optimizer_is_unpickled_where_nothing_was_imported(tmp_path: Path) -> None:
    recipe = metrize.Recipe(rule=metrize.rules.Lion(), moments=metrize.Quantized())
    optimizer = metrize.Optimizer([torch.nn.Parameter(torch.ones(3, 4))], recipe)
    (tmp_path / "optimizer").write_bytes(pickle.dumps(optimizer))
    code = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb')).recipes()[0])"
    assert fresh(code, str(tmp_path / "optimizer")) == str(recipe)
