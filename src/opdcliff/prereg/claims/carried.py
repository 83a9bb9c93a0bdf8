"""Test of how the shortfall shrinks: an earlier lock's, the same in logits, here.

Positions that spread, and students that stray, by the same number of logits lose their tails

    shortfall / (logit p - logit b)

below lambda*, which is ever less of lambda* as p nears 1. The shortfall is what an earlier lock
saw, the interval of its onset under its own lambda*; nothing of this pair enters but p and b.
Source: docs/theory.md, point 20.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from opdcliff.errors import ConfigError
from opdcliff.paths import StudyPaths
from opdcliff.prereg.claims.grounds import Grounds, onset_test
from opdcliff.prereg.windows import checked_window, grid_step
from opdcliff.storage import decode_floats
from opdcliff.theory import threshold
from opdcliff.verification import (
    LOCK_FILE,
    VERDICTS,
    LockedTest,
    OnsetEstimator,
    check_tables,
    read_lock,
    read_test,
)

_RULE = (
    "[D] rule in opdcliff.prereg.claims.carried; inputs [M] calibration, and the interval of an "
    "onset locked before"
)


@dataclass(frozen=True)
class Shortfall:
    """How far a locked onset lay under lambda*, in logits: the ends of its interval.

    said: which test of which lock that is, and at what p and clip.
    """

    low: float
    high: float
    said: str


def earlier_shortfall(named: str | None, paths: StudyPaths) -> Shortfall | None:
    """The shortfall that a committed verdict gives. named: LOCK/TEST; None carries nothing.

    Raises:
        ConfigError: no such test of an onset, or no interval of it in verdicts of that lock.
        InadmissibleError: there is no such lock, or nothing of its runs is committed.
        TamperedError: its verdicts were edited.
    """
    if named is None:
        return None
    said = f"protocol.predictions.carried={named}"
    protocol, _, name = named.partition("/")
    folder = paths.prereg_dir(protocol)
    lock, broken = read_lock(folder)
    if lock is None or broken:
        raise ConfigError(f"{said}: {folder / LOCK_FILE} is not as it was sealed; restore it")
    if f"{name}.yaml" not in lock.tests:
        allowed = ", ".join(f"{protocol}/{file.removesuffix('.yaml')}" for file in lock.tests)
        raise ConfigError(f"{said} is no test of that lock; allowed: {allowed}")
    test, strength = read_test(folder / f"{name}.yaml"), None
    if isinstance(test.estimator, OnsetEstimator):
        strength = test.design.strength
    if strength is None:
        raise ConfigError(f"{said} reads no onset at a clip; name a test that does, e.g. mini/T3")
    verdicts = paths.committed.locked_dir(protocol) / VERDICTS
    check_tables(verdicts.parent)
    if not verdicts.is_file():
        raise ConfigError(f"{said}: {verdicts} does not exist; `opdcliff verify` makes it")
    found = decode_floats(json.loads(verdicts.read_text(encoding="utf-8")))
    if found["lock_sha256"] != lock.sha256:
        raise ConfigError(f"{said}: {verdicts} is of another lock; restore both from git")
    interval = found["tests"][name]["interval"]
    if interval is None or not all(map(math.isfinite, interval)):
        raise ConfigError(
            f"{said} has no onset between two ends in {verdicts}, so nothing to carry; name a test "
            "that has one"
        )
    binding = lock.calibration["binding"]
    p, b = float(binding["p"]), float(binding["b"])
    gap = threshold.logit(p) - threshold.logit(b)
    star = threshold.lambda_star(p, b, strength)
    low, high = (gap * (star - end) for end in reversed(interval))
    return Shortfall(low, high, f"{named}, p = {p:.4f}, c = {strength:g}")


def carried_tests(grounds: Grounds, earlier: Shortfall | None) -> list[LockedTest]:
    """The test of the fine grid's onset; none where nothing is carried.

    Raises:
        ConfigError: a window that is vacuous or impossible on its grid.
    """
    if earlier is None:
        return []
    arm = grounds.predictions.fine_grid
    lams, rows = grounds.arms[arm].lams, grounds.masses(arm)
    half = 0.5 * grid_step(lams)
    lows = [row.star_lo - earlier.high / row.gain for row in rows]
    highs = [row.star_hi - earlier.low / row.gain for row in rows]
    low, high = (", ".join(f"{end:.4f}" for end in ends) for ends in (lows, highs))
    derivation = (
        f"{earlier.low:.4f} to {earlier.high:.4f} logits short, as in {earlier.said}; lowest of "
        f"{low}, highest of {high}; over masses of {' and '.join(row.where for row in rows)}; each "
        f"side half a grid step, {half:.4f}, wider"
    )
    return [
        onset_test(
            grounds,
            "N3",
            arm,
            checked_window(min(lows) - half, max(highs) + half, derivation, lams),
            claim="The shortfall is the same in logits as farther from determinism, and so less of "
            "lambda*.",
            source="derived here [D], theory point 20",
            hypothesis=f"the onset lies as many logits short of lambda* as in {earlier.said}",
            correction="none",
            rule=_RULE,
        )
    ]
