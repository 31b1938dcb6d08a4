"""The site builds without a warning, asks nothing of the network, and says what the library says."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from site_pages import DOCS, pages, text_of

import metrize

ROOT = DOCS.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr, built.stderr
    return folder


class _Loads(HTMLParser):
    """Addresses of whatever a browser fetches to show a page; links are not fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        rel = (given.get("rel") or "").split()
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed"):
            self.found.append(given.get("src") or "")
        elif tag == "link" and not {"canonical", "prev", "next"} & set(rel):
            self.found.append(given.get("href") or "")
        elif tag == "object":
            self.found.append(given.get("data") or "")


def test_nothing_is_fetched_from_elsewhere(site):
    for page in site.rglob("*.html"):
        loads = _Loads()
        loads.feed(page.read_text())
        outside = [url for url in loads.found if re.match(r"(https?:)?//", url)]
        assert not outside, f"{page.name}: {outside}"
    for sheet in (site / "assets").rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", sheet.read_text()), sheet.name


def test_only_pages_are_published(site):
    assert not [*site.rglob("*.py"), *site.rglob("__pycache__")]


def test_every_public_name_is_documented_once():
    asked = [name for page in pages() for name in re.findall(r"^::: metrize\.(\S+)$", text_of(page), re.MULTILINE)]
    assert sorted(asked) == sorted(metrize.__all__)


def test_every_public_name_is_on_a_page(site):
    html = "".join(page.read_text() for page in (site / "api").glob("*.html"))
    for name in metrize.__all__:
        assert f'id="metrize.{name}"' in html, name
    for name in metrize.rules.__all__:
        assert f'id="metrize.rules.{name}"' in html, name


def _hooks():
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_catalogue_is_the_library_s():
    page = SimpleNamespace(file=SimpleNamespace(src_uri="catalogue.md"))
    text = _hooks().on_page_markdown(text_of("catalogue.md"), page)
    assert "<!--" not in text
    entries = text.split("\n### ")
    assert len(entries) == len(metrize.catalogue()) + 1
    for name, optimizer in metrize.catalogue().items():
        assert f"`{name}`" not in text_of("catalogue.md"), "entries come from the library"
        entry = next(entry for entry in entries if entry.startswith(f"[`{name}`]"))
        assert f"`{optimizer.recipe()}`" in entry
        for title in ("Use it when", "Start at", "State", "Recipe"):
            assert f"**{title}**: " in entry, name
        papers = re.findall(r"arXiv:\d{4}\.\d{4,5}", optimizer.__doc__)
        assert all(f"[{paper}](https://arxiv.org/abs/" in entry for paper in papers), name


def test_papers_are_links(site):
    """Outside of code and headings."""
    for page in site.rglob("*.html"):
        if page.name in ("404.html", "changelog.html"):
            continue
        text = re.sub(r"<(a|code|pre|script|h\d|title|nav)\b.*?</\1>", "", page.read_text(), flags=re.DOTALL)
        assert not re.findall(r"arXiv:\d{4}\.\d{4,5}", re.sub(r"<[^>]*>", "", text)), page.name


QUESTIONS = {
    "replace AdamW": "index.html",
    "which optimizer": "guide/choose.html",
    "learning rate start": "guide/choose.html",
    "LoRA": "guide/fine-tuning.html",
    "QLoRA": "guide/fine-tuning.html",
    "start lr": "guide/choose.html",
    "FSDP": "guide/distributed.html",
    "FAQ": "guide/troubleshooting.html",
    "wandb": "guide/troubleshooting.html",
    "write your own": "guide/own-parts.html",
    "migrate": "guide/migrate.html",
    "galore-torch": "guide/migrate.html",
    "bitsandbytes": "guide/migrate.html",
    "troubleshooting": "guide/troubleshooting.html",
    "clip gradients": "guide/troubleshooting.html",
    "tensorboard": "guide/troubleshooting.html",
    "OneCycleLR": "guide/troubleshooting.html",
    "resume": "guide/training.html",
    "Trainer learning_rate": "guide/troubleshooting.html",
}


@pytest.fixture(scope="module")
def search(site):
    """The site's search: lunr over the built index, titles weighed as the theme weighs them, all words required."""
    lunr = pytest.importorskip("lunr")
    from lunr.stop_word_filter import WORDS

    docs = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    entries = [({**doc, "text": re.sub(r"<[^>]*>", " ", doc["text"])}, {"boost": doc.get("boost", 1)}) for doc in docs]
    fields = [{"field_name": "title", "boost": 1000}, {"field_name": "text", "boost": 1}]
    index = lunr.lunr("location", fields, entries)

    def pages_for(question):
        words = [word for word in re.split(r"[\s-]+", question.lower()) if word not in WORDS]
        return [found["ref"].partition("#")[0] for found in index.search(" ".join(f"+{word}" for word in words))]

    return pages_for


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_search_finds_the_page_first(search, question):
    assert search(question)[:1] == [QUESTIONS[question]]


def test_other_pages_are_left_alone():
    page = SimpleNamespace(file=SimpleNamespace(src_uri="index.md"))
    assert _hooks().on_page_markdown("<!-- recipes -->", page) == "<!-- recipes -->"


def test_the_lab_page_knows_every_option():
    pytest.importorskip("cyclopts")
    from metrize.cli.commands import app

    commands = (app["train"], app["compare"], app["report"], app["list"], app["data"]["mnist"])
    collections = [
        command.assemble_argument_collection(default_parameter=app.default_parameter) for command in commands
    ]
    names = {name for arguments in collections for argument in arguments for name in argument.names}
    known = {name for name in names if name.startswith("--")}
    told = set(re.findall(r"--[a-z]+(?:-[a-z]+)*", text_of("guide/lab.md") + text_of("catalogue.md")))
    assert told - {"--help"} == known - {"--folder"}  # the folder of a report is told by its place


def test_the_lab_page_knows_every_figure_of_a_run():
    from metrize.lab.tasks import TASKS
    from metrize.lab.trainer import Summary

    text = text_of("guide/lab.md")
    for name in [field.name for field in dataclasses.fields(Summary)] + list(TASKS):
        assert f"`{name}`" in text, name
    for sentence in {sentence for task in TASKS.values() for sentence in task.methods}:
        assert f"- `{sentence}`\n" in text


@pytest.mark.parametrize("page", pages())
def test_pages_speak_of_no_place_outside_the_project(page):
    for place in re.findall(r"(?<![\w.:/])(?:/(?:home|root|work|tmp|usr|opt|mnt)\b\S*|\.\./shared\S*)", text_of(page)):
        pytest.fail(f"{page} names {place}")
