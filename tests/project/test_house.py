"""The counts of benchmarks/house.py find what is planted, and nothing where there is nothing."""

from __future__ import annotations

import importlib.util
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def house() -> ModuleType:
    spec = importlib.util.spec_from_file_location("house", ROOT / "benchmarks/house.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["house"] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


CLEAN = {
    "__init__.py": "",
    "part.py": "class Part:\n    known = {}\n",
    "rules/__init__.py": "from planted.rules.adam import Adam\nfrom planted.rules.base import Rule, Shared\n",
    "rules/base.py": """
        from planted.part import Part

        class Rule(Part):
            pass

        class Shared(Rule):
            pass

        del Shared.known["Shared"]

        class Unfinished(Rule):
            def direction(self):
                raise NotImplementedError
        """,
    "rules/adam.py": """
        from planted.rules.base import Rule, Shared

        class Adam(Shared):
            def twin(self, other):
                return isinstance(other, Adam)
        """,
    "step.py": """
        import planted.rules.base
        from planted.rules import Rule, Shared

        def fits(rule):
            return isinstance(rule, (Rule, Shared, planted.rules.base.Unfinished, int))
        """,
}


def planted(house: ModuleType, folder: Path, **changed: str) -> object:
    """A small package, clean but for what is changed."""
    files = CLEAN | {name.replace("__", "/") + ".py": text for name, text in changed.items()}
    for name, text in files.items():
        path = folder / "planted" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return house.Package(folder / "planted")


def test_a_clean_package_has_nothing_to_find(house, tmp_path):
    package = planted(house, tmp_path)
    assert house.known_parts(package) == []
    assert house.circles(package.arrows) == []
    assert {cls.name for cls in package.concrete} == {"Adam"}


@pytest.mark.parametrize(
    "check",
    [
        "from planted.rules import Adam\ndef f(x):\n    return isinstance(x, Adam)",
        "from planted import rules\ndef f(x):\n    return isinstance(x, (int, rules.Adam))",
        "import planted.rules\ndef f(x):\n    return isinstance(x, int | planted.rules.Adam)",
        "from planted.rules.adam import Adam as A\ndef f(x):\n    return type(x) is A",
        "def f(x):\n    from .rules import Adam\n    return issubclass(x, Adam)",
        "from planted.rules import Adam\ndef f(x):\n    match x:\n        case Adam():\n            return 1",
    ],
)
def test_a_check_for_a_concrete_part_is_found(house, tmp_path, check):
    (found,) = house.known_parts(planted(house, tmp_path, step=check))
    assert found.startswith("step.py:")
    assert found.endswith(": Adam")


@pytest.mark.parametrize(
    "way",
    [
        "from planted.step import fits",
        "if TYPE_CHECKING:\n    import planted.step",
        "def f():\n    from .. import step",
    ],
)
def test_a_circle_is_found(house, tmp_path, way):
    package = planted(house, tmp_path, rules__base=f"{textwrap.dedent(CLEAN['rules/base.py'])}\n{way}")
    assert any("planted.step" in circle for circle in house.circles(package.arrows))
    assert house.circles(house.between_rooms(package)) == [["rules", "step"]]


def test_calls_inside_a_folder_are_counted(house, tmp_path):
    (tmp_path / "mine.py").write_text(
        "def twice(x):\n    return once(x) + once(x)\n\ndef once(x):\n    return abs(x)\n"
    )
    namespace: dict = {}
    exec(compile((tmp_path / "mine.py").read_text(), str(tmp_path / "mine.py"), "exec"), namespace)
    assert house.calls(lambda: namespace["twice"](1), tmp_path) == 3
    assert house.calls(lambda: namespace["twice"](1), tmp_path / "other") == 0


class Named:
    """Two lines

    of text.
    """

    def __init__(
        self,
        first,
    ):
        """Told."""
        self.first = first

    number = 1


def test_lines_of_a_class_leave_out_docstrings_and_the_signature(house):
    assert house.lines_of(Named) == (3, 4)


def test_a_missed_bar_is_told(house):
    text = house.report([house.Figure("files", 3, 2, ("a: 1",)), house.Figure("lines", 1, 1), house.Figure("told", 7)])
    assert "| files | 3 | 2 | no |" in text
    assert "| lines | 1 | 1 | yes |" in text
    assert "| told | 7 | | |" in text
    assert "## Files\n\n- a: 1" in text


@pytest.fixture(scope="module")
def figures(house: ModuleType) -> dict[str, object]:
    return {figure.what: figure for figure in house.figures(house.Package(house.PACKAGE))}


def test_every_figure_is_there(figures):
    assert len(figures) == 15
    bars = [figure.bar for figure in figures.values() if figure.bar is not None]
    assert bars == [3, 12, 0, 0, 0, 0, 150, 200, 46_500]
    assert all(figure.value >= 0 for figure in figures.values())
    assert figures["calls of a step of Lion, 2 tensors of 1024 x 512"].value > 10


@pytest.mark.parametrize(
    ("what", "most"),
    [
        ("checks for a concrete part of another room", 0),
        ("import circles of modules", 0),
        ("import circles of rooms", 0),
        ("files over 400 lines", 0),
        ("calls of a step of Lion, 2 tensors of 1024 x 512", 175),
        ("calls of a step of SMMF, the same", 350),
        ("calls to build AdamW, 1,000 tensors of 16", 46_500),
    ],
)
def test_the_house_stays_as_good_as_it_is(figures, what, most):
    assert figures[what].value <= most, figures[what].found
