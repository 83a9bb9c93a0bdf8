"""What vLLM saves and how far its log-probs are from the student's: for a GPU, not yet run on one.

    python benchmarks/vllm_rollouts.py [--tiny] [--rows 128] [--prompt 512] [--limit 1024]
        [--dtype bfloat16] [--memory 0.3] [--temperature 1.0]

From the environment of vLLM (docs/scale.md, Rollouts). A Qwen3 of the size of 1.7B with random
weights, random prompts of uneven length, an end token that is hardly ever drawn: every answer has
the full length, so seconds are those of the same tokens. `--tiny` is a model of seconds, for the
CPU. Printed: seconds of a first rollout (vLLM starts and compiles), medians of `REPEATS` further
ones, as a ratio of the reference (on a CPU the compiled step as well), seconds to hand the weights
over, and log pi_train/pi_rollout: mean, mean and largest distance, share of tokens beyond a cap.
Random weights give nearly even distributions: trained models have a larger mismatch. On an H200 a
few minutes are expected, most of them the reference's.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from opdcliff.models.tokens.train_bpe import pad_left
from opdcliff.rollout import compiled, reference, vllm, vllm_engine
from opdcliff.rollout.draws import TRAIN_STREAM, Rollout
from opdcliff.rollout.scoring import completion_logp
from opdcliff.rollout.steps.step_package import build_step, offer_step

REPEATS, CAP, SCORED_AT_A_TIME = 3, 2.0, 4


def made_student(tiny: bool, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """A Qwen3 with random weights, with a head tied to its embedding as that of 1.7B."""
    torch.manual_seed(1)
    config = Qwen3Config(
        vocab_size=512 if tiny else 151_936,
        hidden_size=64 if tiny else 2048,
        intermediate_size=128 if tiny else 6144,
        num_hidden_layers=2 if tiny else 28,
        num_attention_heads=2 if tiny else 16,
        num_key_value_heads=1 if tiny else 8,
        head_dim=32 if tiny else 128,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    with torch.device(device):
        return Qwen3ForCausalLM(config).to(dtype).eval()


def seconds(action: Callable[[], object], device: torch.device) -> float:
    """Wall time of a call."""
    started = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


@torch.no_grad()
def mismatch(model: PreTrainedModel, rollout: Rollout, temperature: float) -> torch.Tensor:
    """log pi_train/pi_rollout of the answer tokens, as training scores them."""
    assert rollout.logp_BT is not None
    found = []
    for start in range(0, len(rollout.ids_BL), SCORED_AT_A_TIME):
        rows = slice(start, start + SCORED_AT_A_TIME)
        own_BT = completion_logp(
            model,
            rollout.ids_BL[rows],
            rollout.attention_BL[rows],
            rollout.mask_BT.shape[1],
            temperature=temperature,
            chunk_tokens=1024,
        )
        found.append((own_BT - rollout.logp_BT[rows])[rollout.mask_BT[rows]])
    return torch.cat(found).double()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true")
    for name, default in (("rows", 128), ("prompt", 512), ("limit", 1024)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--memory", type=float, default=0.3)
    parser.add_argument("--temperature", type=float, default=1.0)
    asked = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{vllm_engine.engine_version()}, torch {torch.__version__}, {device.type}, {asked}")
    model = made_student(asked.tiny, getattr(torch, asked.dtype), device)
    vllm_engine.offer_memory(asked.memory)
    vocabulary = model.config.vocab_size
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(asked.prompt // 2, asked.prompt + 1, (asked.rows,), generator=generator)
    prompts = [
        torch.randint(2, vocabulary - 1, (int(n),), generator=generator).tolist() for n in lengths
    ]
    given = pad_left(prompts, 0)
    options: dict[str, Any] = {
        "numbers": range(asked.rows),
        "seed": 0,
        "stream": TRAIN_STREAM,
        "max_new_tokens": asked.limit,
        "temperature": asked.temperature,
        "end_ids": (vocabulary - 1,),
        "pad_id": 0,
    }
    samplers: dict[str, Callable[..., Rollout]] = {
        "reference": reference.sample,
        "vllm": vllm.sample,
    }
    if device.type == "cpu":
        folder = tempfile.TemporaryDirectory()
        offer_step(build_step(model, Path(folder.name)))
        samplers["compiled"] = compiled.sample
    median: dict[str, float] = {}
    for name, sampler in samplers.items():
        call = partial(sampler, model, *given, **options)
        first = seconds(call, device)
        repeats = 1 if name == "reference" else REPEATS
        median[name] = statistics.median(seconds(call, device) for _ in range(repeats))
        said = f"{median[name]:8.2f} s, {median[name] / median['reference']:6.3f} of reference"
        print(f"{name:<10} first {first:8.1f} s, then {said}")
    (engine,) = vllm._engines.values()
    handed = statistics.median(
        seconds(partial(vllm_engine.hand_over, engine, model), device) for _ in range(REPEATS)
    )
    print(f"weights handed over in {handed:.2f} s")
    rollout = vllm.sample(model, *given, **options)
    ratio_n = mismatch(model, rollout, asked.temperature)
    distance_n = ratio_n.abs()
    print(
        f"log pi_train/pi_rollout over {len(ratio_n)} tokens: mean {float(ratio_n.mean()):.2e}, "
        f"distance {float(distance_n.mean()):.2e}, largest {float(distance_n.max()):.2e} nats; "
        f"{float((ratio_n.exp() > CAP).double().mean()):.2%} beyond a cap of {CAP:g}"
    )
    again = vllm.sample(model, *given, **options).answers()
    same = sum(a == b for a, b in zip(again, rollout.answers(), strict=True))
    print(f"{same} of {asked.rows} answers the same when sampled again")


if __name__ == "__main__":
    main()
