"""The generated task: seeded, disjoint by prompt, grades that the prompt's words tell."""

from __future__ import annotations

import pytest

from opdcliff.data import mini
from opdcliff.data.example import Example, Splits, candidate_ids
from opdcliff.data.mini import GARMENTS, GRADE_WORDS, SplitSizes, generate
from opdcliff.errors import DataError

SIZES = SplitSizes(train=60, calibration=20, test=30)


def _all(splits: Splits) -> list[Example]:
    return [*splits.train, *splits.calibration, *splits.test]


def _lines_of(example: Example) -> dict[str, list[str]]:
    """The words of the line that begins with each candidate's label."""
    rows = [line.split() for line in example.prompt.splitlines()]
    return {row[0]: row[1:] for row in rows if row[0] in example.candidates}


def test_the_same_seed_gives_the_same_splits_and_another_seed_others() -> None:
    first = generate(3, SIZES, candidates=4)
    assert generate(3, SIZES, candidates=4) == first
    others = {e.prompt for e in _all(generate(4, SIZES, candidates=4))}
    assert not others & {e.prompt for e in _all(first)}


def test_sizes_are_those_asked_for() -> None:
    splits = generate(0, SIZES, candidates=4)
    assert [len(part) for part in (splits.train, splits.calibration, splits.test)] == [60, 20, 30]


def test_no_prompt_occurs_twice_even_where_few_exist() -> None:
    # 8 192 prompts of two candidates: 1 100 plain draws would repeat some 70 of them.
    examples = _all(generate(1, SplitSizes(900, 100, 100), candidates=2))
    assert len({e.prompt for e in examples}) == len(examples) == 1100
    assert len({e.key for e in examples}) == len(examples)


def test_a_longer_test_split_leaves_the_others_as_they_were() -> None:
    short = generate(5, SIZES, candidates=3)
    longer = generate(5, SplitSizes(60, 20, 90), candidates=3)
    assert (short.train, short.calibration) == (longer.train, longer.calibration)
    assert longer.test[:30] == short.test


@pytest.mark.parametrize("candidates", [2, 4, 8, 26])
def test_grades_are_what_the_words_of_the_prompt_say(candidates: int) -> None:
    for example in _all(generate(2, SplitSizes(20, 5, 5), candidates=candidates)):
        assert example.candidates == candidate_ids(candidates)
        lines = _lines_of(example)
        assert list(lines) == list(example.candidates)
        for label, grade in zip(example.candidates, example.grades, strict=True):
            word, garment = lines[label]
            assert GRADE_WORDS.index(word) == grade
            assert garment in GARMENTS


def test_the_prompt_ends_where_the_answer_begins() -> None:
    assert all(e.prompt.endswith("\n") for e in generate(0, SIZES, candidates=4).train)


def test_all_grades_and_garments_occur_at_all_places() -> None:
    examples = generate(7, SplitSizes(400, 1, 1), candidates=3).train
    for place in range(3):
        assert {e.grades[place] for e in examples} == set(range(len(GRADE_WORDS)))
        assert {_lines_of(e)[e.candidates[place]][1] for e in examples} == set(GARMENTS)


@pytest.mark.parametrize("candidates", [1, 27])
def test_candidates_without_a_label_are_refused(candidates: int) -> None:
    with pytest.raises(ValueError, match="2 to 26"):
        generate(0, SIZES, candidates=candidates)


def test_more_prompts_than_exist_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mini, "GRADE_WORDS", ("bad", "good"))
    monkeypatch.setattr(mini, "GARMENTS", ("hat", "coat"))
    # Two candidates: 2^2 grades times 2^3 garments.
    everything = generate(0, SplitSizes(20, 6, 6), candidates=2)
    assert len({e.prompt for e in _all(everything)}) == 32
    with pytest.raises(DataError, match=r"is 33 .* 2 candidates have 32 distinct prompts"):
        generate(0, SplitSizes(20, 6, 7), candidates=2)
