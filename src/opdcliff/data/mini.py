"""The generated task: a listwise ranking problem in the shape of Amazon Fashion lists.

A shopper bought something; each of K candidates is a garment with a word that tells how much the
shopper would like it, worth grades 0 to 3. The answer has to bind that word to the candidate's id
and sort by it, which a 100k-parameter transformer learns within a minute or two on one CPU core.
Everything is a function of the seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from opdcliff.data.example import Example, Splits, candidate_ids
from opdcliff.errors import DataError

GRADE_WORDS = ("poor", "plain", "liked", "loved")
GARMENTS = ("boots", "hat", "scarf", "shirt", "jeans", "coat", "gloves", "dress")


@dataclass(frozen=True)
class SplitSizes:
    """Number of examples per split."""

    train: int
    calibration: int
    test: int


def generate(seed: int, sizes: SplitSizes, *, candidates: int) -> Splits:
    """Disjoint train, calibration and test examples, deterministic in `seed`.

    Raises:
        ValueError: `candidates` has no label for every candidate.
        DataError: more examples are asked for than there are distinct prompts.
    """
    wanted = sizes.train + sizes.calibration + sizes.test
    distinct = len(GRADE_WORDS) ** candidates * len(GARMENTS) ** (candidates + 1)
    if wanted > distinct:
        raise DataError(
            f"data.train + calibration + test is {wanted} and lists of {candidates} candidates "
            f"have {distinct} distinct prompts; lower them or raise data.candidates"
        )
    seen: set[str] = set()
    rng = np.random.default_rng([seed, candidates])
    train, calibration, test = (
        tuple(_fresh_example(rng, candidates, seen) for _ in range(count))
        for count in (sizes.train, sizes.calibration, sizes.test)
    )
    return Splits(train, calibration, test)


def _fresh_example(rng: np.random.Generator, candidates: int, seen: set[str]) -> Example:
    # A prompt met before is drawn again: the splits must not share one.
    while True:
        example = _draw(rng, candidates)
        if example.prompt not in seen:
            seen.add(example.prompt)
            return example


def _draw(rng: np.random.Generator, candidates: int) -> Example:
    ids = candidate_ids(candidates)
    grades = tuple(int(grade) for grade in rng.integers(len(GRADE_WORDS), size=candidates))
    garments = rng.choice(GARMENTS, size=candidates + 1)
    lines = [f"bought {garments[-1]}"]
    lines += [
        f"{label} {GRADE_WORDS[grade]} {garment}"
        for label, grade, garment in zip(ids, grades, garments[:-1], strict=True)
    ]
    prompt = "\n".join(lines) + "\n"
    return Example(prompt=prompt, candidates=ids, grades=grades, key=f"mini:{prompt}")
