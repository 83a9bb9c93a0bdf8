"""opd-cliff: the extrapolation cliff of on-policy distillation, predicted, locked and measured."""

__version__ = "0.1.0"
