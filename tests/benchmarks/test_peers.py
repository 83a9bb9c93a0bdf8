"""What the comparison with peers compares: the same loss of the same answers, one step a turn."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from opdcliff.paths import REPO_ROOT

ANSWERS, PROMPT, ANSWER = 3, 4, 5


@pytest.fixture(autouse=True)
def of_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(REPO_ROOT / "benchmarks")
    # Read before the runners' modules, which import it.
    importlib.import_module("made_models")


def made(words: tuple[str, ...] = ()) -> tuple[Any, Any, list[str]]:
    """Settings, tiny models and prompts."""
    models = importlib.import_module("made_models")
    config = models.run_settings(
        answers=ANSWERS,
        new_tokens=ANSWER,
        threads=1,
        device="cpu",
        dtype="float32",
        micro_batch=2,
        words=words,
    )
    trio = models.make_trio(models.TINY, torch.device("cpu"), torch.float32)
    return config, trio, models.make_prompts(models.TINY, 2 * ANSWERS, PROMPT)


def test_our_update_and_the_plain_loop_have_one_loss_and_gradient_on_the_same_answers() -> None:
    runners = importlib.import_module("peer_runners")
    config, trio, prompts = made()
    ours = runners.make_runner("ours", config, trio, prompts)
    plain = runners.make_runner("plain", config, trio, prompts)
    batch = ours.sample()
    rollout = batch.rollout
    loss = ours.gradient(batch)
    own = torch.cat([p.grad.flatten() for p in ours.trio.student.parameters()])
    theirs = plain.loss(rollout.ids_BL, rollout.attention_BL, ANSWER)
    assert float(theirs.detach()) == pytest.approx(loss, rel=1e-4)
    torch.testing.assert_close(
        runners.gradient(theirs, plain.student).float(), own, rtol=1e-3, atol=1e-6
    )


@pytest.mark.parametrize("name", ["ours", "ours_lam1", "plain"])
def test_an_update_moves_the_students_own_weights_and_has_answers_of_full_length(name: str) -> None:
    runners = importlib.import_module("peer_runners")
    config, trio, prompts = made()
    before = [p.clone() for p in trio.student.parameters()]
    runner = runners.make_runner(name, config, trio, prompts)
    student = runner.student if name == "plain" else runner.trio.student
    runner.update()
    assert runner.tokens() == ANSWER
    after = list(student.parameters())
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, trio.student.parameters(), strict=True))


def test_the_comparison_of_losses_sees_another_objective() -> None:
    runners = importlib.import_module("peer_runners")
    config, trio, prompts = made()
    plain = runners.make_runner("plain", config, trio, prompts)
    assert runners.agreement({"plain": plain}, config, trio, prompts)["plain"]["gradient"] < 1e-3
    plain.lam += 0.1
    assert runners.agreement({"plain": plain}, config, trio, prompts)["plain"]["gradient"] > 1e-2


class Loop:
    """As much of a trainer as `Turns` asks for: a loop that calls back after each step."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.steps, self.fails_at = 0, fails_at

    def add_callback(self, callback: Any) -> None:
        self.callback = callback

    def train(self) -> None:
        control = SimpleNamespace(should_training_stop=False)
        while not control.should_training_stop:
            if self.steps == self.fails_at:
                raise ValueError("no more")
            self.steps += 1
            self.callback.on_step_end(None, None, control)


def test_a_trainers_loop_makes_one_step_a_turn_and_ends_when_it_is_closed() -> None:
    loop = Loop()
    turns = importlib.import_module("peer_trl").Turns(loop, threads=1)
    assert loop.steps == 0
    for number in range(1, 4):
        turns.step()
        assert loop.steps == number
    turns.close()
    assert loop.steps == 3


def test_an_error_in_a_trainers_loop_is_raised_where_its_turn_was_taken() -> None:
    turns = importlib.import_module("peer_trl").Turns(Loop(fails_at=1), threads=1)
    turns.step()
    with pytest.raises(RuntimeError, match="ended"):
        turns.step()
    turns.close()


def test_the_command_prints_a_table_and_one_line_of_json_per_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    peers = importlib.import_module("peers")
    models = importlib.import_module("made_models")
    monkeypatch.setitem(models.SHAPES, ".1M", models.TINY)
    threads = torch.get_num_threads()
    words = [
        *("--sizes", ".1M", "--runners", "ours", "plain", "--repeats", "2", "--answers", "2"),
        *("--prompt-tokens", "4", "--new-tokens", "5", "--out", str(tmp_path / "peers.jsonl")),
        # Compiling a step takes half a minute.
        *("--backend", "reference"),
    ]
    monkeypatch.setattr("sys.argv", ["peers.py", *words])
    try:
        assert peers.main() == 0
    finally:
        torch.set_num_threads(threads)
    (line,) = (tmp_path / "peers.jsonl").read_text().splitlines()
    printed = capsys.readouterr().out
    assert line in printed
    assert "over ours" in printed
    rows = json.loads(line)["runners"]
    assert {name: len(row["seconds"]) for name, row in rows.items()} == {"ours": 2, "plain": 2}
