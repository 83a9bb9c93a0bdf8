"""A text is what was typed, in every setting that is one, from the command line to the tables."""

from __future__ import annotations

import copy
import types
import typing
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from omegaconf import OmegaConf

from opdcliff.errors import ConfigError
from opdcliff.records import read_record
from opdcliff.settings.compose import compose_one
from opdcliff.settings.grid import compose_grid
from opdcliff.settings.schema import RunConfig
from opdcliff.settings.structured import typed
from opdcliff.verification import read_columns
from record_helpers import write_record

# What Hydra, YAML 1.1 or YAML 1.2 reads as something else.
SPELLINGS = ["1e5", "1_0", "2026_11_27", "true", "False", "nan", "-inf", "+1", ".5", "007", "1e-3"]
WORDS = ["protocol=mini", "lora=adapter"]
HOLDS_ARMS = ("protocol.arms", "protocol.predictions.pilot")


def texts(schema: type = RunConfig, prefix: str = "") -> dict[str, bool]:
    """Names of all settings that are a text, or a list of them: then True."""
    found: dict[str, bool] = {}
    for name, kind in typing.get_type_hints(schema).items():
        inner = typing.get_args(kind)[0] if isinstance(kind, types.UnionType) else kind
        if isinstance(inner, type) and is_dataclass(inner):
            found |= texts(inner, f"{prefix}{name}.")
        elif inner in (str, list[str]):
            found[prefix + name] = inner is not str
    return found


def look(plain: Any, name: str) -> Any:
    for part in name.split("."):
        plain = plain[part]
    return plain


def arm_of(spelling: str) -> str:
    own = f"name:{spelling},clip:{spelling},estimator:{spelling}"
    return f"[{{{own},multiples:[1],seeds:[1],warmup_updates:1,updates:1}}]"


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_text_of_the_schema_stays_as_typed(spelling: str, tmp_path: Path) -> None:
    names = texts()
    assert {"protocol.name", "data.path", "model.lora.targets", "engine.hostfile"} <= set(names)
    words = [f"{name}={f'[{spelling}]' if many else spelling}" for name, many in names.items()]
    words += [f"{name}={arm_of(spelling)}" for name in HOLDS_ARMS]
    composed = compose_one([*WORDS, *words])
    config = asdict(typed(composed))
    for name, many in names.items():
        assert look(config, name) == ([spelling] if many else spelling), name
    for name in HOLDS_ARMS:
        (arm,) = look(config, name)
        assert [arm[key] for key in ("name", "clip", "estimator")] == [spelling] * 3
    # `opdcliff config` prints what can be read back, and so does a record, by any reader.
    assert asdict(typed(OmegaConf.create(OmegaConf.to_yaml(composed, resolve=True)))) == config
    folder = write_record(tmp_path / "record", config=config, protocol=spelling)
    assert read_record(folder).config == config
    assert OmegaConf.to_container(OmegaConf.load(folder / "config.yaml")) == config


def test_a_grid_over_a_text_keeps_each_and_numbers_stay_numbers() -> None:
    cells = compose_grid(["protocol=grid", "clip.name=1e5,1_0,choice", "seed=1_0"]).cells
    assert [cell.config.clip.name for cell in cells] == ["1e5", "1_0", "choice"]
    assert {cell.config.seed for cell in cells} == {10}
    (one,) = compose_grid(["clip.name=choice(1e5)", "data.path=null"]).cells
    assert (one.config.clip.name, one.config.data.path) == ("1e5", None)


@pytest.mark.parametrize("value", [1e5, 10, True])
def test_a_number_of_a_file_in_place_of_a_text_is_refused(value: object) -> None:
    composed = compose_one(WORDS)
    for name in ("protocol.name", "model.lora.targets", "protocol.arms"):
        other = copy.deepcopy(composed)
        filled: Any = [value] if name == "model.lora.targets" else value
        if name == "protocol.arms":
            filled = yaml.safe_load(arm_of("x"))
            filled[0]["clip"] = value
        OmegaConf.update(other, name, filled)
        with pytest.raises(ConfigError, match=r"is not a text.*quotes") as caught:
            typed(other)
        assert str(caught.value).startswith(name)


@pytest.mark.parametrize("spelling", [*SPELLINGS, "NA", "null"])
def test_a_table_gives_a_name_back_as_it_was(spelling: str, tmp_path: Path) -> None:
    table = pd.DataFrame({"clip": [spelling], "arm": [spelling], "lam": [1.5], "rate": [None]})
    table.to_csv(tmp_path / "cells.csv", index=False)
    found = read_columns(tmp_path / "cells.csv")
    assert found["clip"].tolist() == found["arm"].tolist() == [spelling]
    assert found.lam.tolist() == [1.5]
    assert found.rate.isna().all()
