"""Settled students, sampled before any is trained: parse rates over lambda, and what breaks."""

from __future__ import annotations

from opdcliff.preview.curve import Preview, preview

__all__ = ["Preview", "preview"]
