"""The checker is tested by breaking things: each must change the verdict to the right token."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from locked import LAMS, PROTOCOL, make_study, run_git, settings_of, write_run
from opdcliff.cli.command import main
from opdcliff.errors import InadmissibleError, TamperedError
from opdcliff.paths import StudyPaths
from opdcliff.records.files import CONFIG, METRICS, RUN_MANIFEST, read_manifest, write_manifest
from opdcliff.records.metric_stream import _encode_line, _genesis
from opdcliff.verification import report as report_module
from opdcliff.verification.committed import seal_tables
from opdcliff.verification.lock import FORMAT, LOCK_FILE, Lock, lock_text, read_lock, seal_of
from opdcliff.verification.run_sources import runs_of
from opdcliff.verification.verdicts import Outcome
from opdcliff.verification.verification import Integrity, Verification, verify_runs


@pytest.fixture(scope="module", params=[1, 2], ids=["format 1", "format 2"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a lock and all its runs; tests break copies of it."""
    repo = tmp_path_factory.mktemp("whole")
    make_study(repo, request.param)
    return repo


@pytest.fixture
def repo(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to break; new records say that they ran at the lock's commit."""
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    commit = run_git(copy, "rev-parse", "HEAD")
    monkeypatch.setattr("opdcliff.storage.provenance.git_state", lambda _: (commit, False))
    return copy


def paths_of(repo: Path) -> StudyPaths:
    return StudyPaths(repo / "runs", repo / "results", repo / "prereg")


def checked(repo: Path, source: str = "records") -> Verification:
    paths = paths_of(repo)
    runs = runs_of(source, PROTOCOL, paths, entity=None, project=None)
    return verify_runs(PROTOCOL, paths, runs)


def lock_of(repo: Path) -> Lock:
    lock, broken = read_lock(repo / "prereg" / PROTOCOL)
    assert lock is not None
    assert not broken
    return lock


def run_of(repo: Path, arm: str = "fine_grid", lam: float = 1.80, seed: int = 1) -> Path:
    return repo / "runs" / PROTOCOL / f"{arm}-{lam}-{lock_of(repo).seeds[seed]}"


def outcome_of(found: Verification, test: str = "T1") -> Outcome:
    return next(verdict.outcome for verdict in found.verdicts if verdict.id == test)


def said(found: Verification) -> str:
    return "; ".join(f"{d.integrity}: {d.run}: {d.what}" for d in found.deviations)


def resealed(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Edit a manifest as a forger would: with a fresh seal."""
    manifest = read_manifest(run)
    change(manifest)
    write_manifest(run, manifest)


def relogged(run: Path, rewrite: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Edit the last metric line as a forger would: with fresh checksums throughout."""
    manifest = read_manifest(run)
    rows = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    rows[-1]["metrics"] = rewrite(rows[-1]["metrics"])
    head, data = _genesis(manifest), b""
    for row in rows:
        line, head = _encode_line(head, row["step"], row["metrics"])
        data += line
    (run / METRICS).write_bytes(data)
    manifest["metrics"] = {"lines": len(rows), "sha256": head}
    write_manifest(run, manifest)


# ---- nothing broken ---------------------------------------------------------------------------


def test_all_confirmed_and_clean_is_exit_code_zero(repo: Path) -> None:
    found = checked(repo)
    assert (found.integrity, found.exit_code, said(found)) == (Integrity.CLEAN, 0, "")
    assert [outcome_of(found, name) for name in ("T1", "lift")] == [Outcome.CONFIRMED] * 2
    assert len(found.cells) == len(found.lock.cells() if found.lock else ())


def test_the_results_tell_the_same_from_the_records_and_from_the_committed_table(
    repo: Path,
) -> None:
    folder = paths_of(repo).committed.locked_dir(PROTOCOL)
    report_module.write_verification(checked(repo), folder)
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(first) == {"cells.csv", "provenance.json", "report.md", "verdicts.json"}
    again = checked(repo, "table")
    assert (again.exit_code, said(again)) == (0, "")
    assert report_module.as_json(again) == json.loads(first["verdicts.json"])
    assert "nothing was written" in report_module.write_verification(again, folder)
    report_module.write_verification(checked(repo), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def change_a_rate(line: dict[str, Any]) -> None:
    line["eval/parse_rate"] = "0.5"


@pytest.mark.parametrize(
    "change",
    [
        change_a_rate,
        lambda line: line.update(lam="1.9"),
        lambda line: line.update(status="collapsed"),
        lambda line: line.update(stream_sha256="0" * 64),
    ],
)
def test_an_edited_table_is_tampered_even_if_sealed_anew_where_records_exist(
    change: Callable[[dict[str, Any]], None], repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = paths_of(repo).committed.locked_dir(PROTOCOL)
    report_module.write_verification(checked(repo), folder)
    lines = pd.read_csv(folder / "cells.csv", dtype=str, keep_default_na=False).to_dict("records")
    change(lines[0])
    pd.DataFrame(lines).to_csv(folder / "cells.csv", index=False)
    monkeypatch.chdir(repo)
    monkeypatch.delenv("OPDCLIFF_RUNS", raising=False)
    words = ["verify", f"protocol={PROTOCOL}", "source=table"]
    assert main(words) == TamperedError.exit_code
    seal_tables(folder, {})
    assert main(words) == TamperedError.exit_code
    assert "is not what its record says" in said(checked(repo, "table"))


def test_no_result_names_the_folder_it_was_made_in(repo: Path) -> None:
    folder = paths_of(repo).committed.locked_dir(PROTOCOL)
    (repo / "runs" / PROTOCOL / "odd").mkdir()
    report_module.write_verification(checked(repo), folder)
    assert all(str(repo) not in path.read_text() for path in folder.iterdir())


# ---- locked files -----------------------------------------------------------------------------


def nudge_a_window(repo: Path) -> None:
    path = repo / "prereg" / PROTOCOL / "T1.yaml"
    ulp = math.nextafter(1.84, 2.0)
    path.write_text(path.read_text().replace("hi: 1.84", f"hi: {ulp!r}"))


def flip_a_byte_of_a_test(repo: Path) -> None:
    path = repo / "prereg" / PROTOCOL / "lift.yaml"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(bytes(data))


def make_a_test_unreadable(repo: Path) -> None:
    (repo / "prereg" / PROTOCOL / "T1.yaml").write_text("{]")


def edit_the_lock(repo: Path) -> None:
    path = repo / "prereg" / PROTOCOL / LOCK_FILE
    path.write_text(path.read_text().replace('"created": "2026', '"created": "2025'))


def drop_seeds_with_a_fresh_seal(repo: Path) -> None:
    path = repo / "prereg" / PROTOCOL / LOCK_FILE
    content = json.loads(path.read_text())
    content["seeds"] = content["seeds"][:5]
    path.write_text(lock_text(content | {"sha256": seal_of(content)}))


def put_a_folder_for_a_test(repo: Path) -> None:
    path = repo / "prereg" / PROTOCOL / "lift.yaml"
    path.unlink()
    path.mkdir()


def remove_a_test(repo: Path) -> None:
    (repo / "prereg" / PROTOCOL / "lift.yaml").unlink()


def add_a_test(repo: Path) -> None:
    folder = repo / "prereg" / PROTOCOL
    shutil.copy(folder / "lift.yaml", folder / "lift_too.yaml")


@pytest.mark.parametrize(
    "breaking",
    [
        nudge_a_window,
        flip_a_byte_of_a_test,
        make_a_test_unreadable,
        edit_the_lock,
        drop_seeds_with_a_fresh_seal,
        put_a_folder_for_a_test,
        remove_a_test,
        add_a_test,
    ],
)
def test_a_changed_locked_file_is_tampered_and_shows_no_outcome(
    breaking: Callable[[Path], None], repo: Path
) -> None:
    breaking(repo)
    found = checked(repo)
    assert (found.integrity, found.exit_code) == (Integrity.TAMPERED, 13)
    assert found.verdicts == []
    folder = paths_of(repo).committed.locked_dir(PROTOCOL)
    assert report_module.write_verification(found, folder) == "tampered: nothing was written"
    assert not folder.exists()


# ---- records ----------------------------------------------------------------------------------


def flip_a_metric_byte(repo: Path) -> None:
    path = run_of(repo) / METRICS
    path.write_bytes(path.read_bytes().replace(b"0.05", b"0.95"))


def edit_a_config(repo: Path) -> None:
    path = run_of(repo) / CONFIG
    path.write_text(path.read_text().replace("resolved_lam: 1.8", "resolved_lam: 1.7"))


def edit_a_manifest(repo: Path) -> None:
    path = run_of(repo) / RUN_MANIFEST
    path.write_text(path.read_text().replace('"code_dirty": false', '"code_dirty": true'))


def swap_two_lam_labels(repo: Path) -> None:
    """Records under each other's lambda, with fresh seals: the settings still tell them apart."""
    one, other = run_of(repo, lam=1.75), run_of(repo, lam=1.80)
    names = [read_manifest(run) for run in (one, other)]
    for run, theirs in zip((one, other), reversed(names), strict=True):
        resealed(run, lambda manifest, theirs=theirs: manifest.update(identity=theirs["identity"]))
        relogged(run, lambda metrics: metrics)


@pytest.mark.parametrize(
    "breaking", [flip_a_metric_byte, edit_a_config, edit_a_manifest, swap_two_lam_labels]
)
def test_an_edited_record_is_tampered(breaking: Callable[[Path], None], repo: Path) -> None:
    breaking(repo)
    found = checked(repo)
    assert (found.integrity, found.exit_code, found.verdicts) == (Integrity.TAMPERED, 13, [])


def test_a_forged_setting_with_fresh_seals_is_tampered(repo: Path) -> None:
    lock, key = lock_of(repo), ("fine_grid", 1.80, lock_of(repo).seeds[1])
    shutil.rmtree(run_of(repo))
    forged = settings_of("fine_grid") | {"seed": key[2], "resolved_lam": 1.80, "kind": "opd"}
    forged["optim"]["lr"] = 1e-6
    write_run(repo, lock, key, {"eval/parse_rate": 0.05}, config=forged)
    found = checked(repo)
    assert found.exit_code == 13
    assert "its settings are not those its identity stands for" in said(found)


def test_a_dropped_run_is_not_run(repo: Path) -> None:
    shutil.rmtree(run_of(repo))
    found = checked(repo)
    assert (outcome_of(found), outcome_of(found, "lift")) == (Outcome.NOT_RUN, Outcome.CONFIRMED)
    assert (found.integrity, found.exit_code) == (Integrity.CLEAN, 12)


def test_a_dropped_seed_is_not_run(repo: Path) -> None:
    seed = lock_of(repo).seeds[2]
    for run in (repo / "runs" / PROTOCOL).glob(f"*-{seed}"):
        shutil.rmtree(run)
    found = checked(repo)
    assert outcome_of(found) is outcome_of(found, "lift") is Outcome.NOT_RUN
    assert found.exit_code == 12


@pytest.mark.parametrize("damage", ["cut", "manifest"])
def test_a_record_that_lost_something_after_its_outcome_is_tampered(
    damage: str, repo: Path
) -> None:
    path = run_of(repo) / METRICS
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    else:
        (path.parent / RUN_MANIFEST).unlink()
    found = checked(repo)
    assert (found.integrity, found.exit_code) == (Integrity.TAMPERED, 13)
    assert "restore the file from a copy" in said(found)


@pytest.mark.parametrize("status", ["failed", "preempted", None])
def test_a_run_without_an_outcome_is_not_run(status: str | None, repo: Path) -> None:
    lock, key = lock_of(repo), ("fine_grid", 1.80, lock_of(repo).seeds[1])
    shutil.rmtree(run_of(repo))
    write_run(repo, lock, key, {"eval/parse_rate": 0.05}, status=status)
    assert outcome_of(checked(repo)) is Outcome.NOT_RUN


def test_a_repeated_run_is_listed_and_the_earlier_one_counts(repo: Path) -> None:
    lock, key = lock_of(repo), ("fine_grid", 1.80, lock_of(repo).seeds[1])
    write_run(repo, lock, key, {"eval/parse_rate": 0.95}, folder="again")
    found = checked(repo)
    assert (found.integrity, outcome_of(found)) == (Integrity.DEVIATED, Outcome.CONFIRMED)
    assert "again: repeats the run" in said(found)
    assert found.cells[key].metrics["eval/parse_rate"] == 0.05
    assert found.exit_code == 11


def test_an_undeclared_seed_is_listed_and_not_used(repo: Path) -> None:
    lock = lock_of(repo)
    key = ("fine_grid", 1.80, lock.seeds[1])
    write_run(repo, lock, key, {"eval/parse_rate": 0.95}, folder="extra", seed=7)
    found = checked(repo)
    assert "seed 7 is not one of the lock's" in said(found)
    assert (found.integrity, outcome_of(found)) == (Integrity.DEVIATED, Outcome.CONFIRMED)
    assert {seed for _, _, seed in found.cells} == set(lock.seeds)


def test_a_changed_setting_makes_another_run_and_leaves_its_cell_empty(repo: Path) -> None:
    lock, key = lock_of(repo), ("fine_grid", 1.80, lock_of(repo).seeds[1])
    shutil.rmtree(run_of(repo))
    write_run(repo, lock, key, {"eval/parse_rate": 0.05}, identity="12" * 32)
    found = checked(repo)
    assert "settings or models that are not the locked ones" in said(found)
    assert (found.integrity, outcome_of(found)) == (Integrity.DEVIATED, Outcome.NOT_RUN)


@pytest.mark.parametrize(
    ("rewrite", "reason"),
    [
        (lambda metrics: {"eval/parse_rates": 0.05}, "= nan"),
        (lambda metrics: {"eval/parse_rate": "NaN"}, "= nan"),
        (lambda metrics: {"eval/other": 1.0}, "= nan"),
    ],
)
def test_a_renamed_missing_or_nan_metric_is_inadmissible(
    rewrite: Callable[[dict[str, Any]], dict[str, Any]], reason: str, repo: Path
) -> None:
    relogged(run_of(repo), rewrite)
    found = checked(repo)
    assert outcome_of(found) is Outcome.INADMISSIBLE
    verdict = next(v for v in found.verdicts if v.id == "T1")
    assert reason in verdict.reason
    assert found.exit_code == 12


def test_a_refuted_test_is_exit_code_ten_whatever_else(repo: Path) -> None:
    lock = lock_of(repo)
    for lam in LAMS[2:]:
        for seed in lock.seeds:
            relogged(
                repo / "runs" / PROTOCOL / f"fine_grid-{lam}-{seed}",
                lambda metrics: {"eval/parse_rate": 0.95},
            )
    found = checked(repo)
    assert (outcome_of(found), found.exit_code) == (Outcome.REFUTED, 10)


# ---- before the lock, or with other code --------------------------------------------------------


def test_a_backdated_run_is_unanchored(repo: Path) -> None:
    early = "2025-12-31T23:59:59.999+00:00"
    resealed(run_of(repo), lambda manifest: manifest.update(start=early))
    found = checked(repo)
    assert (found.integrity, found.exit_code) == (Integrity.UNANCHORED, 11)
    assert "before the lock" in said(found)
    assert outcome_of(found) is Outcome.CONFIRMED


def test_a_run_of_a_commit_without_the_lock_is_unanchored(repo: Path) -> None:
    branch = run_git(repo, "rev-parse", "--abbrev-ref", "HEAD")
    run_git(repo, "checkout", "-q", "--orphan", "other")
    run_git(repo, "commit", "-qm", "other history")
    elsewhere = run_git(repo, "rev-parse", "HEAD")
    run_git(repo, "checkout", "-qf", branch)
    resealed(run_of(repo), lambda manifest: manifest.update(code_commit=elsewhere))
    assert checked(repo).integrity is Integrity.UNANCHORED


def test_an_uncommitted_lock_or_no_git_at_all_is_unanchored(repo: Path) -> None:
    run_git(repo, "rm", "-q", "--cached", "-r", "prereg")
    run_git(repo, "commit", "-qm", "lock out")
    assert checked(repo).integrity is Integrity.UNANCHORED
    shutil.rmtree(repo / ".git")
    found = checked(repo)
    assert found.integrity is Integrity.UNANCHORED
    assert "lies in no git repository" in said(found)


def test_a_lock_committed_twice_is_unanchored(repo: Path) -> None:
    path = repo / "prereg" / PROTOCOL / LOCK_FILE
    content = json.loads(path.read_text())
    content["created"] = "2026-01-02T00:00:00.000+00:00"
    path.write_text(lock_text(content | {"sha256": seal_of(content)}))
    run_git(repo, "commit", "-qam", "lock again")
    found = checked(repo)
    assert "changed 1 times after its commit" in said(found)
    assert found.integrity is Integrity.UNANCHORED


def test_code_that_changed_between_lock_and_run_deviates(repo: Path) -> None:
    (repo / "src").mkdir()
    (repo / "src" / "train.py").write_text("pass\n")
    run_git(repo, "add", "src")
    run_git(repo, "commit", "-qm", "code")
    later = run_git(repo, "rev-parse", "HEAD")
    resealed(run_of(repo), lambda manifest: manifest.update(code_commit=later))
    found = checked(repo)
    assert (found.integrity, found.exit_code) == (Integrity.DEVIATED, 11)
    assert "other code or settings" in said(found)


def test_a_later_commit_with_the_same_code_does_not_deviate(repo: Path) -> None:
    (repo / "README.md").write_text("words\n")
    run_git(repo, "add", "README.md")
    run_git(repo, "commit", "-qm", "words")
    later = run_git(repo, "rev-parse", "HEAD")
    resealed(run_of(repo), lambda manifest: manifest.update(code_commit=later))
    assert checked(repo).integrity is Integrity.CLEAN


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"code_dirty": True}, "uncommitted changes"),
        ({"extras": {"models_sha256": "00" * 32}}, "weights are not those of the lock"),
    ],
)
def test_dirty_code_or_other_weights_deviate(change: dict[str, Any], what: str, repo: Path) -> None:
    resealed(run_of(repo), lambda manifest: manifest.update(change))
    found = checked(repo)
    assert (found.integrity, outcome_of(found)) == (Integrity.DEVIATED, Outcome.CONFIRMED)
    assert what in said(found)


# ---- bad input: one line, exit code 12, nothing overwritten -----------------------------


def no_runs(repo: Path) -> None:
    shutil.rmtree(repo / "runs")


def empty_runs(repo: Path) -> None:
    shutil.rmtree(repo / "runs")
    (repo / "runs" / PROTOCOL).mkdir(parents=True)


def no_lock(repo: Path) -> None:
    (repo / "prereg" / PROTOCOL / LOCK_FILE).unlink()


def newer_lock(repo: Path) -> None:
    path = repo / "prereg" / PROTOCOL / LOCK_FILE
    content = json.loads(path.read_text()) | {"format": 99}
    path.write_text(lock_text(content | {"sha256": seal_of(content)}))


def another_protocol(repo: Path) -> None:
    lock = lock_of(repo)
    shutil.rmtree(repo / "runs")
    key = ("fine_grid", 1.80, lock.seeds[0])
    write_run(repo, lock, key, {"eval/parse_rate": 0.05}, protocol="quick")


def two_protocols(repo: Path) -> None:
    lock = lock_of(repo)
    key = ("fine_grid", 1.80, lock.seeds[0])
    write_run(repo, lock, key, {"eval/parse_rate": 0.05}, protocol="quick", folder="stray")


def lock_of_another_name(repo: Path) -> None:
    path = repo / "prereg" / PROTOCOL / LOCK_FILE
    content = json.loads(path.read_text()) | {"protocol": "other"}
    path.write_text(lock_text(content | {"sha256": seal_of(content)}))


@pytest.mark.parametrize(
    ("breaking", "part"),
    [
        (no_runs, "there are no runs of protocol tiny"),
        (empty_runs, "there are no runs of protocol tiny"),
        (no_lock, "nothing is locked there"),
        (newer_lock, f"has format 99 and this version reads up to {FORMAT}"),
        (another_protocol, "of protocol quick, not of tiny alone"),
        (two_protocols, "of protocol quick and tiny, not of tiny alone"),
        (lock_of_another_name, "is of protocol other, not tiny"),
    ],
)
def test_what_cannot_be_verified_is_one_line_and_overwrites_nothing(
    breaking: Callable[[Path], None],
    part: str,
    repo: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    report_module.write_verification(checked(repo), paths_of(repo).committed.locked_dir(PROTOCOL))
    before = {path: path.read_bytes() for path in (repo / "results").rglob("*.*")}
    breaking(repo)
    monkeypatch.chdir(repo)
    monkeypatch.delenv("OPDCLIFF_RUNS", raising=False)
    assert main(["verify", f"protocol={PROTOCOL}"]) == 12
    error = capsys.readouterr().err
    assert part in error
    assert error.count("\n") == 1
    assert {path: path.read_bytes() for path in (repo / "results").rglob("*.*")} == before


def test_fewer_runs_do_not_overwrite_verdicts_on_more(repo: Path) -> None:
    folder = paths_of(repo).committed.locked_dir(PROTOCOL)
    report_module.write_verification(checked(repo), folder)
    before = (folder / "verdicts.json").read_bytes()
    shutil.rmtree(run_of(repo))
    assert "nothing was overwritten" in report_module.write_verification(checked(repo), folder)
    assert (folder / "verdicts.json").read_bytes() == before


def test_a_verdict_file_that_is_none_is_not_overwritten(repo: Path) -> None:
    folder = paths_of(repo).committed.locked_dir(PROTOCOL)
    folder.mkdir(parents=True)
    (folder / "verdicts.json").write_text("[]")
    with pytest.raises(InadmissibleError, match="move it away"):
        report_module.write_verification(checked(repo), folder)


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["source=sheet"], 2, "source=sheet is unknown"),
        (["source=wandb_online"], 2, "needs entity=NAME project=NAME"),
        (["optim.lr=1"], 2, "optim.lr=1 is no setting of verify"),
        (["source=records", "source=wandb"], 2, "takes one value, given once"),
        (["source="], 2, "takes one value"),
        (["protocol=../x"], 2, "is not usable in a path"),
        (["source=table"], 12, "provenance.json is missing"),
    ],
)
def test_wrong_words_are_one_line(
    words: list[str],
    code: int,
    part: str,
    repo: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(repo)
    monkeypatch.delenv("OPDCLIFF_RUNS", raising=False)
    named = [] if words[0].startswith("protocol") else [f"protocol={PROTOCOL}"]
    assert main(["verify", *named, *words]) == code
    assert part in capsys.readouterr().err


def test_the_verb_prints_verdicts_and_returns_their_code(
    repo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(repo)
    monkeypatch.delenv("OPDCLIFF_RUNS", raising=False)
    assert main(["verify", f"protocol={PROTOCOL}"]) == 0
    printed = capsys.readouterr().out
    assert "integrity CLEAN; 2 CONFIRMED" in printed
    assert "Exploratory" in printed
    report = (paths_of(repo).own.locked_dir(PROTOCOL) / "report.md").read_text()
    assert "### T1: CONFIRMED" in report
    assert "| extended |" in report
