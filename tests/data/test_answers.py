"""Reference answers: clean ones meet the contract, corruptions break it, reasons are geometric."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from opdcliff.contract.parse import (
    RANKING_ONLY,
    RANKING_WITH_REASON,
    FailureCode,
    ParseResult,
    RankingContract,
)
from opdcliff.data import answers
from opdcliff.data.answer_style import REASON_WORDS, AnswerStyle, Piece
from opdcliff.data.answers import draw_answer, ideal_ranking
from opdcliff.data.example import Example, candidate_ids
from opdcliff.data.mini import SplitSizes, generate

CLEAN = AnswerStyle(
    continue_mass=0.8, corrupt_rate=0.0, swap_rate=0.0, long_share=0.0, long_words=1
)
# Certain, which a config never is: rates there stay below 1.
CORRUPT = replace(CLEAN, corrupt_rate=1.0)

CODES = {
    "duplicate": FailureCode.DUPLICATE,
    "unknown_id": FailureCode.UNKNOWN_ID,
    "missing": FailureCode.MISSING,
    "no_brace": FailureCode.EXTRA_TEXT,
    "extra_text": FailureCode.EXTRA_TEXT,
    "no_reason": FailureCode.SCHEMA,
}
NEED_A_REASON = {"no_reason"}


def _example(candidates: int = 4, seed: int = 0) -> Example:
    return generate(seed, SplitSizes(1, 1, 1), candidates=candidates).train[0]


def _draws(example: Example, style: AnswerStyle, count: int) -> Iterator[tuple[Piece, ...]]:
    rng = np.random.default_rng([20, count])
    return (draw_answer(example, style, rng) for _ in range(count))


def _text(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def _parse(contract: RankingContract, example: Example, pieces: Sequence[Piece]) -> ParseResult:
    return contract.parse(_text(pieces), example.candidates, ended=True)


def _words(pieces: Sequence[Piece]) -> list[Piece]:
    return [piece for piece in pieces if piece.text in REASON_WORDS]


# The ranking


def test_the_ideal_ranking_falls_in_grade_and_keeps_the_order_of_ties() -> None:
    example = Example("p", candidate_ids(5), (1, 3, 0, 3, 1), "k")
    assert ideal_ranking(example) == ("B", "D", "A", "E", "C")


def test_without_swaps_the_answer_holds_the_ideal_ranking() -> None:
    for seed in range(20):
        example = _example(6, seed)
        for pieces in _draws(example, CLEAN, 3):
            assert _parse(RANKING_WITH_REASON, example, pieces).ranking == ideal_ranking(example)


def test_each_pair_of_neighbours_is_swapped_at_the_swap_rate_from_the_top() -> None:
    example = Example("p", candidate_ids(3), (2, 1, 0), "k")
    style, count, rate = replace(CLEAN, swap_rate=0.3), 4000, 0.3
    seen = Counter(json.loads(_text(p))["ranking"][0] for p in _draws(example, style, count))
    # B comes first if the first pair swaps; C never gets there in one pass.
    assert set(seen) == {"A", "B"}
    assert stats.binomtest(seen["B"], count, rate).pvalue > 1e-3
    last = Counter(json.loads(_text(p))["ranking"][2] for p in _draws(example, style, count))
    expected = {"A": rate * rate, "B": rate * (1 - rate), "C": 1 - rate}
    observed = [last[name] for name in expected]
    assert stats.chisquare(observed, [count * e for e in expected.values()]).pvalue > 1e-3


# The contract


@pytest.mark.parametrize("candidates", [2, 4, 8, 26])
@pytest.mark.parametrize("contract", [RANKING_WITH_REASON, RANKING_ONLY])
def test_clean_answers_always_meet_the_contract(contract: RankingContract, candidates: int) -> None:
    style = replace(
        CLEAN,
        swap_rate=0.4,
        long_share=0.5,
        long_words=20,
        with_reason=contract is RANKING_WITH_REASON,
    )
    example = _example(candidates)
    for pieces in _draws(example, style, 150):
        verdict = _parse(contract, example, pieces)
        assert verdict.ok, verdict.failure
        assert sorted(verdict.ranking or ()) == sorted(example.candidates)


def test_ids_that_json_escapes_are_answered_as_they_are() -> None:
    names = ('say "hi"', "back\\slash", "caf\u00e9", "\u4e2d")
    example = Example("p", names, (3, 2, 1, 0), "k")
    for pieces in _draws(example, CLEAN, 3):
        assert _parse(RANKING_WITH_REASON, example, pieces).ranking == names


@pytest.mark.parametrize("candidates", [2, 4, 26])
@pytest.mark.parametrize(
    ("corruption", "with_reason"),
    [(name, True) for name in CODES]
    + [(name, False) for name in CODES if name not in NEED_A_REASON],
)
def test_every_corruption_breaks_the_contract_with_its_own_code(
    monkeypatch: pytest.MonkeyPatch, corruption: str, with_reason: bool, candidates: int
) -> None:
    # The two that need a reason come last and are left out without one.
    names = [corruption] if with_reason else [corruption, *NEED_A_REASON]
    monkeypatch.setattr(answers, "_CORRUPTIONS", names)
    example = _example(candidates)
    contract = RANKING_WITH_REASON if with_reason else RANKING_ONLY
    for pieces in _draws(example, replace(CORRUPT, with_reason=with_reason), 60):
        assert _parse(contract, example, pieces).failure is CODES[corruption]


def test_an_unknown_id_is_unknown_whatever_the_candidates_are_called() -> None:
    example = Example("p", ("Z", "ZZ", "A"), (2, 1, 0), "k")
    codes = {
        _parse(RANKING_WITH_REASON, example, pieces).failure
        for pieces in _draws(example, CORRUPT, 300)
    }
    assert codes == set(CODES.values())


@pytest.mark.parametrize("with_reason", [True, False])
def test_corruptions_are_equally_frequent(with_reason: bool) -> None:
    style = replace(CORRUPT, with_reason=with_reason)
    example, count = _example(), 3500
    contract = RANKING_WITH_REASON if with_reason else RANKING_ONLY
    seen = Counter(_parse(contract, example, p).failure for p in _draws(example, style, count))
    names = [n for n in CODES if with_reason or n not in NEED_A_REASON]
    share = Counter(CODES[name] for name in names)
    assert set(seen) == set(share)
    expected = [count * share[code] / len(names) for code in seen]
    assert stats.chisquare(list(seen.values()), expected).pvalue > 1e-3


def test_the_corrupt_rate_is_the_share_of_answers_that_fail() -> None:
    example, count, rate = _example(), 3000, 0.35
    style = replace(CLEAN, corrupt_rate=rate, swap_rate=0.2)
    failed = sum(
        not _parse(RANKING_WITH_REASON, example, p).ok for p in _draws(example, style, count)
    )
    assert stats.binomtest(failed, count, rate).pvalue > 1e-3


# The reason


@pytest.mark.parametrize("mass", [0.48, 0.86])
def test_the_reason_length_is_geometric(mass: float) -> None:
    count = 6000
    style = replace(CLEAN, continue_mass=mass)
    lengths = np.array([len(_words(p)) for p in _draws(_example(), style, count)])
    mean = mass / (1 - mass)
    assert abs(lengths.mean() - mean) < 4 * math.sqrt(mass) / (1 - mass) / math.sqrt(count)
    # Lengths 0 .. cut-1, and all from cut on, which holds at least 30 expected answers.
    cut = int(math.log(30 / count) / math.log(mass))
    observed = np.bincount(np.minimum(lengths, cut), minlength=cut + 1)
    expected = count * np.append((1 - mass) * mass ** np.arange(cut), mass**cut)
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_the_continue_rate_is_the_same_at_every_offset_that_carries_loss() -> None:
    """The point of silent prefixes: late offsets are met, and b does not depend on them."""
    mass, count, longest = 0.6, 12_000, 40
    style = replace(CLEAN, continue_mass=mass, long_share=0.5, long_words=longest)
    went_on, met = Counter[int](), Counter[int]()
    for pieces in _draws(_example(), style, count):
        # The position after each word predicts the next word or the close.
        body = pieces[1:]
        for offset, piece in enumerate(body):
            if piece.loss:
                met[offset // 5] += 1
                went_on[offset // 5] += piece.text in REASON_WORDS
    bins = range(longest // 5 + 1)
    assert min(met[b] for b in bins) > 500
    for b in bins:
        assert stats.binomtest(went_on[b], met[b], mass).pvalue > 1e-4, b


def test_a_silent_prefix_carries_no_loss_and_all_else_does() -> None:
    longest = 12
    silent_lengths = Counter[int]()
    for pieces in _draws(_example(), replace(CLEAN, long_share=1.0, long_words=longest), 1500):
        silent = [piece for piece in pieces if not piece.loss]
        assert 1 <= len(silent) <= longest
        assert pieces[1 : 1 + len(silent)] == tuple(silent)
        assert all(piece.text in REASON_WORDS for piece in silent)
        silent_lengths[len(silent)] += 1
    assert stats.chisquare([silent_lengths[n] for n in range(1, longest + 1)]).pvalue > 1e-3


def test_long_share_is_the_share_of_answers_with_a_silent_prefix() -> None:
    count, share = 3000, 0.25
    style = replace(CLEAN, long_share=share, long_words=8)
    long = sum(not all(piece.loss for piece in p) for p in _draws(_example(), style, count))
    assert stats.binomtest(long, count, share).pvalue > 1e-3


def test_all_reason_words_are_equally_frequent() -> None:
    seen = Counter(w.text for p in _draws(_example(), CLEAN, 800) for w in _words(p))
    assert stats.chisquare([seen[word] for word in REASON_WORDS]).pvalue > 1e-3


def test_a_ranking_alone_has_no_reason_and_no_silent_piece() -> None:
    style = replace(CLEAN, with_reason=False, long_share=1.0, long_words=9)
    for pieces in _draws(_example(), style, 20):
        assert list(json.loads(_text(pieces))) == ["ranking"]
        assert all(piece.loss for piece in pieces)


def test_an_answer_depends_on_its_generator_alone() -> None:
    example = _example()
    style = AnswerStyle(0.8, 0.4, 0.3, 0.3, 10)
    first, second = (
        [draw_answer(example, style, np.random.default_rng(seed)) for seed in range(30)]
        for _ in range(2)
    )
    assert first == second
    assert len({_text(pieces) for pieces in first}) > 20
