"""Bisection of a grid: the cell that the whole grid would give, for a few of its lambdas."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opdcliff.theory.bisection import bisected
from opdcliff.theory.onset import Onset, onset_of_seed

GRIDS = st.lists(st.integers(1000, 3000), min_size=1, max_size=40, unique=True).map(
    lambda numbers: [number / 1000 for number in numbers]
)


@given(lams=GRIDS, onset=st.floats(0.5, 3.5))
def test_the_cell_is_that_of_the_whole_grid_for_a_logarithm_of_its_runs(
    lams: list[float], onset: float
) -> None:
    asked: list[float] = []
    ran: dict[float, bool] = {}
    while isinstance(found := bisected(lams, ran.get), float):
        asked.append(found)
        ran[found] = found < onset
    assert len(asked) == len(set(asked)) <= math.floor(math.log2(len(lams))) + 1
    if len(lams) > 1:
        whole = onset_of_seed(lams, [0.9 if lam < onset else 0.1 for lam in lams], 0.5)
        assert (found.below, found.above) == (whole.below, whole.above)
    assert found.below < onset <= found.above
    assert math.isnan(found.point) == math.isinf(found.above - found.below)


def test_the_first_lambdas_asked_for_are_known_before_any_run() -> None:
    lams = [0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2]
    assert bisected(lams, {}.get) == 1.05
    assert bisected(lams, {1.05: True}.get) == 1.15
    assert bisected(lams, {1.05: False}.get) == 0.95
    assert bisected(lams, {1.05: False, 0.95: True, 1.0: False}.get) == Onset(
        pytest.approx(0.975), 0.95, 1.0
    )


def test_lambdas_off_the_path_say_nothing() -> None:
    lams = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6]
    path = {1.3: False, 1.1: True, 1.2: True}
    odd = path | {1.0: False, 1.5: True, 1.6: True}
    assert bisected(lams, path.get) == bisected(lams, odd.get) == Onset(1.25, 1.2, 1.3)
