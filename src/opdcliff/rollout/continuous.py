"""Sampling answers with the continuous batching of transformers: rows enter as others end.

Same seed, same samples: yes. A request is told apart by its row, and its step is its position
less the length of its prompt, so a token is drawn at the same uniform number as by `reference`.
The draws are those of `rollout.draw_tokens`; only the logits differ, in their last bits, because
keys are read from pages in another order. In float32 and float64 the tokens are the same but for
draws within that rounding; in bfloat16 they are those of this backend: the same from call to call
(all requests are queued before the loop starts, so its batches do not depend on timing), not
those of `reference`.

What it costs: no row is computed after its end, but with an attention implementation that takes a
mask (sdpa, which `models.load_model` asks for, and eager) every running request computes scores
against the keys of all of them, so work grows with the square of `IN_FLIGHT`. The tiny models of
the default study take 4 to 12 times the CPU time of `reference` [M: benchmarks/rollout.py]. Flash
attention needs no such mask; that, and any GPU, was not measured. The implementation is left as
it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import (
    ContinuousBatchingConfig,
    ContinuousBatchingManager,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
)
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)

from opdcliff.errors import ConfigError
from opdcliff.rollout.draws import Rollout, as_rollout, draw_tokens, uniforms
from opdcliff.rollout.reference import only

# Requests that run at a time; the rest wait for one to end. Bounds the cache as well.
IN_FLIGHT = 64
# Tokens of one page of the cache: a request leaves at most one page partly unused.
PAGE_TOKENS = 32
# Tokens of a forward pass: prompts are read in pieces of at most this size.
BATCH_TOKENS = 256
# Share of the free memory that the cache may take; one that needs more is refused.
MEMORY_SHARE = 0.5


class RequestDraws(ContinuousBatchingLogitsProcessor):  # type: ignore[misc]
    """`draw_tokens` for requests that are each at a step of their own."""

    supported_kwargs: ClassVar[dict[str, type]] = {}
    ignored_kwargs: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        uniform_BT: Tensor,
        prompt_lengths: Sequence[int],
        temperature: float,
        banned_V: Tensor | None,
    ) -> None:
        self._uniform = uniform_BT.flatten()
        self._limit = uniform_BT.shape[1]
        self._prompt_lengths = prompt_lengths
        self._temperature = temperature
        self._banned_V = banned_V
        self.drawn = 0

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        """What stands in places without a request."""
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> Tensor:
        """Where each request's uniform number stands in the flattened table."""
        # The position is right for a request that was put back and read its own answer again.
        cells = [
            row * self._limit + request.state.position_offset - self._prompt_lengths[row]
            for request in requests_with_new_token
            for row in (int(request.state.request_id),)
        ]
        return torch.tensor(cells, dtype=torch.int32)

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        self.drawn += len(scores)
        uniform_B1 = self._uniform[tensor_arg[: len(scores)].long()][:, None]
        return only(draw_tokens(scores, uniform_B1, self._temperature, self._banned_V), scores)


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
    """Sample one answer per prompt; arguments and result as `rollout.sample`.

    Training mode, attention implementation and the global generators are left as they were.

    Raises:
        ConfigError: this model (Gemma 2, say) cannot be sampled so, or the cache does not fit into
            the memory.
    """
    device = next(model.parameters()).device
    prompt_BL, attention_BL = prompt_BL.to(device), attention_BL.to(device)
    prompts = [ids[mask].tolist() for ids, mask in zip(prompt_BL, attention_BL.bool(), strict=True)]
    uniform_BT = uniforms(numbers, max_new_tokens, seed, stream).to(device)
    draws = RequestDraws(uniform_BT, [len(ids) for ids in prompts], temperature, banned_V)
    was_training = model.training
    # The manager seeds the global generators.
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            answers = _answers(model, prompts, draws, max_new_tokens, list(end_ids))
        finally:
            model.train(was_training)
    longest = max(len(answer) for answer in answers)
    completion_BT = prompt_BL.new_tensor(
        [answer + [pad_id] * (longest - len(answer)) for answer in answers]
    )
    return as_rollout(prompt_BL, attention_BL, completion_BT, end_ids)


def _answers(
    model: PreTrainedModel,
    prompts: list[list[int]],
    draws: RequestDraws,
    max_new_tokens: int,
    end_ids: list[int],
) -> list[list[int]]:
    manager = _manager(model, prompts, draws, max_new_tokens, end_ids)
    # All before the start: what a batch holds must not depend on when a request arrives.
    for row, ids in enumerate(prompts):
        manager.add_request(
            ids,
            request_id=str(row),
            max_new_tokens=max_new_tokens,
            eos_token_id=end_ids,
        )
    answers: dict[int, list[int]] = {}
    finished = False
    manager.start()
    try:
        while len(answers) < len(prompts):
            result = manager.get_result(timeout=1)
            if result is None and not manager.is_running():
                raise _refusal("its loop ended early")
            if result is not None and result.error is not None:
                raise _refusal(result.error)
            if result is not None and result.is_finished():
                answers[int(result.request_id)] = result.generated_tokens
        finished = True
    finally:
        manager.stop(hard_stop=not finished)
        manager.destroy()
    if draws.drawn < sum(len(answer) for answer in answers.values()):
        raise _refusal("this version of transformers did not call our sampler")
    return [answers[row] for row in range(len(prompts))]


def _manager(
    model: PreTrainedModel,
    prompts: list[list[int]],
    draws: RequestDraws,
    max_new_tokens: int,
    end_ids: list[int],
) -> ContinuousBatchingManager:
    _check_attention(model)
    pages = sorted(-(-(len(ids) + max_new_tokens) // PAGE_TOKENS) for ids in prompts)
    try:
        manager = model.init_continuous_batching(
            generation_config=GenerationConfig(do_sample=False, eos_token_id=end_ids),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=PAGE_TOKENS,
                num_blocks=sum(pages[-IN_FLIGHT:]),
                max_batch_tokens=BATCH_TOKENS,
                max_requests_per_batch=IN_FLIGHT,
                max_memory_percent=MEMORY_SHARE,
                # The processor would see requests a step late, or once for many steps.
                use_async_batching=False,
                use_cuda_graph=False,
                auto_switch_to_flash=False,
                seed=0,
            ),
        )
    except (ValueError, AttributeError) as error:
        raise _refusal(error) from error
    # Processors with an argument per request are made from a generation config only; ours has no
    # field there. The list is read when the loop starts.
    processors = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([draws]))
    processors.tensors_required = 1
    manager.logit_processor = processors
    return manager


def _check_attention(model: PreTrainedModel) -> None:
    """The loop's own attention takes no caps: it would sample from another distribution [M]."""
    cap = getattr(model.config.get_text_config(), "attn_logit_softcapping", None)
    if cap is not None:
        raise _refusal(
            f"{type(model).__name__} caps its attention scores (attn_logit_softcapping={cap}), "
            "which the paged attention of transformers leaves out"
        )


def _refusal(reason: object) -> ConfigError:
    text = " ".join(str(reason).split())
    return ConfigError(
        f"rollout.backend=continuous cannot sample: {text}; set rollout.backend=reference"
    )
