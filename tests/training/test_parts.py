"""Parts of like length: every row once, the least cost, the same gradient as the batch at once."""

from __future__ import annotations

from itertools import combinations

import torch
from hypothesis import given
from hypothesis import strategies as st

from opdcliff.rollout import Rollout
from opdcliff.training.parts import by_parts, cut, like_lengths, parts_of

lengths_lists = st.lists(st.integers(1, 40), min_size=1, max_size=9)


def cost(parts: list[list[int]], lengths: list[int], overhead: int) -> int:
    return sum(len(rows) * max(lengths[row] for row in rows) + overhead for rows in parts)


@given(lengths=lengths_lists, most=st.integers(1, 9), overhead=st.integers(0, 60))
def test_parts_hold_every_row_once_at_the_least_cost(
    lengths: list[int], most: int, overhead: int
) -> None:
    parts = like_lengths(lengths, most, overhead=overhead)
    assert sorted(row for rows in parts for row in rows) == list(range(len(lengths)))
    assert all(rows == sorted(rows) and 1 <= len(rows) <= most for rows in parts)
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    # Every way to cut the rows in order of their length, of which one is the best of all ways.
    ways = [
        [order[a:b] for a, b in zip((0, *cuts), (*cuts, len(order)), strict=True)]
        for count in range(len(order))
        for cuts in combinations(range(1, len(order)), count)
    ]
    allowed = [cost(way, lengths, overhead) for way in ways if max(map(len, way)) <= most]
    assert cost(parts, lengths, overhead) == min(allowed)


def rollout(prompts: list[int], answers: list[int]) -> Rollout:
    """Rows of such lengths, each token another number."""
    width, length = max(prompts), max(answers)
    attention_BL = torch.zeros(len(prompts), width + length, dtype=torch.long)
    for row, (left, right) in enumerate(zip(prompts, answers, strict=True)):
        attention_BL[row, width - left : width + right] = 1
    ids_BL = torch.arange(attention_BL.numel()).view_as(attention_BL)
    return Rollout(ids_BL, attention_BL, attention_BL[:, width:].bool(), torch.ones(len(prompts)))


shapes = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=8)


@given(shapes=shapes, data=st.data())
def test_a_cut_keeps_all_tokens_and_no_column_of_padding(
    shapes: list[tuple[int, int]], data: st.DataObject
) -> None:
    whole = rollout([a for a, _ in shapes], [b for _, b in shapes])
    chosen = data.draw(st.lists(st.integers(0, len(shapes) - 1), min_size=1, unique=True))
    rows = torch.tensor(sorted(chosen))
    ended_B = torch.arange(len(shapes)) > 2
    part = cut(Rollout(whole.ids_BL, whole.attention_BL, whole.mask_BT, ended_B), rows)
    for number, row in enumerate(rows):
        real = whole.attention_BL[row].bool()
        kept = part.ids_BL[number][part.attention_BL[number].bool()]
        assert torch.equal(kept, whole.ids_BL[row][real])
    assert part.attention_BL[:, 0].any()
    assert part.attention_BL[:, -1].any()
    assert part.answers() == [whole.answers()[row] for row in rows]
    assert torch.equal(part.ended_B, ended_B[rows])


@given(shapes=shapes, most=st.integers(1, 8))
def test_values_of_parts_come_back_to_their_tokens(
    shapes: list[tuple[int, int]], most: int
) -> None:
    whole = rollout([a for a, _ in shapes], [b for _, b in shapes])
    parts = parts_of(whole, most, ranks=1)
    for wide in (False, True):

        def score(part: Rollout) -> torch.Tensor:
            values_BT = part.completion_BT.float()
            return values_BT[..., None].expand(-1, -1, 2) if wide else values_BT  # noqa: B023

        found = by_parts(whole, parts, score)
        found = found[..., 1] if wide else found
        mask_BT = whole.mask_BT
        assert torch.equal(found[mask_BT], whole.completion_BT[mask_BT].float())


def test_several_ranks_make_the_same_passes_whatever_they_sampled() -> None:
    for answers in ([9] * 8, [1, 1, 1, 1, 1, 1, 1, 900], list(range(1, 9))):
        whole = rollout([3] * 8, answers)
        assert [len(rows) for rows in parts_of(whole, 3, ranks=2)] == [3, 3, 2]
    assert len(parts_of(rollout([3] * 8, [1] * 7 + [900]), 8, ranks=1)) == 2
