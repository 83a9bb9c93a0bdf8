"""The splits of any data set, by its config."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from opdcliff.contract import contract_of
from opdcliff.data import (
    SplitPlan,
    Splits,
    SplitSizes,
    generate,
    load_amazon,
    load_prompts,
    load_titles,
    read_form,
)
from opdcliff.settings import DataConfig
from opdcliff.terminal import Stage


def load_splits(data: DataConfig) -> tuple[Splits, dict[str, object] | None]:
    """Splits, and what loading kept and rejected (None where nothing can be rejected).

    Raises:
        DataError: a file is missing, of another schema, or yields too little.
    """
    sizes = SplitSizes(data.train, data.calibration, data.test)
    if data.name == "amazon_titles":
        lists, report = _amazon(data, sizes)
        titled, read = _titles(data, sizes)
        return replace(lists, titles=titled.titles), {**report, "titles": read}
    if data.name == "mini":
        return generate(data.seed, sizes, candidates=data.candidates), None
    if data.name == "titles":
        return _titles(data, sizes)
    if data.name == "prompts":
        source, contract = Path(data.path or "").expanduser(), contract_of(data)
        return load_prompts(source, sizes, contract, read_form(contract, data.form)), None
    return _amazon(data, sizes)


def _amazon(data: DataConfig, sizes: SplitSizes) -> tuple[Splits, dict[str, object]]:
    source = Path(data.path or "").expanduser()
    with Stage("reading reviews and items (bytes)", _total_bytes(source)) as stage:
        splits, report = load_amazon(
            source,
            candidates=data.candidates,
            seed=data.seed,
            sizes=SplitPlan.of_sizes(sizes.train, sizes.calibration, sizes.test),
            rubric=None if data.rubric is None else Path(data.rubric).expanduser(),
            min_items=data.min_items,
            max_history=data.max_history,
            max_title_words=data.max_title_words,
            progress=lambda done, total: stage.update("bytes", done),
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
