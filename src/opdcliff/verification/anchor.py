"""Whether runs came after the lock, as git tells it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from opdcliff.storage import git, git_refusal


@dataclass(frozen=True)
class Anchor:
    """The commit that added a lock to the history of a checkout, None where there is none.

    problem: why the lock is not anchored, or None. cut_off: git does not hold what would tell.
    """

    repo: Path
    commit: str | None
    problem: str | None
    cut_off: bool = False

    def holds_for(self, commit: str) -> bool:
        """Whether the lock was already there at `commit`."""
        if self.commit is None:
            return False
        ancestor = ("merge-base", "--is-ancestor", self.commit, commit)
        return git(self.repo, *ancestor) is not None

    def code_changed(self, commit: str) -> bool:
        """Whether the code or settings of `commit` differ from those the lock was added with."""
        if self.commit is None:
            return True
        same = ("diff", "--quiet", self.commit, commit, "--", "src", "conf", "constraints.txt")
        return git(self.repo, *same) is None


def find_anchor(lock: Path) -> Anchor:
    """Look the lock up in the history of the repository it lies in.

    A lock that was changed after it was added, or is not committed, is not anchored.
    """
    repo, name = lock.parent, f"{lock.parent.name}/{lock.name}"
    top = git(repo, "rev-parse", "--show-toplevel")
    if top is None:
        refusal = git_refusal(repo)
        problem = refusal or f"{name} lies in no git repository"
        return Anchor(repo, None, problem, cut_off=refusal is not None)
    if git(repo, "rev-parse", "--is-shallow-repository") == "true":
        problem = (
            f"the history of {top} is cut off (a shallow clone), and with it when {name} was made; "
            "`git fetch --unshallow` gets the rest"
        )
        return Anchor(Path(top), None, problem, cut_off=True)
    added = git(repo, "log", "--format=%H", "--", str(lock))
    commits = (added or "").split()
    if not commits:
        return Anchor(repo, None, f"{name} was never committed")
    if len(commits) > 1:
        return Anchor(repo, None, f"{name} was changed {len(commits) - 1} times after its commit")
    if git(repo, "diff", "--quiet", "HEAD", "--", str(lock)) is None:
        return Anchor(repo, None, f"{name} is not what was committed")
    return Anchor(Path(top), commits[0], None)
