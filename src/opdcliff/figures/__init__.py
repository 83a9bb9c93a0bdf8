"""Figures, one file each, rebuilt from result tables."""
