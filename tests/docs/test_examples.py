"""The code of the site runs, prints what the page says, and does not take minutes; its commands are ones that exist."""

from __future__ import annotations

import doctest
import itertools
import random
import shlex
import time

import pytest
import torch
from site_pages import DOCS, examples, fences, pages

WITH_CODE = [page for page in pages() if fences(page, "python")]


@pytest.mark.parametrize("page", WITH_CODE)
def test_the_examples_of_a_page_run_in_order(page, capsys):
    torch.manual_seed(random.randrange(2**32))  # a page that needs a seed must set it
    namespace: dict[str, object] = {"__name__": "example"}
    for example in examples(page):
        start = time.process_time()
        exec(compile(example.code, str(DOCS / page), "exec", dont_inherit=True), namespace)
        seconds = time.process_time() - start  # what a busy machine stretches, and first imports are among it
        printed = capsys.readouterr().out
        if example.output is not None:
            assert _alike(example.output, printed), f"{page} promises:\n{example.output}\nand prints:\n{printed}"
        else:
            assert not printed, f"{page} does not show what this prints: {printed}"
        assert seconds < 20, f"an example of {page} takes {seconds:.1f} s"


def _alike(promised: str, printed: str) -> bool:
    return doctest.OutputChecker().check_output(promised, printed, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)


def test_every_page_that_teaches_has_code():
    assert {"index.md", "idea.md", "guide/manifolds.md", "guide/training.md"} <= set(WITH_CODE)


def _lines(fence):
    return fence.replace("\\\n", " ").splitlines()


def _commands():
    joined = (line for page in pages() for fence in fences(page, "bash") for line in _lines(fence))
    return [line for line in joined if line.startswith("metrize ")]


@pytest.mark.parametrize("command", _commands())
def test_commands_are_understood(command):
    pytest.importorskip("cyclopts")
    from metrize.cli.commands import app

    _, bound, *_ = app.parse_args(shlex.split(command)[1:], exit_on_error=False, print_error=False)
    assert bound.arguments


@pytest.mark.parametrize("command", [command for command in _commands() if " compare " in command])
def test_methods_in_commands_exist(command):
    pytest.importorskip("cyclopts")
    import metrize
    from metrize.lab.compare import parse_method
    from metrize.lab.config import RunConfig

    words = shlex.split(command)
    for flag, sentence in itertools.pairwise(words):
        if flag == "--method":
            config = parse_method(sentence, RunConfig())
            assert config.optimizer in metrize.catalogue()
            assert config.space is None or metrize.parse_space(config.space)
