"""The code fences of the site's pages."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
_FENCE = re.compile(r"^```(?P<info>[^\n`]+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Example:
    """One python fence.

    Args:
        code: with blank lines before it, so that line numbers of errors are those of the page.
        output: what the fence right behind it says that the code prints; None where there is none.
    """

    code: str
    output: str | None


def pages() -> list[str]:
    """Every page of the site, as a path below ``docs``."""
    return sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


def text_of(page: str) -> str:
    return (DOCS / page).read_text()


def fences(page: str, language: str) -> list[str]:
    """The bodies of all fences of a page in one language."""
    return [match["body"] for match in _FENCE.finditer(text_of(page)) if match["info"].split()[0] == language]


def examples(page: str) -> Iterator[Example]:
    """The python fences of a page with what they print."""
    text = text_of(page)
    found = list(_FENCE.finditer(text))
    for fence, following in zip(found, [*found[1:], None], strict=True):
        if fence["info"] != "python":
            continue
        told = following if following and not text[fence.end() : following.start()].strip() else None
        is_output = told is not None and told["info"] == 'text title="output"'
        above = "\n" * text.count("\n", 0, fence.start("body"))
        yield Example(above + fence["body"], told["body"] if told and is_output else None)
