"""A small folder of made-up rows, and the command `grade` on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from amazon_world import world, write
from fake_judge import KEY, KEY_VARIABLE
from judge_desk import PROXIES, SIZES, Desk, Said


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("shop"), *world())


@pytest.fixture
def desk(
    tmp_path: Path,
    shop: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    no_git: None,
) -> Desk:
    pytest.importorskip("openai")
    from opdcliff.cli import command

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPDCLIFF_RUNS", raising=False)
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)

    def call(*words: str) -> Said:
        capsys.readouterr()
        code = command.main(words)
        return Said(code, *capsys.readouterr())

    return Desk(tmp_path, ["data=amazon_fashion", f"data.path={shop}", *SIZES], call)
