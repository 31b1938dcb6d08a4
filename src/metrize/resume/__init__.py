"""Checkpoints as values: what was saved, whoever wrote it, and which of it belongs to which parameter."""

from metrize.resume.arrange import Arranged, Source, arranged, check_place
from metrize.resume.averages import averages_of, stacked_alone
from metrize.resume.foreign import check_origin, read_foreign
from metrize.resume.saved import FORMAT, UPGRADES, SavedGroup, read
from metrize.resume.settings import differences, other_meaning

__all__ = [
    "FORMAT",
    "UPGRADES",
    "Arranged",
    "SavedGroup",
    "Source",
    "arranged",
    "averages_of",
    "check_origin",
    "check_place",
    "differences",
    "other_meaning",
    "read",
    "read_foreign",
    "stacked_alone",
]
