"""opd-cliff: the extrapolation cliff of on-policy distillation, predicted, locked and measured.

    >>> import opdcliff
    >>> round(opdcliff.lambda_star(p=0.99, b=0.5, c=5.0), 3)
    1.352

What is offered here is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opdcliff.calibration import calibrate
    from opdcliff.contract import RankingContract
    from opdcliff.preview import preview_pair
    from opdcliff.records import read_runs
    from opdcliff.theory import critical_lambda, lambda_star
    from opdcliff.verification import verify

__version__ = "0.1.0"
__all__ = [
    "RankingContract",
    "calibrate",
    "critical_lambda",
    "lambda_star",
    "preview_pair",
    "read_runs",
    "verify",
]

_ROOMS = {
    "RankingContract": "contract",
    "calibrate": "calibration",
    "critical_lambda": "theory",
    "lambda_star": "theory",
    "preview_pair": "preview",
    "read_runs": "records",
    "verify": "verification",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
