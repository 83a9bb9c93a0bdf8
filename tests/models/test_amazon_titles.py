"""data=amazon_titles: lists of amazon_fashion, with whole titles of the same rows as reasons."""

from __future__ import annotations

from pathlib import Path

from opdcliff.models.prompts import load_splits
from opdcliff.settings.checks import load
from opdcliff.settings.compose import compose_one
from opdcliff.settings.schema import DataConfig
from workshop import SECONDS


def data_of(name: str, folder: Path, most: int) -> DataConfig:
    words = [f"data={name}", f"data.path={folder}", f"data.max_title_words={most}"]
    return load(compose_one([*SECONDS, *words])).data


def test_lists_are_those_without_titles_and_reasons_are_whole_titles(fashion: Path) -> None:
    longest = 0
    for most in (3, 12):
        plain, _ = load_splits(data_of("amazon_fashion", fashion, most))
        titled, report = load_splits(data_of("amazon_titles", fashion, most))
        assert titled.train == plain.train
        assert titled.calibration == plain.calibration
        assert not plain.titles
        assert all(0 < len(title.split()) <= most for title in titled.titles)
        assert len(titled.titles) >= longest
        longest = len(titled.titles)
        assert report is not None
        counted = report["titles"]
        assert isinstance(counted, dict)
        assert counted["titles"] == longest
    assert longest > 1
