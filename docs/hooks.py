"""Build hook of the site: the catalogue is read from the library, the changelog from its root; papers become links."""

from __future__ import annotations

import functools
import html
import inspect
import math
import re
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


WHEN = {
    "Adam": "you want Adam with L2 decay, or Adam on a manifold",
    "AdamW": "you replace torch's AdamW: the same bits, and a baseline for all else",
    "Adam8bit": "AdamW's state should take a quarter of its bytes",
    "Adam4bit": "AdamW's state should take an eighth of its bytes",
    "SGD": "you train a convolutional network with momentum, or want no second moments",
    "SignSGD": "no state at all may be kept",
    "Signum": "one average is all that fits, and signs are enough",
    "Lion": "one average should do, with a learning rate a third to a tenth of AdamW's",
    "NormSGD": "you want steepest descent in a norm of your own",
    "Muon": "hidden matrices dominate; set `rest` to the rate that suits AdamW",
    "Scion": "every role should step in a norm of its own, inside a ball",
    "ModularNorm": "rates should carry over between widths and depths",
    "Prodigy": "there is no time to tune a learning rate",
    "Adafactor": "a matrix may keep its rows and columns only",
    "CAME": "Adafactor is unstable, and one average fits; start at a tenth of AdamW's rate",
    "SM3": "features are sparse, and sums of squares suit",
    "SMMF": "both averages should take a fiftieth of AdamW's bytes",
    "HFac": "momentum too may keep its rows and columns only",
    "AdamMini": "AdamW's second moments should go, and roles are known",
    "Adalayer": "you study how much adaptivity a model needs",
    "AMSGrad": "Adam does not converge",
    "AdaGrad": "features are sparse and the problem is convex",
    "AdamNC": "you want Adam with a proof of convergence",
    "Grams": "Adam should never step against the gradient of the batch",
    "MARS": "batches are noisy: it corrects the gradient by the one before",
    "AdEMAMix": "runs are long: a slow second average remembers gradients of thousands of steps ago",
    "ADOPT": "Adam does not converge, or b2 is hard to choose",
    "LaProp": "gradients should be scaled before they are averaged, so that both betas can be chosen freely",
    "AdaBelief": "steps should be long where gradients agree with their average",
    "Tiger": "as Lion or Signum, with one slow average and nothing to look ahead",
    "NAdam": "you want Adam with Nesterov's momentum",
    "FAdam": "you want the reading of Adam as natural gradient",
    "GaLore": "matrices are large and their gradients of low rank",
    "COAP": "as GaLore, with convolutions, and without singular value decompositions",
    "Flora": "gradients are accumulated and only a seed may be kept",
    "APOLLO": "as GaLore, with a random basis of very low rank",
    "SOAP": "fewer steps are worth more memory and more work in each",
    "Shampoo": "you want the method of the paper itself",
    "DistributedShampoo": "you want Shampoo with grafting and blocks, as in its authors' code",
    "StiefelSMMF": "large matrices have to stay orthonormal, and state has to be small",
    "GrassmannSOAP": "you look for a subspace, and its directions differ in curvature",
    "SOAP8bit": "as SOAP, with averages in a quarter of the bytes",
    "COAPMuon": "as Muon, with momentum in a subspace",
    "FreeMuon": "as Muon, without a learning rate to tune",
    "NorMuon": "as Muon, with rows of the update scaled to one length",
    "AdaMuon": "as Muon, with entries of the update scaled as in Adam",
}
"""In which case an optimizer of the catalogue is worth a try."""

CHANGELOG = Path(__file__).parents[1] / "CHANGELOG.md"


def on_files(files: Any, config: Any) -> Any:
    """Add the changelog, whose links to pages start at the root of the repository."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "changelog.md", content=CHANGELOG.read_text().replace("](docs/", "](")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill the catalogue into the page that asks for it."""
    if page.file.src_uri != "catalogue.md":
        return markdown
    for marker, text in {"<!-- recipes -->": recipes, "<!-- parts -->": parts}.items():
        if marker not in markdown:
            raise ValueError(f"catalogue.md has no {marker}")
        markdown = markdown.replace(marker, text())
    return markdown


def on_page_content(content: str, page: Any, **_: Any) -> str:
    """Make a link of every paper, and say in every cell of a table which column it is in, for narrow screens."""
    return _with_papers(_with_titles(content))


def recipes() -> str:
    """An entry for each optimizer of the catalogue."""
    return "\n\n".join(_entry(name, cls) for name, cls in metrize.catalogue().items())


def _entry(name: str, cls: type[Any]) -> str:
    """What it is, where it begins, what it keeps and what it is made of."""
    text = inspect.getdoc(cls) or ""
    first = re.sub(r" \((?=arXiv|https)[^()]*\)", "", text.partition("\n\n")[0].replace("\n", " "))
    papers = [f"[{paper}]({_address(paper)})" for paper in dict.fromkeys(_PAPER.findall(text))]
    lines = {
        "Use it when": WHEN[name],
        "Start at": _start(cls),
        "State": f"{_bytes(cls):.3g} bytes per parameter of a 1024 x 1024 matrix",
        "Paper": ", ".join(papers),
        "Recipe": f"`{cls.recipe()}`",
        "Numbers": _numbers(cls),
    }
    told = [f"- **{title}**: {value}" for title, value in lines.items() if value]
    return "\n".join([f"### {_link(name)} {{: #{name.lower()} }}", "", first, "", *told])


def _start(cls: type[Any]) -> str:
    lr = inspect.signature(cls).parameters["lr"].default
    return "no learning rate: steps are relative to the weights" if lr is None else f"`lr={lr:g}`"


@functools.cache
def _bytes(cls: type[Any]) -> float:
    """State of one parameter of a hidden matrix."""
    shape = (1024, 64) if cls in (metrize.StiefelSMMF, metrize.GrassmannSOAP) else (1024, 1024)
    return metrize.predict([shape], cls).state / math.prod(shape)


def _address(paper: str) -> str:
    return f"https://arxiv.org/abs/{paper.removeprefix('arXiv:')}" if paper.startswith("arXiv:") else paper


_PAPER = re.compile(r"arXiv:\d{4}\.\d{4,5}|https?://[\w./-]+[\w/]")
_TAG = re.compile(r"(<[^>]*>)")


def _with_papers(content: str) -> str:
    """The text between tags, with links in place of names of papers, where there is no link or code around it."""
    found, inside = [], 0
    for piece in _TAG.split(content):
        if match := re.match(r"<(/?)(a|code|pre|script|style|svg|h[1-6])\b", piece):
            inside += -1 if match[1] else not piece.endswith("/>")
        elif not piece.startswith("<") and not inside:
            piece = _PAPER.sub(lambda paper: f'<a href="{_address(paper[0])}">{paper[0]}</a>', piece)
        found.append(piece)
    return "".join(found)


def _with_titles(content: str) -> str:
    return re.sub(r"<table>.*?</table>", lambda table: _titled(table[0]), content, flags=re.DOTALL)


def _titled(table: str) -> str:
    heads = [html.unescape(re.sub(_TAG, "", head)) for head in re.findall(r"<th[^>]*>(.*?)</th>", table, re.DOTALL)]

    def row(match: re.Match[str]) -> str:
        titles = iter(heads)
        return re.sub(r"<td", lambda _: f'<td data-title="{html.escape(next(titles, ""))}"', match[0])

    return re.sub(r"<tr>.*?</tr>", row, table, flags=re.DOTALL)


def parts() -> str:
    """A row a slot: the parts that fit it."""
    return _table(["slot", "parts"], [[f"`{slot}`", ", ".join(_fitting(kind))] for slot, kind in _SLOTS.items()])


def _link(name: str) -> str:
    return f"[`{name}`][metrize.{name}]"


def _numbers(cls: type[Any]) -> str:
    parameters = inspect.signature(cls).parameters.values()
    given = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is not p.empty]
    return ", ".join(f"`{p.name}={p.default!r}`" for p in given)


def _fitting(kind: type[Part]) -> Iterable[str]:
    return (f"`{name}`" for name, cls in sorted(Part.known.items()) if issubclass(cls, kind) and cls is not kind)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
