"""What runs have shown, beside what was predicted of them: by point, and as onsets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from opdcliff.calibration import prepare_calibration
from opdcliff.errors import InadmissibleError
from opdcliff.models import prepare
from opdcliff.paths import StudyPaths
from opdcliff.preview.curve import Preview
from opdcliff.preview.points import Clip
from opdcliff.settings import RunConfig, clip_option
from opdcliff.storage import in_words
from opdcliff.study import grid, summarise_study
from opdcliff.theory import LEVEL, ClipRule, onset_of_seed
from opdcliff.verification import PARSE_RATE, TRAJECTORIES, check_tables, read_columns

# Of runs that share these the rates are a mean over seeds.
_SETTINGS = ["rule", "c", "estimator", "warmup", "budget"]


@dataclass(frozen=True)
class Seen:
    """Final rates of runs, a row each, and what records and code they rest on (`about_runs`)."""

    table: pd.DataFrame
    about: Mapping[str, Any]


@dataclass(frozen=True)
class Agreement:
    """Predicted beside seen.

    table: a row per clip, settings and lambda: predicted rate, its band (from the lower end of the
    interval at the widest margin to the upper end without one), the mean rate of the runs, their
    least and most, and whether the mean lies in the band. onsets: where predicted and seen rates
    fall through the level, per clip and settings; NaN where they do not.
    """

    table: pd.DataFrame
    onsets: pd.DataFrame

    @property
    def error(self) -> float:
        """Mean absolute difference of rates over the points."""
        return float((self.table.predicted - self.table.seen).abs().mean())

    @property
    def inside(self) -> int:
        """Points whose seen rate lies in the band."""
        return int(self.table.inside.sum())


def seen_in_records(config: RunConfig, paths: StudyPaths) -> Seen:
    """Of the runs of the protocol that have an outcome."""
    prepared = prepare(config, paths)
    calibration, _ = prepare_calibration(config, paths, prepared)
    cells = grid(config, calibration.binding)
    summary = summarise_study(config, cells, prepared, paths, calibration, {})
    if summary.cells.empty:
        return Seen(summary.cells, summary.about)
    return Seen(_rows(summary.cells, rate="parse_rate", length="mean_length"), summary.about)


def seen_in_table(config: RunConfig, paths: StudyPaths) -> Seen:
    """The same from the committed table of the protocol, or from one's own.

    Raises:
        InadmissibleError: there is no such table, or it is not one of ours.
        TamperedError: it is not as it was sealed.
    """
    folder = _folder(config, paths)
    noted = check_tables(folder)
    try:
        table = read_columns(folder / TRAJECTORIES)
        keys = ["clip", *_SETTINGS[2:], "lam", "seed"]
        last = table.sort_values("step", kind="stable").groupby(keys).tail(1)
        rows = _rows(last, rate=PARSE_RATE, length="eval/mean_length")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise InadmissibleError(
            f"{folder / TRAJECTORIES} is no table of runs ({in_words(error)})"
        ) from error
    return Seen(rows, {name: value for name, value in noted.items() if name != "files"})


def _rows(table: pd.DataFrame, *, rate: str, length: str) -> pd.DataFrame:
    """Final rates of a table with a row for each run, with the rule of its clip."""
    rows = table.rename(columns={rate: "rate", length: "length"})
    rules = {name: str(clip_option(name).rule) for name in set(rows["clip"])}
    rows = rows.assign(rule=rows["clip"].map(rules), c=rows["c"].fillna(math.inf))
    return rows[[*_SETTINGS, "lam", "seed", "rate", "length"]].reset_index(drop=True)


def points_in(seen: pd.DataFrame) -> dict[Clip, list[float]]:
    """The lambdas that were run at each clip."""
    return {
        Clip(ClipRule(str(rule)), float(str(c))): sorted(float(lam) for lam in part.lam.unique())
        for (rule, c), part in seen.groupby(["rule", "c"], sort=False)
    }


def agreement(found: Preview, seen: pd.DataFrame) -> Agreement:
    """Set the rates of runs beside those predicted at the same clip and lambda."""
    rows, onsets = [], []
    for key, runs in seen.groupby(_SETTINGS, sort=False):
        named = dict(zip(_SETTINGS, key, strict=True))
        curve = found.table[(found.table.rule == named["rule"]) & (found.table.c == named["c"])]
        plain = curve[curve.margin == 0.0].set_index("lam")
        wide = curve[curve.margin == curve.margin.max()].set_index("lam")
        for lam, part in runs.groupby("lam"):
            if lam not in plain.index:
                continue
            low, high = wide.parse_lo[lam], plain.parse_hi[lam]
            rows.append(
                {
                    **named,
                    "lam": lam,
                    "predicted": plain.parse_rate[lam],
                    "lo": low,
                    "hi": high,
                    "seen": part.rate.mean(),
                    "least": part.rate.min(),
                    "most": part.rate.max(),
                    "seeds": len(part),
                    "inside": bool(low <= part.rate.mean() <= high),
                    "length": plain.mean_length[lam],
                    "length_seen": part.length.mean(),
                }
            )
        onsets.append(
            {
                **named,
                "predicted": _onset(plain.index.tolist(), plain.parse_rate.tolist()),
                "with_margin": _onset(wide.index.tolist(), wide.parse_rate.tolist()),
                "seen": float(
                    np.mean(
                        [_onset(s.lam.tolist(), s.rate.tolist()) for _, s in runs.groupby("seed")]
                    )
                ),
            }
        )
    return Agreement(pd.DataFrame(rows), pd.DataFrame(onsets))


def _onset(lams: list[float], rates: list[float]) -> float:
    return onset_of_seed(lams, rates, LEVEL).point if len(lams) > 1 else math.nan


def _folder(config: RunConfig, paths: StudyPaths) -> Path:
    name = config.protocol.name
    places = (
        paths.readable.study_dir(config.data.name, name),
        paths.readable.grid_dir(name),
        paths.readable.locked_dir(name),
    )
    for folder in places:
        if (folder / TRAJECTORIES).is_file():
            return folder
    raise InadmissibleError(
        f"there is no table of the runs of protocol {name}: neither in {places[0]} nor in "
        f"grids/ or locked/; run `opdcliff study` or `collect` first"
    )
