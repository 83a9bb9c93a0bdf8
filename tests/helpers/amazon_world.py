"""Small Amazon files with made-up rows and titles."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path

from opdcliff.data.amazon.files import META_NAME, REVIEWS_NAME

Row = Mapping[str, object] | str | bytes


def review(user: str, item: str, time: object, rating: object = 5.0) -> dict[str, object]:
    return {
        "rating": rating,
        "title": "so so",
        "text": "long text nobody keeps",
        "images": [],
        "asin": "VARIANT",
        "parent_asin": item,
        "user_id": user,
        "timestamp": time,
        "helpful_vote": 0,
        "verified_purchase": True,
    }


def meta(item: str, title: object, price: object = None) -> dict[str, object]:
    return {"parent_asin": item, "title": title, "price": price, "details": {"Any": ["thing", 1]}}


def encode(rows: Iterable[Row]) -> bytes:
    lines = []
    for row in rows:
        line = json.dumps(row) if isinstance(row, Mapping) else row
        lines.append(line.encode() if isinstance(line, str) else line)
    return b"".join(line + b"\n" for line in lines)


def write(
    folder: Path, reviews: Iterable[Row], metas: Iterable[Row], *, packed: bool = False
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in ((REVIEWS_NAME, reviews), (META_NAME, metas)):
        data = encode(rows)
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / name).write_bytes(data)
    return folder


def world(users: int = 40, seed: int = 0) -> tuple[list[Row], list[Row]]:
    """Users with 3 to 6 distinct items each of 60; every time differs."""
    rng = random.Random(seed)
    items = [f"I{i:03d}" for i in range(60)]
    reviews: list[Row] = []
    for u in range(users):
        for item in rng.sample(items, rng.randint(3, 6)):
            reviews.append(review(f"U{u:03d}", item, 1000 + len(reviews), float(rng.randint(1, 5))))
    return reviews, [meta(item, f"plain gadget {item}") for item in items]
