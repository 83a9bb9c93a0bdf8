"""Prompts: rankings, generated or from Amazon Reviews 2023, or one's own; reference answers."""

from __future__ import annotations

from opdcliff.data.amazon.kept import raw_sums
from opdcliff.data.amazon.loading import load_amazon
from opdcliff.data.amazon.shares import SplitPlan
from opdcliff.data.amazon.user_lists import UserList, UserLists, load_user_lists, read_grades
from opdcliff.data.answer_lines import AnswerLine, load_answers
from opdcliff.data.answer_style import AnswerStyle
from opdcliff.data.answers import draw_answer
from opdcliff.data.contract_form import read_form
from opdcliff.data.example import Example, Splits
from opdcliff.data.jsonl import line_of, load_prompts
from opdcliff.data.mini import SplitSizes, generate
from opdcliff.data.orders import generate_orders
from opdcliff.data.reading import reading_bar
from opdcliff.data.splits_file import read_splits, write_splits
from opdcliff.data.titles.loading import load_titles

__all__ = [
    "AnswerLine",
    "AnswerStyle",
    "Example",
    "SplitPlan",
    "SplitSizes",
    "Splits",
    "UserList",
    "UserLists",
    "draw_answer",
    "generate",
    "generate_orders",
    "line_of",
    "load_amazon",
    "load_answers",
    "load_prompts",
    "load_titles",
    "load_user_lists",
    "raw_sums",
    "read_form",
    "read_grades",
    "read_splits",
    "reading_bar",
    "write_splits",
]
