"""Shared assets: built once, visible only when whole, refused when damaged."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from built import ensure
from opdcliff.data.example import Example, Splits
from opdcliff.data.mini import SplitSizes, generate
from opdcliff.data.splits_file import SPLITS_FILE, read_splits, write_splits
from opdcliff.errors import ConfigError, RecordError
from opdcliff.paths import StudyPaths
from opdcliff.storage.asset_cache import ASSET_MANIFEST, Asset, manifest
from opdcliff.storage.canonical import digest
from places import with_helpers

KEY = {"seed": 3, "sizes": [1, 2.5], "name": "caf\u00e9"}


def _paths(folder: Path) -> StudyPaths:
    return StudyPaths(runs=folder / "runs", results=folder / "results")


def _build(folder: Path) -> dict[str, Any]:
    assert list(folder.iterdir()) == []
    (folder / "nested").mkdir()
    (folder / "nested" / "weights.bin").write_bytes(b"weights")
    return {"loss": 0.25}


def _must_not_build(_folder: Path) -> dict[str, Any]:
    raise AssertionError("built again")


def _visible(folder: Path) -> list[str]:
    """What lies beside the assets, but for lock files and builds in progress."""
    names = [path.name for path in (folder / "runs" / "assets").iterdir()]
    return [name for name in names if not name.endswith(".lock") and ".partial-" not in name]


# Building


def test_an_asset_is_built_once_and_found_again(tmp_path: Path) -> None:
    folder = ensure(_paths(tmp_path), "models", KEY, _build)
    assert (folder / "nested" / "weights.bin").read_bytes() == b"weights"
    assert (
        ensure(_paths(tmp_path), "models", dict(reversed(KEY.items())), _must_not_build) == folder
    )


def test_the_manifest_tells_kind_identity_key_and_facts(tmp_path: Path) -> None:
    folder = ensure(_paths(tmp_path), "models", KEY, _build)
    identity = digest(KEY, "asset-models")
    assert manifest(folder) == {
        "kind": "models",
        "identity": identity,
        "key": KEY,
        "facts": {"loss": 0.25},
    }
    assert folder == tmp_path / "runs" / "assets" / f"models-{identity[:12]}"


def test_kind_and_every_part_of_the_key_tell_assets_apart(tmp_path: Path) -> None:
    paths = _paths(tmp_path)
    keys = [KEY, KEY | {"seed": 4}, KEY | {"seed": 3.0}, KEY | {"sizes": [2.5, 1]}, {}]
    folders = {ensure(paths, "models", key, _build) for key in keys}
    folders.add(ensure(paths, "data", KEY, _build))
    assert len(folders) == 6


def test_a_kind_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not usable in a path"):
        ensure(_paths(tmp_path), "../models", KEY, _must_not_build)


def _fails(folder: Path) -> dict[str, Any]:
    (folder / "half").write_text("half")
    raise ConfigError("no")


def _facts_are_nan(folder: Path) -> dict[str, Any]:
    _build(folder)
    return {"loss": float("nan")}


@pytest.mark.parametrize("build", [_fails, _facts_are_nan])
def test_a_failed_build_leaves_nothing_visible_and_can_be_repeated(
    tmp_path: Path, build: Callable[[Path], dict[str, Any]]
) -> None:
    with pytest.raises(ConfigError):
        ensure(_paths(tmp_path), "models", KEY, build)
    assert _visible(tmp_path) == []
    folder = ensure(_paths(tmp_path), "models", KEY, _build)
    assert sorted(path.name for path in folder.iterdir()) == [ASSET_MANIFEST, "nested"]


def test_everything_is_on_disk_before_the_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def recorded(handle: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", recorded)
    folder = ensure(_paths(tmp_path), "models", KEY, _build)
    (aside,) = {name for name in synced if Path(name).name.startswith(f"{folder.name}.partial-")}
    inside = {f"{aside}/nested/weights.bin", f"{aside}/nested", f"{aside}/{ASSET_MANIFEST}", aside}
    assert inside <= set(synced)
    # The new name is an entry of the folder above.
    assert synced[-1] == str(folder.parent)


# Two processes, and one that dies

WORKER = """
import sys, time
from pathlib import Path
from built import ensure
from opdcliff.paths import StudyPaths

root, me, other, mode = Path(sys.argv[1]), *sys.argv[2:5]

def build(folder):
    with (root / "builds").open("a") as log:
        log.write(f"{folder}\\n")
    (folder / "half").write_text("half")
    if mode == "hang":
        print("half", flush=True)
        time.sleep(600)
    while not (root / f"{other}.here").exists():
        time.sleep(0.01)
    # The other is about to ask for the same asset; give it time to get in, if it can.
    time.sleep(0.3)
    return {"by": me}

(root / f"{me}.here").touch()
print(ensure(StudyPaths(runs=root / "runs", results=root / "results"), "models", {"n": 1}, build))
"""


def _worker(root: Path, me: str, other: str, mode: str = "race") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(root), me, other, mode],
        env=with_helpers(),
        stdout=subprocess.PIPE,
        text=True,
    )


def _builds(root: Path) -> list[str]:
    return (root / "builds").read_text().split()


def test_two_processes_build_an_asset_once(tmp_path: Path) -> None:
    workers = [_worker(tmp_path, "one", "two"), _worker(tmp_path, "two", "one")]
    answers = [worker.communicate(timeout=60)[0].strip() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert len(_builds(tmp_path)) == 1
    assert answers[0] == answers[1]
    assert _visible(tmp_path) == [Path(answers[0]).name]


def test_a_killed_build_leaves_nothing_visible_and_the_next_call_rebuilds(tmp_path: Path) -> None:
    with _worker(tmp_path, "one", "two", "hang") as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "half\n"
        worker.send_signal(signal.SIGKILL)
    assert worker.returncode == -signal.SIGKILL
    (left,) = _builds(tmp_path)
    assert (Path(left) / "half").exists()
    assert _visible(tmp_path) == []

    def build(folder: Path) -> dict[str, Any]:
        # What the killed build left is gone, and a worker it left behind writes elsewhere.
        assert not Path(left).exists()
        assert str(folder) != left
        return _build(folder)

    folder = ensure(_paths(tmp_path), "models", {"n": 1}, build)
    assert manifest(folder)["facts"] == {"loss": 0.25}
    assert not (folder / "half").exists()
    assert _visible(tmp_path) == [folder.name]


# Damage

NO_MANIFESTS = ["", "{", "[]", "3", "null", "{}", '{"kind": "models", "identity": "x", "key": {}}']


@pytest.mark.parametrize("content", NO_MANIFESTS)
def test_a_damaged_manifest_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    folder = ensure(_paths(tmp_path), "models", KEY, _build)
    (folder / ASSET_MANIFEST).write_text(content)
    with pytest.raises(RecordError, match=r"asset\.json cannot be read .* delete") as caught:
        manifest(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"\xff\xfe{}")])
def test_an_unreadable_manifest_is_refused(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    folder = ensure(_paths(tmp_path), "models", KEY, _build)
    damage(folder / ASSET_MANIFEST)
    with pytest.raises(RecordError, match=r"asset\.json cannot be read"):
        manifest(folder)


def test_an_asset_that_lost_its_manifest_is_neither_used_nor_overwritten(tmp_path: Path) -> None:
    folder = ensure(_paths(tmp_path), "models", KEY, _build)
    (folder / ASSET_MANIFEST).unlink()
    with pytest.raises(RecordError, match=r"has lost its asset\.json; delete the folder"):
        ensure(_paths(tmp_path), "models", KEY, _must_not_build)
    assert (folder / "nested" / "weights.bin").exists()


# Examples

MINI = generate(0, SplitSizes(5, 3, 2), candidates=3)
ODD = Example("two\nlines \u2028 \U0001f600 \x00 \"'\\", ("x y", "caf\u00e9"), (0, 7), "k: \u2029")


def test_splits_come_back_as_they_were(tmp_path: Path) -> None:
    splits = Splits([*MINI.train, ODD], list(MINI.calibration), list(MINI.test))
    write_splits(tmp_path, splits)
    assert read_splits(tmp_path) == splits


def test_titles_come_back_and_are_part_of_the_digest(tmp_path: Path) -> None:
    titled = replace(MINI, titles=("Caf\u00e9 \u2028 Hat", 'Boots 9"'))
    plain, other = (write_splits(tmp_path / n, s) for n, s in (("a", MINI), ("b", titled)))
    assert plain != other
    assert read_splits(tmp_path / "b").titles == titled.titles
    assert read_splits(tmp_path / "a").titles == ()
    assert write_splits(tmp_path / "c", replace(titled, titles=titled.titles[:1])) != other


def test_empty_splits_come_back_empty(tmp_path: Path) -> None:
    write_splits(tmp_path, Splits([], [], [ODD]))
    assert read_splits(tmp_path) == Splits([], [], [ODD])


def test_the_digest_covers_every_field_the_order_and_the_split(tmp_path: Path) -> None:
    first, second = MINI.train[:2]
    variants = [
        Splits([first, second], [], []),
        Splits([second, first], [], []),
        Splits([first], [second], []),
        Splits([first], [], [second]),
        Splits([first], [], []),
        Splits([replace(first, prompt="other"), second], [], []),
        Splits([replace(first, candidates=("B", "A", "C")), second], [], []),
        Splits([replace(first, grades=(9, 9, 9)), second], [], []),
        Splits([replace(first, key="other"), second], [], []),
    ]
    digests = [write_splits(tmp_path, splits) for splits in variants]
    assert len(set(digests)) == len(variants)
    assert write_splits(tmp_path, variants[0]) == digests[0]


def _edit_row(**changes: Any) -> Callable[[str], str]:
    return lambda line: json.dumps(
        {k: v for k, v in (json.loads(line) | changes).items() if v is not None}
    )


BAD_ROWS: dict[str, Callable[[str], str]] = {
    "cut short": lambda line: line[:-9],
    "no object": lambda _: "[1]",
    "unknown split": _edit_row(split="validation"),
    "no key": _edit_row(key=None),
    "grades that do not match": _edit_row(grades=[1]),
    "grades a number": _edit_row(grades=1),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_damaged_splits_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    write_splits(tmp_path, MINI)
    *lines, last = (tmp_path / SPLITS_FILE).read_text().splitlines()
    (tmp_path / SPLITS_FILE).write_text("\n".join([*lines, BAD_ROWS[name](last)]) + "\n")
    with pytest.raises(RecordError, match=r"splits\.jsonl cannot be read") as caught:
        read_splits(tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_splits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"splits\.jsonl cannot be read"):
        read_splits(tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        # As tokenizers and safetensors raise it.
        Exception("No space left on device (os error 28)"),
        Exception("Error while serializing: I/O error: Read-only file system (os error 30)"),
    ],
)
def test_a_disk_that_refuses_an_asset_is_one_line_and_leaves_nothing(
    error: Exception, tmp_path: Path
) -> None:
    asset = Asset.of(StudyPaths(tmp_path), "data", {"a": 1})
    with (
        pytest.raises(RecordError, match=r"cannot write .*partial.*; free space"),
        asset.building(),
    ):
        raise error
    assert not asset.is_ready()
    with asset.building() as draft:
        assert draft is not None
    assert asset.is_ready()


def test_another_error_of_a_build_is_its_own(tmp_path: Path) -> None:
    asset = Asset.of(StudyPaths(tmp_path), "data", {"a": 1})
    for error in (OSError(errno.ENOENT, "missing"), ValueError("no (os error) here")):
        with pytest.raises(type(error)), asset.building():
            raise error
