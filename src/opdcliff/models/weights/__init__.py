"""Weights as they are read: what the library says of them, and rows that are cut."""
