"""A results folder: what is committed of the locked study, and made-up exploratory studies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from opdcliff.paths import REPO_ROOT, StudyPaths
from opdcliff.storage.canonical import write_json_atomic
from opdcliff.study.summary import onset_table
from opdcliff.theory import threshold
from opdcliff.verification.committed import seal_tables

MASSES = (0.8557, 0.4563)
STRENGTHS = {"c1p5": 1.5, "c2": 2.0, "c3": 3.0, "c5": 5.0, "c8": 8.0, "truncate": 5.0,
             "two_sided": 5.0}  # fmt: skip
KEPT = (
    "locked/mini",
    "studies/mini/quick",
    "studies/amazon_fashion/quick",
    "studies/titles/titles_onset",
    "studies/titles/titles_onset_small_step",
    "grids/scope_ranking_only",
    "previews/quick",
    "previews/near_quick",
    "previews/titles_onset",
    "previews/titles_onset_small_step",
    "previews/scope_ranking_only",
)


def made_results(root: Path) -> StudyPaths:
    """All inputs of all figures: the committed locked study and quick one, the others made up."""
    results, source = root / "results", REPO_ROOT / "results"
    for folder in KEPT:
        (results / folder).mkdir(parents=True, exist_ok=True)
        for path in (source / folder).iterdir():
            if path.is_file():
                shutil.copy(path, results / folder)
    grid = (0.8875, 0.94, 0.97, 1.0)
    for name in ("scope_llama", "scope_half", "scope_2x"):
        make_study(results, name, {"c5": grid})
    make_study(results, "clips", dict.fromkeys(("c1p5", "c3", "c8"), (0.91, 0.94, 0.97, 1.0)))
    wide = (0.8, 0.94, 1.0, 1.25, 1.5)
    make_study(results, "clip_rules", dict.fromkeys(("c5", "truncate", "two_sided", "none_"), wide))
    make_study(results, "policy_ratio_rules", dict.fromkeys(("c5", "ppo", "aspo"), wide))
    return StudyPaths(root / "runs", results, REPO_ROOT / "prereg")


def make_study(
    results: Path, name: str, arms: Mapping[str, Sequence[float]], onset: float = 0.955
) -> None:
    """Tables of a study of `arms`, clip -> multiples of lambda*, that fall at `onset` lambda*."""
    folder = results / "studies" / "mini" / name
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for clip, multiples in arms.items():
        c = STRENGTHS.get(clip, float("nan"))
        star = threshold.lambda_star(*MASSES, STRENGTHS.get(clip, 5.0))
        for multiple in multiples:
            for seed in (0, 1, 2):
                rate = 0.95 if multiple < onset + 0.001 * seed else 0.05 + 0.01 * seed
                rows.append(
                    {"clip": clip, "c": c, "estimator": "full", "warmup": 100, "budget": 200}
                    | {"lam": round(multiple * star, 4), "seed": seed, "status": "finished"}
                    | {"lambda_star": star if clip in STRENGTHS else float("nan")}
                    | {"parse_rate": rate, "ndcg1_parsed": 0.98, "ndcg1_all": 0.98 * rate}
                    | {"truncated": 1.0 - rate, "mean_length": 30.0, "record": f"{name}-{clip}"}
                )
    cells = pd.DataFrame(rows)
    cells.to_csv(folder / "cells.csv", index=False, float_format="%.6g")
    onset_table(cells).to_csv(folder / "onsets.csv", index=False, float_format="%.6g")
    shutil.copy(REPO_ROOT / "results/studies/mini/quick/calibration.csv", folder)
    committed = json.loads((REPO_ROOT / "results/studies/mini/quick/references.json").read_text())
    write_json_atomic(folder / "references.json", committed)
    seal_tables(folder, {"protocol": name})
