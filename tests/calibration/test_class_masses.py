"""Calibration: chains of known masses, forced continuation, and what may bind."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import markov
from opdcliff.calibration import forced
from opdcliff.calibration.class_masses import MIN_POSITIONS, Calibration, calibrate_trio, tabulate
from opdcliff.contract.parse import RANKING_ONLY, RANKING_WITH_REASON, RankingContract
from opdcliff.models import answering
from opdcliff.models.trio import Trio, assemble
from opdcliff.rollout.draws import Rollout
from opdcliff.settings.schema import CalibrationConfig
from opdcliff.theory.threshold import lambda_star

TEACHER, BASE = [0.9] * 6, [0.5] * 6


def settings(**changes: Any) -> CalibrationConfig:
    values: dict[str, Any] = {
        "prompts": 32,
        "forced_words": 12,
        "offset_bin": 4,
        "bootstrap": 50,
        "strengths": [5.0, 2.0],
        "seed": 0,
    }
    return CalibrationConfig(**values | changes)


def measured(
    trio: Trio, contract: RankingContract = RANKING_WITH_REASON, **changes: Any
) -> Calibration:
    return calibrate_trio(
        trio,
        [markov.example(i) for i in range(40)],
        contract,
        settings(**changes),
        replace(markov.config().rollout, max_new_tokens=24, temperature=1.0),
        chunk_tokens=64,
    )


def row(calibration: Calibration, name: str, offsets: str = "all") -> pd.Series[Any]:
    table = calibration.table
    (index,) = table.index[(table["class"] == name) & (table["offsets"] == offsets)]
    return table.loc[index]


@pytest.fixture
def rollouts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Rollout, list[int]]]:
    """What calibration samples, natural answers first, with the numbers of their prompts."""
    seen: list[tuple[Rollout, list[int]]] = []
    original = answering.sample

    def recording(*arguments: Any, **options: Any) -> Rollout:
        seen.append((original(*arguments, **options), list(options["numbers"])))
        return seen[-1][0]

    for place in (answering, forced):
        monkeypatch.setattr(place, "sample", recording)
    return seen


# ---- chains of known masses -----------------------------------------------------------------


def test_known_masses_are_recovered() -> None:
    teacher = markov.chain(TEACHER, opens=0.99, ends=0.999)
    calibration = measured(markov.trio(teacher, markov.chain(BASE)))
    table = calibration.table
    assert sorted(set(table["class"])) == ["brace", "eos", "text"]
    for name, p, b in (("brace", 0.99, 0.97), ("text", 0.9, 0.5), ("eos", 0.999, 0.95)):
        found = row(calibration, name)
        assert [found.p, found.p_lo, found.p_hi] == pytest.approx([p] * 3, abs=1e-6)
        assert [found.b, found.b_lo, found.b_hi] == pytest.approx([b] * 3, abs=1e-6)
        for c in (5, 2):
            star = lambda_star(p, b, c)
            bounds = [found[f"lambda_star_c{c}{end}"] for end in ("", "_lo", "_hi")]
            assert bounds == pytest.approx([star] * 3, abs=1e-4)
    assert calibration.binding is not None
    assert calibration.binding.token_class == "text"
    assert calibration.binding.lambda_star(5.0) == pytest.approx(1.771244, abs=1e-4)
    assert calibration.binding.lambda_star(2.0) == pytest.approx(1.340072, abs=1e-4)


def test_medians_are_taken_over_positions(rollouts: list[tuple[Rollout, list[int]]]) -> None:
    go_p = [0.95, 0.9, 0.85, 0.8, 0.9, 0.7]
    go_b = [0.6, 0.5, 0.4, 0.5, 0.3, 0.45]
    calibration = measured(markov.trio(markov.chain(go_p), markov.chain(go_b)), offset_bin=5)
    (natural, _), (continued, _), _ = rollouts
    opened, closed = 4, 5
    offsets: list[int] = []
    for answer in natural.answers():
        if answer[0] == opened:
            # One text position per word and one for the token that ends the reason.
            words = next((i for i, token in enumerate(answer[1:]) if token <= closed), None)
            offsets += range(len(answer) - 1 if words is None else words + 1)
    offsets += [t for _ in continued.answers() for t in range(12)]
    for name, inside in (
        ("all", offsets),
        ("0-4", [t for t in offsets if t < 5]),
        ("5-9", [t for t in offsets if 5 <= t < 10]),
    ):
        found = row(calibration, "text", name)
        assert found.positions == len(inside)
        assert found.p == pytest.approx(np.median([go_p[min(t, 5)] for t in inside]), abs=1e-6)
        assert found.b == pytest.approx(np.median([go_b[min(t, 5)] for t in inside]), abs=1e-6)


def test_a_few_positions_after_a_stray_token_do_not_move_the_threshold() -> None:
    clean = positions(np.full(20, 0.86), 0.47)
    stray = clean.copy()
    stray.loc[stray.index[:6], "p"] = 1e-6
    found, expected = (row(tabulate(rows, settings()), "text", "all") for rows in (stray, clean))
    assert found.p == expected.p
    assert found.lambda_star_c5 == expected.lambda_star_c5


def test_a_drift_with_the_offset_makes_the_worst_bin_bind() -> None:
    # As in the prototype: b falls with the offset, and lambda* with it (docs/theory.md, point 10).
    go_b = [0.5] * 4 + [0.45] * 4 + [0.3] * 4
    calibration = measured(markov.trio(markov.chain([0.9] * 12), markov.chain(go_b)))
    assert calibration.binding is not None
    assert calibration.binding.offsets == "8-11"
    assert calibration.binding.b == pytest.approx(0.3, abs=1e-6)
    table = calibration.table
    assert table.binding.sum() == 1
    stars = table[table["offsets"].str.contains("-")].lambda_star_c5
    assert calibration.binding.lambda_star(5.0) == pytest.approx(stars.min())
    assert row(calibration, "text").lambda_star_c5 > stars.min() + 0.1


def test_only_the_asked_number_of_prompts_is_used(
    rollouts: list[tuple[Rollout, list[int]]],
) -> None:
    calibration = measured(markov.trio(markov.chain(TEACHER), markov.chain(BASE)), prompts=9)
    assert rollouts[0][1] == list(range(9))
    assert row(calibration, "brace").prompts == row(calibration, "brace").positions == 9


# ---- forced continuation --------------------------------------------------------------------


def test_forced_answers_never_close(rollouts: list[tuple[Rollout, list[int]]]) -> None:
    # A base that opens half of its answers and closes nine tenths at every offset.
    base = markov.chain([0.1] * 20, opens=0.5)
    calibration = measured(markov.trio(markov.chain([0.9] * 20), base), forced_words=17)
    (natural, _), (continued, numbers), _ = rollouts
    opened = [b for b, answer in enumerate(natural.answers()) if answer[0] == 4]
    assert numbers == opened
    assert 8 <= len(opened) <= 24
    first_word = len(markov.tokens(0))
    assert continued.answers() == [list(range(first_word, first_word + 17))] * len(opened)
    assert not continued.ended_B.any()
    prompts = [
        row[mask.bool()].tolist()[:-17]
        for row, mask in zip(continued.ids_BL, continued.attention_BL, strict=True)
    ]
    assert prompts == [[2, 4]] * len(opened)
    spans = calibration.table[calibration.table["class"] == "text"].offsets.tolist()
    assert spans == ["all", "0-3", "4-7", "8-11", "12-15", "16-19"]
    assert row(calibration, "text", "16-19").positions == len(opened)
    # Both samples of a prompt count as that prompt.
    assert row(calibration, "text").prompts == len(opened)


def test_an_answer_may_open_its_text_with_half_an_escape(
    rollouts: list[tuple[Rollout, list[int]]],
) -> None:
    half = markov.OPEN + "\\"
    texts = [*markov.tokens(4), half, "n"]
    after = markov.rows([0.6] * 4)
    after["p"] = {half: 0.6, markov.OPEN: 0.4}
    after[half] = {"n": 0.8, " w0": 0.2}
    after["n"] = after[" w0"]
    model = markov.model_of(texts, after, torch.float32)
    trio = assemble(
        model,
        markov.model_of(texts, after, torch.float32),
        markov.codec_of(markov.word_tokenizer(texts)),
    )
    measured(trio)
    (natural, _), (continued, numbers), _ = rollouts
    escaped = [answer[0] == texts.index(half) for answer in natural.answers()]
    assert 0 < sum(escaped) < len(escaped)
    # What follows the backslash with mass .2 is no escape: those answers are dead.
    dead = [e and a[1] != texts.index("n") for e, a in zip(escaped, natural.answers(), strict=True)]
    assert numbers == [b for b, is_dead in enumerate(dead) if not is_dead]
    words = range(6, 10)
    assert all(token in words for answer in continued.answers() for token in answer)


def test_a_base_that_never_opens_its_text_has_no_binding_class(
    rollouts: list[tuple[Rollout, list[int]]],
) -> None:
    calibration = measured(markov.trio(markov.chain(TEACHER), markov.chain(BASE, opens=1e-12)))
    # The base's own answers and the teacher's: there was nothing to force on.
    assert len(rollouts) == 2
    assert calibration.homogeneity is None
    assert calibration.binding is None
    assert calibration.table["class"].tolist() == ["brace"]


def test_a_contract_without_text_has_no_binding_class() -> None:
    answer = '{"ranking":["A","B"]}'
    texts = [markov.PAD, markov.EOS, "p", "\n", answer]
    teacher, base = (
        markov.model_of(
            texts, {"p": {answer: m, "\n": 1 - m}, answer: {"<eos>": m, "\n": 1 - m}}, torch.float32
        )
        for m in (0.9, 0.6)
    )
    calibration = measured(
        assemble(base, teacher, markov.codec_of(markov.word_tokenizer(texts))), RANKING_ONLY
    )
    assert calibration.binding is None
    assert calibration.table["class"].tolist() == ["brace", "eos"]
    assert not calibration.table.tail_needed.any()
    assert row(calibration, "eos").p == pytest.approx(0.9, abs=1e-6)
    assert row(calibration, "eos").lambda_star_c5 == pytest.approx(
        lambda_star(0.9, 0.6, 5), abs=1e-4
    )


# ---- from rows to the table -----------------------------------------------------------------


def positions(
    p: Any, b: Any, *, name: str = "text", offset: Any = 0, prompts: int = 20, each: int = 10
) -> pd.DataFrame:
    """`each` positions of every prompt; p, b, offset: numbers, or one per prompt."""
    prompt = np.repeat(np.arange(prompts), each)
    columns = {"offset": offset, "p": p, "b": b}
    spread = {k: v if np.isscalar(v) else np.repeat(v, each) for k, v in columns.items()}
    needed = {"tail_needed": name == "text"}
    return pd.DataFrame({"prompt": prompt, "class": name, **needed, **spread})


def together(*parts: pd.DataFrame) -> pd.DataFrame:
    return pd.concat(parts, ignore_index=True)


def test_a_bin_needs_enough_positions_to_bind() -> None:
    plenty = positions(0.9, 0.5, offset=0)
    for count, binds in ((MIN_POSITIONS - 1, "0-3"), (MIN_POSITIONS, "4-7")):
        rare = positions(0.99, 0.2, offset=4, prompts=count, each=1)
        calibration = tabulate(together(plenty, rare), settings())
        assert calibration.binding is not None
        assert calibration.binding.offsets == binds
        # The rare bin is reported all the same.
        assert row(calibration, "text", "4-7").positions == count


def test_only_classes_whose_tail_is_needed_bind() -> None:
    classes = ("brace", "key", "separator", "id", "close", "eos")
    others = [positions(0.999, 0.1, name=name) for name in classes]
    calibration = tabulate(together(*others, positions(0.7, 0.5)), settings())
    assert calibration.binding is not None
    assert (calibration.binding.token_class, calibration.binding.p) == ("text", pytest.approx(0.7))
    assert set(calibration.table["class"]) == {*classes, "text"}
    assert calibration.table[calibration.table.tail_needed]["class"].unique().tolist() == ["text"]
    assert tabulate(together(*others), settings()).binding is None


@pytest.mark.parametrize(("p", "b"), [(0.4, 0.5), (0.5, 0.5)])
def test_no_class_binds_where_the_teacher_is_not_surer(p: float, b: float) -> None:
    calibration = tabulate(positions(p, b), settings())
    assert calibration.binding is None
    assert not calibration.table.binding.any()
    stars = [c for c in calibration.table if c.startswith("lambda_star")]
    assert np.isinf(calibration.table[stars].to_numpy(dtype=float)).all()


def test_a_threshold_infinite_in_some_resamples_has_no_nan_bounds() -> None:
    p = np.where(np.arange(20) < 11, 0.9, 0.1)
    found = row(tabulate(positions(p, 0.5), settings(bootstrap=400)), "text", "0-3")
    assert found.p == pytest.approx(0.9)
    assert found.p_lo < 0.5 < found.p_hi
    assert found.lambda_star_c5 == pytest.approx(lambda_star(0.9, 0.5, 5))
    assert 1.0 < found.lambda_star_c5_lo <= found.lambda_star_c5
    assert found.lambda_star_c5_hi == math.inf


def test_masses_that_round_to_one_take_the_limit_of_the_threshold() -> None:
    table = tabulate(
        together(
            positions(1.0, 0.5, name="brace"),
            positions(1.0, 1.0, name="key"),
            positions(0.9, 1.0, name="id"),
        ),
        settings(),
    ).table
    assert table.lambda_star_c5.tolist() == [1.0, math.inf, math.inf]
    assert table.lambda_star_c2_hi.tolist() == [1.0, math.inf, math.inf]
    assert lambda_star(1 - 1e-12, 0.5, 5) == pytest.approx(1.0, abs=0.07)


def test_the_first_strength_chooses_the_binding_bin() -> None:
    # The order of two thresholds may depend on c when p differs.
    narrow, wide = positions(0.3, 0.055, offset=0), positions(0.95, 0.851, offset=4)
    stars = {c: [lambda_star(0.3, 0.055, c), lambda_star(0.95, 0.851, c)] for c in (1.2, 50.0)}
    assert np.argmin(stars[1.2]) != np.argmin(stars[50.0])
    for strengths in ([1.2, 50.0], [50.0, 1.2]):
        found = tabulate(together(narrow, wide), settings(strengths=strengths)).binding
        assert found is not None
        assert found.offsets == ("0-3", "4-7")[int(np.argmin(stars[strengths[0]]))]


def test_the_interval_covers_the_median_over_prompts() -> None:
    # Positions of a prompt share its mass, so that they count as one: prompts are resampled.
    rng = np.random.default_rng(5)
    hits = []
    middle_p = float(stats.beta(8, 2).median())
    for _ in range(200):
        p, b = rng.beta(8, 2, 40), rng.beta(5, 5, 40)
        found = row(tabulate(positions(p, b, name="id", prompts=40), settings(bootstrap=200)), "id")
        hits.append(
            [
                found.p_lo <= middle_p <= found.p_hi,
                found.b_lo <= 0.5 <= found.b_hi,
                found.lambda_star_c5_lo <= lambda_star(middle_p, 0.5, 5) <= found.lambda_star_c5_hi,
            ]
        )
    coverage = np.mean(hits, axis=0)
    assert ((coverage > 0.89) & (coverage < 0.985)).all(), coverage


def test_the_table_depends_on_the_seed_alone() -> None:
    rows = positions(np.linspace(0.6, 0.95, 20), np.linspace(0.6, 0.3, 20))
    first, again, other = (tabulate(rows, settings(seed=s)).table for s in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again, check_exact=True)
    assert (first.p_lo != other.p_lo).any()
    assert (first.p == other.p).all()
