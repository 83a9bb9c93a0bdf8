"""All cells of a grid, checked before the first one starts, and the launcher that they go to.

Hydra composes a config in a tenth of a second. So each choice of group options is composed once,
and what else varies is set in it.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from opdcliff.errors import ConfigError
from opdcliff.settings.checks import load_structured, science
from opdcliff.settings.compose import as_one_line, checked_words
from opdcliff.settings.composition import ROOT_CONFIG, hydra_session, without_hydra
from opdcliff.settings.schema import RunConfig
from opdcliff.settings.structured import in_words, structured
from opdcliff.settings.typed_text import keep_texts
from opdcliff.storage import group_names
from opdcliff.terminal import Stage

# Fewer cells are there before a bar would be.
_MANY = 200

Words = tuple[str, ...]


@dataclass(frozen=True)
class GridCell:
    """One cell of a grid: its checked config, and the overrides that tell it from the others."""

    config: RunConfig
    varied: Words


@dataclass(frozen=True)
class Grid:
    """The cells in the order in which launchers number their jobs, and the launcher's class."""

    cells: list[GridCell]
    launcher: str

    @property
    def in_turn(self) -> bool:
        """Whether the cells run one after the other, in this process."""
        return self.launcher.endswith("BasicLauncher")


def compose_grid(overrides: Sequence[str]) -> Grid:
    """All cells of a multirun, each composed and checked.

    Raises:
        ConfigError: as `compose_one`, a value out of range in any cell, the same run twice, or
            values that a later word would replace.
    """
    words = checked_words(overrides)
    with hydra_session() as hydra, as_one_line(words):
        master = hydra.compose_config(ROOT_CONFIG, words, RunMode.MULTIRUN)
        cells = _cells(hydra, master)
        composer = _Composer(hydra, master, cells)
        found = []
        with Stage("checking the cells of the grid", len(cells), shown=len(cells) > _MANY) as stage:
            for number, (cell, names) in enumerate(zip(cells, _varied(cells), strict=True)):
                found.append(GridCell(_checked(composer, cell, names), names))
                stage.update("cells", number + 1)
    _refuse_repeats(found)
    launcher = master.hydra.launcher
    if "_target_" not in launcher:
        raise ConfigError(f"hydra.launcher={launcher} is not allowed; set launcher=OPTION")
    return Grid(found, str(launcher._target_))


def launch_grid(overrides: Sequence[str], task: Callable[[DictConfig], Any]) -> list[Any]:
    """Hand the cells to Hydra's launcher; what `task` returned, by job number.

    Hydra's sweeper would compose every cell once more before the first of them starts.
    """
    with hydra_session() as hydra:
        words = keep_texts(overrides)
        master = hydra.compose_config(
            ROOT_CONFIG, words, RunMode.MULTIRUN, with_log_configuration=True
        )
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(master))
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=task, config=master
        )
        jobs = launcher.launch(_cells(hydra, master), initial_job_idx=0)
        return [job.return_value for job in jobs]


def _cells(hydra: Any, master: DictConfig) -> list[Words]:
    """The overrides of every cell: all combinations, the last key varies fastest.

    A key given again, as on a command line after an experiment, replaces what it was.
    """
    parser = OverridesParser.create(config_loader=hydra.config_loader)
    params = master.hydra.sweeper.get("params") or {}
    experiment = keep_texts([f"{key}={value}" for key, value in params.items()])
    # A reference is to be followed in each cell, not here.
    words = OmegaConf.to_container(master.hydra.overrides.task, resolve=False)
    assert isinstance(words, list)
    typed = parser.parse_overrides(words)
    _refuse_replaced(typed)
    choices: dict[str, list[str]] = {}
    for override in [*parser.parse_overrides(experiment), *typed]:
        values = (
            override.sweep_string_iterator()
            if override.is_sweep_override()
            else [override.get_value_element_as_str()]
        )
        key = override.get_key_element()
        choices[key] = keep_texts([f"{key}={value}" for value in values])
    return list(itertools.product(*choices.values()))


def _refuse_replaced(typed: Sequence[Override]) -> None:
    several: dict[str, str] = {}
    for override in typed:
        key, word = override.get_key_element(), str(override.input_line)
        if key in several:
            raise ConfigError(
                f"{word} would replace {several[key]} and drop its cells; list all values of {key} "
                "in one word"
            )
        if override.is_sweep_override():
            several[key] = word


class _Composer:
    """Configs of cells: one composed per choice of group options, the rest set in it."""

    def __init__(self, hydra: Any, master: DictConfig, cells: Sequence[Words]) -> None:
        self._loader, self._master = hydra.config_loader, master
        self._composed: dict[Words, DictConfig] = {}
        self._values = _settable(cells)

    def of(self, cell: Words) -> DictConfig:
        """The config of a cell with the types of the schema; the next call may change it."""
        fixed = tuple(word for word in cell if word not in self._values)
        if fixed not in self._composed:
            composed = self._loader.load_sweep_config(self._master, list(cell))
            self._composed[fixed] = structured(without_hydra(composed))
        config = self._composed[fixed]
        with in_words():
            for word in cell:
                if word in self._values:
                    OmegaConf.update(config, *self._values[word], merge=True)
        return config


def _settable(cells: Sequence[Words]) -> dict[str, tuple[str, Any]]:
    """Key and value of each word that varies and whose key can be set once all is composed."""
    by_key: dict[str, dict[str, Override]] = defaultdict(dict)
    parser = OverridesParser.create()
    for word in dict.fromkeys(itertools.chain(*cells)):
        override = parser.parse_override(word)
        by_key[override.get_key_element()][word] = override

    def is_settable(key: str) -> bool:
        first, *others = by_key[key].values()
        return (
            bool(others)
            # A plus adds, and a group's option is composed.
            and key == first.key_or_group
            and "/" not in key
            and key not in group_names()
            # Mappings are merged into what is there, and so is what lies within them.
            and not any(isinstance(override.value(), dict) for override in by_key[key].values())
            and not any(other != key and _overlap(other, key) for other in by_key)
        )

    settable = [key for key in by_key if is_settable(key)]
    return {word: (key, by_key[key][word].value()) for key in settable for word in by_key[key]}


def _overlap(one: str, other: str) -> bool:
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _checked(composer: _Composer, cell: Words, varied: Words) -> RunConfig:
    try:
        return load_structured(composer.of(cell))
    except ConfigError as error:
        if not varied:
            raise
        raise ConfigError(f"{error} (in the cell {' '.join(varied)})") from error


def _refuse_repeats(cells: Sequence[GridCell]) -> None:
    """The same run twice would be trained once, and fight over one record under joblib."""
    first: dict[str, int] = {}
    for number, cell in enumerate(cells, start=1):
        lam = cell.config.lam
        multiple = lam.of_threshold if lam.value is None else None
        key = repr((science(cell.config), multiple))
        if key in first:
            names = f" ({' '.join(cell.varied)})" if cell.varied else ""
            raise ConfigError(
                f"cells {first[key]} and {number} of the grid are the same run{names}; drop one"
            )
        first[key] = number


def _varied(cells: Sequence[Words]) -> list[Words]:
    """Of each cell, the overrides that are not the same in all of them."""
    common = set(cells[0]).intersection(*cells)
    return [tuple(word for word in cell if word not in common) for cell in cells]
