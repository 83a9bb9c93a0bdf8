"""Modal classes and tails that a model forbids: masses of exactly 0 and 1, thresholds at limits."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import markov
from forbidding import forbid
from opdcliff.calibration.class_masses import Binding, calibrate_trio
from opdcliff.calibration.modal_mass import label, modal_logits
from opdcliff.contract.parse import RANKING_WITH_REASON
from opdcliff.models.trio import assemble
from opdcliff.settings.schema import CalibrationConfig
from opdcliff.training.evaluation.masses import class_metrics, measure_masses

WORDS = 6
TOKENIZER = markov.tokenizer(WORDS)
NAMES = markov.tokens(WORDS)
ROLLOUT = markov.rollout(TOKENIZER, ["p"], [(markov.OPEN, " w0", " w1", markov.CLOSE)])
CODEC = markov.codec_of(TOKENIZER)
SETS = CODEC.labels(RANKING_WITH_REASON)
POSITIONS = label(ROLLOUT, [markov.example()], SETS)
# The modal class of a text position, and its tail.
TEXT = POSITIONS.sets[POSITIONS.set_BT[0, 1]].tolist()
REST = [i for i in range(len(NAMES)) if i not in TEXT]


@pytest.mark.parametrize(("entries", "expected"), [(TEXT, -math.inf), (REST, math.inf)])
def test_a_class_without_mass_has_an_infinite_logit(entries: list[int], expected: float) -> None:
    model = forbid(markov.chain([0.7] * WORDS), entries)
    values = modal_logits(model, ROLLOUT, POSITIONS, temperature=1.0, chunk_tokens=2)
    assert values[0, 1:4].tolist() == [expected] * 3


def test_forbidden_entries_leave_the_other_masses_alone() -> None:
    plain = markov.chain([0.7] * WORDS, torch.float64)
    other = forbid(markov.chain([0.7] * WORDS, torch.float64), [0, 2])
    first, second = (
        modal_logits(model, ROLLOUT, POSITIONS, temperature=1.0, chunk_tokens=2)
        for model in (plain, other)
    )
    torch.testing.assert_close(first, second)


def test_metrics_of_a_run_leave_infinite_logits_out() -> None:
    """The teacher forbids the whole class of text positions, and OPEN, which belongs to it."""
    base = markov.chain([0.5] * WORDS)
    trio = assemble(base, forbid(markov.chain([0.9] * WORDS), TEXT), CODEC)
    masses = measure_masses(
        trio, ROLLOUT, [markov.example()], SETS, temperature=1.0, chunk_tokens=8
    )
    metrics = class_metrics(masses, lam=1.4, strength=5.0)
    assert "train/tail_ratio/text" not in metrics
    assert all(math.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize(
    ("p", "b", "expected"),
    [(1.0, 0.5, 1.0), (0.5, 0.0, 1.0), (0.0, 0.5, math.inf), (0.0, 0.0, math.inf)],
)
def test_masses_at_the_edge_give_the_limit_of_the_threshold(
    p: float, b: float, expected: float
) -> None:
    assert Binding("text", "0-3", p, b).lambda_star(5.0) == expected


def test_a_teacher_that_forbids_the_text_has_no_threshold_there() -> None:
    config = CalibrationConfig(
        prompts=16, forced_words=8, offset_bin=4, bootstrap=10, strengths=[5.0], seed=0
    )
    base = markov.chain([0.5] * WORDS)
    found = calibrate_trio(
        assemble(base, forbid(markov.chain([0.9] * WORDS), TEXT), CODEC),
        [markov.example(i) for i in range(16)],
        RANKING_WITH_REASON,
        config,
        replace(markov.config().rollout, max_new_tokens=24, temperature=1.0),
        chunk_tokens=64,
    )
    text = found.table[(found.table["class"] == "text") & (found.table.offsets == "all")]
    assert text.p.item() == 0.0
    assert text.lambda_star_c5.item() == math.inf
    assert found.binding is None
