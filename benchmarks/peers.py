"""One update of this project beside a plain loop and beside TRL: seconds, measured in turn.

    .venv/bin/python benchmarks/peers.py [--sizes .1M 1M] [--threads 1] [--answers 32] ...

An update samples `--answers` answers, scores them and makes one AdamW step. All runners begin from
the same random weights (`made_models`), read prompts from one set, and decode all answers to the
full length, since the end token cannot be drawn. They take turns, A B C A B C ..., in one process
and on the same threads, so that what disturbs the machine disturbs all; a ratio is the median of
the ratios within a round, with its quartiles.

- `ours`: sampling, teacher and base scored, gradient and step by the functions of the loop, at
  lambda = 1.5. What the loop does beside (labels of JSON tokens, records) belongs to the task.
- `ours_lam1`: the same at lambda = 1, where no base is scored: TRL's objective and no more.
- `plain`: what one writes by hand: Hugging Face `generate`, whole-batch forwards of teacher, base
  and student, AdamW. The objective of `ours` with `--estimator sampled`.
- `trl_iw_opd`: `trl.experimental.iw_opd.IWOPDTrainer` with iw_opd_gamma=0 and top_p=1: the policy
  gradient of `ours_lam1`. It scores no base.
- `trl_distillation`: `trl.DistillationTrainer` with beta=1: the reverse KL over the vocabulary, as
  `ours_lam1` with `--estimator full`. It scores no base.

TRL runs its own `train()` in a thread that waits for its turn at the end of each step, so that a
turn is one whole turn of its loop: data, sampling, loss, clipping, AdamW (its default, fused). It
does not log, save or evaluate, and does not recompute activations, as nobody here does. With these
versions IWOPDTrainer divides by the answer tokens of the data set, not by those sampled, and by 0
if there are none; so its rows carry an answer of the full length, which is never trained on.

Where `--backend` is `compiled` (the configuration's), its step is compiled first, once for a shape.
Before the clock starts, losses and gradients of all are compared on the same two answers.

TRL comes with a virtual environment of its own, `build/peers-venv`, made at the first call: the
packages of `peers.txt` in front of those of this one. `--runners ours plain` needs none.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import time
import venv
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from made_models import (
    SHAPES,
    Shape,
    make_prompts,
    make_trio,
    offer_compiled,
    run_settings,
)
from peer_runners import COMPARED, RUNNERS, Runner, agreement, make_runner
from peer_trl import Trl

from opdcliff.errors import OpdcliffError

ROOT = Path(__file__).resolve().parents[1]
PINS = Path(__file__).with_name("peers.txt")
FOLDER = ROOT / "build" / "peers-venv"
# Updates of prompts before they come again, so that no epoch of TRL ends while it is timed.
BATCHES = 64


def take_turns(
    runners: dict[str, Runner], repeats: int, time_limit: float, wait: Callable[[], None]
) -> dict[str, list[float]]:
    """Seconds of each runner in each round, after a round that does not count.

    A round is begun if it would end within the limit, judged by the last one; the first always is.
    wait: what to wait for before a clock is read.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    start = time.perf_counter()
    for number in range(-1, repeats):
        began = time.perf_counter()
        for name, runner in runners.items():
            before = time.perf_counter()
            runner.update()
            wait()
            if number >= 0:
                seconds[name].append(time.perf_counter() - before)
        now = time.perf_counter()
        if number >= 0 and now + (now - began) > start + time_limit:
            break
    return seconds


def summary(seconds: dict[str, list[float]], runners: dict[str, Runner]) -> dict[str, Any]:
    """What is printed of each runner; ratios are to the first."""
    first = np.array(next(iter(seconds.values())))
    rows = {}
    for name, values in seconds.items():
        times = np.array(values)
        q1, q3 = np.quantile(times, [0.25, 0.75])
        r1, ratio, r3 = np.quantile(times / first, [0.25, 0.5, 0.75])
        rows[name] = {
            "median_s": float(np.median(times)),
            "min_s": float(times.min()),
            "iqr_s": float(q3 - q1),
            "tokens": runners[name].tokens(),
            "ratio": float(ratio),
            "ratio_q1": float(r1),
            "ratio_q3": float(r3),
            "seconds": [round(value, 6) for value in values],
        }
    return rows


def measure(size: str, shape: Shape, options: argparse.Namespace) -> dict[str, Any]:
    """All runners on one size."""
    config = run_settings(
        answers=options.answers,
        new_tokens=options.new_tokens,
        threads=options.threads,
        device=options.device,
        dtype=options.dtype,
        backend=options.backend,
        words=[f"optim.estimator={options.estimator}"],
    )
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    trio = make_trio(shape, device, dtype)
    prompts = make_prompts(shape, options.answers * BATCHES, options.prompt_tokens)
    reason = offer_compiled(config, trio.student)
    runners: dict[str, Runner] = {}
    try:
        for name in options.runners:
            runners[name] = make_runner(name, config, trio, prompts)
        agreed = agreement(runners, config, trio, prompts)
        wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
        seconds = take_turns(runners, options.repeats, options.time_limit, wait)
        rows = summary(seconds, runners)
    finally:
        for runner in runners.values():
            if isinstance(runner, Trl):
                runner.close()
    return {
        "size": size,
        "parameters": trio.student.num_parameters(),
        "device": options.device,
        "dtype": options.dtype,
        "threads": options.threads,
        "answers": options.answers,
        "prompt_tokens": options.prompt_tokens,
        "new_tokens": options.new_tokens,
        "backend": config.rollout.backend,
        "not_compiled": reason,
        "estimator": options.estimator,
        "versions": versions(),
        "agreement": agreed,
        "runners": rows,
    }


def versions() -> dict[str, str]:
    """What was measured with what."""
    found = {"torch": torch.__version__, "transformers": transformers.__version__}
    if importlib.util.find_spec("trl"):
        from trl import __version__

        found["trl"] = __version__
    return found


def show(result: dict[str, Any]) -> None:
    """The table of one size."""
    first = next(iter(result["runners"]))
    rounds = len(result["runners"][first]["seconds"])
    print(
        f"\n{result['size']}, {result['parameters']:,} parameters: {result['answers']} answers of "
        f"{result['new_tokens']} tokens, {result['threads']} threads, {result['device']} "
        f"{result['dtype']}, backend {result['backend']}, estimator {result['estimator']}; "
        f"{rounds} rounds"
    )
    if result["not_compiled"] is not None:
        print(f"our answers are not sampled by a compiled step: {result['not_compiled']}")
    print(f"{'':<18}{'median s':>10}{'min':>10}{'IQR':>10}{'tokens':>8}  over {first} (quartiles)")
    for name, row in result["runners"].items():
        print(
            f"{name:<18}{row['median_s']:10.4f}{row['min_s']:10.4f}{row['iqr_s']:10.4f}"
            f"{row['tokens']:8.1f}  {row['ratio']:.2f} ({row['ratio_q1']:.2f} to "
            f"{row['ratio_q3']:.2f})"
        )
    for name, found in result["agreement"].items():
        print(
            f"on the same {COMPARED} answers: loss of {name} {found['loss']:.6f}, ours "
            f"{found['ours']:.6f}; gradients {found['gradient']:.1e} apart"
        )


def own_environment() -> Path:
    """The interpreter of `build/peers-venv`, which is made if it is missing or of other pins."""
    python = FOLDER / "bin" / "python"
    done = FOLDER / "pins.txt"
    pins = PINS.read_text(encoding="utf-8")
    if done.exists() and done.read_text(encoding="utf-8") == pins:
        return python
    print(f"making {FOLDER.relative_to(ROOT)}", file=sys.stderr)
    venv.create(FOLDER, clear=True, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    paths = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    # Behind its own packages: torch, transformers and pip are those of this environment.
    own = FOLDER / "lib" / version / "site-packages" / "project.pth"
    own.write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")
    words = [str(python), "-m", "pip", "install", "-q", "--no-deps", "-r", str(PINS)]
    subprocess.run(words, check=True)
    done.write_text(pins, encoding="utf-8")
    return python


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    line = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    line.add_argument("--sizes", nargs="+", choices=SHAPES, default=[".1M", "1M", "10M"])
    line.add_argument("--runners", nargs="+", choices=RUNNERS, default=list(RUNNERS))
    line.add_argument("--threads", type=int, default=1)
    line.add_argument("--answers", type=int, default=32)
    line.add_argument("--prompt-tokens", type=int, default=32)
    line.add_argument("--new-tokens", type=int, default=64)
    line.add_argument("--repeats", type=int, default=15, help="rounds that count")
    line.add_argument("--time-limit", type=float, default=300.0, help="seconds per size")
    line.add_argument("--backend", help="rollout.backend of ours; the configuration's without it")
    line.add_argument("--estimator", choices=("sampled", "full"), default="sampled")
    line.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    line.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    line.add_argument("--out", type=Path, default=Path("runs/benchmarks/peers.jsonl"))
    return line.parse_args(words)


def main() -> int:
    options = parse(sys.argv[1:])
    wants_trl = any(name.startswith("trl") for name in options.runners)
    if wants_trl and importlib.util.find_spec("trl") is None:
        python = own_environment()
        # The checkout is not among the packages that the other environment sees.
        own = {"PYTHONPATH": str(ROOT / "src"), "TRL_EXPERIMENTAL_SILENCE": "1"}
        offline = {"HF_HUB_OFFLINE": "1"}
        words = [str(python), str(Path(__file__).resolve()), *sys.argv[1:]]
        os.execve(python, words, os.environ | own | offline)
    # Of deprecated names inside the libraries, and of the end token beyond the vocabulary.
    warnings.filterwarnings("ignore", category=FutureWarning)
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(options.threads)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for size in options.sizes:
        try:
            result = measure(size, SHAPES[size], options)
        except OpdcliffError as error:
            print(error, file=sys.stderr)
            return error.exit_code
        show(result)
        text = json.dumps(result)
        print(text, flush=True)
        with options.out.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
