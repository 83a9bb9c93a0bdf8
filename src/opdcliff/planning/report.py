"""The verb `plan`: memory per rank before launch, whether it fits, and which setting helps."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace

import pandas as pd
import torch
from rich.console import Console

from opdcliff.errors import ConfigError, DoesNotFitError
from opdcliff.planning.memory import PHASES, Plan, make_plan
from opdcliff.planning.setup import Setup
from opdcliff.planning.sizes import prompt_tokens, setup_of, split_more
from opdcliff.settings import RunConfig, compose_grid
from opdcliff.terminal import print_table, print_text

GB = 10**9
# Share of the memory left to what is not counted: the CUDA context, kernels' own workspace and
# fragmentation. An allowance, not a measurement.
FREE = 0.1

# A plan needs neither data nor checkpoints: what names them is replaced by what passes any check.
_PLACEHOLDERS = (
    "data.path=.",
    "data.rubric=null",
    f"model.student_revision={'a' * 40}",
    f"model.teacher_revision={'a' * 40}",
)
_REPLACED = tuple(word.partition("=")[0] + "=" for word in _PLACEHOLDERS)


def report(
    words: Sequence[str], console: Console, *, prompt: str | None, memory_gb: str | None
) -> None:
    """Print the plan of the settings `words`; of a grid that of the cell that needs most.

    prompt: tokens of the longest prompt, None to estimate it. memory_gb: of one device, None to
    ask the device.

    Raises:
        ConfigError: a setting that is not allowed, or no number where one is due.
        ModelError: the sizes of a model cannot be known here.
        DoesNotFitError: the memory of a rank is too small.
    """
    given = None if prompt is None else _whole("prompt_tokens", prompt)
    kept = [word for word in words if not word.lstrip("+").startswith(_REPLACED)]
    cells = compose_grid([*kept, *_PLACEHOLDERS]).cells
    cuda, memory, source = _memory(cells[0].config, memory_gb)
    setups = [
        setup_of(cell.config, prompt=_prompt(cell.config, given), cuda=cuda) for cell in cells
    ]
    needs = [make_plan(setup).peak[1] for setup in setups]
    number = needs.index(max(needs))
    cell, setup = cells[number], setups[number]
    plan = make_plan(setup)
    if len(set(needs)) > 1:
        print_text(console, f"largest of {len(cells)} cells: {' '.join(cell.varied)}")
    adapter = "" if setup.adapter is None else f" and an adapter of {setup.adapter.parameters:,}"
    assumed = "as given" if given else "estimated; set prompt_tokens=N"
    print_text(
        console,
        f"per rank of {setup.ranks}, engine={cell.config.engine.name}, "
        f"{cell.config.model.dtype}: student of {setup.student.parameters:,} parameters{adapter}, "
        f"teacher of {setup.teacher.parameters:,}; prompts of {setup.prompt} tokens ({assumed}), "
        f"every answer of all {setup.answer}; {setup.rollout_rows} answers per update, "
        f"{setup.micro_rows} at a time",
    )
    print_table(console, "Memory per rank, GB = 10^9 bytes", table(plan))
    print_table(console, "By phase of the run, GB on the device", phases(plan, memory))
    print_text(
        console,
        "Not planned: fine-tuning and calibration before the run, which use one device, and "
        "rollouts by anything but `generate`.",
    )
    _judge(console, setup, memory, source)


def table(plan: Plan) -> pd.DataFrame:
    """One row per part: GB, where, and in which phases."""
    return pd.DataFrame(
        {
            "part": part.name,
            "GB": _gb(part.bytes),
            "in": "host" if part.host else "device",
            "during": "always" if part.phases == PHASES else ", ".join(part.phases),
        }
        for part in plan.parts
    )


def phases(plan: Plan, memory: int) -> pd.DataFrame:
    """One row per phase: GB, and the share of the memory."""
    return pd.DataFrame(
        {
            "phase": phase,
            "GB": _gb(plan.total(phase)),
            "of memory": f"{plan.total(phase) / memory:.0%}",
        }
        for phase in PHASES
    )


def fits(setup: Setup, memory: int) -> bool:
    """Whether the plan leaves the share `FREE` of `memory` bytes free."""
    return make_plan(setup).peak[1] <= (1.0 - FREE) * memory


def levers(setup: Setup, memory: int) -> dict[str, Setup]:
    """Settings that lower the need, with what they make of `setup`; the last is all of them.

    micro_batch is halved until it fits `memory`. Only a shorter answer changes what is trained.
    """
    found: dict[str, Callable[[Setup], Setup]] = {}
    if setup.ranks == 1:
        found["engine=zero3 engine.ranks=2"] = lambda s: replace(split_more(s, 2), stage=3)
    elif setup.stage < 3:
        found["engine=zero3"] = lambda s: replace(s, stage=3)
    if setup.ranks > 1 and not setup.shard_teacher:
        found["engine.shard_teacher=true"] = lambda s: replace(s, shard_teacher=True)
    if setup.micro_rows > 1:
        rows = setup.micro_rows // 2
        while rows > 1 and not fits(replace(setup, micro_rows=rows), memory):
            rows //= 2
        found[f"engine.micro_batch={rows}"] = lambda s: replace(s, micro_rows=rows)
    if setup.chunk > 512:
        found["engine.score_chunk_tokens=512"] = lambda s: replace(s, chunk=512)
    if not setup.recompute:
        found["engine.gradient_checkpointing=true"] = lambda s: replace(s, recompute=True)
    if setup.stage > 0 and not setup.offload_optimizer:
        found["engine.offload_optimizer=true"] = lambda s: replace(s, offload_optimizer=True)
    if setup.answer > 1:
        half = setup.answer // 2
        found[f"rollout.max_new_tokens={half}"] = lambda s: replace(s, answer=half)
    changed = {words: change(setup) for words, change in found.items()}
    everything = setup
    for change in found.values():
        everything = change(everything)
    return changed | {"all of these": everything}


def _judge(console: Console, setup: Setup, memory: int, source: str) -> None:
    phase, need = make_plan(setup).peak
    limit = (
        f"{_gb(memory)} GB ({source}), of which {1 - FREE:.0%} may be used: the rest is an "
        "allowance for what is not counted"
    )
    if fits(setup, memory):
        print_text(console, f"It fits: {_gb(need)} GB in phase {phase} of {limit}.")
        return
    options = levers(setup, memory)
    rows = [
        {
            "setting": words,
            "GB then": _gb(make_plan(changed).peak[1]),
            "fits": "yes" if fits(changed, memory) else "no",
        }
        for words, changed in options.items()
    ]
    print_table(console, "What helps, each alone", pd.DataFrame(rows))
    enough = [words for words, changed in options.items() if fits(changed, memory)]
    advice = f"enough is {enough[0]}" if enough else "nothing here is enough; use larger devices"
    raise DoesNotFitError(
        f"it does not fit: {_gb(need)} GB per rank in phase {phase}, and allowed are "
        f"{_gb(memory * (1 - FREE))} of {_gb(memory)} GB ({source}); {advice}"
    )


def _memory(config: RunConfig, memory_gb: str | None) -> tuple[bool, int, str]:
    """Whether to plan for CUDA, the bytes of a rank, and where that number is from."""
    device = config.engine.device
    if memory_gb is not None:
        return device != "cpu", _bytes(memory_gb), "memory_gb"
    if device != "cpu" and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return True, int(properties.total_memory), str(properties.name)
    if device == "cuda":
        raise ConfigError("engine.device=cuda and torch sees no GPU; give memory_gb=NUMBER of one")
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return False, host // config.engine.ranks, "this host's, shared by the ranks; no GPU"


def _prompt(config: RunConfig, given: int | None) -> int:
    estimate = prompt_tokens(config) if given is None else given
    arch = config.model.arch
    if arch is None or given is not None:
        return estimate
    return max(1, min(estimate, arch.max_positions - config.rollout.max_new_tokens))


def _whole(name: str, text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"{name}={text} is not allowed; give a whole number >= 1")
    return int(text)


def _bytes(text: str) -> int:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < 1e9:
        raise ConfigError(f"memory_gb={text} is not allowed; give a number > 0, e.g. 80")
    return int(value * GB)


def _gb(size: float) -> float:
    """GB with the digits worth reading."""
    return round(size / GB, 2) if size >= GB / 10 else round(size / GB, 5)
