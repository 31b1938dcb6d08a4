"""``python -m metrize``: the command line."""

import sys

from metrize.cli import main

sys.exit(main())
