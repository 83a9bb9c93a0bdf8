"""The splits of any data set, by its config."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from opdcliff.contract import contract_of
from opdcliff.data import (
    SplitPlan,
    Splits,
    SplitSizes,
    generate,
    generate_orders,
    load_amazon,
    load_prompts,
    load_titles,
    raw_sums,
    read_form,
    reading_bar,
)
from opdcliff.models.tuning.saving import file_digests
from opdcliff.paths import StudyPaths
from opdcliff.settings import DataConfig
from opdcliff.storage import file_digest
from opdcliff.terminal import Stage, print_table

_SPLITS = ("train", "calibration", "test")


def content_of_files(data: DataConfig, paths: StudyPaths) -> list[dict[str, str]]:
    """What names the content of the files that prompts come from.

    The raw files of Amazon Reviews are large: they are read once, which keeps what lists are made
    of (see `raw_sums`), and hashed on the way.

    Raises:
        DataError: see `load_splits`.
    """
    files = [Path(path).expanduser() for path in (data.path, data.rubric) if path]
    if data.name not in ("amazon_fashion", "amazon_titles"):
        return [file_digests(path) for path in files]
    folder, *rubric = files
    with reading_bar() as progress:
        sums = raw_sums(folder, paths, progress)
    if data.name == "amazon_titles":
        # Titles come from every file of items.
        metas = [*folder.glob("meta_*.jsonl"), *folder.glob("meta_*.jsonl.gz")]
        others = [path for path in metas if path.name.removesuffix(".gz") not in sums]
        sums |= {path.name: file_digest(path) for path in others}
    return [sums, *(file_digests(path) for path in rubric)]


def print_filters(out: Console, report: Mapping[str, Any]) -> None:
    """Print how many reviews and users each filter left, where the data have such."""
    if rows := report.get("filters"):
        import pandas as pd

        # As objects: a missing number would make floats of the others.
        frame = pd.DataFrame(rows, dtype=object)[["filter", "reviews", "users", *_SPLITS]]
        print_table(out, "Reviews and users that each filter leaves", frame)


def load_splits(
    data: DataConfig, paths: StudyPaths | None = None
) -> tuple[Splits, dict[str, object] | None]:
    """Splits, and what loading kept and rejected (None where nothing can be rejected).

    paths: where what was read of large files is kept; None reads them again.

    Raises:
        DataError: a file is missing, of another schema, or yields too little.
    """
    sizes = SplitSizes(data.train, data.calibration, data.test)
    if data.name == "amazon_titles":
        lists, report = _amazon(data, sizes, paths)
        titled, read = _titles(data, sizes)
        return replace(lists, titles=titled.titles), {**report, "titles": read}
    if data.name == "mini":
        return generate(data.seed, sizes, candidates=data.candidates), None
    if data.name == "orders":
        return generate_orders(data.seed, sizes, contract_of(data)), None
    if data.name == "titles":
        return _titles(data, sizes)
    if data.name == "prompts":
        source, contract = Path(data.path or "").expanduser(), contract_of(data)
        return load_prompts(source, sizes, contract, read_form(contract, data.form)), None
    return _amazon(data, sizes, paths)


def _amazon(
    data: DataConfig, sizes: SplitSizes, paths: StudyPaths | None
) -> tuple[Splits, dict[str, object]]:
    with reading_bar() as progress:
        splits, report = load_amazon(
            Path(data.path or "").expanduser(),
            candidates=data.candidates,
            seed=data.seed,
            sizes=SplitPlan.of_sizes(sizes.train, sizes.calibration, sizes.test),
            rubric=None if data.rubric is None else Path(data.rubric).expanduser(),
            min_items=data.min_items,
            max_history=data.max_history,
            max_title_words=data.max_title_words,
            negatives=data.negatives,
            keep=paths,
            progress=progress,
        )
    return splits, report.as_dict()


def _titles(data: DataConfig, sizes: SplitSizes) -> tuple[Splits, dict[str, object] | None]:
    source = None if data.path is None else Path(data.path).expanduser()
    total = _total_bytes(source) if source is not None and source.is_dir() else 0
    with Stage("reading titles (bytes)", total) if total else nullcontext() as stage:
        return load_titles(
            source,
            sizes,
            candidates=data.candidates,
            seed=data.seed,
            max_words=data.max_title_words,
            progress=None if stage is None else lambda done, _: stage.update("bytes", done),
        )


def _total_bytes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.iterdir() if p.is_file())
