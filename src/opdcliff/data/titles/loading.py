"""data=titles: the generated ranking problems with item titles as the reasons of answers.

The heterogeneous companion of `mini`: there the text goes on with one probability at every offset,
here with .999 inside a phrase and with much less where a title may end. Titles come from a list, a
folder of item rows, or the grammar of `grammar`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from opdcliff.data.amazon.files import ReadProgress
from opdcliff.data.amazon.rows import RowLog, meta_rows, one_line
from opdcliff.data.example import Splits
from opdcliff.data.jsonl import read_lines
from opdcliff.data.mini import SplitSizes, generate
from opdcliff.data.titles.grammar import compose
from opdcliff.errors import DataError

# Titles of the grammar: as many as the item rows of the sample that it stands in for.
MADE_UP = 4000
_PATTERNS = ("meta_*.jsonl", "meta_*.jsonl.gz")


def load_titles(
    source: Path | None,
    sizes: SplitSizes,
    *,
    candidates: int,
    seed: int,
    max_words: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Splits, dict[str, object] | None]:
    """The splits of `mini`, with distinct titles; and how many of those read were used.

    source: None for made-up titles (and no counts), a text file of one title a line, or a folder
        of item rows, meta_*.jsonl or meta_*.jsonl.gz. max_words: a longer title is left out and
        counted, since cutting it would move where titles end.
    progress: called with (bytes done, bytes in all) of a folder.

    Raises:
        DataError: nothing there, a file that cannot be read, or no title left.
        ValueError: see `mini.generate`.
    """
    splits = generate(seed, sizes, candidates=candidates)
    if source is None:
        return replace(splits, titles=compose(seed, MADE_UP)), None
    rejected: Counter[str] = Counter()
    found = _of_rows(source, rejected, progress) if source.is_dir() else _of_lines(source, rejected)
    titles: dict[str, None] = {}
    for title in found:
        if len(title.split()) > max_words:
            rejected[f"titles: over {max_words} words"] += 1
        elif title in titles:
            rejected["titles: repeated"] += 1
        else:
            titles[title] = None
    if not titles:
        raise DataError(
            f"{source} has no title of at most data.max_title_words={max_words} words "
            f"({rejected.total()} read); give other titles or raise it"
        )
    # Sorted: the order of lines decides nothing.
    report = {"titles": len(titles), "rejected": dict(sorted(rejected.items()))}
    return replace(splits, titles=tuple(sorted(titles))), report


def _of_lines(file: Path, rejected: Counter[str]) -> Iterator[str]:
    if not file.is_file():
        raise DataError(
            f"{file} is no file or folder; give a text file of one title a line, or a folder with "
            f"{' or '.join(_PATTERNS)}, as data.path"
        )
    for number, line in read_lines(file):
        try:
            title = one_line(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise DataError(
                f"{file} line {number} is not UTF-8; save the file with that encoding"
            ) from error
        if title:
            yield title
        else:
            rejected["titles: nothing printable"] += 1


def _of_rows(
    folder: Path, rejected: Counter[str], progress: Callable[[int, int], None] | None
) -> Iterator[str]:
    files = sorted(path for pattern in _PATTERNS for path in folder.glob(pattern))
    if not files:
        raise DataError(
            f"{folder} holds no {' and no '.join(_PATTERNS)}; give a folder of item rows, or a "
            "text file of one title a line, as data.path"
        )
    meter = ReadProgress(sum(path.stat().st_size for path in files), progress)
    for path in files:
        log = RowLog("meta")
        yield from (row.title for row in meta_rows(path, log, meter))
        rejected.update(log.rejected)
