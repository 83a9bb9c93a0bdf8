"""Ranks that are forked: what they are given, what is heard of them, and how they end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from opdcliff.processes import ForkedRanks, forked_ranks


def _start(word: str, folder: Path, ranks: int = 2) -> ForkedRanks:
    return ForkedRanks(
        "small_ranks",
        [word],
        ranks=ranks,
        port=4711,
        environment={"PATH": os.environ["PATH"], "GIVEN": "bread"},
        errors=folder / "errors",
    )


def test_each_rank_knows_which_it_is_and_prints_where_it_should(tmp_path: Path) -> None:
    (tmp_path / "errors").write_text("before\n")
    ranks = _start("say", tmp_path, 3)
    assert sorted(ranks.stdout) == ["0 3 4711\n", "1 3 4711\n", "2 3 4711\n"]
    assert ranks.wait() == ranks.poll() == 0
    first, *others = (tmp_path / "errors").read_text().splitlines()
    assert first == "before"
    assert sorted(others) == [f"rank {rank} has bread" for rank in range(3)]


@pytest.mark.parametrize(("word", "code"), [("leave", 3), ("die", -signal.SIGKILL), ("raise", 1)])
def test_one_that_fails_takes_the_others_with_it(
    word: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forked_ranks, "_GRACE_SECONDS", 0.5)
    ranks = _start(word, tmp_path)
    assert list(ranks.stdout) == ["waits\n"]
    assert ranks.wait() == code
    assert ("little bread" in (tmp_path / "errors").read_text()) == (word == "raise")


def test_they_can_be_ended(tmp_path: Path) -> None:
    ranks = _start("wait", tmp_path)
    assert [next(ranks.stdout), next(ranks.stdout)] == ["waits\n", "waits\n"]
    assert ranks.poll() is None
    ranks.terminate()
    assert ranks.wait() == -signal.SIGKILL
    assert list(ranks.stdout) == []


def test_they_outlive_the_signals_of_slurm(tmp_path: Path) -> None:
    assert _start("signal", tmp_path).wait() == 0
