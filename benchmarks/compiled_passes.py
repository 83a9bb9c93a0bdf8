"""Passes of a student's backbone, as they are and compiled by Inductor: milliseconds of CPU time.

    .venv/bin/python benchmarks/compiled_passes.py [--size .1M] [--repeats 15]

Forward without gradient, and forward and backward, for several batches of one shape, one thread,
symbolic shapes; compiling takes about a minute a size. docs/performance.md says what came of it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

SIZES = {
    ".1M": {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "head_dim": 16},
    "1.3M": {"hidden_size": 160, "intermediate_size": 480, "num_hidden_layers": 4, "head_dim": 40},
}
# Rows and tokens of a batch.
BATCHES = ((16, 80), (16, 120), (8, 60), (32, 100), (64, 80))
VOCABULARY = 448


def inputs(rows: int, tokens: int) -> dict[str, Tensor]:
    """Random tokens; five of padding on the left."""
    attention_BL = torch.ones(rows, tokens, dtype=torch.long)
    attention_BL[:, :5] = 0
    return {
        "input_ids": torch.randint(0, VOCABULARY, (rows, tokens)),
        "attention_mask": attention_BL,
        "position_ids": (attention_BL.cumsum(-1) - 1).clamp(min=0),
    }


def cpu_ms(run: Callable[[], object], repeats: int) -> float:
    """Median CPU time of a call."""
    times = []
    for _ in range(repeats + 2):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    # The first two warm up.
    return 1e3 * statistics.median(times[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default=".1M")
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        **SIZES[args.size],
    )
    model = Qwen3ForCausalLM(config)

    def body(batch: dict[str, Tensor]) -> Tensor:
        hidden: Tensor = model.model(**batch, use_cache=False).last_hidden_state
        return hidden

    compiled = torch.compile(body, dynamic=True)

    def forward(run: Callable[..., Tensor], batch: dict[str, Tensor]) -> None:
        with torch.no_grad():
            run(batch)

    def both(run: Callable[..., Tensor], batch: dict[str, Tensor]) -> None:
        run(batch).sum().backward()  # type: ignore[no-untyped-call]
        model.zero_grad()

    start = time.perf_counter()
    for one_pass in (forward, both):
        one_pass(compiled, inputs(*BATCHES[0]))
    print(f"compiled both passes in {time.perf_counter() - start:.0f} s")
    print("rows tokens   forward  compiled   forward and backward  compiled   [ms]")
    for rows, tokens in BATCHES:
        batch = inputs(rows, tokens)
        found = [
            cpu_ms(lambda p=one_pass, r=run, b=batch: p(r, b), args.repeats)  # type: ignore[misc]
            for one_pass in (forward, both)
            for run in (body, compiled)
        ]
        plain, fast, plain_both, fast_both = found
        print(
            f"{rows:4} {tokens:6} {plain:9.1f} {fast:9.1f} {plain_both:22.1f} {fast_both:9.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
