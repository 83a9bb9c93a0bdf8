"""The schema of a test, and a lock that no edit of its files gets past."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from locked import contrast_test, onset_test
from opdcliff.errors import ConfigError, InadmissibleError
from opdcliff.paths import REPO_ROOT
from opdcliff.storage.canonical import file_digest
from opdcliff.verification.lock import FORMAT, LOCK_FILE, lock_text, read_lock, seal_of, seeds_of
from opdcliff.verification.locked_test import LockedTest, Window, read_test, write_test

REAL = REPO_ROOT / "prereg" / "mini"
FILES = sorted(path.name for path in REAL.iterdir() if path.is_file())
CONTENT: dict[str, Any] = json.loads((REAL / LOCK_FILE).read_text())
SEALED_LATER = {"created", "seeds", "sha256"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the lock of the mini protocol."""
    return Path(shutil.copytree(REAL, tmp_path / "mini"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that every example of a property test leaves as it was."""
    return Path(shutil.copytree(REAL, tmp_path_factory.mktemp("shared") / "mini"))


def resealed(folder: Path, **changes: Any) -> Path:
    """The folder with an edited lock whose seal is right again."""
    content = copy.deepcopy(CONTENT) | changes
    content["sha256"] = seal_of(content)
    (folder / LOCK_FILE).write_text(lock_text(content))
    return folder


# ---- the schema of a test ----------------------------------------------------------------------


def edited(test: LockedTest, dotted: str, value: Any) -> dict[str, Any]:
    plain: dict[str, Any] = test.model_dump()
    *path, last = dotted.split(".")
    inner = plain
    for name in path:
        inner = inner[name]
    inner[last] = value
    return plain


@pytest.mark.parametrize(
    ("dotted", "value"),
    [
        ("colour", "red"),
        ("window.width", 0.1),
        ("estimator.tails", 2),
        ("metric.note", ""),
        ("window.lo", 1.84),
        ("window.lo", 1.85),
        ("window.lo", math.nan),
        ("window.hi", math.inf),
        ("window.lo", -math.inf),
        ("window", {"lo": None, "hi": None, "derivation": "x"}),
        ("estimator.level", math.nan),
        ("estimator.confidence", math.inf),
        ("estimator.kind", "contrast"),
        ("estimator.kind", "slope"),
        ("design.lams", [1.7, math.nan]),
        ("design.seeds", 7.5),
        ("design.seeds", None),
        ("metric.version", "one"),
        ("id", "../T1"),
        ("id", ""),
        ("design.arm", "fine grid"),
        ("correction", "bonferroni"),
        ("claim", None),
    ],
)
def test_a_test_that_breaks_the_schema_is_refused(dotted: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        LockedTest.model_validate(edited(onset_test(), dotted, value))


@pytest.mark.parametrize("name", sorted(onset_test().model_dump()))
def test_no_field_may_be_missing(name: str) -> None:
    plain = onset_test().model_dump()
    del plain[name]
    with pytest.raises(ValidationError, match="Field required"):
        LockedTest.model_validate(plain)


def test_an_open_side_of_a_window_is_infinite() -> None:
    assert Window(lo=0.3, hi=None, derivation="").bounds == (0.3, math.inf)
    assert Window(lo=None, hi=0.3, derivation="").bounds == (-math.inf, 0.3)
    assert Window(lo=-0.3, hi=0.3, derivation="").bounds == (-0.3, 0.3)


def test_a_test_cannot_be_changed_once_it_is_read() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        onset_test().window.hi = 9.0


# ---- test files --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in FILES if name != LOCK_FILE])
def test_the_real_tests_are_written_as_they_are_read(name: str, tmp_path: Path) -> None:
    write_test(tmp_path / name, read_test(REAL / name))
    assert (tmp_path / name).read_bytes() == (REAL / name).read_bytes()


@settings(deadline=None, max_examples=60)
@given(
    claim=st.text(max_size=200),
    lo=st.floats(allow_nan=False, allow_infinity=False, max_value=1e300),
    level=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    contrast=st.booleans(),
)
def test_a_test_survives_its_file(
    claim: str, lo: float, level: float | None, contrast: bool, shared: Path
) -> None:
    window = {"lo": lo, "hi": math.nextafter(lo, math.inf), "derivation": claim}
    test = contrast_test() if contrast else onset_test()
    estimator = test.estimator.model_dump() | ({} if contrast else {"level": level})
    changes = {"claim": claim, "window": window, "estimator": estimator}
    test = LockedTest.model_validate(test.model_dump() | changes)
    path = shared.with_name("test.yaml")
    write_test(path, test)
    assert read_test(path) == test
    assert path.read_bytes().isascii()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "no such file or directory"),
        (b"", "the whole: Input should be"),
        (b"a: [1, 2", "cannot be read as YAML"),
        (b"\xff\xfe\xff", "cannot be read as YAML"),
        (b"a: 2024-13-45", "cannot be read as YAML"),
        (b"a: 1" + b"0" * 5000, "cannot be read as YAML"),
        (b"[" * 3000, "cannot be read as YAML"),
        (b"!!python/object/apply:os.getcwd []", "cannot be read as YAML"),
        (b"a: &a [*a]\nid: T1\nid: T1\n", "claim: Field required"),
        (b"- id: T1\n", "the whole: Input should be"),
        (b"id: T1\n", "claim: Field required"),
    ],
)
def test_a_file_that_holds_no_test_is_refused_in_one_line(
    data: bytes | None, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "T1.yaml"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(InadmissibleError) as caught:
        read_test(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


# What the lock of format 1 sealed.
OLD_MODULES = ("contract", "metrics", "ranking", "stats", "verdicts")


# ---- a sound lock ------------------------------------------------------------------------------


def test_the_real_lock_is_sound() -> None:
    lock, broken = read_lock(REAL)
    assert broken == []
    assert lock is not None
    assert lock.protocol == REAL.name
    assert set(lock.tests) == set(FILES) - {LOCK_FILE}
    assert set(lock.sources) == {f"{n}.py" for n in OLD_MODULES}
    # One run per cell: no two of them have one identity.
    cells = lock.cells()
    assert len(cells) == len(lock.seeds) * sum(len(arm.lams) for arm in lock.arms)
    for name in lock.tests:
        test = read_test(REAL / name)
        arm = lock.arm(test.design.arm)
        assert f"{test.id}.yaml" == name
        assert test.design.lams == arm.lams
        assert test.design.seeds == len(lock.seeds) >= test.minimum_seeds


def test_an_arm_that_is_not_there_is_named() -> None:
    lock, _ = read_lock(REAL)
    assert lock is not None
    with pytest.raises(InadmissibleError, match="lock of mini has no arm nowhere"):
        lock.arm("nowhere")


def test_a_copy_elsewhere_is_as_sound(folder: Path) -> None:
    assert read_lock(folder) == read_lock(REAL)
    resealed(folder)
    assert (folder / LOCK_FILE).read_bytes() == (REAL / LOCK_FILE).read_bytes()


# ---- every edit shows --------------------------------------------------------------------------


@settings(deadline=None, max_examples=150)
@given(
    name=st.sampled_from(FILES),
    place=st.integers(min_value=0, max_value=10**9),
    cut=st.sampled_from([0, 1, 1, 1, 2]),
    new=st.binary(max_size=2),
)
def test_no_byte_of_no_file_can_change(
    name: str, place: int, cut: int, new: bytes, shared: Path
) -> None:
    path = shared / name
    data = path.read_bytes()
    at = place % len(data)
    changed = data[:at] + new + data[at + cut :]
    assume(changed != data)
    try:
        path.write_bytes(changed)
        lock, broken = read_lock(shared)
    finally:
        path.write_bytes(data)
    assert (lock is None) == (name == LOCK_FILE)
    (line,) = broken
    assert f"mini/{name}: " in line


HOSTILE = {
    "empty": b"",
    "list": b"[]",
    "null": b"null",
    "number": b"5",
    "text": b'"sha256"',
    "nothing": b"{}",
    "deep": b"[" * 100_000,
    "no text": b"\xff\xfe\xfa",
    "nan": b'{"sha256": NaN}',
    "infinite": b'{"sha256": 1e999}',
    "long number": b"1" * 5_000,
    "twice": b'{"sha256": "", "sha256": ""}',
    "utf-16": (REAL / LOCK_FILE).read_text().encode("utf-16"),
    "marked": b"\xef\xbb\xbf" + (REAL / LOCK_FILE).read_bytes(),
    "crlf": (REAL / LOCK_FILE).read_bytes().replace(b"\n", b"\r\n"),
    "compact": json.dumps(CONTENT).encode(),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_whatever_else_is_in_the_file_is_no_lock(data: bytes, folder: Path) -> None:
    (folder / LOCK_FILE).write_bytes(data)
    lock, broken = read_lock(folder)
    assert lock is None
    ends = "has other line ends (CRLF) than were sealed; set core.autocrlf=false and check the file"
    said = f"{ends} out anew" if b"\r\n" in data else "its bytes are not those that were sealed"
    assert broken == [f"mini/lock.json: {said}"]


def nudged(folder: Path) -> None:
    """T1's window by one ulp."""
    path, hi = folder / "T1.yaml", read_test(folder / "T1.yaml").window.hi
    assert hi is not None
    text = path.read_text().replace(f"hi: {hi}", f"hi: {math.nextafter(hi, 9.0)!r}")
    path.write_text(text)
    assert read_test(path).window.hi == math.nextafter(hi, 9.0)


EDITS: list[tuple[Callable[[Path], object], list[str]]] = [
    (nudged, ["mini/T1.yaml: changed since the lock"]),
    (lambda f: (f / "T2.yaml").unlink(), ["mini/T2.yaml: locked and not there"]),
    (
        lambda f: shutil.copy(f / "T2.yaml", f / "T4.yaml"),
        ["mini/T4.yaml: not in the lock"],
    ),
    (
        lambda f: (f / "T2.yaml").rename(f / "T4.yaml"),
        ["mini/T4.yaml: not in the lock", "mini/T2.yaml: locked and not there"],
    ),
    (
        lambda f: shutil.copy(f / "T2.yaml", f / "T3.yaml"),
        ["mini/T3.yaml: changed since the lock"],
    ),
]


@pytest.mark.parametrize(
    ("edit", "lines"), EDITS, ids=["nudged", "removed", "added", "renamed", "swapped in"]
)
def test_an_edit_of_the_tests_is_told(
    edit: Callable[[Path], object], lines: list[str], folder: Path
) -> None:
    edit(folder)
    lock, broken = read_lock(folder)
    assert lock is not None
    assert broken == lines


def test_a_new_seal_over_edited_tests_gives_other_seeds(folder: Path) -> None:
    nudged(folder)
    digests = CONTENT["tests"] | {"T1.yaml": file_digest(folder / "T1.yaml")}
    lock, broken = read_lock(resealed(folder, tests=digests))
    assert lock is not None
    assert broken == ["mini/lock.json: the seeds are not those derived from its content"]


# ---- seeds -------------------------------------------------------------------------------------


def test_seeds_are_derived_from_the_content() -> None:
    assert seeds_of(CONTENT, 8) == CONTENT["seeds"] == seeds_of(copy.deepcopy(CONTENT), 8)
    reordered = dict(reversed(list(CONTENT.items())))
    assert seeds_of(reordered, 8) == CONTENT["seeds"]
    assert seeds_of(CONTENT, 3) == CONTENT["seeds"][:3]
    many = seeds_of(CONTENT, 200)
    assert len(set(many)) == 200
    # What `settings` allows as a seed.
    assert all(0 <= seed < 2**32 for seed in many)


@pytest.mark.parametrize("name", sorted(CONTENT))
def test_a_change_of_any_content_changes_all_seeds(name: str) -> None:
    changed = seeds_of(CONTENT | {name: "other"}, 8)
    if name in SEALED_LATER:
        assert changed == CONTENT["seeds"]
    else:
        assert not set(changed) & set(CONTENT["seeds"])


def test_one_ulp_deep_inside_changes_all_seeds() -> None:
    content = copy.deepcopy(CONTENT)
    content["arms"][0]["lams"][0] = math.nextafter(content["arms"][0]["lams"][0], 9.0)
    assert not set(seeds_of(content, 8)) & set(CONTENT["seeds"])


# ---- locks that are not for this program -------------------------------------------------------


def test_a_lock_of_a_newer_format_names_both_numbers(folder: Path) -> None:
    resealed(folder, format=FORMAT + 1, something="new")
    with pytest.raises(InadmissibleError) as caught:
        read_lock(folder)
    assert f"has format {FORMAT + 1} and this version reads up to {FORMAT}" in str(caught.value)


def test_a_newer_format_excuses_no_broken_seal(folder: Path) -> None:
    text = lock_text(CONTENT | {"format": FORMAT + 1})
    (folder / LOCK_FILE).write_text(text)
    lock, broken = read_lock(folder)
    assert lock is None
    assert broken != []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"something": "new"}, "something: Extra inputs"),
        ({"seeds": "x"}, "seeds: Input should be"),
        ({"arms": [{}]}, "arms.0.name: Field required"),
        ({"prompts_sha256": "abc"}, "prompts_sha256: String should match"),
    ],
)
def test_a_sealed_lock_that_breaks_the_schema_is_refused(
    changes: dict[str, Any], words: str, folder: Path
) -> None:
    resealed(folder, **changes)
    with pytest.raises(InadmissibleError) as caught:
        read_lock(folder)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_a_lock_there_is_nothing_to_read(folder: Path) -> None:
    (folder / LOCK_FILE).unlink()
    for where in (folder, folder / "nowhere"):
        with pytest.raises(InadmissibleError, match="does not exist: nothing is locked there"):
            read_lock(where)


def test_the_text_of_a_lock_is_one(folder: Path) -> None:
    reordered = dict(reversed(list(CONTENT.items())))
    assert lock_text(reordered) == lock_text(CONTENT) == (REAL / LOCK_FILE).read_text()
    with pytest.raises(ConfigError, match=r"\$\.pilot is nan"):
        lock_text(CONTENT | {"pilot": math.nan})
