"""A study run here beside the committed one."""
