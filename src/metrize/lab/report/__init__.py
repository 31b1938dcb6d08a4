"""The report of a run or a comparison: table, figures and one self-contained page."""

from metrize.lab.report.page import Report, draw_report
from metrize.lab.report.table import Column, Row

__all__ = ["Column", "Report", "Row", "draw_report"]
