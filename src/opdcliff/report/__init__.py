"""What people look at: figures, the page on a locked study, the paper's numbers beside ours."""

from __future__ import annotations

from opdcliff.report.comparison.compare import compare
from opdcliff.report.comparison.printed import print_comparison, write_comparison
from opdcliff.report.drawing.build import build_figures
from opdcliff.report.drawing.cliff import draw_study
from opdcliff.report.drawing.preview import draw_preview
from opdcliff.report.drawing.thresholds import draw_thresholds
from opdcliff.report.page import make_report, write_beside

__all__ = [
    "build_figures",
    "compare",
    "draw_preview",
    "draw_study",
    "draw_thresholds",
    "make_report",
    "print_comparison",
    "write_beside",
    "write_comparison",
]
