"""A judge behind an API: lists in, a rubric file out, and how far its grades can be trusted.

Grades come from answers alone: what a judge refuses or garbles is counted, never filled in.
"""

from __future__ import annotations

from opdcliff.grading.run import grade_lists, graded_before
from opdcliff.grading.tables import print_grading, print_plan

__all__ = [
    "grade_lists",
    "graded_before",
    "print_grading",
    "print_plan",
]
