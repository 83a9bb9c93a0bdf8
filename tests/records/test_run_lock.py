"""A record has one writer at a time, and a dead one does not block the next."""

from __future__ import annotations

import errno
import json
import logging
import os
from pathlib import Path

import pytest

from opdcliff.errors import RecordError
from opdcliff.records.files import RUN_LOCK
from opdcliff.records.record import read_record
from opdcliff.records.writer import RunRecord
from record_helpers import CLAIM, write_record, writer_process

pytestmark = pytest.mark.usefixtures("no_git")


def test_stale_lock_of_a_killed_process_is_taken_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with writer_process(tmp_path, "import time; time.sleep(99)"):
        pass
    pid = json.loads((tmp_path / RUN_LOCK).read_text())["pid"]
    # On this logger: a test before may have set the level of the root.
    with caplog.at_level(logging.WARNING, "opdcliff.records.run_lock"):
        with pytest.raises(RecordError, match=r"interrupted run \(status running, no live owner"):
            RunRecord.create(tmp_path, **CLAIM)
        RunRecord.create(tmp_path, **CLAIM, restart=True).close("finished")
    assert f"stale lock of dead process {pid}" in caplog.text
    (attempt,) = read_record(tmp_path).manifest["attempts"]
    assert attempt["status"] == "killed"


def test_second_process_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    then = (
        "import os, time\n"
        "record.log(0, {'a': 1})\n"
        "while not os.path.exists(sys.argv[1] + '/go'): time.sleep(0.01)\n"
        "record.log(1, {'a': 2})\n"
        "record.close('finished')\n"
    )
    with writer_process(tmp_path, then) as child:
        for restart in (False, True):
            with pytest.raises(RecordError, match=f"in use by process {child.pid} since 20"):
                RunRecord.create(tmp_path, **CLAIM, restart=restart)
        (tmp_path / "go").touch()
        assert child.wait() == 0
    assert list(read_record(tmp_path).history["a"]) == [1, 2]


def test_second_writer_in_the_same_process_is_refused(tmp_path: Path) -> None:
    refused = pytest.raises(RecordError, match=f"in use by process {os.getpid()}")
    with RunRecord.create(tmp_path, **CLAIM), refused:
        RunRecord.create(tmp_path, **CLAIM, restart=True)
    assert (tmp_path / RUN_LOCK).read_bytes() == b""


def test_a_disk_that_refuses_the_lock_leaves_it_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("opdcliff.records.run_lock.fsync_folder", full)
        with pytest.raises(RecordError, match="No space left on device; free space"):
            write_record(tmp_path)
    # The same process tries again, as a grid does.
    assert read_record(write_record(tmp_path)).complete
