"""Figures on settled students that were sampled before any run."""
