"""Compiled decoding steps: built ahead of time, kept as files, found again by what they fit.

`build_step` compiles a model's `DecodeStep` with Inductor into one file, for any number of rows
and slots; every process loads that file in milliseconds. A file is code: one that others may write
is not loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock
from weakref import WeakKeyDictionary

import torch
import transformers
from torch.export import Dim
from transformers import PreTrainedModel
from transformers.integrations import sdpa_attention

from opdcliff.rollout.steps.decode_step import (
    END_PLACES,
    DecodeStep,
    Step,
    StepError,
    StepInputs,
    first_line,
    plain_step,
    read_prompts,
    run_checked,
    weights_of,
)

# The sizes of the example that is traced: different from each other and from 1, which would be
# taken for constants.
_ROWS, _SLOTS = 6, 72
_MOST_ROWS, _MOST_SLOTS = 1 << 14, 1 << 20

_offered: dict[str, Path] = {}
_loaded: dict[str, Step] = {}
_keys: WeakKeyDictionary[PreTrainedModel, tuple[object, str]] = WeakKeyDictionary()


def step_facts(model: PreTrainedModel) -> dict[str, Any]:
    """Everything a compiled step of this model depends on, as plain values."""
    config = json.loads(model.config.to_json_string(use_diff=False))
    for name in ("_name_or_path", "transformers_version", "architectures"):
        config.pop(name, None)
    return {
        "model": type(model).__qualname__,
        "config": config,
        "attention": model.config._attn_implementation,
        "weights": [
            [name, list(w.shape), str(w.dtype), str(w.device.type)]
            for name, w in weights_of(model).items()
        ],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": [platform.machine(), _processor(), torch.backends.cpu.get_cpu_capability()],
    }


def step_key(model: PreTrainedModel) -> str:
    """Hash of `step_facts`, in hex."""
    first = next(model.parameters())
    now = (model.config._attn_implementation, first.dtype, first.device, torch.get_num_threads())
    known = _keys.get(model)
    if known is None or known[0] != now:
        text = json.dumps(step_facts(model), sort_keys=True, default=str)
        _keys[model] = known = (now, hashlib.sha256(text.encode()).hexdigest())
    return known[1]


def offer_step(path: Path) -> None:
    """Let the models that a file fits be sampled with it from now on, in this process."""
    _offered[path.stem] = path


def step_of(model: PreTrainedModel) -> Step | str:
    """The compiled step of a model, or in words why there is none."""
    key = step_key(model)
    if key not in _loaded:
        path = _offered.get(key)
        if path is None:
            return "no step was compiled for it"
        try:
            _loaded[key] = _load(path)
        except StepError as error:
            return str(error)
    return _loaded[key]


def build_step(model: PreTrainedModel, folder: Path) -> Path:
    """Compile the step of `model` and write it to `folder/KEY.pt2`, checked against the model.

    Raises:
        StepError: no compiler, a model that cannot be traced, or other numbers than the model's.
    """
    path = folder / f"{step_key(model)}.pt2"
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # torch warns of its own deprecated names while it exports.
            warnings.simplefilter("ignore")
            torch._inductor.aoti_compile_and_package(export_step(model), package_path=str(path))
            # Other sizes than those traced.
            run_checked(_load(path), plain_step(model), _example(model, 2 * _ROWS + 1, _SLOTS - 8))
    except StepError:
        path.unlink(missing_ok=True)
        raise
    except Exception as error:
        # Exporting and compiling fail in as many ways as there are models and compilers.
        raise StepError(f"its step could not be compiled ({first_line(error)})") from error
    finally:
        model.train(training)
    return path


@torch.no_grad()
def export_step(model: PreTrainedModel) -> torch.export.ExportedProgram:
    """The step as a graph for any number of rows and slots."""
    inputs = _example(model, _ROWS, _SLOTS)
    with _heads_packed():
        return torch.export.export(
            DecodeStep(model), tuple(inputs), dynamic_shapes=_dimensions(inputs), strict=False
        )


@contextlib.contextmanager
def _heads_packed() -> Iterator[None]:
    """Let attention of one query share the keys of its group, as it does when nothing is traced.

    Traced, the library copies keys and values of all slots to every query head instead: at 2,048
    slots a step takes twice as long [M]. Its reason, recompilation, is none where one step is
    exported once.
    """
    if not hasattr(sdpa_attention, "is_torchdynamo_compiling"):
        yield
        return
    with mock.patch.object(sdpa_attention, "is_torchdynamo_compiling", return_value=False):
        yield


def _load(path: Path) -> Step:
    _check_owner(path)
    try:
        package = torch._inductor.aoti_load_package(str(path))
    except Exception as error:
        raise StepError(f"{path} cannot be loaded ({type(error).__name__}); delete it") from error
    run: Step = package.loader.run
    return run


def _check_owner(path: Path) -> None:
    try:
        state = path.stat()
    except OSError as error:
        raise StepError(f"{path} cannot be read ({error.strerror})") from error
    if state.st_uid != os.getuid() or state.st_mode & 0o022:
        raise StepError(f"{path} is code that others can write; `chmod go-w` it if it is yours")


def _example(model: PreTrainedModel, rows: int, slots: int) -> StepInputs:
    """Inputs of a step in which each row has read a few tokens."""
    device = next(model.parameters()).device
    length = slots // 2
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.get_output_embeddings().weight.shape[0]
    ids_RL = torch.randint(vocabulary, (rows, length), generator=generator).to(device)
    real_RK = torch.ones(rows, slots, dtype=torch.bool, device=device)
    real_RK[0, :3] = False
    prefix = read_prompts(model, ids_RL, real_RK[:, :length].long())
    if isinstance(prefix, str):
        raise StepError(prefix)
    room = (0, 0, 0, slots - length)
    return StepInputs(
        list(weights_of(model).values()),
        [torch.nn.functional.pad(keys, room) for keys in prefix.keys_RHLD],
        [torch.nn.functional.pad(values, room) for values in prefix.values_RHLD],
        torch.tensor(length, device=device),
        ids_RL[:, -1:].contiguous(),
        real_RK[:, :length].sum(-1, keepdim=True) - length,
        real_RK,
        torch.rand(rows, 1, dtype=torch.float64, generator=generator).to(device),
        torch.arange(rows, device=device)[:, None] == 1,
        torch.tensor(0.9, dtype=torch.float64, device=device),
        torch.ones(END_PLACES, dtype=torch.long, device=device),
        torch.tensor(0, device=device),
    )


def _dimensions(inputs: StepInputs) -> tuple[Any, ...]:
    rows, slots = Dim("rows", min=2, max=_MOST_ROWS), Dim("slots", min=8, max=_MOST_SLOTS)
    cache = [{0: rows, 2: slots} for _ in inputs.keys_RHKD]
    by_name: dict[str, Any] = dict.fromkeys(StepInputs._fields)
    by_name |= {"weights": [None] * len(inputs.weights), "real_RK": {0: rows, 1: slots}}
    by_name |= {"keys_RHKD": cache, "values_RHKD": cache}
    by_name |= {name: {0: rows} for name in ("token_R1", "offset_R1", "uniform_R1", "ended_R1")}
    return tuple(by_name[name] for name in StepInputs._fields)


def _processor() -> str:
    """What the compiler tunes for: model and instruction sets of this processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "CPU part", "Features")
    return "; ".join(sorted({line for line in lines if line.split("\t")[0].strip() in wanted}))
