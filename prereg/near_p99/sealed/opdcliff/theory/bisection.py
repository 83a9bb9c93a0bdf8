"""The grid cell in which a seed's onset lies, by bisection: most lambdas of a grid need no run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from opdcliff.theory.onset import Onset


def bisected(lams: Sequence[float], holds: Callable[[float], bool | None]) -> Onset | float:
    """The bracket of an onset on the grid `lams`, or the lambda to run before it is known.

    holds: whether a run at a lambda stayed up; None where there is none yet. Starts in the middle
    and halves what is left, so that floor(log2 n) + 1 of n lambdas are asked for at most, and the
    same ones whoever asks. A lambda that is not on that path is not looked at: what it would say
    cannot move the bracket. point: the middle of the cell, NaN where the onset is beyond an end.
    Takes it that a run that holds tells the same of every lambda below it.
    """
    grid = sorted(lams)
    below, above = -1, len(grid)
    while above - below > 1:
        middle = (below + above) // 2
        held = holds(grid[middle])
        if held is None:
            return grid[middle]
        below, above = (middle, above) if held else (below, middle)
    low = grid[below] if below >= 0 else -math.inf
    high = grid[above] if above < len(grid) else math.inf
    point = (low + high) / 2 if math.isfinite(high - low) else math.nan
    return Onset(point, low, high)
