"""The command line: ``metrize train | compare | report | list | plan | memory | data``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

# Which extra brings which package; a command imports what it needs when it is called.
_EXTRAS = {
    "cyclopts": "cli",
    "rich": "cli",
    "jinja2": "cli",
    "matplotlib": "plot",
    "numpy": "data",
    "sklearn": "data",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words behind ``metrize``; None takes those of the process.

    Returns:
        the exit status: 0, 2 for an error that the user can mend, 130 after Ctrl-C.
    """
    try:
        from metrize.cli.commands import run

        return run(sys.argv[1:] if arguments is None else arguments)
    except ModuleNotFoundError as missing:
        package = (missing.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        print(f"metrize: {package} is not installed; pip install 'metrize[{_EXTRAS[package]}]'", file=sys.stderr)
        return 2
