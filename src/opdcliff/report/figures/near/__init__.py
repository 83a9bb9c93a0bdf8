"""Figures of nearly deterministic text and its budgets."""
