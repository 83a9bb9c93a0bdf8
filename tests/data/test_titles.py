"""data=titles: made-up titles, titles read from lines and item rows, and answers that hold them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from amazon_world import encode, meta
from opdcliff.contract.parse import RANKING_ONLY, RANKING_WITH_REASON
from opdcliff.data.answer_style import AnswerStyle
from opdcliff.data.answers import draw_answer
from opdcliff.data.example import Splits
from opdcliff.data.mini import SplitSizes, generate
from opdcliff.data.titles.grammar import compose
from opdcliff.data.titles.loading import MADE_UP, load_titles
from opdcliff.errors import DataError

SIZES = SplitSizes(20, 5, 5)
MADE = compose(0, 400)


def _load(source: Path | None, max_words: int = 24) -> tuple[Splits, dict[str, object] | None]:
    return load_titles(source, SIZES, candidates=3, seed=4, max_words=max_words)


def _titles(source: Path, max_words: int = 24) -> tuple[str, ...]:
    return _load(source, max_words)[0].titles


# Made-up titles


def test_the_grammar_is_a_function_of_the_seed_and_repeats_no_title() -> None:
    assert compose(0, 400) == MADE
    assert len(set(MADE)) == 400
    assert set(compose(1, 400)) != set(MADE)


def test_made_up_titles_have_the_grain_of_real_ones() -> None:
    """Uneven length, and what JSON, tokenizers and parsers stumble over."""
    lengths = [len(title.split(" ")) for title in MADE]
    assert 2 <= min(lengths) <= 4
    assert 30 <= max(lengths) <= 130
    for mark in (",", "&", '"', "("):
        assert sum(mark in title for title in MADE) > 5, mark
    assert sum(not title.isascii() for title in MADE) > 5
    assert all(title == " ".join(title.split()) for title in MADE)


def test_a_title_goes_on_with_very_different_chances() -> None:
    """What the data set is for: some words are all but certain to be followed, some are not."""
    last, inside = Counter[str](), Counter[str]()
    for title in MADE:
        *before, end = title.split(" ")
        last[end] += 1
        inside.update(before)
    chance = {w: inside[w] / (inside[w] + last[w]) for w in inside | last if inside[w] > 9}
    assert sum(x > 0.99 for x in chance.values()) > 10
    assert sum(x < 0.85 for x in chance.values()) > 10


def test_without_a_source_the_prompts_are_those_of_mini_and_nothing_is_counted() -> None:
    splits, report = _load(None)
    plain = generate(4, SIZES, candidates=3)
    assert (splits.train, splits.calibration, splits.test) == (
        plain.train,
        plain.calibration,
        plain.test,
    )
    assert splits.titles == compose(4, MADE_UP)
    assert report is None


# Titles of files


def test_lines_are_cleaned_counted_and_in_an_order_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "titles.txt"
    body = 'Red  Hat\r\n\r\nCaf\u00e9 "9\t Boots\r\nRed Hat\r\na b c d e f\r\n\x07\r\n'
    file.write_bytes(b"\xef\xbb\xbf" + body.encode())
    splits, report = _load(file, max_words=5)
    assert splits.titles == ('Caf\u00e9 "9 Boots', "Red Hat")
    assert report == {
        "titles": 2,
        "rejected": {
            "titles: nothing printable": 1,
            "titles: over 5 words": 1,
            "titles: repeated": 1,
        },
    }
    turned = tmp_path / "turned.txt"
    turned.write_bytes(b"".join(reversed(body.encode().splitlines(keepends=True))))
    assert _titles(turned, 5) == splits.titles


def test_item_rows_of_every_meta_file_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "meta_One.jsonl").write_bytes(encode([meta("i1", "Blue Scarf"), meta("i2", None)]))
    (tmp_path / "meta_Two.jsonl").write_bytes(encode([meta("i3", "Warm\nGloves"), "no JSON"]))
    (tmp_path / "One.jsonl").write_bytes(encode(["a review file is not looked at"]))
    splits, report = _load(tmp_path)
    assert splits.titles == ("Blue Scarf", "Warm Gloves")
    assert report == {"titles": 2, "rejected": {"meta: not JSON": 1, "meta: title missing": 1}}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.txt", None, "is no file or folder; give a text file"),
        ("long.txt", b"one two three", "has no title of at most data.max_title_words=2 words"),
        ("empty.txt", b"\n\n", r"\(0 read\)"),
        ("latin.txt", b"good\ncaf\xe9", "line 2 is not UTF-8"),
        ("wide.txt", "x y".encode("utf-16"), "UTF-16"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match=message):
        _load(file, max_words=2)


def test_a_folder_without_item_rows_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no meta_\*\.jsonl"):
        _load(tmp_path)


# Answers


def _style(**changes: object) -> AnswerStyle:
    values: dict[str, object] = {
        "continue_mass": 1.0,
        "corrupt_rate": 0.0,
        "swap_rate": 0.0,
        "long_share": 0.0,
        "long_words": 1,
        "titles": MADE,
    }
    return AnswerStyle(**values | changes)  # type: ignore[arg-type]


EXAMPLE = generate(0, SIZES, candidates=4).train[0]


def _reasons(style: AnswerStyle, count: int) -> list[str]:
    rng = np.random.default_rng(0)
    texts = ["".join(p.text for p in draw_answer(EXAMPLE, style, rng)) for _ in range(count)]
    for text in texts:
        assert RANKING_WITH_REASON.parse(text, EXAMPLE.candidates, ended=True).ok, text
    return [json.loads(text)["reason"] for text in texts]


def test_a_mass_of_one_writes_whole_titles_that_parse_back() -> None:
    found = _reasons(_style(), 300)
    assert set(found) <= set(MADE)
    assert len(set(found)) > 150


def test_a_smaller_mass_cuts_behind_words_with_its_chance() -> None:
    style = _style(continue_mass=0.6, titles=("a b c d e f g h",))
    counts = Counter(len(reason.split(" ")) for reason in _reasons(style, 4000))
    assert min(counts) == 1
    # Of those with a word k, the share without a next one; the whole title ends by itself.
    for k in range(1, 5):
        reached = sum(count for words, count in counts.items() if words >= k)
        assert counts[k] / reached == pytest.approx(0.4, abs=4 * (0.24 / reached) ** 0.5)


def test_silent_words_are_the_first_ones_and_leave_one_to_learn() -> None:
    style = _style(long_share=0.999, long_words=30, titles=("a b c", "d"))
    rng = np.random.default_rng(1)
    silent = Counter[int]()
    for _ in range(300):
        _, *words, _ = draw_answer(EXAMPLE, style, rng)
        spoken = [piece.loss for piece in words]
        assert spoken == sorted(spoken)
        assert spoken[-1]
        silent[spoken.count(False)] += 1
    assert set(silent) >= {0, 2}


def test_titles_are_no_matter_of_a_contract_without_a_reason() -> None:
    rng = np.random.default_rng(0)
    text = "".join(p.text for p in draw_answer(EXAMPLE, _style(with_reason=False), rng))
    assert RANKING_ONLY.parse(text, EXAMPLE.candidates, ended=True).ok
