"""Sampling with vLLM: an engine in the process of every rank, on that rank's own device.

It is handed the weights of the model at every call by vLLM's `reload_weights`, which takes them
from this process: nothing is sent, and no sample is of older weights. One engine serves all models
of one shape. It holds the share `rollout.engine_memory` of the device for weights and keys.

Same seed, same samples: NO. vLLM draws with generators of its own. Each answer has a seed of its
own, made of (seed, stream, running number), so the engine repeats itself where its logits do, but
its tokens are not those of the other backends: a run is another draw, and the backend part of its
identity (`settings.science`). Its logits differ from those that are trained in kernels and
rounding, so it says the log-probs it drew with (`Rollout.logp_BT`), at the temperature of sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from opdcliff.rollout import vllm_engine
from opdcliff.rollout.draws import Rollout, as_rollout
from opdcliff.rollout.positions import even_positions
from opdcliff.rollout.scoring import completion_logp
from opdcliff.rollout.vllm_engine import refusal

# vLLM samples lower temperatures at this one, with a warning.
LEAST_TEMPERATURE = 0.01
# Mean distance in nats of an engine's log-probs from the model's, along its first answer, from
# which on its weights are others: the rounding of bfloat16 is far below it.
STRANGE = 0.5
_CHECK_TOKENS = 256

_engines: dict[str, Any] = {}


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    prompt_BL: Tensor,
    attention_BL: Tensor,
    *,
    numbers: Sequence[int],
    seed: int,
    stream: int,
    max_new_tokens: int,
    temperature: float,
    end_ids: Sequence[int],
    pad_id: int,
    banned_V: Tensor | None = None,
) -> Rollout:
    """Sample one answer per prompt; arguments and result as `rollout.sample`, but for the draws.

    Raises:
        ConfigError: vLLM is not installed, cannot sample from this model as the seam demands, does
            not start, ended an answer early, or draws with other weights than the model's.
    """
    vllm_engine.engine_version()
    _check(model, temperature, banned_V)
    device = next(model.parameters()).device
    prompt_BL, attention_BL = prompt_BL.to(device), attention_BL.to(device)
    prompts = [ids[mask].tolist() for ids, mask in zip(prompt_BL, attention_BL.bool(), strict=True)]
    shape = vllm_engine.shape_of(model)
    engine = _engines.get(shape)
    with vllm_engine.untouched(device):
        running = vllm_engine.start(model) if engine is None else engine
        vllm_engine.hand_over(running, model)
        answers = vllm_engine.generate(
            running,
            prompts,
            seeds(numbers, seed, stream),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            end_ids=end_ids,
        )
    longest = max(len(ids) for ids, _ in answers)
    completion_BT = prompt_BL.new_full((len(answers), longest), pad_id)
    logp_BT = torch.zeros(completion_BT.shape, device=device)
    for row, (ids, drawn) in enumerate(answers):
        completion_BT[row, : len(ids)] = completion_BT.new_tensor(ids)
        logp_BT[row, : len(ids)] = logp_BT.new_tensor(drawn)
    rollout = as_rollout(prompt_BL, attention_BL, completion_BT, end_ids)
    rollout = replace(rollout, logp_BT=logp_BT)
    if engine is None:
        _check_weights(model, rollout, temperature)
        _engines[shape] = running
    return rollout


def seeds(numbers: Sequence[int], seed: int, stream: int) -> list[int]:
    """One for each answer, of what the other backends make uniform numbers of."""
    return [int(np.random.default_rng([seed, stream, n]).integers(2**62)) for n in numbers]


def _check(model: PreTrainedModel, temperature: float, banned_V: Tensor | None) -> None:
    """Raise ConfigError for what vLLM would sample otherwise than the seam demands."""
    kind, dtype = type(model).__name__, next(model.parameters()).dtype
    head = model.get_output_embeddings()
    if hasattr(model, "peft_config"):
        raise refusal("an adapter is on the model, and only whole weights are handed over")
    if dtype not in vllm_engine.DTYPES:
        raise refusal(f"vLLM has no {str(dtype).removeprefix('torch.')} (model.dtype)")
    if temperature < LEAST_TEMPERATURE:
        raise refusal(
            f"vLLM samples rollout.temperature={temperature:g} at {LEAST_TEMPERATURE:g}",
            f"set rollout.temperature to {LEAST_TEMPERATURE:g} or more",
        )
    if banned_V is not None:
        raise refusal("some tokens are banned, which only the other backends do")
    if even_positions(model.config) is not None:
        raise refusal(f"{kind} scales positions by length, and vLLM once for all lengths")
    if head is None or getattr(head, "bias", None) is not None:
        raise refusal(f"{kind} has a head with a bias, or none")


def _check_weights(model: PreTrainedModel, rollout: Rollout, temperature: float) -> None:
    """Weights under names that vLLM does not know are dropped with a warning: look at the result.

    The longest answer of an engine's first batch is scored under the model itself.
    """
    assert rollout.logp_BT is not None
    lengths = rollout.lengths()
    row = slice(first := lengths.index(max(lengths)), first + 1)
    was_training = model.training
    model.eval()
    own_1T = completion_logp(
        model,
        rollout.ids_BL[row],
        rollout.attention_BL[row],
        max(lengths),
        temperature=temperature,
        chunk_tokens=_CHECK_TOKENS,
    )
    model.train(was_training)
    apart = float((own_1T - rollout.logp_BT[row]).abs().mean())
    if not apart < STRANGE:
        raise refusal(
            f"its log-probs are {apart:.2f} nats off those of {type(model).__name__}: it does not "
            "draw with the weights it was given"
        )
