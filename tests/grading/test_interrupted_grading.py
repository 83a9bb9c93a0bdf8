"""A call that is killed, asked to go or interrupted keeps what was graded; the next one goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from fake_judge import KEY, RIGHT, Act, FakeJudge, fake_judge
from judge_desk import ALL, Desk
from opdcliff.grading.cache import ANSWERS

pytestmark = pytest.mark.slow

# Requests that are answered before the process is hit.
BEFORE = 6


def cached(desk: Desk) -> list[dict[str, Any]]:
    (path,) = desk.folder.glob(f"runs/assets/judge-*/{ANSWERS}")
    data = path.read_bytes()
    return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]


def hit(desk: Desk, judge: FakeJudge, reached: threading.Event, number: int) -> tuple[int, str]:
    """Start the command, send it a signal while a request is under way; exit code and stderr."""
    command, environment = desk.in_a_process(judge, concurrency=2, timeout=60.0)
    # Of tests that run in the background a process would inherit that SIGINT is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        command,
        cwd=desk.folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    assert reached.wait(100)
    process.send_signal(number)
    if number == signal.SIGTERM:
        # The one under way comes to its end.
        judge.leave.wait(0.5)
        judge.leave.set()
    _, err = process.communicate(timeout=100)
    return process.returncode, err


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 9), (signal.SIGINT, 130)],
)
def test_a_call_that_is_hit_goes_on_with_what_was_graded(
    desk: Desk, number: int, code: int
) -> None:
    reached = threading.Event()

    def act(place: int, body: dict[str, Any]) -> Act:
        if place < BEFORE or reached.is_set():
            return RIGHT
        reached.set()
        return Act(stall=60.0)

    with fake_judge(act, grade=lambda title: 1) as judge:
        found, err = hit(desk, judge, reached, number)
        assert found == code, err
        kept = cached(desk)
        keys = {row["key"] for row in kept}
        # One answer may be on its way beside the request that stands still.
        assert len(kept) == len(keys) >= BEFORE - 1
        if number == signal.SIGTERM:
            assert f"{len(kept)} of {ALL} lists are graded and kept" in err
        assert KEY not in err
        assert not list(desk.folder.glob("runs/assets/rubric-*/*"))
        asked = len(judge.bodies)
        judge.leave.set()
        assert desk.grade(judge).code == 0
        # Only what was not kept is asked about.
        assert len(judge.bodies) == asked + ALL - len(kept)
    assert len(desk.rubric().read_text().splitlines()) == 4 * ALL


def test_a_call_that_stands_still_does_not_hold_up_one_that_is_asked_to_go(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the grace the request under way is given up."""
    wants = threading.Event()
    monkeypatch.setattr("opdcliff.grading.asking.GRACE_S", 0.2)
    monkeypatch.setattr("opdcliff.grading.asking.requested", wants.is_set)

    def act(place: int, body: dict[str, Any]) -> Act:
        if place < BEFORE:
            return RIGHT
        wants.set()
        return Act(stall=60.0)

    with fake_judge(act, grade=lambda title: 1) as judge:
        said = desk.grade(judge, timeout=60.0, concurrency=1)
    assert said.code == 9
    assert f"asked to stop (SIGTERM); {BEFORE} of {ALL} lists are graded and kept" in said.last


def test_half_a_line_of_a_kill_is_asked_again(desk: Desk) -> None:
    with fake_judge(grade=lambda title: 1) as judge:
        assert desk.grade(judge).code == 0
        (path,) = desk.folder.glob(f"runs/assets/judge-*/{ANSWERS}")
        path.write_bytes(path.read_bytes()[:-30])
        before = desk.rubric().read_bytes()
        desk.rubric().unlink()
        assert desk.grade(judge).code == 0
        assert len(judge.bodies) == ALL + 1
    assert desk.rubric().read_bytes() == before


def test_a_damaged_line_is_said_and_asked_again(desk: Desk) -> None:
    with fake_judge(grade=lambda title: 1) as judge:
        assert desk.grade(judge).code == 0
        (path,) = desk.folder.glob(f"runs/assets/judge-*/{ANSWERS}")
        path.write_bytes(path.read_bytes().replace(b"[1,1,1,1]", b"[4,1,1,1]", 1))
        said = desk.grade(judge)
        assert said.code == 0
        assert "1 damaged lines" in said.err
        assert len(judge.bodies) == ALL + 1
    assert {json.loads(line)["grade"] for line in desk.rubric().read_text().splitlines()} == {1}


def test_two_calls_at_once_do_not_pay_twice(desk: Desk, tmp_path: Path) -> None:
    said: list[int] = []

    def act(place: int, body: dict[str, Any]) -> Act:
        if place == 0:
            command, environment = desk.in_a_process(judge)
            done = subprocess.run(
                command,
                cwd=desk.folder,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            said.append(done.returncode)
            assert "in use by process" in done.stderr
        return RIGHT

    with fake_judge(act, grade=lambda title: 1) as judge:
        assert desk.grade(judge, timeout=100.0).code == 0
        assert len(judge.bodies) == ALL
    assert said == [5]
