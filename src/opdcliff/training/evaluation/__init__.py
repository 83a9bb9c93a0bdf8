"""Answers judged, a run measured between two updates."""
