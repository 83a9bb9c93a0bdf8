"""What teacher, warm start and their calibration differ by when they are trained anew elsewhere.

No committed table has that spread: seeds of a study share their models, and the interval of a
calibration is one over prompts. So it was measured. `benchmarks/rounding.py` trains the models of
the quick study from weights moved by one unit in the last place, as other rounding moves them soon
after the start, and calibrates them: 24 draws, in benchmarks/rounding.csv.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from scipy import stats

# A study that is an honest rerun may be called different once in this many.
HONEST_RERUNS = 100
# Numbers of a study that are judged at once, at most; the quick study has 723.
NUMBERS = 1000
# The bound that all of them keep together (Bonferroni), in standard deviations: where those are
# known or follow from counts, and where they were estimated from DRAWS draws (Student).
DRAWS = 24
_TAIL = 1 / HONEST_RERUNS / NUMBERS / 2
SIGMAS = NormalDist().inv_cdf(1 - _TAIL)
SIGMAS_OF_DRAWS = float(stats.t.ppf(1 - _TAIL, DRAWS - 1))
# Of the difference of two draws of one distribution, in standard deviations of a draw.
TWO_DRAWS = math.sqrt(2.0)


@dataclass(frozen=True)
class Spread:
    """Standard deviation over draws: p, b of log-odds, log_star of the logarithm of lambda*(5).

    lambda* at a smaller clip strength spreads less.
    """

    p: float
    b: float
    log_star: float


# Measured [M], rounded up; of free text the root mean square over its five rows.
SPREADS = {
    "brace": Spread(p=0.195, b=0.0096, log_star=0.0088),
    "key": Spread(p=0.194, b=0.152, log_star=math.inf),
    "id": Spread(p=0.093, b=0.0458, log_star=0.0070),
    "text": Spread(p=0.0088, b=0.0150, log_star=0.0043),
    "eos": Spread(p=0.193, b=0.0713, log_star=0.0090),
}
# Odds of tokens that a model is almost certain of, or gives next to no mass.
RARE = math.sqrt(sum(SPREADS[name].p ** 2 for name in ("brace", "key", "id", "eos")) / 4)


def apart(spread: float) -> float:
    """How far two calibrations may be apart in a number that spreads so over draws."""
    return SIGMAS_OF_DRAWS * TWO_DRAWS * spread
