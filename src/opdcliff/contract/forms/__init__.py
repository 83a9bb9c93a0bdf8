"""Contracts of one's own: what an answer must be is given with the prompts or in a file."""
