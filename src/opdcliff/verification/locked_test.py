"""One locked prediction: its schema, and its file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from opdcliff.errors import InadmissibleError
from opdcliff.storage import in_words, read_yaml

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Strict(BaseModel):
    """Fields as declared, no others, and never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Metric(Strict):
    """A metric of the records, with the version of its meaning."""

    name: str
    version: int


class Design(Strict):
    """The cells of a test: one arm, its lambdas, and how many seeds. Null is unknown."""

    arm: Name
    clip: str
    strength: float | None
    lams: list[float] | None
    updates: int | None
    warmup_updates: int | None
    seeds: int


class OnsetEstimator(Strict):
    """The lambda at which a seed's final metric falls through `level`, and its mean over seeds.

    by: points, the crossing of a decreasing isotonic fit and a t interval over seeds; or brackets,
    the grid cell of each seed, found by bisection (`theory.bisected`), and an interval that takes
    nothing finer than that (`theory.bracket_test`).
    """

    kind: Literal["onset"]
    level: float | None
    confidence: float
    by: Literal["points", "brackets"] = "points"


class CellRef(Strict):
    """The cells of one arm at one lambda, all seeds; a baseline has no lambda."""

    arm: Name
    lam: float | None


class ContrastEstimator(Strict):
    """Per seed the metric of `of` less that of `minus`; t-interval over seeds.

    least_parse_rate: both sides must parse at least that much on average, or the contrast
    compares different answers and is not admissible.
    """

    kind: Literal["contrast"]
    of: CellRef
    minus: CellRef
    confidence: float
    least_parse_rate: float


class Window(Strict):
    """Where the estimate has to lie; an open side is null."""

    lo: float | None
    hi: float | None
    derivation: str

    @property
    def bounds(self) -> tuple[float, float]:
        """(lo, hi) with infinities for open sides."""
        return (
            -math.inf if self.lo is None else self.lo,
            math.inf if self.hi is None else self.hi,
        )

    @model_validator(mode="after")
    def _ordered(self) -> Window:
        lo, hi = self.bounds
        if not lo < hi or (math.isinf(lo) and math.isinf(hi)):
            raise ValueError(f"window [{self.lo}, {self.hi}] must have lo < hi and one bound")
        return self


# Of a test's provenance: published bounds that it is set beside, each with its tag.
PUBLISHED = "published"


class LockedTest(Strict):
    """One prediction: what is claimed, how it is measured, and what would refute it."""

    id: Name
    claim: str
    source: str
    hypothesis: str
    metric: Metric
    design: Design
    estimator: OnsetEstimator | ContrastEstimator = Field(discriminator="kind")
    window: Window
    refutes: str
    minimum_seeds: int
    exclusions: str
    stopping: str
    correction: Literal["holm", "none"]
    provenance: dict[str, str]

    @property
    def published(self) -> tuple[float, float] | None:
        """Published bounds of what this test estimates; None where there are none."""
        ends = [self.provenance.get(f"{PUBLISHED}.{end}") for end in ("lo", "hi")]
        if ends == [None, None]:
            return None
        low, high = (None if end is None else float(end.split(" ")[0]) for end in ends)
        return -math.inf if low is None else low, math.inf if high is None else high


def read_test(path: Path) -> LockedTest:
    """One test file.

    Raises:
        InadmissibleError: it cannot be read, is no YAML, or breaks the schema.
    """
    try:
        return LockedTest.model_validate(read_yaml(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise InadmissibleError(f"{path}: {first_problem(error)}") from error
    # A date that is none or a number too long raises a ValueError of its own.
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InadmissibleError(f"{path} cannot be read as YAML ({in_words(error)})") from error


def first_problem(error: ValidationError) -> str:
    """The first line a pydantic error has to say: the place, and what is wrong there."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"])) or "the whole"
    return f"{place}: {first['msg']} (got {str(first['input'])[:60]!r})"


def write_test(path: Path, test: LockedTest) -> None:
    """Write a test file, its fields in the order of the schema; none that it does not name."""
    text = yaml.safe_dump(
        test.model_dump(exclude_unset=True), sort_keys=False, width=96, allow_unicode=False
    )
    path.write_text(text, encoding="utf-8")
