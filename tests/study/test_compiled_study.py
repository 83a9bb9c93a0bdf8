"""A study whose answers a compiled step draws has the cells of one on the reference path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from opdcliff.models import decoding
from opdcliff.paths import StudyPaths
from opdcliff.settings.checks import load
from opdcliff.settings.compose import compose_one
from opdcliff.study.study import run_study
from workshop import SECONDS

REST = "estimator: full, warmup_updates: 2, updates: null"
ARMS = f"[{{name: c5, clip: c5, multiples: [0.8, 1.2], seeds: [0, 1], {REST}}}]"
# One layer is compiled in half the time of two.
WORDS = [*SECONDS, "model.arch.layers=1", f"protocol.arms={ARMS}", "protocol.workers=2"]


def study(folder: Path, backend: str) -> tuple[pd.DataFrame, list[dict[str, Any]], list[float]]:
    """Its cells, what their manifests say of decoding, and the share that a step has drawn."""
    config = load(compose_one([*WORDS, f"rollout.backend={backend}"]))
    paths = StudyPaths(folder / backend, folder / "results")
    result = run_study(config, paths)
    assert not result.failures
    records = sorted((paths.runs / "quick").iterdir())
    told = [json.loads((r / "manifest.json").read_text())["extras"]["decoding"] for r in records]
    rows = [
        json.loads(line)["metrics"]
        for record in records
        for line in (record / "metrics.jsonl").read_text().splitlines()
    ]
    name = "train/compiled_rollouts"
    return result.summary.cells, told, [row[name] for row in rows if name in row]


@pytest.mark.slow
def test_both_paths_give_the_same_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "STEPS_THAT_PAY", 0)
    cells, told, shares = study(tmp_path, "compiled")
    assert {each["backend"] for each in told} == {"compiled"}
    assert set(shares) == {1.0}
    expected, told, shares = study(tmp_path, "reference")
    assert told == [{"backend": "reference", "reason": None, "step": None}] * len(expected)
    assert set(shares) == {0.0}
    assert len(cells) == 4
    # The same tokens, scored alike: what differs is the last bits of weights that were trained.
    pd.testing.assert_frame_equal(cells, expected, rtol=1e-3, atol=1e-6)
