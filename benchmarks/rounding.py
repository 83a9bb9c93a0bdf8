"""What rounding alone does to a calibration: the models of a study trained anew, many times.

    .venv/bin/python benchmarks/rounding.py [--draws 24] [--out benchmarks/rounding.csv] [overrides]

Another CPU, another number of threads or another release of torch rounds the last bits of a sum
differently. A draw does so once: before fine-tuning, each weight of teacher and warm start is moved
by one unit in its last place, up or down at random; seeds, data and order are those of the study.
Draw 0 moves nothing. Each draw is trained and calibrated; its rows are appended to the table, and a
draw that is in the table is not made again. `compare` takes its bounds on p, b and lambda* from it
(opdcliff/report/comparison/retrained.py).
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from opdcliff.calibration.class_masses import calibrate_trio
from opdcliff.contract import contract_of
from opdcliff.data import read_splits
from opdcliff.models.load import build, load_tokenizer
from opdcliff.models.make_pair import SEED_OF_ROLE, STUDENT, TEACHER
from opdcliff.models.prepare import prepare
from opdcliff.models.sft import fine_tune
from opdcliff.models.tokens.codec import Codec, make_codec
from opdcliff.models.trio import Trio
from opdcliff.paths import StudyPaths
from opdcliff.settings import RunConfig
from opdcliff.settings.checks import load
from opdcliff.settings.compose import compose_one

WORKERS = 2
KEPT = ["class", "offsets", "positions", "prompts", "p", "b", "lambda_star_c5", "lambda_star_c2"]


def nudge(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Move every weight by one unit in its last place, up or down."""
    with torch.no_grad():
        for weight in model.parameters():
            up = torch.rand(weight.shape, generator=generator) < 0.5
            goal = torch.where(up, torch.inf, -torch.inf)
            weight.copy_(torch.nextafter(weight, goal))


def trained(config: RunConfig, role: str, data: Path, codec: Codec, draw: int) -> Any:
    """Teacher or warm start as the study trains it, from nudged weights (draw 0: from its own)."""
    assert config.model.arch is not None, "the models of this benchmark are trained, not loaded"
    seed = 10 * config.sft.seed + SEED_OF_ROLE[role]
    model = build(config.model.arch, codec.tokenizer, seed)
    if draw:
        nudge(model, torch.Generator().manual_seed(10 * draw + seed % 10))
    fine_tune(
        model,
        codec,
        read_splits(data).train,
        config.sft,
        getattr(config.sft, role),
        seed=seed,
        with_reason=contract_of(config.data).has_text,
    )
    return model.eval()


def one_draw(config: RunConfig, data: Path, tokenizer_folder: Path, draw: int) -> pd.DataFrame:
    """The calibration table of one draw."""
    torch.set_num_threads(config.engine.threads)
    codec = make_codec(load_tokenizer(tokenizer_folder), config.data)
    teacher, student = (trained(config, role, data, codec, draw) for role in (TEACHER, STUDENT))
    base = copy.deepcopy(student).requires_grad_(False)
    found = calibrate_trio(
        Trio(student, teacher, base, codec),
        read_splits(data).calibration,
        contract_of(config.data),
        config.calibration,
        config.rollout,
        chunk_tokens=config.engine.score_chunk_tokens,
    )
    return found.table[KEPT].assign(draw=draw)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=24)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    args, overrides = parser.parse_known_args()
    config = load(compose_one(overrides))
    prepared = prepare(config, StudyPaths())
    done = set(pd.read_csv(args.out).draw) if args.out.exists() else set()
    missing = [draw for draw in range(args.draws + 1) if draw not in done]
    start = time.perf_counter()
    with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        where = (prepared.data, prepared.models / STUDENT)
        jobs = [pool.submit(one_draw, config, *where, draw) for draw in missing]
        for number, job in enumerate(as_completed(jobs), 1):
            table = job.result()
            table = table[["draw", *KEPT]]
            table.to_csv(args.out, mode="a", header=not args.out.exists(), index=False)
            minutes = (time.perf_counter() - start) / 60
            print(f"{number} of {len(missing)} draws, {minutes:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
