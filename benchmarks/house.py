"""The library as a house: how long its pieces are, who knows whom, and how many calls a step takes, beside the bars.

Run: ``python benchmarks/house.py``; it takes seconds and needs nothing but torch. All figures are counts, so they are
the same on every machine with the same Python. Writes ``house.md`` beside this file.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import platform
import statistics
import sys
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

import metrize

HERE = Path(__file__).parent
PACKAGE = Path(metrize.__file__).parent
APART = ("lab", "cli")  # applications of the library, counted for circles and long files only


@dataclasses.dataclass(frozen=True)
class Figure:
    """One line of the table; a bar of None is a figure that is only told.

    Args:
        what: what was counted.
        value: the count.
        bar: the most it should be.
        found: where, if there is anything to find.
    """

    what: str
    value: float
    bar: float | None = None
    found: tuple[str, ...] = ()

    def row(self) -> str:
        if self.bar is None:
            return f"| {self.what} | {self.value:,g} | | |"
        return f"| {self.what} | {self.value:,g} | {self.bar:,g} | {'yes' if self.value <= self.bar else 'no'} |"


@dataclasses.dataclass(frozen=True)
class Class:
    """A class of the package: its name, the module that defines it, and its bases as far as they are known."""

    name: str
    module: str
    node: ast.ClassDef = dataclasses.field(compare=False, repr=False)


class Package:
    """Every module of a package, read and not imported.

    Args:
        root: its folder.
    """

    def __init__(self, root: Path) -> None:
        self.name = root.name
        self.files = {self._module(path.relative_to(root)): path for path in sorted(root.rglob("*.py"))}
        self.trees = {module: ast.parse(path.read_text()) for module, path in self.files.items()}

    def _module(self, path: Path) -> str:
        parts = path.with_suffix("").parts
        return ".".join((self.name, *(parts[:-1] if parts[-1] == "__init__" else parts)))

    def room(self, module: str) -> str:
        """The package or module directly under the root."""
        return module.split(".")[1] if "." in module else module

    @functools.cached_property
    def library(self) -> list[str]:
        """Modules of the library itself."""
        return [module for module in self.trees if self.room(module) not in APART]

    def imports(self, module: str) -> Iterator[tuple[str, str, str | None]]:
        """Local name, module and name in it (None: the module itself) of every import, wherever it stands."""
        for node in ast.walk(self.trees[module]):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield alias.asname or alias.name.partition(".")[0], alias.name, None
            elif isinstance(node, ast.ImportFrom):
                source = self._source(module, node)
                for alias in node.names:
                    inner = f"{source}.{alias.name}"
                    target = (inner, None) if inner in self.trees else (source, alias.name)
                    yield alias.asname or alias.name, *target

    def _source(self, module: str, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        inside = module.split(".") if self.files[module].name == "__init__.py" else module.split(".")[:-1]
        above = inside[: len(inside) - node.level + 1]
        return ".".join([*above, *([node.module] if node.module else [])])

    @functools.cached_property
    def arrows(self) -> dict[str, set[str]]:
        """Who imports whom: imports under TYPE_CHECKING and inside functions count like all others."""
        return {m: {t for _, t, _ in self.imports(m) if t in self.trees} - {m} for m in self.trees}

    @functools.cached_property
    def classes(self) -> dict[tuple[str, str], Class]:
        return {
            (module, node.name): Class(node.name, module, node)
            for module, tree in self.trees.items()
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
        }

    @functools.cached_property
    def _bound(self) -> dict[str, dict[str, tuple[str, str | None]]]:
        return {m: {local: (source, name) for local, source, name in self.imports(m)} for m in self.trees}

    def resolve(self, module: str, node: ast.expr) -> Class | None:
        """The class of this package that an expression such as ``Adam`` or ``rules.Adam`` names."""
        if isinstance(node, ast.Name):
            return self._named(module, node.id)
        if isinstance(node, ast.Attribute):
            inner = self._module_of(module, node.value)
            return None if inner is None else self._named(inner, node.attr)
        return None

    def _named(self, module: str, name: str) -> Class | None:
        if (module, name) in self.classes:
            return self.classes[module, name]
        source, inner = self._bound.get(module, {}).get(name, ("", None))
        if inner is None or source not in self.trees or source == module:
            return None
        return self._named(source, inner)

    def _module_of(self, module: str, node: ast.expr) -> str | None:
        if isinstance(node, ast.Attribute):
            outer = self._module_of(module, node.value)
            found = f"{outer}.{node.attr}"
        elif isinstance(node, ast.Name):
            source, name = self._bound[module].get(node.id, ("", None))
            found = source if name is None else f"{source}.{name}"
            if name is None and f"{self.name}." in source and node.id == self.name:
                found = self.name  # `import package.module` binds the package
        else:
            return None
        return found if found in self.trees else None

    def bases(self, cls: Class) -> list[Class]:
        return [base for node in cls.node.bases if (base := self.resolve(cls.module, node)) is not None]

    def is_part(self, cls: Class) -> bool:
        return any(base.name == "Part" or self.is_part(base) for base in self.bases(cls))

    @functools.cached_property
    def concrete(self) -> set[Class]:
        """Parts of the library that can stand in a recipe: neither a contract nor what several of them share."""
        parts = {cls for cls in self.classes.values() if cls.module in self.library and self.is_part(cls)}
        contracts = {
            base for cls in parts for base in self.bases(cls) if any(b.name == "Part" for b in self.bases(base))
        }
        return {cls for cls in parts - contracts if not self._abstract(cls)}

    def _abstract(self, cls: Class) -> bool:
        """It says so, is taken off the register, or leaves a method to its subclasses."""
        if any(keyword.arg == "abstract" for keyword in cls.node.keywords):
            return True
        off = (f"{cls.name}.known[", f"known.pop('{cls.name}'")
        statements = [n for n in self.trees[cls.module].body if isinstance(n, ast.Delete | ast.Expr)]
        if any(text in ast.unparse(statement) for statement in statements for text in off):
            return True
        return any(
            isinstance(node, ast.Raise) and node.exc is not None and "NotImplementedError" in ast.unparse(node.exc)
            for method in cls.node.body
            if isinstance(method, ast.FunctionDef)
            for node in method.body
        )


def asked(tree: ast.Module) -> Iterator[ast.expr]:
    """What ``isinstance``, ``issubclass`` and comparisons of ``type(x)`` ask for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) == 2:
            if node.func.id in ("isinstance", "issubclass"):
                yield from _alternatives(node.args[1])
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(isinstance(s, ast.Call) and isinstance(s.func, ast.Name) and s.func.id == "type" for s in sides):
                yield from itertools.chain.from_iterable(map(_alternatives, sides))
        elif isinstance(node, ast.MatchClass):
            yield node.cls


def _alternatives(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        yield from itertools.chain.from_iterable(map(_alternatives, node.elts))
    elif isinstance(node, ast.BinOp):
        yield from itertools.chain(_alternatives(node.left), _alternatives(node.right))
    else:
        yield node


def known_parts(package: Package) -> list[str]:
    """Where a module asks whether something is a concrete part of another room: ``place: part``."""
    return [
        f"{package.files[module].relative_to(package.files[package.name].parent)}:{node.lineno}: {cls.name}"
        for module in package.library
        for node in asked(package.trees[module])
        if (cls := package.resolve(module, node)) in package.concrete
        and package.room(cls.module) != package.room(module)
    ]


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one member (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    path: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        path.append(node)
        for other in sorted(arrows.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in path:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            component = path[path.index(node) :]
            del path[path.index(node) :]
            if len(component) > 1:
                found.append(sorted(component))

    for node in sorted(arrows):
        if node not in index:
            visit(node)
    return found


def between_rooms(package: Package) -> dict[str, set[str]]:
    """The arrows of `Package.arrows`, rooms for modules."""
    found: dict[str, set[str]] = defaultdict(set)
    for module, others in package.arrows.items():
        found[package.room(module)] |= {package.room(other) for other in others} - {package.room(module)}
    return found


Function = ast.FunctionDef | ast.AsyncFunctionDef


def _docstring(node: ast.ClassDef | Function) -> set[int]:
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return _lines(first)
    return set()


def _lines(node: ast.stmt) -> set[int]:
    return set(range(node.lineno, (node.end_lineno or node.lineno) + 1))


def _signature(node: Function) -> set[int]:
    return set(range(node.lineno, node.body[0].lineno)) or {node.lineno}


def lines_of(cls: type) -> tuple[int, int]:
    """Lines of a class beside docstrings, blank lines and the signature of its constructor, and of that signature."""
    source = textwrap.dedent(inspect.getsource(cls))
    tree = ast.parse(source)
    written = {at for at, line in enumerate(source.splitlines(), start=1) if line.strip()}
    documented = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)]
    told = set().union(*map(_docstring, documented))
    own = [n for n in documented if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    signature = set().union(*map(_signature, own)) - told
    return len(written - told - signature), len(signature & written)


def functions(package: Package) -> dict[str, int]:
    """Lines of every function of the library beside its docstring, by place."""
    return {
        f"{module}:{node.lineno}: {node.name}": len(_lines(node) - _docstring(node))
        for module in package.library
        for node in ast.walk(package.trees[module])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def calls(work: Callable[[], object], inside: Path = PACKAGE) -> int:
    """Python calls of functions in files under `inside` while `work` runs."""
    count = 0
    folder = f"{inside}/"

    def seen(frame: object, event: str, argument: object) -> None:
        nonlocal count
        if event == "call" and frame.f_code.co_filename.startswith(folder):  # type: ignore[attr-defined]
            count += 1

    before = sys.getprofile()
    sys.setprofile(seen)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def calls_of_a_step(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> int:
    """Of one warm step on two tensors of 1024 x 512."""
    params = [nn.Parameter(torch.ones(1024, 512)) for _ in range(2)]
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer = make(params)
    for _ in range(2):
        optimizer.step()
    return calls(optimizer.step)


def calls_to_build(count: int = 1000) -> int:
    """Of constructor and `init_state` of AdamW over small tensors."""
    params = [nn.Parameter(torch.ones(16)) for _ in range(count)]
    return calls(lambda: metrize.AdamW(params).init_state())


def figures(package: Package) -> Iterator[Figure]:
    """All of them, with their bars."""
    lines = {name: lines_of(cls) for name, cls in metrize.catalogue().items()}
    bodies = [body for body, _ in lines.values()]
    told = tuple(f"{name}: {body} and a signature of {own}" for name, (body, own) in sorted(lines.items()))
    yield Figure("lines of a named optimizer, median", statistics.median(bodies), 3, told)
    yield Figure("lines of a named optimizer, longest", max(bodies), 12)
    yield Figure("lines of its signature, median", statistics.median(own for _, own in lines.values()))
    yield Figure("lines of its signature, longest", max(own for _, own in lines.values()))
    known = tuple(sorted(known_parts(package)))
    yield Figure("checks for a concrete part of another room", len(known), 0, known)
    yield Figure("of these, for the recipe itself", sum(place.endswith(": Recipe") for place in known))
    of_modules, of_rooms = circles(package.arrows), circles(between_rooms(package))
    yield Figure("import circles of modules", len(of_modules), 0, tuple(", ".join(c) for c in of_modules))
    yield Figure("import circles of rooms", len(of_rooms), 0, tuple(", ".join(c) for c in of_rooms))
    lengths = {module: len(path.read_text().splitlines()) for module, path in package.files.items()}
    long = tuple(f"{module}: {length}" for module, length in lengths.items() if length > 400)
    yield Figure("files over 400 lines", len(long), 0, long)
    sizes = functions(package)
    longest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:5]
    yield Figure("lines of a function, median", statistics.median(sizes.values()))
    yield Figure("lines of a function, longest", max(sizes.values()), None, tuple(f"{n}: {sizes[n]}" for n in longest))
    yield Figure("lines of the library, outside of lab and cli", sum(lengths[module] for module in package.library))
    yield Figure("calls of a step of Lion, 2 tensors of 1024 x 512", calls_of_a_step(metrize.Lion), 150)
    yield Figure("calls of a step of SMMF, the same", calls_of_a_step(metrize.SMMF), 200)
    yield Figure("calls to build AdamW, 1,000 tensors of 16", calls_to_build(), 93_000 / 2)


def report(found: list[Figure]) -> str:
    version = ".".join(platform.python_version_tuple()[:2])
    lines = [
        "# The house in figures",
        "",
        f"Python {version}, torch {torch.__version__}. Written by `benchmarks/house.py`. A *room* is a package or a "
        "module directly under `metrize`. Lines of an optimizer leave out docstrings, blank lines and the signature of "
        "its constructor. Imports for type checkers and inside functions count. Calls are those of Python functions of "
        "the library, on a step whose state and buckets are there.",
        "",
        "| | figure | bar | reached |",
        "|---|---|---|---|",
        *(figure.row() for figure in found),
    ]
    for figure in found:
        if figure.found:
            lines += [
                "",
                f"## {figure.what[0].upper()}{figure.what[1:]}",
                "",
                *(f"- {place}" for place in figure.found),
            ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    text = report(list(figures(Package(PACKAGE))))
    (HERE / "house.md").write_text(text)
    print(text)
