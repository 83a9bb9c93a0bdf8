"""The sealed copy of the code that gives a lock its meaning, and what it says.

prereg/<protocol>/sealed/opdcliff/ holds that code as it was when the lock was made. Its verdicts
count, whatever today's code says: a lock outlives the code around it. The copy is executed apart
from this package: an import of `opdcliff` inside it finds only what the copy holds. Libraries are
today's.
"""

from __future__ import annotations

import ast
import builtins
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from opdcliff.errors import InadmissibleError
from opdcliff.paths import PACKAGE
from opdcliff.storage import differs, digest, file_digest, git, write_bytes_atomic

SEALED, SEALED_MANIFEST = "sealed", "manifest.json"
# Where this package is today: what a new lock copies, and what judges in it.
JUDGE = "opdcliff.verification.verdicts"
# Metrics are made while a run goes on; their code is kept to be read, not executed.
METRIC_CODE = (
    *(f"contract/{name}.py" for name in ("verdict", "json_text", "parse", "ranking")),
    *(f"contract/{name}.py" for name in ("choice", "engine")),
    *(f"contract/forms/{name}.py" for name in ("schema", "schema_check", "pattern")),
    *(f"contract/forms/{name}.py" for name in ("lark", "function", "wrapper")),
    "training/evaluation/metrics.py",
)

_NAME = "opdcliff"
_CHANGED = "changed since it was sealed"
# Executed copies by the digest of their bytes.
_executed: dict[str, ModuleType] = {}


@dataclass(frozen=True)
class SealedCopy:
    """The copy of one lock. files: SHA-256 by path; entry: dotted name of what judges.

    commit: where the bytes were taken from, if git is to be asked as well.
    """

    folder: Path
    files: Mapping[str, str]
    entry: str
    commit: str | None = None

    def differences(self) -> list[str]:
        """Every way in which the files are not as they were sealed."""
        where = f"{self.folder.parent.name}/{SEALED}"
        here = {path.relative_to(self._root).as_posix(): path for path in _files(self._root)}
        found = [f"{where}/{name}: not in the copy" for name in sorted(here.keys() - self.files)]
        for name, sealed in self.files.items():
            if name not in here:
                found.append(f"{where}/{name}: sealed and not there")
            elif how := differs(here[name], sealed, _CHANGED):
                found.append(f"{where}/{name}: {how}")
            elif not self._as_committed(name, here[name]):
                found.append(f"{where}/{name}: {_CHANGED}")
        return found

    def execute(self) -> ModuleType:
        """The module that judges, executed from the copy; once for the same bytes.

        Raises:
            InadmissibleError: it imports of its package what the copy does not hold.
        """
        sources = {name: (self._root / name).read_bytes() for name in self.files}
        key = digest([self.entry, self.files], "sealed-copy")
        if key not in _executed:
            _executed[key] = _Apart(sources, f"{_NAME}_sealed_{key[:12]}").module(self.entry)
        return _executed[key]

    @property
    def _root(self) -> Path:
        return self.folder / _NAME

    def _as_committed(self, name: str, path: Path) -> bool:
        """Whether git, where it has the commit, has the same bytes."""
        if self.commit is None:
            return True
        if git(self.folder, "cat-file", "-e", f"{self.commit}^{{commit}}") is None:
            return True
        theirs = git(self.folder, "rev-parse", "--verify", f"{self.commit}:src/{_NAME}/{name}")
        ours = git(self.folder, "hash-object", "--no-filters", str(path))
        return theirs is not None and theirs == ours


def sealed_copy(folder: Path, sources: Mapping[str, str], entry: str | None) -> SealedCopy:
    """The copy that belongs to the lock in `folder`.

    sources, entry: of the lock. A lock of format 1 seals the five files that say what a metric and
    a verdict are, and no entry: what those need to be executed is listed in the copy's manifest,
    which is no part of that lock; git's own copy of the commit named there is compared as well.

    Raises:
        InadmissibleError: such a lock has no readable manifest.
    """
    if entry is not None:
        return SealedCopy(folder / SEALED, sources, entry)
    path = folder / SEALED / SEALED_MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        files = {str(name): str(sha) for name, sha in manifest["files"].items()}
        named, commit = str(manifest["entry"]), str(manifest["commit"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InadmissibleError(
            f"{path} cannot be read, and without it the sealed code is not known; restore it from "
            "git"
        ) from error
    # What judges must be sealed by the lock itself.
    judge = named if _path_of(named, sources) else "opdcliff.verdicts"
    return SealedCopy(path.parent, files | dict(sources), judge, commit)


def write_copy(folder: Path) -> dict[str, str]:
    """Copy today's code of metrics and verdicts for a lock in `folder`; its SHA-256 by path."""
    names = sorted({*METRIC_CODE, *_closure(JUDGE)})
    for name in names:
        write_bytes_atomic(folder / SEALED / _NAME / name, (PACKAGE / name).read_bytes())
    return {name: file_digest(folder / SEALED / _NAME / name) for name in names}


class _Apart:
    """Modules executed from bytes under a private name."""

    def __init__(self, sources: Mapping[str, bytes], private: str) -> None:
        self._sources, self._private = sources, private
        self._modules: dict[str, ModuleType] = {}

    def module(self, dotted: str) -> ModuleType:
        """The module of that name in the copy."""
        if dotted in self._modules:
            return self._modules[dotted]
        module = ModuleType(self._private + dotted.removeprefix(_NAME))
        self._modules[dotted] = module
        # Dataclasses look their module up by name.
        sys.modules[module.__name__] = module
        name = _path_of(dotted, self._sources)
        if name is not None:
            vars(module)["__builtins__"] = {**vars(builtins), "__import__": self._import}
            exec(compile(self._sources[name], f"<sealed {name}>", "exec"), vars(module))
        elif not any(path.startswith(_folder_of(dotted)) for path in self._sources):
            raise InadmissibleError(f"the sealed copy has no module {dotted}, which it imports")
        return module

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        if level or name.partition(".")[0] != _NAME:
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        module = self.module(name)
        for item in fromlist or ():
            if not hasattr(module, item):
                setattr(module, item, self.module(f"{name}.{item}"))
        return module if fromlist else self.module(_NAME)


def _folder_of(dotted: str) -> str:
    return "".join(f"{part}/" for part in dotted.split(".")[1:])


def _path_of(dotted: str, known: Mapping[str, Any]) -> str | None:
    """Path of a module or of a package's own file; None where it has none."""
    folder = _folder_of(dotted)
    for name in (f"{folder.rstrip('/')}.py", f"{folder}__init__.py"):
        if name in known:
            return name
    return None


def _files(root: Path) -> Iterator[Path]:
    # An installer compiles what a wheel carries. Only the listed bytes are ever executed.
    return (
        path
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.parent.name != "__pycache__"
    )


def _closure(entry: str) -> set[str]:
    """Files of this package that a module imports when it is executed, and those they import."""
    known = {path.relative_to(PACKAGE).as_posix(): None for path in PACKAGE.rglob("*.py")}
    found: set[str] = set()
    waiting = [entry]
    while waiting:
        name = _path_of(waiting.pop(), known)
        if name is not None and name not in found:
            found.add(name)
            waiting += _imported(ast.parse((PACKAGE / name).read_bytes()))
    return found


def _imported(tree: ast.Module) -> Iterator[str]:
    """Modules of this package that a file imports at its top, under no condition."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == _NAME:
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
