"""A generated pair of files in the shape of Amazon Fashion 2023, of any size; nothing is real.

Names, fields, numbers of rows and items and bytes a row are those of the public set; how reviews
are shared out over users and items is an assumption: zeta-distributed counts, most of them one.
Rows come in random order, which is the hardest on caches.

    python benchmarks/made_rows.py FOLDER ROWS
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring as quoted
from pathlib import Path

import numpy as np

REVIEWS, META = "Amazon_Fashion.jsonl", "meta_Amazon_Fashion.jsonl"
# Of the data set's card: 2.5M ratings of 825.9K items by 2.0M users.
FULL_ROWS, ITEMS_PER_ROW, USERS_PER_ROW = 2_500_000, 0.33036, 0.8
# P(n reviews) ~ n^-s, for a mean of 1.25.
USER_TAIL = 3.25
# Bytes a line so that the files are as large as the public ones: 421 and 1,722.
TEXT_MEAN, TEXT_SIGMA, REST_MEAN = 166, 1.1, 1345
# Shares of what a real file has more or less of: pairs that come again, items without a title (a
# tenth of them without a row), items of two rows, reviews without a rating, lines that are no JSON.
REPEATED, UNTITLED, TWICE, UNRATED, TORN = 0.05, 0.02, 0.005, 0.001, 0.00001
STARS, STAR_SHARES = (5.0, 4.0, 3.0, 1.0, 2.0), (0.58, 0.16, 0.12, 0.08, 0.06)
BLOCK = 50_000
_WORDS = """
    soft warm nice fit size small large colour gr\u00f6\u00dfe sleeve dress shoe hat scarf cotton
    \u8863\u670d stretch 6" wide heel comfy returned love it runs short long wash cheap well made
    gift \U0001f457 blue red black women men's kids zipper pocket waist strap leather print boots
""".split()  # noqa: SIM905


@dataclass(frozen=True)
class Made:
    """What was written: lines and bytes on disk of each file."""

    rows: int
    items: int
    sizes: dict[str, int]


def make(folder: Path, rows: int, seed: int, *, packed: bool = False) -> Made:
    """Write both files into `folder`, packed by gzip or plain."""
    rng = np.random.default_rng(seed)
    items = max(30, round(rows * ITEMS_PER_ROW))
    users_N, items_N = _pairs(rng, rows, items)
    folder.mkdir(parents=True, exist_ok=True)
    lines = {REVIEWS: _reviews(rng, users_N, items_N), META: _metas(rng, items)}
    counts, sizes = {}, {}
    for name, blocks in lines.items():
        file = folder / (f"{name}.gz" if packed else name)
        counts[name] = 0
        with gzip.open(file, "wb", 1) if packed else file.open("wb") as out:
            for block in blocks:
                out.write("".join(block).encode())
                counts[name] += len(block)
        sizes[file.name] = file.stat().st_size
    return Made(counts[REVIEWS], counts[META], sizes)


def user_name(number: int) -> str:
    """28 letters and digits, as the real ids have."""
    seen = hashlib.blake2b(number.to_bytes(8, "big"), digest_size=17).digest()
    return "A" + base64.b32encode(seen).decode()[:27]


def item_name(number: int) -> str:
    """B0 and eight letters and digits, different for every number below 36^8."""
    left, letters = number * 1_000_003 % 36**8, ""
    for _ in range(8):
        left, digit = divmod(left, 36)
        letters += "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"[digit]
    return f"B0{letters}"


def _pairs(
    rng: np.random.Generator, rows: int, items: int
) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """User and item of every review: each item at least once, where there are rows enough."""
    counts = np.minimum(rng.zipf(USER_TAIL, max(1, round(rows * USERS_PER_ROW))), 1000)
    users = np.repeat(np.arange(counts.size), counts)[:rows]
    users = np.concatenate([users, rng.choice(users, rows - users.size)])
    # The rest mostly goes to a few of them.
    more = (items * rng.random(max(0, rows - items)) ** 3).astype(np.int64)
    which = np.concatenate([rng.permutation(items), more])[:rows]
    rng.shuffle(which)
    # Of neighbours of one user the second buys the same again.
    again = np.flatnonzero((users[1:] == users[:-1]) & (rng.random(rows - 1) < 4 * REPEATED)) + 1
    which[again] = which[again - 1]
    order = rng.permutation(rows)
    return users[order], which[order]


def _reviews(
    rng: np.random.Generator,
    users_N: np.ndarray[tuple[int], np.dtype[np.int64]],
    items_N: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> Iterator[list[str]]:
    texts = _corpus(rng)
    for start in range(0, users_N.size, BLOCK):
        users, items = users_N[start : start + BLOCK], items_N[start : start + BLOCK]
        n = users.size
        lengths = _lengths(rng, TEXT_MEAN, n)
        places = rng.integers(len(texts) - 6000, size=(n, 2)).tolist()
        titles = rng.integers(4, 38, size=n).tolist()
        times = rng.integers(1_200_000_000_000, 1_690_000_000_000, size=n).tolist()
        stars = rng.choice(STARS, size=n, p=STAR_SHARES).tolist()
        odd = rng.random(n).tolist()
        block = []
        for k in range(n):
            item, (at, title) = item_name(int(items[k])), places[k]
            rating = "null" if odd[k] < UNRATED else stars[k]
            images = _IMAGE if odd[k] > 0.97 else "[]"
            head, text = texts[title : title + titles[k]], texts[at : at + lengths[k]]
            line = (
                f'{{"rating": {rating}, "title": {quoted(head)}, "text": {quoted(text)}, '
                f'"images": {images}, "asin": "{item}", '
                f'"parent_asin": "{item}", "user_id": "{user_name(int(users[k]))}", "timestamp": '
                f'{times[k]}, "helpful_vote": 0, "verified_purchase": true}}\n'
            )
            block.append(line[: len(line) // 2] + "\n" if 0.5 < odd[k] < 0.5 + TORN else line)
        yield block


def _metas(rng: np.random.Generator, items: int) -> Iterator[list[str]]:
    texts = _corpus(rng)
    rests = [_rest(texts, length, rng) for length in _lengths(rng, REST_MEAN, 4000)]
    order = rng.permutation(items)
    for start in range(0, items, BLOCK):
        numbers = order[start : start + BLOCK].tolist()
        n = len(numbers)
        lengths = np.clip(rng.normal(91, 40, size=n), 8, 317).astype(int).tolist()
        places = rng.integers(len(texts) - 6000, size=n).tolist()
        which = rng.integers(len(rests), size=n).tolist()
        odd = rng.random(n).tolist()
        block = []
        for k in range(n):
            if odd[k] < UNTITLED / 10:
                continue
            # Numbered, since nearly all real ones differ.
            title = quoted(f"{texts[places[k] : places[k] + lengths[k]]} {numbers[k]}")
            title = "null" if odd[k] < UNTITLED else title
            line = (
                f'{{"main_category": "AMAZON FASHION", "title": {title}, {rests[which[k]]}, '
                f'"parent_asin": "{item_name(numbers[k])}", "bought_together": null}}\n'
            )
            block += [line, line] if odd[k] > 1 - TWICE else [line]
        yield block


def _corpus(rng: np.random.Generator) -> str:
    return " ".join(rng.choice(_WORDS, size=400_000).tolist())


def _lengths(rng: np.random.Generator, mean: float, size: int) -> list[int]:
    drawn = rng.lognormal(np.log(mean) - TEXT_SIGMA**2 / 2, TEXT_SIGMA, size)
    found: list[int] = np.minimum(drawn, 5500).astype(int).tolist()
    return found


def _rest(texts: str, length: int, rng: np.random.Generator) -> str:
    """The other fields of an item row, of about that length."""
    at = int(rng.integers(len(texts) - 6000))
    half = max(1, length // 2 - 100)
    prices: Sequence[object] = (None, 12.99, "None")
    rest = {
        "average_rating": round(float(rng.uniform(1, 5)), 1),
        "rating_number": int(rng.integers(1, 500)),
        "features": [texts[at : at + half]],
        "description": [texts[at + half : at + 2 * half]],
        "price": prices[int(rng.integers(3))],
        "images": json.loads(_IMAGE),
        "videos": [],
        "store": texts[at : at + 12],
        "categories": [],
        "details": {"Package Dimensions": "8 x 5 x 0.9 inches", "Department": "Womens"},
    }
    return json.dumps(rest, ensure_ascii=False)[1:-1]


_IMAGE = json.dumps(
    [{"thumb": "x" * 60, "large": "x" * 60, "variant": "MAIN", "hi_res": "x" * 64}],
)


if __name__ == "__main__":
    _folder, _rows = sys.argv[1:]
    # Whole as soon as it is there.
    _aside = Path(f"{_folder}.partial")
    _aside.mkdir(parents=True, exist_ok=True)
    print(make(_aside, int(_rows), seed=0))
    _aside.rename(_folder)
