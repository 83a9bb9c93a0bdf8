"""Time of an update over the least time that its arithmetic or its memory traffic takes here.

    .venv/bin/python benchmarks/roofline.py [--sizes .1M 1M] [--batches 16 64] [--answers 64] ...
    .venv/bin/python benchmarks/roofline.py --paper

Models have random weights (`made_models`); all answers have the full length. Each phase is timed
alone through the functions of the loop: `decode` (sampling from the student), `teacher` and `base`
(scoring), `update` (forward and backward of the student), `step` (clipping and AdamW).

Floors. B answers of T tokens to prompts of P tokens; n is the weights of the layers' matrix
products, h those of the head (hidden size times vocabulary), a = 4 x layers x heads x head size the
operations of a token's attention to one position (a product and a sum each for scores and values),
k the bytes of keys and values of one position, w the bytes of a number. A product with a weight is
two operations per token, a backward pass twice a forward pass.

- teacher, base: s = B (2 n (P+T-1) + a (P+T-1)(P+T)/2 + 2 h T) operations: the last token is
  predicted, not read; attention is causal; the head runs on answers alone.
- update: 3 s. Activations that are computed again are cost, not floor.
- decode: B (2 n (P+T-1) + a (P+T-1)(P+T)/2 + 2 h T) operations as well, since every token is read
  once, and T passes of w (n + h) bytes of weights, with B k (P+t) bytes of cache in pass t. The
  floor is the longer of the two times. Prompts are read in the first pass.
- step: 7 w bytes per parameter: AdamW reads weight, gradient and two moments, and writes three.
  The gradient norm reads the gradient once more, which is cost.

The rates are measured in the same run, at the same threads and in the same number format: the best
of several square matrix products, and a copy (bytes read and written) of as many bytes as the phase
touches again and again, since small models are read from a cache. `copy` in the table is that of a
copy which no cache holds. So a floor is one for the machine and not for the shape: `own rate` is a
product of the model's own shape, which shows how much of a gap the shape explains.

The grid writes `roofline.csv` row by row and skips cells that are there; a cell that would take
longer than `--cell-limit` is left out, judged by its floor and by the smaller cells of its size.
The figure beside it shows what an answer token costs as batch, length and size grow.

`--backend` is the configuration's unless given. Where it is `compiled`, its step is compiled before
a cell is timed, and kept.
`--operators` profiles one more update of each cell of the grid, and prints which operators take its
time.

`--paper` needs a CUDA device (exit code 2 without one): bf16, students of 1.7B under a teacher of
8B, then 500M and 135M under their like, 128 prompts of 300 tokens, 128 new ones, micro-batches of
8; by `graph` unless `--backend` is given, against `--against`. It prints seconds, floors
and peak memory of each phase, and stops by itself after `--minutes`. `--tiny` runs the same on
whatever device there is, with shapes that mean nothing.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from made_models import (
    SHAPES,
    STUDENT_SEED,
    TINY,
    make_model,
    make_prompts,
    make_trio,
    offer_compiled,
    run_settings,
)
from roofline_picture import draw
from update_floors import PHASES, Load, Machine, floors, measure, product_rate
from update_phases import Timed, Update, show, show_operators, time_phases

from opdcliff.errors import OpdcliffError
from opdcliff.settings import RunConfig

GRID_SIZES = (".1M", "1M", "10M", "135M")
# Student and base, and the teacher over them.
PAPER = (("1.7B", "8B"), ("500M", "500M"), ("135M", "135M"))
# An update's time over its floor, before one has been measured.
GUESS = 1.5
# Prompt and answer of the CPU form of the paper's run.
TINY_TOKENS = (6, 5)


KEYS = ("device", "dtype", "threads", "size", "batch", "prompt", "answer", "backend")
COLUMNS = (
    *KEYS,
    *("parameters", "compiled", "repeats", "product_gflops", "own_gflops", "copy_gbs"),
    *(f"{phase}_s" for phase in PHASES),
    *(f"{phase}_floor_s" for phase in PHASES),
    *("all_s", "floor_s", "over_floor", "us_per_token"),
)


def row_of(
    cell: dict[str, Any], timed: Timed, floor: dict[str, float], machine: Machine, own_rate: float
) -> dict[str, Any]:
    """A line of the table."""
    median = {phase: timed.median(phase) for phase in PHASES}
    whole, least = sum(median.values()), sum(floor.values())
    numbers = {
        "product_gflops": machine.products / 1e9,
        "own_gflops": own_rate / 1e9,
        "copy_gbs": machine.copy / 1e9,
        **{f"{phase}_s": median[phase] for phase in PHASES},
        **{f"{phase}_floor_s": floor[phase] for phase in PHASES},
        "all_s": whole,
        "floor_s": least,
        "over_floor": whole / least,
        "us_per_token": whole / (cell["batch"] * cell["answer"]) * 1e6,
    }
    return cell | {name: f"{value:.6g}" for name, value in numbers.items()}


def read_rows(file: Path) -> list[dict[str, str]]:
    """Lines of the table so far; one that was cut short is left out."""
    if not file.exists():
        return []
    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [row for row in rows if all(row.get(name) not in (None, "") for name in COLUMNS)]


def key_of(row: dict[str, Any]) -> tuple[str, ...]:
    """What tells a cell from the others."""
    return tuple(str(row[name]) for name in KEYS)


def append(file: Path, row: dict[str, Any]) -> None:
    """Add a line, and the header before the first; end one that was cut short."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    with file.open("a", encoding="utf-8", newline="") as stream:
        if text and not text.endswith("\n"):
            stream.write("\n")
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        if not text:
            writer.writeheader()
        writer.writerow(row)


def cells(options: argparse.Namespace) -> Iterator[tuple[int, str, int, int]]:
    """(threads, size, batch, answer): small ones first, so that a stop leaves a whole picture."""
    for threads in options.threads:
        for size in options.sizes:
            pairs = [(batch, answer) for batch in options.batches for answer in options.answers]
            for batch, answer in sorted(pairs, key=lambda pair: (pair[0] * pair[1], pair)):
                yield threads, size, batch, answer


def grid(options: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> None:
    """Measure all cells that are missing, and draw them."""
    file = options.out / "roofline.csv"
    done = {key_of(row) for row in read_rows(file)}
    until = time.monotonic() + 60 * options.minutes
    machines: dict[int, Machine] = {}
    # By size, the last cell's time over its floor.
    seen: dict[str, float] = {}
    for threads, size, batch, answer in cells(options):
        torch.set_num_threads(threads)
        shape, load = options.shapes[size], Load(batch, options.prompt, answer)
        config = run_settings(
            answers=batch,
            new_tokens=answer,
            threads=threads,
            device=device.type,
            dtype=str(dtype).removeprefix("torch."),
            micro_batch=min(batch, options.micro_batch),
            backend=options.backend,
        )
        named = {
            "device": device.type,
            "dtype": config.model.dtype,
            "threads": threads,
            "size": size,
            "batch": batch,
            "prompt": load.prompt,
            "answer": answer,
            "backend": config.rollout.backend,
        }
        if key_of(named) in done:
            continue
        if threads not in machines:
            machines[threads] = measure(device, dtype, tiny=options.tiny)
        machine = machines[threads]
        # Its head is the embedding, so all of its weights but the norms are in products.
        rough = floors(shape, shape, load, shape.layer_weights + shape.head_weights, machine)
        guess = sum(rough.values()) * seen.get(size, GUESS)
        if guess > options.cell_limit or time.monotonic() + guess > until:
            print(f"left out: {size}, {batch} answers of {answer}: about {guess:.0f} s an update")
            continue
        row = measure_cell(config, load, machine, named, options, until)
        append(file, row)
        seen[size] = float(row["over_floor"])
    rows = read_rows(file)
    if rows:
        draw(rows, options.out / "roofline.png")
        print(f"\n{file} and roofline.png beside it: {len(rows)} cells")


def measure_cell(
    config: RunConfig,
    load: Load,
    machine: Machine,
    named: dict[str, Any],
    options: argparse.Namespace,
    until: float,
) -> dict[str, Any]:
    """Time one cell, print its table, and give its line."""
    shape = options.shapes[named["size"]]
    trio = make_trio(shape, machine.device, machine.dtype)
    offer_compiled(config, trio.student)
    update = Update(config, trio, make_prompts(shape, load.rows, load.prompt))
    timed = time_phases(update, options.repeats, min(until, time.monotonic() + options.cell_limit))
    parameters = trio.student.num_parameters()
    read = config.engine.micro_batch * load.read
    own_rate = product_rate(read, shape.hidden, shape.inner, machine.device, machine.dtype)
    # A floor is no floor where the model's own products are faster.
    machine = replace(machine, products=max(machine.products, own_rate))
    floor = floors(shape, shape, load, parameters, machine)
    step = "" if update.rollout.compiled else " by the reference"
    title = (
        f"{named['size']}, {parameters:,} parameters, {load.rows} answers of {load.answer} tokens, "
        f"{named['threads']} threads, {named['device']} {named['dtype']}, backend "
        f"{named['backend']}{step}; products {machine.products / 1e9:.1f} GFLOP/s, own rate "
        f"{own_rate / 1e9:.1f}, copy {machine.copy / 1e9:.1f} GB/s"
    )
    show(title, timed, floor, load.rows * load.answer)
    if options.operators:
        show_operators(update)
    cell = named | {
        "parameters": parameters,
        "compiled": int(update.rollout.compiled),
        "repeats": len(timed.seconds["decode"]),
    }
    return row_of(cell, timed, floor, machine, own_rate)


def paper(options: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> None:
    """The paper's sizes: one backend, then the one it is compared with."""
    until = time.monotonic() + 60 * options.minutes
    prompt, answer = TINY_TOKENS if options.tiny else (300, 128)
    rows, micro = (4, 2) if options.tiny else (128, 8)
    machine = measure(device, dtype, tiny=options.tiny)
    print(
        f"{device.type} {dtype}: products {machine.products / 1e12:.3g} TFLOP/s, copy "
        f"{machine.copy / 1e9:.4g} GB/s"
    )
    load = Load(rows, prompt, answer)
    settings = {
        "answers": rows,
        "new_tokens": answer,
        "threads": torch.get_num_threads(),
        "device": device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "micro_batch": micro,
    }
    config = run_settings(**settings, backend=options.backend)
    against = run_settings(**settings, backend=options.against)
    configs = {c.rollout.backend: c for c in (config, against)}
    for of_student, of_teacher in PAPER:
        shape, above = (TINY, TINY) if options.tiny else (SHAPES[of_student], SHAPES[of_teacher])
        if time.monotonic() > until:
            print(f"left out: {of_student} under {of_teacher}, the minutes are over")
            continue
        trio = make_trio(shape, device, dtype, above)
        # Each backend has a student of its own; one more would count in the peaks.
        trio = replace(trio, student=trio.base)
        prompts = make_prompts(shape, rows, prompt)
        medians: dict[str, dict[str, float]] = {}
        answers: list[torch.Tensor] = []
        for backend, of_backend in configs.items():
            # A fresh student, so that no backend meets gradients or moments of another.
            student = make_model(shape, STUDENT_SEED, device, dtype)
            reason = offer_compiled(of_backend, student)
            update = Update(of_backend, replace(trio, student=student), prompts)
            update.decode()
            answers.append(update.rollout.completion_BT)
            timed = time_phases(update, options.repeats, until)
            parameters = student.num_parameters()
            floor = floors(shape, above, load, parameters, machine)
            title = (
                f"{of_student} under {of_teacher}, {rows} answers of {answer} to prompts of "
                f"{prompt}, micro-batches of {micro}, backend {backend}, "
                f"{len(timed.seconds['decode'])} repeats"
            )
            if reason is not None:
                title += f"; no step draws: {reason}"
            show(title, timed, floor, rows * answer)
            medians[backend] = {phase: timed.median(phase) for phase in PHASES}
            del update, student
            if device.type == "cuda":
                torch.cuda.empty_cache()
        if len(medians) == 2:
            new, old = medians.values()
            whole = sum(old.values()) / sum(new.values())
            names = list(medians)
            print(
                f"{names[1]} over {names[0]}: decode {old['decode'] / new['decode']:.2f}, "
                f"whole update {whole:.2f}; {same_tokens(*answers):.0%} of tokens equal"
            )
        del trio


def same_tokens(one_BT: torch.Tensor, other_BT: torch.Tensor) -> float:
    """Share of tokens that two backends drew alike from the same weights."""
    shared = min(one_BT.shape[1], other_BT.shape[1])
    return float((one_BT[:, :shared] == other_BT[:, :shared]).double().mean())


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command line; `shapes` is what the names of sizes mean."""
    line = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    line.add_argument("--sizes", nargs="+", choices=SHAPES, default=list(GRID_SIZES))
    line.add_argument("--batches", nargs="+", type=int, default=[16, 64, 256])
    line.add_argument("--answers", nargs="+", type=int, default=[64, 128, 256, 512])
    line.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    line.add_argument("--prompt", type=int, default=32, help="tokens of a prompt in the grid")
    line.add_argument("--micro-batch", type=int, default=64, help="answers in a pass of the grid")
    line.add_argument("--repeats", type=int, default=3, help="updates that count, in each cell")
    line.add_argument("--cell-limit", type=float, default=60.0, help="seconds of a cell")
    line.add_argument("--minutes", type=float, help="of all: 8 with --paper, else without limit")
    line.add_argument("--backend", help="rollout.backend (see above)")
    line.add_argument("--operators", action="store_true", help="profile one more update of a cell")
    line.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    line.add_argument("--paper", action="store_true")
    line.add_argument("--against", default="reference", help="with --paper: compare with this")
    line.add_argument("--tiny", action="store_true", help="shapes of a test, on any device")
    options = line.parse_args(words)
    if options.minutes is None:
        options.minutes = 8.0 if options.paper else float("inf")
    if options.paper and options.backend is None:
        options.backend = "graph"
    options.shapes = dict.fromkeys(SHAPES, TINY) if options.tiny else SHAPES
    return options


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    options = parse(sys.argv[1:] if words is None else words)
    # Of the end token beyond the vocabulary.
    transformers.logging.set_verbosity_error()
    cuda = torch.cuda.is_available()
    if options.paper and not (cuda or options.tiny):
        print("--paper needs a CUDA device, and torch sees none; --tiny runs it without")
        return 2
    device = torch.device("cuda" if cuda else "cpu")
    dtype = torch.bfloat16 if cuda else torch.float32
    try:
        (paper if options.paper else grid)(options, device, dtype)
    except OpdcliffError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
