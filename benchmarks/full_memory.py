"""Memory of an update of the full estimator against the vocabulary: in chunks, and whole.

    .venv/bin/python benchmarks/full_memory.py [--entries 1024,4096,16384,49152,151936] [--draw]

64 answers of 220 tokens in one part, float32; student, teacher and base of one small layer each,
random weights: the heads are what counts. Both are the same code: "whole" raises the bound on a
chunk until all answers are one and nothing runs twice. Peak memory is that of weights, scoring,
loss and gradient: on the CPU the bytes of live tensors, each storage once, and beside it what the
process that did nothing else has held (`rss`, libraries and holes of the allocator included); on a
GPU torch.cuda.max_memory_allocated, which nobody has run yet. Whole tensors that would need more
than `--limit-gb` are not made: their peak is computed, a line through the two largest vocabularies
that were measured, and the table says so. Two idle cores take about two minutes up to 49,152
entries and as long again for 151,936. The table goes to `--out`, where rows for other vocabularies
stay; `--draw` draws the one that is there. The picture goes to runs/benchmarks/.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import resource
import time
import weakref
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from opdcliff.engine.single import SingleEngine
from opdcliff.models.load import build
from opdcliff.paths import StudyPaths
from opdcliff.planning.sizes import Vocabulary
from opdcliff.report.drawing import style
from opdcliff.report.drawing.page import Page, new_figure, write_page
from opdcliff.rollout import scoring
from opdcliff.rollout.draws import Rollout
from opdcliff.settings.checks import load
from opdcliff.settings.compose import compose_one
from opdcliff.theory.clip_rules import ClipRule
from opdcliff.training.full_objective import Frozen
from opdcliff.training.parts import unchanged
from opdcliff.training.update import Batch, accumulate

PROMPT, GB = 24, 10**9
ARCH = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "layers": 1,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 32,
    "max_positions": 512,
}
# Bytes per logit of whole tensors, to judge beforehand whether they fit.
GUESS = 45


class Live(TorchDispatchMode):
    """Bytes of the tensors made within it that are still there, and the most at once."""

    def __init__(self) -> None:
        super().__init__()
        self._live: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self._live:
                    self._live[key] = storage.nbytes()
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._forget, key)
        self.peak = max(self.peak, self.now)
        return out

    def _forget(self, key: int) -> None:
        self.now -= self._live.pop(key)


def peak(entries: int, answers: int, tokens: int, whole: bool) -> tuple[int, int, float]:
    """Bytes at the most of an update in a process of its own, those of the process, and seconds."""
    task = (entries, answers, tokens, whole)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak, *task).result()


def _peak(entries: int, answers: int, tokens: int, whole: bool) -> tuple[int, int, float]:
    if whole:
        # All answers are one chunk, and nothing runs twice.
        scoring.CPU_CHUNK_LOGITS = scoring.CHUNK_LOGITS = 2**62
    start = time.perf_counter()
    if torch.cuda.is_available():
        update(entries, answers, tokens)
        torch.cuda.synchronize()
        most = torch.cuda.max_memory_allocated()
    else:
        with Live() as live:
            update(entries, answers, tokens)
        most = live.peak
    seconds = time.perf_counter() - start
    return most, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, seconds


def update(entries: int, answers: int, tokens: int) -> None:
    """Models, a batch, and the gradient of its loss, as the training loop makes it."""
    words = [f"model.arch.{name}={value}" for name, value in ARCH.items()]
    size = [f"rollout.prompts_per_update={answers}", f"rollout.max_new_tokens={tokens}"]
    # The bound on logits alone decides on the chunks.
    chunk = f"engine.score_chunk_tokens={answers * tokens}"
    own = [f"data.tokenizer_entries={entries}", "optim.estimator=full", "lam.value=1.5", chunk]
    config = load(compose_one([*words, *size, *own, f"engine.micro_batch={answers}"]))
    assert config.model.arch is not None
    student, teacher, base = (
        build(config.model.arch, Vocabulary(entries), seed) for seed in range(3)
    )
    engine = SingleEngine(student.eval(), config)
    frozen = [model.to(engine.device).requires_grad_(False).eval() for model in (teacher, base)]
    torch.manual_seed(0)
    shape = (answers, PROMPT + tokens)
    ids_BL = torch.randint(5, entries, shape, device=engine.device)
    attention_BL = torch.ones_like(ids_BL)
    attention_BL[0, :5] = 0
    attention_BL[-1, -9:] = 0
    mask_BT = attention_BL[:, -tokens:].bool()
    rollout = Rollout(ids_BL, attention_BL, mask_BT, mask_BT.new_ones(answers))
    parts = [torch.arange(answers, device=engine.device)]
    states = [Frozen.of(model, rollout, parts, unchanged) for model in frozen]
    # Examples are counted only.
    examples: list[Any] = [None] * answers
    batch = Batch(examples, rollout, parts, *states, None, int(mask_BT.sum()))
    accumulate(config, ClipRule.MASK, 1.5, batch, engine)


def measure(entries: list[int], answers: int, tokens: int, limit: int) -> pd.DataFrame:
    """One row per vocabulary: peaks in bytes, and seconds of both."""
    rows: list[dict[str, Any]] = []
    for count in entries:
        row: dict[str, Any] = {"entries": count, "answers": answers, "tokens": tokens}
        row["device"] = "cuda" if torch.cuda.is_available() else "cpu"
        task = (count, answers, tokens)
        row["chunked_bytes"], row["chunked_rss"], row["chunked_s"] = peak(*task, False)
        row["whole_measured"] = answers * tokens * count * GUESS < limit
        row["whole_bytes"], row["whole_s"] = math.nan, math.nan
        if row["whole_measured"]:
            row["whole_bytes"], _, row["whole_s"] = peak(*task, True)
        rows.append(row)
        print(said(row), flush=True)
    return pd.DataFrame(rows)


def with_kept(table: pd.DataFrame, out: Path) -> pd.DataFrame:
    """With the rows of the file that were measured in the same way, for other vocabularies."""
    if not out.exists():
        return table
    same = [*table.columns[1:4]]
    kept = pd.read_csv(out).merge(table[same].drop_duplicates(), on=same)
    kept = kept[~kept.entries.isin(table.entries)]
    return pd.concat([kept, table]).sort_values("entries", ignore_index=True)


def computed(table: pd.DataFrame) -> pd.DataFrame:
    """With the peaks of whole tensors that were too large to be made."""
    table = table.assign(whole_bytes=table.whole_bytes.where(table.whole_measured))
    seen = table[table.whole_measured].nlargest(2, "entries")
    if len(seen) < 2:
        return table
    (x, y), (x0, y0) = seen[["entries", "whole_bytes"]].itertuples(index=False)
    line = y + (table.entries - x) * (y - y0) / (x - x0)
    return table.assign(whole_bytes=table.whole_bytes.fillna(line).round())


def said(row: dict[str, Any]) -> str:
    """A row in words."""
    whole = f"{row['whole_bytes'] / GB:.2f} GB" if row["whole_measured"] else "too large"
    held = f"rss {row['chunked_rss'] / GB:.2f} GB, {row['chunked_s']:.0f} s"
    chunked = f"{row['chunked_bytes'] / GB:.2f} GB ({held})"
    return f"{row['entries']:>7,} entries: in chunks {chunked}; whole {whole}"


def draw(table: pd.DataFrame, out: Path) -> None:
    """Both peaks against the vocabulary, into `out`.png, .svg and .csv."""
    first = table.iloc[0]
    figure = new_figure(
        6.4,
        4.4,
        "Peak memory of an update of the full estimator",
        f"{first.answers} answers of {first.tokens} tokens in one part, float32, one small layer "
        f"(benchmarks/full_memory.py, {first.device}). Open: computed, a line through the two "
        "largest that were measured.",
    )
    axis = figure.subplots()
    for column, label, look in zip(
        ("whole_bytes", "chunked_bytes"), ("whole tensors", "in chunks"), style.SERIES, strict=False
    ):
        x, y = table.entries.to_numpy(), (table[column] / GB).to_numpy()
        axis.plot(x, y, look.marker, ls=look.line, color=look.color, lw=1.2, label=label)
        if column == "whole_bytes":
            far = ~table.whole_measured.to_numpy()
            axis.plot(x[far], y[far], look.marker, color=look.color, mfc="white")
    axis.set(xscale="log", yscale="log", xlabel="entries of the vocabulary", ylabel="GB (10^9)")
    axis.set_xticks(table.entries, [f"{n:,}" for n in table.entries])
    axis.minorticks_off()
    axis.legend()
    out.parent.mkdir(parents=True, exist_ok=True)
    write_page(Page(figure, table, ["benchmarks/full_memory.csv"]), out.parent, out.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", default="1024,4096,16384,49152,151936")
    parser.add_argument("--answers", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=220)
    parser.add_argument("--limit-gb", type=float, default=6.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    parser.add_argument("--draw", action="store_true")
    args = parser.parse_args()
    if not args.draw:
        entries = [int(word) for word in args.entries.split(",")]
        table = measure(entries, args.answers, args.tokens, int(args.limit_gb * GB))
        table = computed(with_kept(table, args.out))
        table.round(1).to_csv(args.out, index=False)
    table = pd.read_csv(args.out)
    print(table.to_string(index=False))
    draw(table, StudyPaths().runs / "benchmarks" / args.out.stem)


if __name__ == "__main__":
    main()
