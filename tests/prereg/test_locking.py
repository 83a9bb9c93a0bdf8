"""Making a lock and running its cells, with made-up models: what is refused, and what is kept."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from built import ensure
from grid_frames import calibration
from locked import BY_BRACKETS, contrast_test, onset_test
from opdcliff.calibration.class_masses import Binding, Calibration
from opdcliff.errors import ConfigError, InadmissibleError, StudyIncompleteError, TamperedError
from opdcliff.models.prepare import Prepared
from opdcliff.paths import StudyPaths
from opdcliff.prereg import confirm, locking
from opdcliff.prereg.arms import baseline_config, locked_arms
from opdcliff.prereg.claims.grounds import Grounds
from opdcliff.prereg.clock import LOGIT
from opdcliff.prereg.confirm import keyed_cells, run_locked
from opdcliff.prereg.locking import KEPT_MODELS, make_lock
from opdcliff.prereg.pilot import HEADROOM, SPREAD
from opdcliff.records.identity import OPD
from opdcliff.records.record import Record
from opdcliff.settings.checks import load, science
from opdcliff.settings.compose import compose_one, model_option
from opdcliff.settings.schema import RunConfig
from opdcliff.storage import Asset, asset_cache
from opdcliff.study.cells import Cell
from opdcliff.study.study import arm_config
from opdcliff.theory.threshold import lambda_star
from opdcliff.verification.lock import LOCK_FILE, Lock, read_lock
from opdcliff.verification.locked_test import CellRef, LockedTest, read_test
from opdcliff.verification.sealed_code import SEALED

P, B = 0.876, 0.476
BINDING = Binding("text", "28-55", P, B)
COMMIT = "c0ffee" * 6 + "abcd"
PILOT_LAM = round(0.85 * lambda_star(P, B, 5.0), 4)


@pytest.fixture(scope="module")
def config() -> RunConfig:
    """The mini protocol on two seeds."""
    made = load(compose_one(["protocol=mini"]))
    for arm in made.protocol.arms:
        arm.seeds = [0, 1]
    return made


@pytest.fixture
def paths(tmp_path: Path) -> StudyPaths:
    return StudyPaths(tmp_path / "runs", tmp_path / "results", tmp_path / "prereg")


@pytest.fixture
def prepared(paths: StudyPaths) -> Prepared:
    def build(folder: Path) -> dict[str, Any]:
        (folder / "weights").write_text("made up")
        return {"digest": "d" * 64}

    folder = ensure(paths, "data", {"name": "made up"}, build)
    return Prepared(folder, folder, "ab" * 32)


@dataclasses.dataclass
class Stage:
    """What stands in for training, and what was asked of it."""

    config: RunConfig
    paths: StudyPaths
    cells: list[Cell] = dataclasses.field(default_factory=list)
    grounds: list[Grounds] = dataclasses.field(default_factory=list)
    failures: dict[str, str] = dataclasses.field(default_factory=dict)
    dirty: bool = False

    @property
    def folder(self) -> Path:
        return self.paths.prereg / "mini"

    def lock(self, config: RunConfig | None = None, **options: Any) -> Path:
        return make_lock(self.config if config is None else config, self.paths, **options)


def pilot_record(folder: Path) -> Record:
    history = pd.DataFrame(
        {
            "step": [0, 20, 100, 150, 200],
            SPREAD: [0.2, 0.06, 0.04, 0.05, 0.05],
            HEADROOM: [3.0, 2.0, 1.0, 1.1, 1.2],
            LOGIT: [0.0, 2.0, 3.0, 3.0, 3.0],
        }
    )
    manifest = {"status": "finished", "identity": "1" * 64}
    return Record(folder, manifest, {"lam": {"warmup_updates": 100}, "optim": {}}, history)


@pytest.fixture
def stage(
    config: RunConfig, paths: StudyPaths, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> Stage:
    made = Stage(config, paths)

    def run_cells(cells: list[Cell], *_: object, workers: int) -> dict[str, str]:
        made.cells += cells
        return made.failures

    def write_tests(grounds: Grounds, *_: object) -> list[LockedTest]:
        made.grounds.append(grounds)
        return [onset_test(), contrast_test()]

    found = Calibration(calibration(p=P, b=B, lambda_star_c2_hi=float("inf")), BINDING)
    for name, stand_in in {
        "code_state": lambda: (COMMIT, made.dirty),
        "prepare": lambda *_: prepared,
        "prepare_calibration": lambda *_: (found, Path()),
        "run_cells": run_cells,
        "read_record": pilot_record,
        "write_tests": write_tests,
    }.items():
        monkeypatch.setattr(locking, name, stand_in)
    return made


@pytest.fixture
def untouched(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """As `stage`, where nothing may be prepared."""

    def prepare(*_: object) -> Prepared:
        raise AssertionError("refused too late")

    monkeypatch.setattr(locking, "prepare", prepare)
    return stage


# ---- what is refused ------------------------------------------------------------------------


def test_a_protocol_without_predictions_is_not_locked(untouched: Stage) -> None:
    with pytest.raises(ConfigError, match="protocol=quick has no predictions to lock"):
        untouched.lock(load(compose_one([])))
    assert not untouched.paths.prereg.exists()


def test_code_without_a_commit_is_not_locked(untouched: Stage) -> None:
    untouched.dirty = True
    with pytest.raises(ConfigError) as caught:
        untouched.lock()
    assert f"not that of a commit (HEAD {COMMIT[:12]})" in str(caught.value)
    assert not untouched.paths.prereg.exists()


def test_a_lock_is_never_replaced_not_even_half_a_one(untouched: Stage) -> None:
    untouched.folder.mkdir(parents=True)
    for options in ({}, {"supersedes": "mini"}):
        with pytest.raises(ConfigError) as caught:
            untouched.lock(**options)
        assert f"{untouched.folder} exists" in str(caught.value)
        assert "protocol.name=mini_v2 supersedes=mini" in str(caught.value)
    assert list(untouched.folder.iterdir()) == []


def test_protocols_that_cannot_run_are_not_locked(untouched: Stage) -> None:
    broken = copy.deepcopy(untouched.config)
    broken.protocol.arms[0].multiples = []
    with pytest.raises(ConfigError, match=r"protocol\.arms\[0\]\.multiples is empty"):
        untouched.lock(broken)


@pytest.mark.parametrize(
    ("dotted", "value", "words"),
    [
        ("protocol.predictions.fine_grid", "fine", "fine_grid=fine is no arm; allowed: fine_grid"),
        ("protocol.predictions.extended", ["longer"], "extended=longer is no arm"),
        ("protocol.predictions.small_clip", "c2", "small_clip=c2 is no arm"),
        ("protocol.predictions.far_below", "far", "far_below=far is no arm"),
        ("protocol.predictions.safe_multiple", 0.9, "safe_multiple=0.9 is not on the fine grid"),
        ("protocol.predictions.larger_model", "huge", "model=huge is unknown"),
    ],
)
def test_predictions_about_what_is_not_there_are_refused_before_anything_is_trained(
    dotted: str, value: Any, words: str, untouched: Stage
) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        untouched.lock(changed(untouched.config, set_to(dotted, value)))


def test_arms_of_different_seeds_are_not_locked(untouched: Stage) -> None:
    fewer = copy.deepcopy(untouched.config)
    fewer.protocol.arms[1].seeds = [7]
    with pytest.raises(ConfigError, match="give all arms of a locked protocol the same"):
        untouched.lock(fewer)


def test_a_pilot_without_outcomes_leaves_nothing(stage: Stage) -> None:
    stage.failures = {"c5-lam1.5": "died"}
    with pytest.raises(StudyIncompleteError, match=r"1 of 4 pilot cells .* c5-lam1\.5 \(died\)"):
        stage.lock()
    assert not stage.paths.prereg.exists()


def test_a_pilot_that_would_say_nothing_is_not_run(stage: Stage) -> None:
    seldom = copy.deepcopy(stage.config)
    seldom.evaluation.every = seldom.optim.updates
    with pytest.raises(ConfigError, match="a pilot of these settings would have 1 evaluations"):
        stage.lock(seldom)
    assert not stage.cells
    assert not stage.paths.prereg.exists()


def test_a_vacuous_window_leaves_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> list[LockedTest]:
        raise ConfigError("says little")

    monkeypatch.setattr(locking, "write_tests", refuse)
    with pytest.raises(ConfigError, match="says little"):
        stage.lock()
    assert not stage.paths.prereg.exists()


def renamed(config: RunConfig) -> RunConfig:
    protocol = dataclasses.replace(config.protocol, name="mini_v2")
    return dataclasses.replace(config, protocol=protocol)


def test_a_broken_lock_is_not_superseded(stage: Stage) -> None:
    path = stage.lock() / LOCK_FILE
    path.write_text(path.read_text() + " ")
    with pytest.raises(ConfigError, match="supersedes=mini: that lock is not as it was sealed"):
        stage.lock(renamed(stage.config), supersedes="mini")
    path.write_text(path.read_text()[:-1])
    (path.parent / "extra.yaml").touch()
    with pytest.raises(ConfigError, match="supersedes=mini: that lock is not as it was sealed"):
        stage.lock(renamed(stage.config), supersedes="mini")
    path.unlink()
    with pytest.raises(InadmissibleError, match="nothing is locked there"):
        stage.lock(renamed(stage.config), supersedes="mini")
    assert not (stage.paths.prereg / "mini_v2").exists()


# ---- what is kept ---------------------------------------------------------------------------


def test_a_lock_seals_what_it_was_made_from(stage: Stage, prepared: Prepared) -> None:
    folder = stage.lock()
    lock, broken = read_lock(folder)
    assert broken == []
    assert lock is not None
    names = {"T1.yaml", "lift.yaml", LOCK_FILE, SEALED, KEPT_MODELS}
    assert {path.name for path in folder.iterdir()} == names
    assert read_test(folder / "T1.yaml") == onset_test()
    assert [path.name for path in stage.paths.prereg.iterdir()] == ["mini"]
    assert (lock.protocol, lock.code_commit, lock.supersedes) == ("mini", COMMIT, None)
    assert lock.arms == locked_arms(stage.config, BINDING)
    assert len(lock.seeds) == 2
    assert lock.prompts_sha256 == "d" * 64
    assert lock.models_identity == prepared.models_identity
    assert lock.models_sha256 == asset_cache.content_digest(prepared.models)
    assert lock.calibration["binding"] == dataclasses.asdict(BINDING)
    assert [row["lambda_star_c2_hi"] for row in lock.calibration["table"]] == ["Infinity"] * 4


def test_the_pilot_runs_below_the_cliff_under_a_name_of_its_own(stage: Stage) -> None:
    lock, _ = read_lock(stage.lock())
    assert lock is not None
    assert [(cell.config.seed, cell.lam) for cell in stage.cells] == [
        (seed, PILOT_LAM) for seed in (1000, 1001, 1002, 1003)
    ]
    assert {cell.protocol for cell in stage.cells} == {"mini_pilot"}
    (grounds,) = stage.grounds
    assert lock.pilot["facts"] == grounds.pilot.as_dict()
    assert lock.pilot["facts"]["speed_lo"] == pytest.approx(0.1)
    assert len(lock.pilot["runs"]) == 4
    assert grounds.level == 0.5
    assert grounds.safe_lam() == round(0.8875 * lambda_star(P, B, 5.0), 4)


def test_a_new_version_names_the_old_one_which_stays(stage: Stage) -> None:
    old = stage.lock()
    before = (old / LOCK_FILE).read_bytes()
    new = stage.lock(renamed(stage.config), supersedes="mini")
    first, second = (read_lock(folder)[0] for folder in (old, new))
    assert first is not None
    assert second is not None
    assert second.supersedes == {"protocol": "mini", "sha256": first.sha256}
    assert (old / LOCK_FILE).read_bytes() == before
    assert not set(first.seeds) & set(second.seeds)


# ---- arms and baselines ---------------------------------------------------------------------


def test_the_arms_of_a_lock_are_those_of_the_protocol_and_two_baselines(config: RunConfig) -> None:
    arms = {arm.name: arm for arm in locked_arms(config, BINDING)}
    named = [arm.name for arm in config.protocol.arms]
    assert list(arms) == [*named, "warm_start", "larger_sft"]
    for own in config.protocol.arms:
        arm = arms[own.name]
        star = lambda_star(P, B, arm.settings["clip"]["strength"])
        assert arm.kind == OPD
        assert arm.multiples == own.multiples
        assert arm.lams == [round(multiple * star, 4) for multiple in own.multiples]
        assert arm.settings == science(arm_config(config, own, 0))
        assert arm.settings["optim"]["updates"] == own.updates
    for name in ("warm_start", "larger_sft"):
        assert (arms[name].kind, arms[name].lams, arms[name].multiples) == (name, [1.0], [])


def test_only_the_larger_baseline_has_the_larger_model(config: RunConfig) -> None:
    first = config.protocol.arms[0]
    larger = baseline_config(config, first, "larger_sft", 7)
    assert larger.model == model_option("tiny_5x")
    assert larger.model.arch != config.model.arch
    assert larger.seed == 7
    same = dataclasses.replace(larger, model=config.model)
    assert same == baseline_config(config, first, "warm_start", 7) == arm_config(config, first, 7)


def test_without_a_threshold_there_are_no_arms(config: RunConfig) -> None:
    with pytest.raises(ConfigError, match="the calibration found no threshold"):
        locked_arms(config, None)


# ---- the cells of a lock --------------------------------------------------------------------


@pytest.fixture
def lock(stage: Stage) -> Lock:
    made, _ = read_lock(stage.lock())
    assert made is not None
    return made


def test_the_cells_are_those_of_the_lock_seed_by_seed(
    config: RunConfig, lock: Lock, prepared: Prepared
) -> None:
    cells = list(keyed_cells(config, lock, prepared).values())
    expected = lock.cells()
    identities = [cell.identity(prepared) for cell in cells]
    assert len(identities) == len(set(identities)) == 2 * 25
    assert set(identities) == set(expected)
    assert [cell.config.seed for cell in cells] == [seed for seed in lock.seeds for _ in range(25)]
    for cell, identity in zip(cells, identities, strict=True):
        arm, lam, seed = expected[identity]
        assert (cell.lam, cell.config.seed, cell.protocol) == (lam, seed, "mini")
        assert (cell.kind == OPD) == (arm not in ("warm_start", "larger_sft"))
    seed = lock.seeds[0]
    names = [cell.name for cell in cells[:25]]
    assert names[0] == f"c5-lam{lock.arm('fine_grid').lams[0]:.4f}-full-w100-n200-s{seed}"
    assert names[6] == f"c5-lam{lock.arm('extended').lams[0]:.4f}-full-w100-n400-s{seed}"
    assert names[-2:] == [f"warm_start-s{seed}", f"larger_sft-s{seed}"]
    assert len(set(names)) == 25


def changed(config: RunConfig, change: Callable[[RunConfig], None]) -> RunConfig:
    other = copy.deepcopy(config)
    change(other)
    return other


def set_to(dotted: str, value: Any) -> Callable[[RunConfig], None]:
    def change(config: RunConfig) -> None:
        inner: Any = config
        *path, last = dotted.split(".")
        for name in path:
            inner = inner[int(name)] if name.isdigit() else getattr(inner, name)
        assert getattr(inner, last) != value
        setattr(inner, last, value)

    return change


@pytest.mark.parametrize(
    ("dotted", "value", "line"),
    [
        ("optim.lr", 0.001, "optim.lr=0.001 is not the locked 0.0005 (arm fine_grid)"),
        ("evaluation.final_prompts", 64, "evaluation.final_prompts=64 is not the locked 256"),
        ("model.dtype", "float64", "model.dtype=float64 is not the locked float32"),
        ("sft.teacher.steps", 1, "sft.teacher.steps=1 is not the locked 900"),
        ("protocol.arms.0.updates", 201, "optim.updates=201 is not the locked 200"),
        ("protocol.arms.2.clip", "c5", "clip.name=c5 is not the locked c2 (arm small_clip)"),
        (
            "protocol.predictions.larger_model",
            "tiny_llama",
            "model.arch.family=llama is not the locked qwen3 (arm larger_sft)",
        ),
    ],
)
def test_a_setting_that_is_not_the_locked_one_is_named_with_both_values(
    dotted: str, value: Any, line: str, config: RunConfig, lock: Lock, prepared: Prepared
) -> None:
    with pytest.raises(ConfigError) as caught:
        keyed_cells(changed(config, set_to(dotted, value)), lock, prepared)
    assert line in str(caught.value)
    assert "drop the override, or lock a new version" in str(caught.value)


@pytest.mark.parametrize(
    ("dotted", "value"),
    [
        ("engine.threads", 7),
        ("tracking.mode", "off"),
        ("protocol.workers", 9),
        ("seed", 5),
        ("lam.of_threshold", 0.5),
        # Lambdas and seeds are the lock's.
        ("protocol.arms.0.multiples", [0.5]),
        ("protocol.arms.0.seeds", [3]),
    ],
)
def test_where_and_how_cells_run_is_free(
    dotted: str, value: Any, config: RunConfig, lock: Lock, prepared: Prepared
) -> None:
    cells = keyed_cells(changed(config, set_to(dotted, value)), lock, prepared)
    assert {cell.identity(prepared) for cell in cells.values()} == set(lock.cells())


def test_an_arm_of_the_lock_that_is_gone_is_missed(
    config: RunConfig, lock: Lock, prepared: Prepared
) -> None:
    other = changed(config, lambda made: made.protocol.arms.pop())
    with pytest.raises(ConfigError, match=r"has an arm far_below and protocol\.arms has not"):
        keyed_cells(other, lock, prepared)


def test_other_models_are_refused(config: RunConfig, lock: Lock, prepared: Prepared) -> None:
    other = dataclasses.replace(prepared, models_identity="cd" * 32)
    with pytest.raises(ConfigError) as caught:
        keyed_cells(config, lock, other)
    assert "not the locked ones (cdcdcdcdcdcd, not abababababab)" in str(caught.value)


# ---- running them ---------------------------------------------------------------------------


def ended(folder: Path) -> Record:
    """A record whose run parses below lambda 1.80 alone."""
    lam = float(re.search(r"-lam([0-9.]+)-", f"{folder.name}-lam1.0-")[1])  # type: ignore[index]
    history = pd.DataFrame({"step": [200], "eval/parse_rate": [0.95 if lam < 1.80 else 0.05]})
    return Record(folder, {"status": "finished"}, {}, history)


@pytest.fixture
def run(
    stage: Stage, lock: Lock, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], list[Cell]]:
    """Runs the lock; returns the cells that were asked for."""
    stage.cells.clear()
    monkeypatch.setattr(confirm, "prepare", lambda *_: prepared)
    monkeypatch.setattr(confirm, "prepare_data", lambda *_: prepared.data)
    own = Asset(prepared.models, "models", {}, prepared.models_identity)
    monkeypatch.setattr(confirm, "models_asset", lambda *_: own)
    monkeypatch.setattr(confirm, "run_cells", locking.run_cells)
    monkeypatch.setattr(confirm, "read_record", ended)

    def call() -> list[Cell]:
        run_locked(stage.config, stage.paths)
        return stage.cells

    return call


def test_all_cells_of_a_sound_lock_run(
    run: Callable[[], list[Cell]], lock: Lock, prepared: Prepared, caplog: pytest.LogCaptureFixture
) -> None:
    assert {cell.identity(prepared) for cell in run()} == set(lock.cells())
    assert caplog.records == []


def test_nothing_runs_under_a_broken_lock(
    run: Callable[[], list[Cell]], stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    (stage.folder / "lift.yaml").unlink()
    with pytest.raises(TamperedError, match=r"lift\.yaml: locked and not there"):
        run()
    shutil.rmtree(stage.folder)
    with pytest.raises(InadmissibleError):
        run()
    assert stage.cells == []


def test_other_code_names_the_commit_to_check_out_before_anything_is_trained(
    run: Callable[[], list[Cell]],
    stage: Stage,
    prepared: Prepared,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def prepare(*_: object) -> Prepared:
        raise AssertionError("trained models that are of no use")

    monkeypatch.setattr(confirm, "prepare", prepare)
    other = Asset(prepared.models, "models", {}, "cd" * 32)
    monkeypatch.setattr(confirm, "models_asset", lambda *_: other)
    with pytest.raises(ConfigError) as caught:
        run()
    line = str(caught.value)
    assert f"need the code they were locked with, commit {COMMIT[:12]}" in line
    assert f"git worktree add ../opd-cliff-mini {COMMIT[:12]}" in line
    assert "OPDCLIFF_RUNS=../opd-cliff-mini/runs" in line
    assert stage.cells == []


def test_other_settings_or_prompts_are_named_before_anything_is_trained(
    run: Callable[[], list[Cell]],
    stage: Stage,
    prepared: Prepared,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = Asset(prepared.models, "models", {}, "cd" * 32)
    monkeypatch.setattr(confirm, "models_asset", lambda *_: other)
    facts = {"facts": {"digest": "0" * 64}}
    with monkeypatch.context() as patch:
        patch.setattr(confirm.asset_cache, "manifest", lambda _: facts)
        with pytest.raises(ConfigError, match="the prompts are not those that protocol mini"):
            run()
    stage.config = changed(stage.config, set_to("sft.long_words", 77))
    with pytest.raises(ConfigError, match=r"sft\.long_words=77 is not the locked"):
        run()


def test_a_changed_raw_file_is_refused_even_where_no_prompt_shows_it(
    run: Callable[[], list[Cell]], stage: Stage, prepared: Prepared
) -> None:
    manifest = prepared.data / asset_cache.ASSET_MANIFEST
    plain = json.loads(manifest.read_text())

    def read(sha256: str) -> None:
        report = {"files": {"rows.jsonl": {"bytes": 1, "sha256": sha256}}}
        facts = plain["facts"] | {"report": report}
        manifest.write_text(json.dumps(plain | {"facts": facts}))

    read("a" * 64)
    shutil.rmtree(stage.folder)
    stage.lock()
    lock, broken = read_lock(stage.folder)
    assert lock is not None
    assert not broken
    assert lock.raw_files == {"rows.jsonl": "a" * 64}
    stage.cells.clear()
    assert len(run()) == 50
    stage.cells.clear()
    read("b" * 64)
    with pytest.raises(ConfigError) as caught:
        run()
    line = str(caught.value)
    assert "rows.jsonl is not the file that protocol mini was locked with" in line
    assert "(sha256 bbbbbbbbbbbb, not aaaaaaaaaaaa)" in line
    assert stage.cells == []


def test_a_lock_of_generated_prompts_names_no_raw_file(lock: Lock, stage: Stage) -> None:
    assert lock.raw_files is None
    assert "raw_files" not in (stage.folder / LOCK_FILE).read_text()


def test_cells_that_failed_are_told(run: Callable[[], list[Cell]], stage: Stage) -> None:
    stage.failures = {"x": "died"}
    with pytest.raises(StudyIncompleteError, match=r"1 of 50 cells have no outcome: x \(died\)"):
        run()


def test_other_weights_under_the_same_settings_are_told_and_run(
    run: Callable[[], list[Cell]],
    stage: Stage,
    prepared: Prepared,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (prepared.models / "weights").write_text("another machine")
    with caplog.at_level(logging.WARNING):
        assert len(run()) == 50
    assert "not bit for bit those of the lock" in caplog.text
    assert f"delete {prepared.models} to take those that the lock keeps" in caplog.text
    shutil.rmtree(stage.folder / KEPT_MODELS)
    caplog.clear()
    run()
    assert "not bit for bit" in caplog.text
    assert "delete" not in caplog.text


# ---- the models of a lock -------------------------------------------------------------------


def test_a_lock_keeps_small_models_that_were_made_here(stage: Stage, prepared: Prepared) -> None:
    kept = stage.lock() / KEPT_MODELS
    assert asset_cache.content_digest(kept) == asset_cache.content_digest(prepared.models)
    assert asset_cache.manifest(kept) == asset_cache.manifest(prepared.models)


def test_a_lock_keeps_no_large_models(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locking, "_KEPT_BYTES", 10)
    assert not (stage.lock() / KEPT_MODELS).exists()


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_lock_keeps_no_models_of_ones_own(
    role: str, config: RunConfig, prepared: Prepared, tmp_path: Path
) -> None:
    model = dataclasses.replace(config.model, **{role: "a/folder"})
    own = dataclasses.replace(config, model=model)
    locking._keep_models(own, prepared.models, tmp_path / KEPT_MODELS)
    assert not (tmp_path / KEPT_MODELS).exists()
    locking._keep_models(config, prepared.models, tmp_path / KEPT_MODELS)
    assert (tmp_path / KEPT_MODELS / "weights").exists()


@pytest.fixture
def elsewhere(
    run: Callable[[], list[Cell]],
    prepared: Prepared,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Asset:
    """The locked models' place on a machine on which none were trained."""
    asset = Asset(tmp_path / "elsewhere" / "models-x", "models", {}, prepared.models_identity)
    there = dataclasses.replace(prepared, models=asset.folder)
    monkeypatch.setattr(confirm, "models_asset", lambda *_: asset)
    monkeypatch.setattr(confirm, "prepare", lambda *_: there)
    return asset


def test_where_no_models_were_trained_those_of_the_lock_are_taken(
    run: Callable[[], list[Cell]],
    elsewhere: Asset,
    prepared: Prepared,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert len(run()) == 50
    assert caplog.records == []
    assert (elsewhere.folder / "weights").read_text() == "made up"
    found = asset_cache.manifest(elsewhere.folder)
    assert found["identity"] == elsewhere.identity
    assert found["facts"] == asset_cache.manifest(prepared.models)["facts"]


def test_kept_models_that_are_not_those_that_were_sealed_are_refused(
    run: Callable[[], list[Cell]], elsewhere: Asset, stage: Stage
) -> None:
    (stage.folder / KEPT_MODELS / "weights").write_text("others")
    with pytest.raises(TamperedError, match="does not hold the models that mini was locked with"):
        run()
    assert stage.cells == []
    assert not elsewhere.folder.exists()


# ---- bisected, and blind --------------------------------------------------------------------


def test_an_arm_that_is_read_by_brackets_runs_what_bisection_asks_for(
    stage: Stage, run: Callable[[], list[Cell]], monkeypatch: pytest.MonkeyPatch
) -> None:
    lams = next(arm.lams for arm in locked_arms(stage.config, BINDING) if arm.name == "fine_grid")
    design = onset_test().design.model_copy(update={"lams": lams, "seeds": 2})
    contrast = contrast_test().estimator.model_copy(
        update={"of": CellRef(arm="fine_grid", lam=lams[0])}
    )
    tests = [
        onset_test(estimator=BY_BRACKETS, design=design.model_dump()),
        contrast_test(estimator=contrast.model_dump()),
    ]
    shutil.rmtree(stage.folder)
    monkeypatch.setattr(locking, "write_tests", lambda *_: tests)
    lock, _ = read_lock(stage.lock())
    assert lock is not None
    stage.cells.clear()
    settings = lock.arm("fine_grid").settings
    fine = [
        cell.lam
        for cell in run()
        if cell.lam in lams and science(cell.config) | {"seed": settings["seed"]} == settings
    ]
    # The third, which is the middle one, holds; the fifth falls; the fourth holds.
    assert sum(lam < 1.80 for lam in lams) == 4
    plain = {arm.name for arm in lock.arms} - {"fine_grid"}
    path = [lams[2], lams[4], lams[3]]
    asked = [*path, lams[0]]
    assert sorted(fine) == sorted(2 * asked)
    assert len(stage.cells) == 2 * (4 + sum(len(lock.arm(name).lams) for name in plain))
    # The path's later cells wait for the earlier ones.
    assert [lam for lam in dict.fromkeys(fine) if lam in path] == path


def test_arms_may_be_run_alone_and_one_that_is_not_there_is_refused(
    stage: Stage, lock: Lock, run: Callable[[], list[Cell]], prepared: Prepared
) -> None:
    run_locked(stage.config, stage.paths, only=["far_below", "warm_start"])
    asked = {lock.cells()[cell.identity(prepared)][0] for cell in stage.cells}
    assert asked == {"far_below", "warm_start"}
    assert len(stage.cells) == 4
    with pytest.raises(ConfigError, match="arm=near is no arm of the lock of mini; allowed: fine"):
        run_locked(stage.config, stage.paths, only=["near"])


def seen_record(folder: Path, weights: str, lam: float) -> Record:
    manifest = {
        "protocol": "looked",
        "status": "finished",
        "extras": {"models_sha256": weights},
    }
    config = {"clip": {"strength": 5.0}, "resolved_lam": lam}
    return Record(folder, manifest, config, pd.DataFrame())


def test_a_lock_names_every_run_of_its_models_and_refuses_one_near_the_cliff(
    stage: Stage, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, star = asset_cache.content_digest(prepared.models), lambda_star(P, B, 5.0)
    runs = [
        seen_record(Path("low"), weights, 0.8 * star),
        seen_record(Path("other"), "0" * 64, 1.1 * star),
    ]
    monkeypatch.setattr(locking, "read_runs", lambda _: runs)
    config = changed(stage.config, set_to("protocol.predictions.blind_from", 0.9))
    lock, _ = read_lock(stage.lock(config))
    assert lock is not None
    assert lock.seen == [
        {
            "protocol": "looked",
            "record": "low",
            "status": "finished",
            "lam": 0.8 * star,
            "of_threshold": pytest.approx(0.8),
        }
    ]
    shutil.rmtree(stage.folder)
    runs.append(seen_record(Path("high"), weights, 0.9 * star))
    with pytest.raises(ConfigError) as caught:
        stage.lock(config)
    assert "looked/high ran at 0.9000 of lambda*" in str(caught.value)
    assert "blind_from=0.9 allows none there" in str(caught.value)
    # Without that setting it is named, too.
    lock, _ = read_lock(stage.lock())
    assert lock is not None
    assert [run["record"] for run in lock.seen or []] == ["low", "high"]


def test_a_protocol_may_do_without_the_longer_budget_and_the_larger_model(
    config: RunConfig,
) -> None:
    other = changed(config, set_to("protocol.predictions.larger_model", None))
    assert [arm.name for arm in locked_arms(other, BINDING)][-1] == "warm_start"
