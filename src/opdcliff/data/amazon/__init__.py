"""Ranking problems from the raw files of Amazon Reviews 2023, category Fashion."""
