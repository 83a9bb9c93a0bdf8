"""Settled students, sampled before any is trained: parse rates over lambda, and what breaks."""

from __future__ import annotations

from opdcliff.preview.curve import Preview, preview
from opdcliff.preview.pair import preview_pair

__all__ = ["Preview", "preview", "preview_pair"]
