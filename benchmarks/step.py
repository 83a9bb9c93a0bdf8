"""Where an update's time goes, and what the fast paths save: ratios measured in one run.

    .venv/bin/python benchmarks/step.py [hydra overrides]

Uses the prepared models of the default study (building them if they are missing). Times are the
median of several repeats in this process on an otherwise idle machine; only ratios are meant to
be compared between machines.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch

from opdcliff.data.splits_file import read_splits
from opdcliff.models.batches import batch_of_update, prompt_batch
from opdcliff.models.prepare import load_trio, prepare
from opdcliff.paths import StudyPaths
from opdcliff.rollout.draws import TRAIN_STREAM
from opdcliff.rollout.reference import sample
from opdcliff.rollout.scoring import completion_logp, completion_loss
from opdcliff.settings.checks import load
from opdcliff.settings.compose import compose_one
from opdcliff.theory.clip_rules import ClipRule
from opdcliff.training.full_objective import ChunkObjective, Frozen
from opdcliff.training.parts import unchanged

REPEATS = 7


def median_seconds(action: Callable[[], object]) -> float:
    """Median wall time of an action after one warm-up."""
    action()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    config = load(compose_one(sys.argv[1:]))
    torch.set_num_threads(config.engine.threads)
    prepared = prepare(config, StudyPaths())
    trio = load_trio(config, prepared)
    train = read_splits(prepared.data).train
    numbered = batch_of_update(train, config.rollout.prompts_per_update, 0, config.seed)
    examples, numbers = [e for _, e in numbered], [n for n, _ in numbered]
    settings = {
        "seed": config.seed,
        "stream": TRAIN_STREAM,
        "temperature": config.rollout.temperature,
        "end_ids": trio.codec.end_ids,
        "pad_id": trio.codec.pad_id,
    }

    def generate(rows: int = len(examples), **changed: object) -> object:
        prompt_BL, attention_BL = prompt_batch(trio.codec, examples[:rows])
        return sample(
            trio.teacher,
            prompt_BL,
            attention_BL,
            numbers=numbers[:rows],
            max_new_tokens=config.rollout.max_new_tokens,
            **{**settings, **changed},  # type: ignore[arg-type]
        )

    rollout = generate()
    length = rollout.mask_BT.shape[1]  # type: ignore[attr-defined]
    inputs = (rollout.ids_BL, rollout.attention_BL, length)  # type: ignore[attr-defined]

    scored = {"temperature": 1.0, "chunk_tokens": config.engine.score_chunk_tokens}
    whole_batch = torch.arange(len(examples))
    kept = [
        Frozen.of(model, rollout, [whole_batch], unchanged)  # type: ignore[arg-type]
        for model in (trio.teacher, trio.base)
    ]
    objective = ChunkObjective(
        trio.teacher, trio.base, 1.0, config.optim.topk, 1.5, ClipRule.MASK, 5.0, 1
    )

    def update(full: bool) -> None:
        if full:
            features = (model.features(whole_batch, rollout) for model in kept)  # type: ignore[arg-type]
            beside = [rollout.mask_BT, *features]  # type: ignore[attr-defined]
            loss, *_ = completion_loss(trio.student, *inputs, objective, beside, **scored)
        else:
            loss = completion_logp(trio.student, *inputs, **scored).sum()
        loss.backward()
        trio.student.zero_grad()

    def frozen() -> None:
        with torch.no_grad():
            completion_logp(trio.teacher, *inputs, temperature=1.0, chunk_tokens=4096)

    banned_V = torch.zeros(trio.teacher.config.vocab_size, dtype=torch.bool)
    banned_V[list(trio.codec.end_ids)] = True
    times = {
        "generate": median_seconds(generate),
        "score one frozen model": median_seconds(frozen),
        "update, sampled": median_seconds(lambda: update(full=False)),
        "update, full": median_seconds(lambda: update(full=True)),
        "generate, never stopping": median_seconds(lambda: generate(banned_V=banned_V)),
        "generate, one row at a time": median_seconds(lambda: [generate(rows=1) for _ in range(1)])
        * len(examples),
    }
    whole = times["generate"] + 2 * times["score one frozen model"] + times["update, sampled"]
    print(f"{len(examples)} answers of up to {length} tokens; one update = {whole * 1e3:.0f} ms")
    for name, seconds in times.items():
        print(f"{name:<30} {seconds * 1e3:8.1f} ms   {seconds / whole:6.2f} of an update")


if __name__ == "__main__":
    main()
