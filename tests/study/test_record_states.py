"""Every state of a record met by everything that reads or writes one: it works, or says what to do.

Nothing that a finished run wrote is lost on the way.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from opdcliff.errors import InadmissibleError, OpdcliffError, RecordError
from opdcliff.models import Prepared
from opdcliff.paths import StudyPaths
from opdcliff.records.files import CONFIG, METRICS, RUN_MANIFEST, read_manifest, write_manifest
from opdcliff.records.record import OUTCOMES, read_record, terminal_status
from opdcliff.records.writer import RunRecord
from opdcliff.settings import compose_one, load
from opdcliff.study import cells
from opdcliff.study.cells import Cell, is_finished, run_cell
from opdcliff.study.collect import collect
from opdcliff.training import RunOutcome
from opdcliff.verification.run_sources import read_all
from record_helpers import writer_process
from workshop import SECONDS

pytestmark = pytest.mark.usefixtures("no_git")

PROTOCOL = "states"
ROW = {"eval/parse_rate": 0.5, "train/lam": 1.0}
RESTORE = "restore the file from a copy, or move the folder out of runs/ to run the cell anew"


@dataclass
class World:
    """One cell, where its record lies, and what holds the record while the test runs."""

    cell: Cell
    prepared: Prepared
    paths: StudyPaths
    holders: ExitStack

    @property
    def folder(self) -> Path:
        return self.cell.folder(self.prepared, self.paths)

    def claim(self, **other: Any) -> dict[str, Any]:
        own = {
            "identity": self.cell.identity(self.prepared),
            "config": {"kind": "opd", "clip": {"name": "c5", "strength": 5.0}, "resolved_lam": 1.0}
            | {"optim": {"estimator": "full", "updates": 4}, "lam": {"warmup_updates": 0}}
            | {"data": {"name": "mini"}},
            "seed": self.cell.config.seed,
            "protocol": PROTOCOL,
            "name": self.cell.name,
        }
        return own | other

    def write(self, status: str | None = "finished", lines: int = 3, **other: Any) -> None:
        record = RunRecord.create(
            self.folder,
            **self.claim(**other),
            extras={"models_sha256": "0" * 64},
        )
        for step in range(lines):
            record.log(step, ROW)
        if status is None:
            record._release()
        else:
            record.close(status, last_update=lines, collapsed_at=None)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A cell whose training takes no time."""

    def train(cell: Cell, job: Any, report: Callable[..., None], advance: Any) -> RunOutcome:
        report(0, ROW)
        return RunOutcome("finished", 1)

    monkeypatch.setattr(cells, "_train", train)
    (tmp_path / "models").mkdir()
    cell = Cell(load(compose_one(["protocol=grid", *SECONDS])), 1.0, PROTOCOL)
    prepared = Prepared(tmp_path, tmp_path / "models", "none")
    paths = StudyPaths(tmp_path / "runs", tmp_path / "results")
    with ExitStack() as holders:
        yield World(cell, prepared, paths, holders)


# ---- states -----------------------------------------------------------------------------------


def nothing(_: World) -> None:
    """No record yet."""


def begun(w: World) -> None:
    """A writer that was killed before its manifest."""
    w.folder.mkdir(parents=True)
    (w.folder / METRICS).touch()


def running(w: World) -> None:
    claim = w.claim()
    script = (
        "import pathlib, sys\n"
        "from opdcliff.records.writer import RunRecord\n"
        f"held = RunRecord.create(pathlib.Path({str(w.folder)!r}), **{claim!r})\n"
        "held.log(0, {'eval/parse_rate': 0.5})\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    other = w.paths.runs.parent / "other"
    child = w.holders.enter_context(writer_process(other, script))
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"


def killed(w: World) -> None:
    w.write(status=None)


def killed_in_a_line(w: World) -> None:
    w.write(status=None)
    cut(w.folder / METRICS, 20)


def preempted(w: World) -> None:
    w.write(status="preempted")


def preempted_and_cut(w: World) -> None:
    w.write(status="preempted")
    cut(w.folder / METRICS, 20)


def finished(w: World) -> None:
    w.write()


def cut_in_a_line(w: World) -> None:
    w.write()
    cut(w.folder / METRICS, 20)


def cut_at_a_line(w: World) -> None:
    w.write()
    path = w.folder / METRICS
    cut(path, len(path.read_bytes().splitlines(keepends=True)[-1]))


def emptied(w: World) -> None:
    w.write()
    (w.folder / METRICS).write_bytes(b"")


def longer(w: World) -> None:
    w.write()
    with (w.folder / METRICS).open("ab") as file:
        file.write(b"{")


def without(name: str) -> Callable[[World], None]:
    def state(w: World) -> None:
        w.write()
        (w.folder / name).unlink()

    state.__name__ = f"without_{name}"
    return state


def damaged(name: str) -> Callable[[World], None]:
    def state(w: World) -> None:
        w.write()
        path = w.folder / name
        path.write_bytes(path.read_bytes().replace(b"0", b"1", 1))

    state.__name__ = f"damaged_{name}"
    return state


def foreign(w: World) -> None:
    w.write(identity="f" * 64)


def foreign_interrupted(w: World) -> None:
    w.write(status="preempted", identity="f" * 64)


def newer(w: World) -> None:
    w.write()
    write_manifest(w.folder, read_manifest(w.folder) | {"format": 2})


def cut(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[:-count])


# ---- entries ----------------------------------------------------------------------------------


def reads(w: World) -> Any:
    return read_record(w.folder).status


def status(w: World) -> Any:
    return terminal_status(w.folder)


def is_done(w: World) -> Any:
    return is_finished(w.cell, w.prepared, w.paths)


def trains(w: World) -> Any:
    return run_cell(w.cell, w.prepared, w.paths)


def collects(w: World) -> Any:
    found = collect(PROTOCOL, w.paths)
    return found.runs, found.left_out


def verifies(w: World) -> Any:
    """What `verify` is given, of records or of their W&B mirrors."""
    records, broken = read_all(w.paths.protocol_runs(PROTOCOL))
    return [record.complete for record in records], len(broken)


ENTRIES = (reads, status, is_done, trains, collects, verifies)
CUT = rf"{METRICS} was cut after line {{}}.*: the run is finished and wrote 3 lines; {RESTORE}"
NO_MANIFEST = f"cannot read .*{RUN_MANIFEST}: No such file or directory; {RESTORE}"
NO_RUNS = "has no run with an outcome: nothing to collect"


def all_refuse(said: str) -> tuple[Any, ...]:
    """Every reader and writer says the same, and `verify` counts the record as damaged."""
    return (*(said for _ in range(5)), ([], 1))


OTHER = "holds another run .identity 'ffff.* move the folder away to run the cell anew"
NEWER = f"{RUN_MANIFEST}: written by a newer version of opd-cliff .format 2.*; update opd-cliff"
# A text is the error; anything else is what comes back.
TABLE: list[tuple[Callable[[World], None], tuple[Any, ...]]] = [
    (nothing, (NO_MANIFEST, None, False, "=finished", NO_RUNS, ([], 0))),
    (begun, (NO_MANIFEST, None, False, "=finished", NO_RUNS, ([], 0))),
    (running, ("=running", None, False, "in use by process .* stop it", NO_RUNS, ([False], 0))),
    (killed, ("=running", None, False, "=finished", NO_RUNS, ([False], 0))),
    (killed_in_a_line, ("=running", None, False, "=finished", NO_RUNS, ([False], 0))),
    (preempted, ("=preempted", "=preempted", False, "=finished", NO_RUNS, ([False], 0))),
    (preempted_and_cut, ("=preempted", "=preempted", False, "=finished", NO_RUNS, ([False], 0))),
    (finished, ("=finished", "=finished", True, "=finished", (1, 0), ([True], 0))),
    (cut_in_a_line, all_refuse(CUT.format("2, in the middle of line 3"))),
    (cut_at_a_line, all_refuse(CUT.format("2"))),
    (emptied, all_refuse(CUT.format("0"))),
    (longer, all_refuse(f"{METRICS} line 4: not where .* ends, after line 3; .*; {RESTORE}")),
    (without(METRICS), all_refuse(f"cannot read .*{METRICS}: No such file.*; {RESTORE}")),
    (without(CONFIG), all_refuse(f"cannot read .*{CONFIG}: No such file.*; {RESTORE}")),
    (without(RUN_MANIFEST), all_refuse(NO_MANIFEST)),
    (damaged(METRICS), all_refuse(f"{METRICS} line 1: .*damaged; {RESTORE}")),
    (damaged(CONFIG), all_refuse(f"{CONFIG}: checksum mismatch; .*; {RESTORE}")),
    (damaged(RUN_MANIFEST), all_refuse(f"{RUN_MANIFEST}: checksum mismatch; .*; {RESTORE}")),
    (foreign, ("=finished", "=finished", OTHER, OTHER, (1, 0), ([True], 0))),
    (foreign_interrupted, ("=preempted", "=preempted", OTHER, OTHER, NO_RUNS, ([False], 0))),
    (newer, (NEWER,) * 6),
]


@pytest.mark.parametrize(
    ("state", "entry", "expected"),
    [
        pytest.param(state, entry, expected, id=f"{state.__name__}-{entry.__name__}")
        for state, row in TABLE
        for entry, expected in zip(ENTRIES, row, strict=True)
    ],
)
def test_every_state_of_a_record_is_met(
    state: Callable[[World], None], entry: Callable[[World], Any], expected: Any, world: World
) -> None:
    state(world)
    before = files(world.folder)
    if isinstance(expected, str) and not expected.startswith("="):
        with pytest.raises(OpdcliffError) as caught:
            entry(world)
        assert re.search(expected, str(caught.value)), str(caught.value)
        assert "\n" not in str(caught.value)
        assert str(world.paths.protocol_runs(PROTOCOL)) in str(caught.value)
        assert isinstance(caught.value, RecordError | InadmissibleError)
    else:
        plain = expected.removeprefix("=") if isinstance(expected, str) else expected
        assert entry(world) == plain
    after = files(world.folder)
    old = before.get(METRICS, b"")
    # What was measured is where it was, or set aside whole.
    assert not old or old in (after.get(METRICS), after.get("metrics.stale-1.jsonl"))
    if entry is not trains or state.__name__ in ("finished", "foreign", "newer"):
        assert after == before


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*") if path.is_file()}


def test_a_damaged_record_moved_away_is_run_anew(world: World, tmp_path: Path) -> None:
    cut_in_a_line(world)
    shutil.move(world.folder, tmp_path / "away")
    assert trains(world) == "finished"
    assert is_done(world)
    assert terminal_status(world.folder) in OUTCOMES


def test_a_damaged_interrupted_record_says_how_to_start_over(world: World) -> None:
    world.write(status="preempted")
    path = world.folder / CONFIG
    path.write_bytes(path.read_bytes().replace(b"0", b"1", 1))
    with pytest.raises(RecordError, match=r"checksum mismatch; .*; or run its command again"):
        read_record(world.folder)
    assert trains(world) == "finished"


def test_collect_refuses_a_run_of_another_protocol_and_a_run_that_is_there_twice(
    world: World,
) -> None:
    world.write()
    copy = world.folder.with_name("a-copy")
    shutil.copytree(world.folder, copy)
    with pytest.raises(InadmissibleError, match=r"a-copy and .* are the same run; move one"):
        collects(world)
    shutil.rmtree(world.folder)
    shutil.rmtree(copy)
    world.write(protocol="elsewhere")
    with pytest.raises(InadmissibleError, match="is a run of protocol elsewhere, not states; move"):
        collects(world)
