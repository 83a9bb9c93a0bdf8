"""Users shared out to splits by a hash of (seed, id), and the lists of each split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from opdcliff.data.amazon.lists import NoListError, split_position
from opdcliff.data.amazon.report import SPLITS
from opdcliff.data.amazon.rows import RowLog
from opdcliff.data.example import Example
from opdcliff.errors import ConfigError, DataError


@dataclass(frozen=True)
class SplitPlan:
    """How users are shared out.

    train, calibration, test: lists wanted per split; None takes all there are, at least one.
    fractions: shares of the users that hash to train, calibration and test; they sum to 1.
    """

    train: int | None = None
    calibration: int | None = None
    test: int | None = None
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)

    def __post_init__(self) -> None:
        for name in SPLITS:
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ConfigError(f"{name}={size}: set at least 1 list, or null for all")
        if min(self.fractions) <= 0 or abs(sum(self.fractions) - 1) > 1e-9:
            raise ConfigError(f"fractions={self.fractions}: set three shares above 0 that sum to 1")

    @classmethod
    def of_sizes(cls, train: int, calibration: int, test: int) -> SplitPlan:
        """So many lists of each split, and users shared out in the same proportion."""
        whole = train + calibration + test
        fractions = (train / whole, calibration / whole, test / whole)
        return cls(train, calibration, test, fractions)


@dataclass(frozen=True)
class Shares:
    """Places of users per split, in the order in which lists are built; what became of them.

    tried: users of each split for whom a list was tried.
    """

    members: dict[str, list[int]]
    log: RowLog = field(default_factory=lambda: RowLog("users"))
    tried: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, users: Sequence[str], plan: SplitPlan, seed: int) -> Shares:
        """Share out users, given by their ids."""
        train_end, calibration_end = np.cumsum(plan.fractions)[:2]
        members: dict[str, list[int]] = {name: [] for name in SPLITS}
        drawn = sorted((split_position(seed, user), user, i) for i, user in enumerate(users))
        for position, _, place in drawn:
            index = int(position >= train_end) + int(position >= calibration_end)
            members[SPLITS[index]].append(place)
        return cls(members)

    def sizes(self) -> dict[str, int]:
        """Users per split."""
        return {name: len(places) for name, places in self.members.items()}

    def build(
        self, build: Callable[[int], Example], plan: SplitPlan
    ) -> dict[str, tuple[Example, ...]]:
        """The lists of each split, as many as are planned.

        build: the list of the user at a place; raises NoListError with the reason for none.

        Raises:
            DataError: no list at all, or too few in a split.
        """
        parts = {name: self._part(name, build, getattr(plan, name)) for name in SPLITS}
        if not any(parts.values()):
            counted = sorted(self.log.rejected.items())
            reasons = ", ".join(f"{reason} ({count})" for reason, count in counted)
            raise DataError(f"no list could be built: {reasons}; check the rubric and `candidates`")
        for name, part in parts.items():
            wanted = getattr(plan, name) or 1
            if len(part) < wanted:
                raise DataError(
                    f"split {name} has {len(part)} lists, {wanted} asked: lower data.train, "
                    "data.calibration and data.test, which share out the users, or use more rows"
                )
        return parts

    def _part(
        self, name: str, build: Callable[[int], Example], size: int | None
    ) -> tuple[Example, ...]:
        examples: list[Example] = []
        places = self.members[name]
        for place in places:
            if len(examples) == size:
                break
            self.tried[name] = self.tried.get(name, 0) + 1
            try:
                examples.append(build(place))
            except NoListError as reason:
                self.log.reject(str(reason))
        self.tried.setdefault(name, 0)
        self.log.reject("beyond the size of their split", len(places) - self.tried[name])
        return tuple(examples)
