"""Data sets: the generated task and Amazon Reviews 2023."""
