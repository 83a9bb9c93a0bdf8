"""How far the extrapolated mixture itself keeps the contract, with and without the mask.

    .venv/bin/python benchmarks/mixture.py [--lams 1.4,2.1,2.5,3.0] [--seeds 0,1] [overrides]
    .venv/bin/python benchmarks/mixture.py experiment=titles_onset

Answers are sampled from pi_T^lambda pi_B^(1 - lambda), token by token on its own prefixes: the
fixed point of theory, point 2, with nothing trained. With the mask, entries whose pi_T exceeds the
mixture's own probability more than c times are dropped and the rest is scaled up: what a student
that had lost all that the mask takes would say. Prints the share that parses and that never ends.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from opdcliff.contract import Contract, get_contract
from opdcliff.data import Example, read_splits
from opdcliff.models import Trio, load_trio, prepare
from opdcliff.models.batches import prompt_batch
from opdcliff.paths import StudyPaths
from opdcliff.settings.checks import load
from opdcliff.settings.compose import compose_one


def step(logp_teacher_BV: Tensor, logp_base_BV: Tensor, lam: float, c: float | None) -> Tensor:
    """Log-probabilities of the mixture at one position, without what a mask of strength c drops."""
    mixed_BV = (lam * logp_teacher_BV - (lam - 1.0) * logp_base_BV).log_softmax(-1)
    if c is None:
        return mixed_BV
    dropped_BV = logp_teacher_BV - mixed_BV > math.log(c)
    return mixed_BV.masked_fill(dropped_BV, -torch.inf).log_softmax(-1)


@torch.no_grad()
def sample(
    trio: Trio, examples: Sequence[Example], lam: float, c: float | None, room: int, seed: int
) -> list[list[int]]:
    """One answer for each prompt, up to and with its end token, of at most `room` tokens."""
    ids_BL, attention_BL = prompt_batch(trio.codec, examples)
    positions_BL = (attention_BL.cumsum(-1) - 1).clamp(min=0)
    generator = torch.Generator().manual_seed(seed)
    answers: list[list[int]] = [[] for _ in examples]
    open_rows, caches = set(range(len(examples))), [None, None]
    for _ in range(room):
        logp = []
        for which, model in enumerate((trio.teacher, trio.base)):
            out = model(
                input_ids=ids_BL,
                attention_mask=attention_BL,
                position_ids=positions_BL,
                past_key_values=caches[which],
                use_cache=True,
            )
            caches[which] = out.past_key_values
            logp.append(out.logits[:, -1].double().log_softmax(-1))
        probs_BV = step(logp[0], logp[1], lam, c).exp()
        ids_BL = torch.multinomial(probs_BV, 1, generator=generator)
        attention_BL = torch.cat([attention_BL, torch.ones_like(ids_BL)], 1)
        positions_BL = positions_BL[:, -1:] + 1
        for row in list(open_rows):
            answers[row].append(int(ids_BL[row]))
            if answers[row][-1] in trio.codec.end_ids:
                open_rows.discard(row)
        if not open_rows:
            break
    return answers


def kept(trio: Trio, contract: Contract, example: Example, answer: list[int]) -> bool:
    """Whether the answer ended and keeps the contract."""
    if answer[-1] not in trio.codec.end_ids:
        return False
    text = trio.codec.answer_text(answer[:-1])
    return contract.parse(text, example.candidates, ended=True).ok


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lams", default="1.4,1.7,2.1,2.3,2.5,2.7,3.0")
    parser.add_argument("--seeds", default="0,1")
    args, overrides = parser.parse_known_args()
    config = load(compose_one(["protocol=grid", *overrides]))
    prepared = prepare(config, StudyPaths())
    trio, contract = load_trio(config, prepared), get_contract(config.data.contract)
    examples = read_splits(prepared.data).calibration[: config.calibration.prompts]
    torch.set_num_threads(config.engine.threads)
    print("lambda  mask  parse  cut off")
    for lam in map(float, args.lams.split(",")):
        for c in (config.clip.strength, None):
            parsed = cut = count = 0
            for seed in map(int, args.seeds.split(",")):
                answers = sample(trio, examples, lam, c, config.rollout.max_new_tokens, seed)
                for example, answer in zip(examples, answers, strict=True):
                    parsed += kept(trio, contract, example, answer)
                    cut += answer[-1] not in trio.codec.end_ids
                    count += 1
            rate, lost = parsed / count, cut / count
            print(f"{lam:6.3f}  {c or 'none':>4}  {rate:5.3f}  {lost:5.3f}", flush=True)


if __name__ == "__main__":
    main()
