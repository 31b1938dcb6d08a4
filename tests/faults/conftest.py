"""The parts of `tests/composition/sentences.py`, which every new part has to be among."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "composition"))
