"""Pages for users say what is there, and promise nothing."""

import re

import pytest
from site_pages import DOCS, pages

PROMISES = re.compile(r"not (yet )?tested|untested|\bplanned\b|not (yet )?supported|coming soon", re.I)
GUIDES = [DOCS / page for page in pages() if page.startswith("guide/")]


@pytest.mark.parametrize("page", [DOCS.parent / "README.md", DOCS / "index.md", *GUIDES], ids=lambda page: page.name)
def test_a_page_for_users_makes_no_promises(page):
    lines = page.read_text().splitlines()
    assert not [f"{number}: {line}" for number, line in enumerate(lines, start=1) if PROMISES.search(line)]
