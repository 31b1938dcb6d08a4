"""Build hook of the site: the catalogue page's tables are read from the library, and the changelog from its root."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import metrize
from metrize.frames import Frame
from metrize.moments import Moments
from metrize.part import Part
from metrize.rules import Rule
from metrize.step_sizes import StepSize

_SLOTS: dict[str, type[Part]] = {
    "space": metrize.Space,
    "frame": Frame,
    "moments": Moments,
    "rule": Rule,
    "step_size": StepSize,
}


CHANGELOG = Path(__file__).parents[1] / "CHANGELOG.md"


def on_files(files: Any, config: Any) -> Any:
    """Add the changelog, whose links to pages start at the root of the repository."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "changelog.md", content=CHANGELOG.read_text().replace("](docs/", "](")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill the tables into the page that asks for them."""
    if page.file.src_uri != "catalogue.md":
        return markdown
    for marker, table in {"<!-- recipes -->": recipes, "<!-- defaults -->": defaults, "<!-- parts -->": parts}.items():
        if marker not in markdown:
            raise ValueError(f"catalogue.md has no {marker}")
        markdown = markdown.replace(marker, table())
    return markdown


def recipes() -> str:
    """A row an optimizer: what its recipe puts into each slot, and its decay."""
    fields = [field.name for field in dataclasses.fields(metrize.Recipe)]
    rows = [
        [_link(name), *(_slot(getattr(cls.recipe(), field)) for field in fields)]
        for name, cls in metrize.catalogue().items()
    ]
    return _table(["optimizer", *(field.replace("_", " ") for field in fields)], rows)


def defaults() -> str:
    """A row an optimizer: the numbers it starts with."""
    return _table(["optimizer", "numbers"], [[_link(name), _numbers(cls)] for name, cls in metrize.catalogue().items()])


def parts() -> str:
    """A row a slot: the parts that fit it."""
    return _table(["slot", "parts"], [[f"`{slot}`", ", ".join(_fitting(kind))] for slot, kind in _SLOTS.items()])


def _link(name: str) -> str:
    return f"[`{name}`][metrize.{name}]"


def _slot(value: Any) -> str:
    return "as declared" if value is None else f"`{value}`"


def _numbers(cls: type[Any]) -> str:
    parameters = inspect.signature(cls).parameters.values()
    given = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is not p.empty]
    return ", ".join(f"`{p.name}={p.default!r}`" for p in given)


def _fitting(kind: type[Part]) -> Iterable[str]:
    return (f"`{name}`" for name, cls in sorted(Part.known.items()) if issubclass(cls, kind) and cls is not kind)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
