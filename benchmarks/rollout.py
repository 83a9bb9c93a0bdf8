"""What sampling costs, backend by backend: ratios measured in one run.

    .venv/bin/python benchmarks/rollout.py [hydra overrides]

Samples with the prepared teacher and warm start of the default study (building them if they are
missing), at the rollout batch of an update and at an evaluation batch. `whole` is `generate` that
computes ended rows until the longest answer ends; `dropping` drops them whenever half have ended,
which the library does for limits above `reference.WHOLE_UP_TO`; `compiled` and `continuous` are the
other backends. Row-steps are rows computed per decoding step, summed (a compiled step cannot be
looked into); those of the answers themselves are the least possible. The variants are timed in
turn, in CPU time of this process: elsewhere compare ratios only. The
last column says whether the tokens are those of `whole`.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from opdcliff.data.splits_file import read_splits
from opdcliff.models.batches import prompt_batch
from opdcliff.models.prepare import load_trio, prepare
from opdcliff.paths import StudyPaths
from opdcliff.rollout import compiled, continuous, reference
from opdcliff.rollout.draws import TRAIN_STREAM, Rollout
from opdcliff.settings.checks import load
from opdcliff.settings.compose import compose_one
from opdcliff.training.evaluation.answers import EVALUATION_BATCH

REPEATS = 5


def row_steps(model: PreTrainedModel, action: Callable[[], object]) -> int:
    """Tokens that a call reads after the prompts: one per row and step."""
    seen: list[int] = []

    def count(module: object, inputs: tuple[Any, ...], given: dict[str, Any]) -> None:
        seen.append(given["input_ids"].numel())

    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    action()
    handle.remove()
    return sum(seen)


def compare(model: PreTrainedModel, samplers: dict[str, Callable[[], Rollout]]) -> None:
    """Print a line per sampler; the first is what the others are compared with."""
    first = next(iter(samplers))
    rollouts = {name: action() for name, action in samplers.items()}
    seconds: dict[str, list[float]] = {name: [] for name in samplers}
    for _ in range(REPEATS):
        for name, action in samplers.items():
            start = time.process_time()
            action()
            seconds[name].append(time.process_time() - start)
    lengths = rollouts[first].lengths()
    # The prompts count once in each; their padding as well where rows are padded.
    prompts = {"continuous": int(rollouts[first].attention_BL.sum()) - sum(lengths)}
    padded = rollouts[first].ids_BL.numel() - rollouts[first].mask_BT.numel()
    least = sum(lengths) - len(lengths)
    print(f"{len(lengths)} answers, mean {statistics.mean(lengths):.1f}, longest {max(lengths)}")
    for name, action in samplers.items():
        steps = row_steps(model, action) - prompts.get(name, padded)
        ratio = statistics.median(seconds[name]) / statistics.median(seconds[first])
        same = rollouts[name].answers() == rollouts[first].answers()
        row_steps_said = "        -" if name == "compiled" else f"{steps / least:9.2f}"
        print(
            f"  {name:<11}{statistics.median(seconds[name]) * 1e3:8.1f} ms  {ratio:6.2f} of {first}"
            f"{row_steps_said} row-steps per token  {'same' if same else 'other'} tokens"
        )


def main() -> None:
    config = load(compose_one(sys.argv[1:]))
    torch.set_num_threads(config.engine.threads)
    # As many updates as pay for compiling the step.
    prepared = prepare(config, StudyPaths(), 10**6)
    print(prepared.decoding)
    trio = load_trio(config, prepared)
    limit = config.rollout.max_new_tokens
    train = read_splits(prepared.data).train
    for role, model in (("teacher", trio.teacher), ("warm start", trio.base)):
        for rows in (config.rollout.prompts_per_update, EVALUATION_BATCH):
            prompts = prompt_batch(trio.codec, train[:rows])
            settings: dict[str, Any] = {
                "numbers": range(len(train[:rows])),
                "seed": config.seed,
                "stream": TRAIN_STREAM,
                "max_new_tokens": limit,
                "temperature": config.rollout.temperature,
                "end_ids": trio.codec.end_ids,
                "pad_id": trio.codec.pad_id,
            }
            print(f"\n{role}, limit {limit}: ", end="")
            generate = partial(reference.sample, model, *prompts, **settings)
            compare(
                model,
                {
                    "whole": partial(generate, whole_up_to=limit),
                    "dropping": partial(generate, whole_up_to=0),
                    "compiled": partial(compiled.sample, model, *prompts, **settings),
                    "continuous": partial(continuous.sample, model, *prompts, **settings),
                },
            )


if __name__ == "__main__":
    main()
