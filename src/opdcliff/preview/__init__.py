"""Settled students, sampled before any is trained: parse rates over lambda, and what breaks."""

from __future__ import annotations

from opdcliff.preview.curve import Preview, preview
from opdcliff.preview.pair import preview_pair
from opdcliff.preview.points import Clip
from opdcliff.preview.seen import (
    Agreement,
    Seen,
    agreement,
    points_in,
    seen_in_records,
    seen_in_table,
)

__all__ = [
    "Agreement",
    "Clip",
    "Preview",
    "Seen",
    "agreement",
    "points_in",
    "preview",
    "preview_pair",
    "seen_in_records",
    "seen_in_table",
]
