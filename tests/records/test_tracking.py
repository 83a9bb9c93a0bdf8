"""The W&B mirror says what the record says, leaks nothing, and never stops a run."""

from __future__ import annotations

import logging
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from opdcliff.errors import ConfigError, RecordError
from opdcliff.records import tracking, tracking_log
from opdcliff.records.record import read_record
from opdcliff.records.tracking import open_tracker
from opdcliff.records.tracking_log import read_offline_run
from opdcliff.records.writer import RunRecord
from opdcliff.storage.provenance import host_class

SECRET = "s3cr3t-value-0123456789"
PAGE: dict[str, Any] = {
    "project": "opd-cliff",
    "group": "mini",
    "job_type": "train",
    "name": "lam=1.25",
    "identity": "0" * 64,
    "config": {"lam": {"value": 1.25}, "api_key": SECRET, "seed": 3},
}
HISTORY: list[tuple[int, dict[str, float]]] = [
    (0, {"eval/parse_rate": 1 / 3, "train/clip_fraction/text-continue": 0.1, "neg": -0.25}),
    (25, {"eval/parse_rate": math.nan, "a.b": 5e-324, "neg": -1.7976931348623157e308}),
    (50, {"eval/parse_rate": -math.inf, "a.b": math.inf, "big": 1e22, "one": 1.0}),
]


def _mirror(folder: Path, rows: list[tuple[int, dict[str, float]]], status: str) -> None:
    tracker = open_tracker("offline", **PAGE, folder=folder)
    for step, metrics in rows:
        tracker.log(step, metrics)
    tracker.finish(status)
    assert tracker.problem is None


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record and its mirror in one folder, written under an environment full of secrets."""
    folder = tmp_path_factory.mktemp("mirrored") / "cell"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_API_KEY", SECRET.ljust(40, "x"))
        patch.setenv("WANDB_MODE", "disabled")
        claim = {"identity": "0" * 64, "seed": 3, "protocol": "mini", "name": "lam=1.25"}
        with RunRecord.create(folder, **claim, config=PAGE["config"]) as record:
            for step, metrics in HISTORY:
                record.log(step, metrics)
            _mirror(folder, HISTORY, "collapsed")
            record.close("collapsed")
    return folder


def test_mirror_equals_the_record(mirrored: Path) -> None:
    record = read_record(mirrored)
    mirror = read_offline_run(mirrored)
    pd.testing.assert_frame_equal(mirror[list(record.history)], record.history, check_exact=True)
    assert set(mirror) == set(record.history)
    assert mirror.attrs == {
        "project": "opd-cliff",
        "group": "mini",
        "job_type": "train",
        "name": "lam=1.25",
        "config": {"lam": {"value": 1.25}, "api_key": "***", "seed": 3},
        "status": "collapsed",
        "finished": True,
    }


def test_one_log_file_reads_like_its_folder(mirrored: Path) -> None:
    (file,) = mirrored.rglob("run-*.wandb")
    pd.testing.assert_frame_equal(read_offline_run(file), read_offline_run(mirrored))


def test_mirror_leaks_nothing(mirrored: Path) -> None:
    paths = list((mirrored / "wandb").rglob("*"))
    # W&B's service links its own debug log whatever the setting; `latest-run` must not be there.
    assert {path.name for path in paths if path.is_symlink()} <= {"debug-core.log"}
    files = [path for path in paths if path.is_file()]
    names = {path.name for path in files}
    assert not names & {"wandb-metadata.json", "requirements.txt", "output.log", "diff.patch"}
    for path in files:
        data = path.read_bytes()
        assert SECRET.encode() not in data
        assert b"requests==" not in data
        if path.suffix == ".wandb":
            # The only file that is ever sent; the debug logs beside it stay here.
            for word in (str(mirrored), os.getcwd(), sys.executable):
                assert word.encode() not in data
            (run,) = [
                entry["run"] for entry in tracking_log._inspect(path) if entry["type"] == "run"
            ]
            assert run["host"] == host_class()
            assert not set(run) & {"git", "settings", "sweep_id"}


@pytest.mark.parametrize(
    "name", ["disable_git", "disable_code", "x_disable_meta", "x_disable_stats"]
)
def test_collection_is_off_twice(tmp_path: Path, name: str) -> None:
    """Several settings overlap today; each stays off in case W&B parts them."""
    settings = tracking._settings(tracking._import_wandb(), "offline", tmp_path, "id")
    assert getattr(settings, name) is True


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _mirror(tmp_path, HISTORY[:1], "finished")
    assert capfd.readouterr() == ("", "")


def test_later_attempt_replaces_the_updates_it_did_again(tmp_path: Path) -> None:
    first = [(step, {"a": float(step), "old": 1.0}) for step in (0, 10, 20, 30)]
    second = [(step, {"a": step + 0.5}) for step in (20, 30, 40)]
    _mirror(tmp_path, first, "preempted")
    _mirror(tmp_path, second, "finished")
    mirror = read_offline_run(tmp_path)
    assert list(mirror["step"]) == [0, 10, 20, 30, 40]
    assert list(mirror["a"]) == [0.0, 10.0, 20.5, 30.5, 40.5]
    assert mirror.attrs["status"] == "finished"


def test_a_folder_deleted_in_the_middle_stops_nothing(tmp_path: Path) -> None:
    tracker = open_tracker("offline", **PAGE, folder=tmp_path)
    tracker.log(0, {"a": 1.0})
    shutil.rmtree(tmp_path / "wandb")
    tracker.log(1, {"a": math.nan})
    tracker.finish()
    with pytest.raises(RecordError, match="no W&B log"):
        read_offline_run(tmp_path)
    # The next attempt has a mirror again.
    _mirror(tmp_path, HISTORY, "finished")
    assert len(read_offline_run(tmp_path)) == len(HISTORY)


def test_two_runs_at_once_do_not_mix(tmp_path: Path) -> None:
    one = open_tracker("offline", **PAGE, folder=tmp_path / "one")
    two = open_tracker("offline", **PAGE | {"identity": "1" * 64}, folder=tmp_path / "two")
    one.log(0, {"a": 1.0})
    two.log(0, {"a": 2.0})
    one.finish()
    two.log(1, {"a": 3.0})
    two.finish()
    assert list(read_offline_run(tmp_path / "one")["a"]) == [1.0]
    assert list(read_offline_run(tmp_path / "two")["a"]) == [2.0, 3.0]


# ---- damage ----------------------------------------------------------------------------------


def test_cut_log_gives_its_whole_lines_and_says_so(mirrored: Path, tmp_path: Path) -> None:
    (file,) = mirrored.rglob("run-*.wandb")
    data = file.read_bytes()
    whole = read_offline_run(file)
    cut = tmp_path / "run-cut.wandb"
    cut.write_bytes(data[: data.rindex(b"eval/parse_rate")])
    mirror = read_offline_run(cut)
    assert not mirror.attrs["finished"]
    assert 0 < len(mirror) <= len(whole)
    assert list(mirror["step"]) == list(whole["step"])[: len(mirror)]


def test_flipped_byte_is_noticed(mirrored: Path, tmp_path: Path) -> None:
    (file,) = mirrored.rglob("run-*.wandb")
    data = bytearray(file.read_bytes())
    data[data.index(b"0.3333333333333333") + 4] ^= 1
    bad = tmp_path / "run-bad.wandb"
    bad.write_bytes(data)
    with pytest.raises(RecordError, match="W&B cannot read its log"):
        read_offline_run(bad)


def test_missing_and_empty_logs_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no W&B log"):
        read_offline_run(tmp_path)
    (tmp_path / "run-x.wandb").touch()
    with pytest.raises(RecordError, match="no run in this W&B log"):
        read_offline_run(tmp_path)
    (tmp_path / "run-x.wandb").write_bytes(b"not a log at all")
    with pytest.raises(RecordError, match="cannot read its log"):
        read_offline_run(tmp_path)


# ---- modes and failures ----------------------------------------------------------------------


def test_off_does_nothing(tmp_path: Path) -> None:
    tracker = open_tracker("off", **PAGE, folder=tmp_path)
    tracker.log(0, {"a": 1.0})
    tracker.finish()
    assert tracker.problem is None
    assert not any(tmp_path.iterdir())


def test_unknown_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mode 'on' must be one of offline, online, off"):
        open_tracker("on", **PAGE, folder=tmp_path)


def _own_service() -> dict[str, str]:
    """An environment in which a child starts its own W&B service instead of joining ours."""
    return {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}


ONLINE = """
import pathlib, sys
from opdcliff.errors import ConfigError
from opdcliff.records.tracking import open_tracker
try:
    open_tracker("online", project="p", group="g", job_type="train", name="n", identity="0",
                 config={}, folder=pathlib.Path(sys.argv[1]))
except ConfigError as error:
    print(error)
"""


@pytest.mark.parametrize(("key", "words"), [(None, "no W&B API key"), ("short", "unusable W&B")])
def test_online_without_a_usable_key_is_one_line(
    tmp_path: Path, key: str | None, words: str
) -> None:
    env = _own_service()
    env |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
    env |= {} if key is None else {"WANDB_API_KEY": key}
    command = [sys.executable, "-c", ONLINE, str(tmp_path / "run")]
    done = subprocess.run(
        command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    assert words in done.stdout
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    assert not (tmp_path / "run").exists()


UNREACHED = """
import pathlib, sys
from opdcliff.records.tracking import open_tracker
for name in ("one", "two", "one"):
    tracker = open_tracker("online", project="p", group="g", job_type="train", name=name,
                           identity=name, config={}, folder=pathlib.Path(sys.argv[1], name))
    tracker.log(0, {"a": 1.0})
    tracker.finish()
    assert tracker.problem is None, tracker.problem
"""


def test_without_a_network_mirrors_are_kept_for_later_and_so_it_is_said_once(
    tmp_path: Path,
) -> None:
    key = "0123456789" * 4
    here = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "WANDB_API_KEY": key}
    agent = {"WANDB_RUN_ID": "same", "WANDB_SWEEP_ID": "sweep", "WANDB_RESUME": "must"}
    env = {**_own_service(), **here, **agent, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    command = [sys.executable, "-c", UNREACHED, str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr == (
        "W&B cannot be reached (connection refused): mirrors are kept offline; "
        "`wandb sync runs/g/*/wandb/offline-run-*` sends them later\n"
    )
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or key.encode() not in path.read_bytes()
    # Attempts of a cell share a page; cells never do, whatever id the environment asks for.
    ids = {
        name: {path.stem for path in (tmp_path / name).rglob("run-*.wandb")}
        for name in ("one", "two")
    }
    assert [len(found) for found in ids.values()] == [1, 1]
    assert len({"run-same", *ids["one"], *ids["two"]}) == 3
    logs = [str(path) for path in sorted(tmp_path.glob("*/wandb/offline-run-*"))]
    assert len(logs) == 3
    assert read_offline_run(tmp_path / "one").attrs["project"] == "p"


def test_failing_start_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import wandb

    def fail(**_: Any) -> None:
        raise RuntimeError("no\nservice")

    monkeypatch.setattr(wandb, "init", fail)
    with caplog.at_level(logging.WARNING):
        tracker = open_tracker("offline", **PAGE, folder=tmp_path)
        tracker.log(0, {"a": 1.0})
        tracker.finish()
    assert tracker.problem == "W&B start failed, mirror off: RuntimeError: no service"
    assert caplog.messages == [tracker.problem]


DYING = """
import pathlib, sys, psutil
from opdcliff.records.tracking import open_tracker
tracker = open_tracker("offline", project="p", group="g", job_type="train", name="n", identity="0",
                       config={}, folder=pathlib.Path(sys.argv[1]))
tracker.log(0, {"a": 1.0})
for child in psutil.Process().children(recursive=True):
    child.kill()
    child.wait()
for step in range(1, 50):
    tracker.log(step, {"a": 1.0})
tracker.finish()
print("alive", tracker.problem, flush=True)
"""


def test_run_outlives_the_death_of_the_wandb_service(tmp_path: Path) -> None:
    command = [sys.executable, "-c", DYING, str(tmp_path)]
    done = subprocess.run(command, env=_own_service(), capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("alive W&B ")
    assert done.stderr.count("mirror off") == 1


QUIET = """
import pathlib, sys
from opdcliff.records.tracking import open_tracker
for name in ("one", "two"):
    tracker = open_tracker("offline", project="p", group="g", job_type="train", name=name,
                           identity=name, config={}, folder=pathlib.Path(sys.argv[1], name))
    tracker.log(0, {"a": 1.0})
    tracker.finish()
    assert tracker.problem is None, tracker.problem
"""


@pytest.mark.parametrize(
    "cache",
    [
        {},
        {"HOME": "/dev/null/home"},
        {"HOME": "/dev/null/home", "XDG_CACHE_HOME": "relative"},
        {"WANDB_CACHE_DIR": "/dev/null/cache"},
    ],
)
def test_the_service_is_silent_without_a_home(tmp_path: Path, cache: dict[str, str]) -> None:
    env = {k: v for k, v in _own_service().items() if k not in ("HOME", "XDG_CACHE_HOME")}
    done = subprocess.run(
        [sys.executable, "-c", QUIET, str(tmp_path)],
        env=env | cache,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    # What it writes stays in the record, and the mirror is whole.
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}
    assert read_offline_run(tmp_path / "two").a.tolist() == [1.0]


def test_unwritable_folder_is_a_problem_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    tracker = open_tracker("offline", **PAGE, folder=tmp_path / "file" / "run")
    tracker.log(0, {"a": 1.0})
    assert tracker.problem is not None
    assert "cannot write" in tracker.problem
