"""Whether locked predictions held: integrity first, then a verdict per test.

Two tokens are always given. Integrity says whether what is judged is what was locked: CLEAN,
DEVIATED (runs that differ from the lock, each listed), UNANCHORED (git or the clock does not put
the lock before the runs), TAMPERED (a hash differs: no outcome is shown). Outcomes are those of
`verdicts`. Nothing here decides what a test means: the verdicts are those of the code
that was sealed with the lock (`sealed_code`), whatever today's would say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from opdcliff.errors import (
    InadmissibleError,
    InconclusiveError,
    OpdcliffError,
    RefutedError,
    TamperedError,
)
from opdcliff.paths import StudyPaths
from opdcliff.records import cell_identity
from opdcliff.settings import science_of
from opdcliff.verification.anchor import Anchor, find_anchor
from opdcliff.verification.judging import sealed_verdicts, told_apart, wanted
from opdcliff.verification.lock import LOCK_FILE, Lock, read_lock
from opdcliff.verification.locked_test import LockedTest, read_test
from opdcliff.verification.run_sources import Runs, runs_of
from opdcliff.verification.run_views import UNKNOWN, RunView
from opdcliff.verification.sealed_code import sealed_copy
from opdcliff.verification.verdicts import Cells, CellValue, Outcome, Verdict, corrected, judge


class Integrity(StrEnum):
    """Whether what is judged is what was locked; the gravest that applies."""

    CLEAN = "CLEAN"
    DEVIATED = "DEVIATED"
    UNANCHORED = "UNANCHORED"
    TAMPERED = "TAMPERED"


@dataclass(frozen=True)
class Deviation:
    """One way in which a run, or the whole, is not as locked."""

    integrity: Integrity
    run: str
    what: str


@dataclass(frozen=True)
class Verification:
    """What `verify` found: for a tampered lock or record there are no verdicts.

    verdicts: of the code that was sealed with the lock. otherwise_today: where today's code would
    give others. arms: arm of each locked identity. mismatches: mirror against record.
    """

    protocol: str
    source: str
    lock: Lock | None
    tests: list[LockedTest]
    verdicts: list[Verdict]
    deviations: list[Deviation]
    mismatches: list[str]
    views: list[RunView]
    cells: Cells = field(default_factory=dict)
    otherwise_today: list[str] = field(default_factory=list)

    @property
    def integrity(self) -> Integrity:
        """The gravest of the deviations."""
        order = list(Integrity)
        return max((d.integrity for d in self.deviations), key=order.index, default=Integrity.CLEAN)

    @property
    def clean(self) -> bool:
        """Nothing deviates, and no mirror differs from its record."""
        return self.integrity is Integrity.CLEAN and not self.mismatches

    @property
    def arms(self) -> dict[str, str]:
        """Arm of every locked identity."""
        return {} if self.lock is None else {k: v[0] for k, v in self.lock.cells().items()}

    @property
    def by_brackets(self) -> bool:
        """Whether onsets are decided by grid cells alone."""
        onsets = (test.estimator for test in self.tests if test.estimator.kind == "onset")
        return any(estimator.by == "brackets" for estimator in onsets)

    @property
    def count(self) -> int:
        """Cells that the lock has to run, as far as is known: of bisected arms those asked for."""
        return 0 if self.lock is None else len(wanted(self.tests, self.lock, self.cells))

    @property
    def exit_code(self) -> int:
        """0 all confirmed and clean; else that of the gravest problem."""
        outcomes = {verdict.outcome for verdict in self.verdicts}
        problem: type[OpdcliffError] | None = None
        if self.integrity is Integrity.TAMPERED:
            problem = TamperedError
        elif Outcome.REFUTED in outcomes:
            problem = RefutedError
        elif outcomes & {Outcome.NOT_RUN, Outcome.INADMISSIBLE} or not outcomes:
            problem = InadmissibleError
        elif outcomes != {Outcome.CONFIRMED} or not self.clean:
            problem = InconclusiveError
        return 0 if problem is None else problem.exit_code


def verify(protocol: str = "mini", source: str = "records", root: Path | str = ".") -> Verification:
    """Whether the locked predictions of a protocol held, from Python.

    source: records, wandb or table, see `runs_of`. root: the folder that holds runs/, results/ and
    prereg/.

        found = opdcliff.verify("mini", source="table")
        print(found.integrity, [(test.id, test.outcome) for test in found.verdicts])

    Raises:
        InadmissibleError: there is no lock, or there are no runs. TamperedError: committed results
            are not what was sealed.
    """
    here = Path(root).absolute()
    paths = StudyPaths(here / "runs", here / "results", here / "prereg")
    runs = runs_of(source, protocol, paths, entity=None, project=None)
    return verify_runs(protocol, paths, runs)


def verify_runs(protocol: str, paths: StudyPaths, runs: Runs) -> Verification:
    """Compare runs with the lock of a protocol.

    Raises:
        InadmissibleError: there is no lock, one of a newer version, or one of another protocol.
    """
    folder = paths.prereg_dir(protocol)
    lock, broken = read_lock(folder)
    if lock is not None and lock.protocol != protocol:
        raise InadmissibleError(
            f"{folder / LOCK_FILE} is of protocol {lock.protocol}, not {protocol}"
        )
    tampered = [Deviation(Integrity.TAMPERED, "", what) for what in (*broken, *runs.damaged)]
    if lock is None or tampered:
        return Verification(protocol, runs.source, lock, [], [], tampered, [], runs.views)
    tests = [read_test(folder / name) for name in lock.tests]
    cells, deviations = match_runs(lock, runs.views, find_anchor(folder / LOCK_FILE))
    deviations += [
        Deviation(
            Integrity.TAMPERED,
            "",
            f"{test.id} is of {test.design.seeds} seeds, the lock of {len(lock.seeds)}",
        )
        for test in tests
        if test.design.seeds != len(lock.seeds)
    ]
    found = Verification(
        protocol, runs.source, lock, [], [], deviations, runs.mismatches, runs.views, cells
    )
    if found.integrity is Integrity.TAMPERED:
        return found
    copy = sealed_copy(folder, lock.sources, lock.entry).execute()
    verdicts = sealed_verdicts(copy, tests, cells, lock.seeds)
    today = corrected(tests, [judge(test, cells, lock.seeds) for test in tests])
    return replace(
        found, tests=tests, verdicts=verdicts, otherwise_today=told_apart(verdicts, today)
    )


def match_runs(
    lock: Lock, views: Sequence[RunView], anchor: Anchor
) -> tuple[dict[tuple[str, float, int], CellValue], list[Deviation]]:
    """The cells of the lock that have an outcome, and every way in which runs are not as locked.

    Of two runs of one cell the earlier one counts and the other is listed.
    """
    locked = lock.cells()
    deviations: list[Deviation] = []
    if anchor.problem is not None:
        deviations.append(Deviation(Integrity.UNANCHORED, "", anchor.problem))
    by_identity: dict[str, list[RunView]] = defaultdict(list)
    for view in sorted(views, key=lambda view: view.start):
        by_identity[view.identity].append(view)
    cells: dict[tuple[str, float, int], CellValue] = {}
    commits = _Commits(anchor)
    for identity, same in by_identity.items():
        if identity not in locked:
            deviations += [_undeclared(lock, view) for view in same]
            continue
        arm, lam, seed = locked[identity]
        for view in same:
            deviations += _false_identity(lock, view, locked[identity])
            deviations += _when_and_with_what(lock, view, commits)
        deviations += [
            Deviation(Integrity.DEVIATED, view.name, f"repeats the run {same[0].name}; not used")
            for view in same[1:]
        ]
        if same[0].complete:
            cells[arm, lam, seed] = CellValue(same[0].status, same[0].final)
    return cells, deviations


def _undeclared(lock: Lock, view: RunView) -> Deviation:
    if view.seed not in lock.seeds:
        what = f"seed {view.seed} is not one of the lock's; not used"
    else:
        what = "settings or models that are not the locked ones; not used"
    return Deviation(Integrity.DEVIATED, view.name, what)


def _false_identity(lock: Lock, view: RunView, locked: tuple[str, float, int]) -> list[Deviation]:
    """A run whose contents are not what its identity stands for was edited."""
    arm, lam, seed = locked
    kind = lock.arm(arm).kind
    what = None
    if (view.lam, view.seed, view.kind) != (lam, seed, kind):
        what = (
            f"says lam={view.lam:g} seed={view.seed} {view.kind}, and its identity is of "
            f"lam={lam:g} seed={seed} {kind}"
        )
    elif view.settings is not None:
        settings = {
            name: value
            for name, value in view.settings.items()
            if name not in ("resolved_lam", "kind")
        }
        own = cell_identity(
            science_of(settings), lam=lam, seed=seed, kind=kind, models=lock.models_identity
        )
        if own != view.identity:
            what = "its settings are not those its identity stands for"
    return [] if what is None else [Deviation(Integrity.TAMPERED, view.name, what)]


class _Commits:
    """What git says of the runs' commits, asked once a commit."""

    def __init__(self, anchor: Anchor) -> None:
        self._anchor = anchor
        self._known: dict[str, tuple[bool, bool]] = {}

    def of(self, commit: str) -> tuple[bool, bool]:
        """Whether the lock was there at that commit, and whether the code differed."""
        if self._anchor.cut_off:
            # One line says so for all runs.
            return True, False
        if commit not in self._known:
            after = self._anchor.holds_for(commit)
            self._known[commit] = (after, after and self._anchor.code_changed(commit))
        return self._known[commit]


def _when_and_with_what(lock: Lock, view: RunView, commits: _Commits) -> list[Deviation]:
    found: list[tuple[Integrity, str]] = []
    if _time(view.start) < _time(lock.created):
        found.append((Integrity.UNANCHORED, f"began {view.start}, before the lock"))
    after, changed = commits.of(view.code_commit)
    if not after:
        found.append(
            (Integrity.UNANCHORED, f"the lock is no ancestor of its commit {view.code_commit[:12]}")
        )
    if changed:
        found.append((Integrity.DEVIATED, "its commit has other code or settings than the lock's"))
    if view.code_dirty and view.code_commit != UNKNOWN:
        found.append((Integrity.DEVIATED, "ran with uncommitted changes"))
    if view.models_sha256 not in (lock.models_sha256, UNKNOWN):
        found.append((Integrity.DEVIATED, "the models' weights are not those of the lock"))
    return [Deviation(integrity, view.name, what) for integrity, what in found]


def _time(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo is not None else moment.astimezone()


def counted(deviations: Sequence[Deviation]) -> Mapping[tuple[Integrity, str], list[str]]:
    """Runs by what is wrong with them, for a table that stays short."""
    grouped: dict[tuple[Integrity, str], list[str]] = defaultdict(list)
    for deviation in deviations:
        grouped[deviation.integrity, deviation.what].append(deviation.run)
    return grouped
