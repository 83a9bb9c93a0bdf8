"""A stand-in for vLLM with what `rollout.vllm_engine` calls of it, over the real tiny model.

It keeps weights of its own and samples with them, with generators of its own, one per request.
`tests/rollout/test_vllm_package.py` holds its names and parameters against the installed package.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM


@dataclass
class SamplingParams:
    """Those that are asked for; the others have vLLM's defaults, under which nothing is cut."""

    temperature: float = 1.0
    seed: int | None = None
    max_tokens: int | None = 16
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    logprobs: int | None = None
    detokenize: bool = True


def TokensPrompt(*, prompt_token_ids: list[int]) -> dict[str, list[int]]:
    return {"prompt_token_ids": prompt_token_ids}


@dataclass
class Output:
    token_ids: list[int]
    logprobs: list[dict[int, Any]]
    finish_reason: str = "length"


@dataclass
class Result:
    outputs: list[Output] = field(default_factory=list)


class LLM:
    """One process, one model. started: every engine of a test."""

    started: ClassVar[list[LLM]] = []
    # What tests change: the room of an engine, names it does not know, answers it cuts.
    room: ClassVar[int] = 128
    unknown: ClassVar[str | None] = None
    cut: ClassVar[int | None] = None

    def __init__(
        self,
        model: str,
        *,
        skip_tokenizer_init: bool = False,
        dtype: str = "auto",
        gpu_memory_utilization: float = 0.92,
        enforce_eager: bool = False,
        hf_overrides: dict[str, Any],
        **kwargs: Any,
    ) -> None:
        self.given = {"dtype": dtype, "gpu_memory_utilization": gpu_memory_utilization, **kwargs}
        # The real one seeds all generators as well; other weights than `tiny_model`'s.
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)
        config = AutoConfig.from_pretrained(model, **hf_overrides)
        self.model = AutoModelForCausalLM.from_config(config)
        self.model.to(getattr(torch, dtype)).eval()
        self.model_config = SimpleNamespace(max_model_len=self.room)
        self.pushes = 0
        self.asked: list[tuple[list[int], SamplingParams]] = []
        self.started.append(self)

    @torch.no_grad()
    def collective_rpc(
        self,
        method: str,
        timeout: float | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> list[None]:
        assert method == "reload_weights"
        weights: Iterable[tuple[str, Tensor]] = (kwargs or {})["weights_iterator"]
        mine = dict(self.model.named_parameters())
        for name, value in weights:
            if name != self.unknown:
                mine[name].copy_(value)
        self.pushes += 1
        return [None]

    def generate(
        self,
        prompts: Sequence[dict[str, list[int]]],
        sampling_params: Sequence[SamplingParams],
        *,
        use_tqdm: bool = True,
    ) -> list[Result]:
        pairs = zip(prompts, sampling_params, strict=True)
        return [Result([self._answer(p["prompt_token_ids"], wish)]) for p, wish in pairs]

    @torch.no_grad()
    def _answer(self, prompt: list[int], wish: SamplingParams) -> Output:
        assert (wish.ignore_eos, wish.logprobs, wish.detokenize) == (True, 0, False)
        assert wish.seed is not None
        assert wish.max_tokens is not None
        self.asked.append((prompt, wish))
        generator = torch.Generator().manual_seed(wish.seed)
        output = Output([], [])
        for _ in range(self.cut or wish.max_tokens):
            ids = torch.tensor([prompt + output.token_ids])
            logits_V = self.model(ids).logits[0, -1].float()
            logp_V = torch.log_softmax(logits_V / wish.temperature, -1)
            token = int(torch.multinomial(logp_V.exp(), 1, generator=generator))
            output.token_ids.append(token)
            output.logprobs.append({token: SimpleNamespace(logprob=float(logp_V[token]))})
            if token in (wish.stop_token_ids or []):
                output.finish_reason = "stop"
                break
        return output


class Platform:
    device_type = "cpu"

    def is_cpu(self) -> bool:
        return self.device_type == "cpu"


def install(monkeypatch: pytest.MonkeyPatch) -> type[LLM]:
    """Put the stand-in where `import vllm` finds it, with no engine running."""
    from opdcliff.rollout import vllm, vllm_engine

    package, inputs, platforms = (
        ModuleType(name) for name in ("vllm", "vllm.inputs", "vllm.platforms")
    )
    vars(package).update(LLM=LLM, SamplingParams=SamplingParams)
    vars(inputs).update(TokensPrompt=TokensPrompt)
    vars(platforms).update(current_platform=Platform())
    for module in (package, inputs, platforms):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(vllm_engine, "engine_version", lambda: "vllm 0")
    monkeypatch.setattr(vllm, "_engines", {})
    monkeypatch.setattr(vllm_engine, "_offered", [])
    for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", *vllm_engine._QUIET):
        monkeypatch.setenv(name, "0")
    for name, value in (("started", []), ("room", 128), ("unknown", None), ("cut", None)):
        monkeypatch.setattr(LLM, name, value)
    return LLM
