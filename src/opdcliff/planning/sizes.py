"""From a configuration to the sizes a memory plan needs; no weights are read or made.

Parameters are counted on the model built on torch's meta device, which has shapes and no storage.
"""

from __future__ import annotations

import re
from dataclasses import astuple, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, Qwen3Config

from opdcliff.errors import ModelError
from opdcliff.models import base_of, build, put_adapter
from opdcliff.planning.layers import Sizes
from opdcliff.planning.setup import Adapter, Setup
from opdcliff.rollout import has_plain_head
from opdcliff.settings import GENERATED, STAGES, ArchConfig, RunConfig
from opdcliff.storage import in_words
from opdcliff.training import EVALUATION_BATCH, class_rows

# What the hub's config.json of each says [S], so that a plan needs no download:
# huggingface.co/Qwen/Qwen3-1.7B and huggingface.co/Qwen/Qwen3-8B.
_KNOWN: dict[str, dict[str, Any]] = {
    "Qwen/Qwen3-1.7B": {
        "hidden_size": 2048,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 6144,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "Qwen/Qwen3-8B": {
        "hidden_size": 4096,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 12288,
        "vocab_size": 151936,
        "tie_word_embeddings": False,
    },
}

# Tokens of a prompt, where nothing better is known: a line per candidate and title of the history,
# two tokens a word and three beside, and as many again as a short instruction has.
_PER_WORD, _PER_LINE, _AROUND = 2, 3, 20
# Words of a line of the generated task; of prompts of one's own nothing is known.
_MINI_WORDS, _OWN_PROMPT = 2, 512


# The norms of a layer, as families call them; not those of queries and keys.
_NORM = re.compile(r"(layernorm|ln_\d)\.weight$")


class Vocabulary:
    """As much of a tokenizer as `models.build` asks for."""

    eos_token_id, pad_token_id = 1, 0

    def __init__(self, entries: int) -> None:
        self._entries = entries

    def __len__(self) -> int:
        return self._entries


def setup_of(config: RunConfig, *, prompt: int, cuda: bool) -> Setup:
    """What decides the memory of one rank of `config`; `prompt` in tokens.

    Raises:
        ModelError: the sizes of a model cannot be known here.
    """
    engine, evaluation = config.engine, config.evaluation
    student, teacher = (sizes_of(config, role) for role in ("student", "teacher"))
    # Outputs that only one model has are cut when the pair is loaded.
    shared = min(student.vocabulary, teacher.vocabulary)
    if shared < max(student.vocabulary, teacher.vocabulary):
        student, teacher = (sizes_of(config, role, shared) for role in ("student", "teacher"))
    rows = config.rollout.prompts_per_update // engine.ranks
    prompts = max(evaluation.prompts, evaluation.final_prompts)
    stage = STAGES.get(engine.name, 0)
    # Stages 1 and 2 fill one buffer while they send the other.
    buffers = 2 if engine.overlap_comm and stage < 3 else 1
    return Setup(
        student=student,
        teacher=teacher,
        item=getattr(torch, config.model.dtype).itemsize,
        stage=stage,
        ranks=engine.ranks,
        bucket=buffers * engine.bucket_elements,
        offload_optimizer=engine.offload_optimizer,
        offload_parameters=engine.offload_parameters,
        shard_teacher=engine.shard_teacher,
        recompute=engine.gradient_checkpointing,
        cuda=cuda,
        prompt=prompt,
        answer=config.rollout.max_new_tokens,
        rollout_rows=rows,
        evaluation_rows=min(EVALUATION_BATCH, -(-prompts // engine.ranks)),
        class_rows=class_rows(prompts, 0, engine.ranks)[1],
        micro_rows=min(engine.micro_batch, rows),
        chunk=engine.score_chunk_tokens,
        full=config.optim.estimator == "full",
        adapter=adapter_of(config),
        moments=2 if config.optim.name == "adamw" else 0,
    )


def split_more(setup: Setup, ranks: int) -> Setup:
    """The same run on `ranks` times as many ranks."""
    names = ("rollout_rows", "evaluation_rows", "class_rows", "micro_rows")
    rows = {name: max(1, -(-getattr(setup, name) // ranks)) for name in names}
    return replace(setup, ranks=setup.ranks * ranks, **rows)


def prompt_tokens(config: RunConfig) -> int:
    """An estimate of the longest prompt, in tokens, from the settings of the data alone."""
    data = config.data
    if data.name == "prompts":
        return _OWN_PROMPT
    history, words = (
        (1, _MINI_WORDS)
        if data.name in GENERATED
        else (
            data.max_history,
            data.max_title_words,
        )
    )
    return (data.candidates + history) * (_PER_WORD * words + _PER_LINE) + _AROUND


def sizes_of(config: RunConfig, role: str, outputs: int | None = None) -> Sizes:
    """Sizes of the student or teacher: of `model.arch`, a folder's config.json, or a known hub id.

    outputs: those that the pair shares, if a model has more.

    Raises:
        ModelError: a hub id that is not known, or a folder without a readable configuration.
    """
    model, arch = config.model, config.model.arch
    # Where no teacher is given, both are made from the student's.
    source = model.student if model.teacher is None else getattr(model, role)
    if source is not None:
        return _of_source(str(source), outputs)
    assert arch is not None, "checked by settings.check"
    return _of_arch(astuple(arch), config.data.tokenizer_entries)


def adapter_of(config: RunConfig) -> Adapter | None:
    """Sizes of the adapter that is trained on the student, if one is.

    Raises:
        ConfigError, ModelError: it does not fit on the student, or that is not known.
    """
    lora, arch = config.model.lora, config.model.arch
    if lora is None:
        return None
    source = config.model.student
    with torch.device("meta"):
        if source is not None:
            student = _empty(str(source))
        else:
            assert arch is not None, "checked by settings.check"
            student = build(arch, Vocabulary(config.data.tokenizer_entries), 0)
        put_adapter(student, lora, 0)
    counts = {name: p.numel() for name, p in student.named_parameters() if p.requires_grad}
    # Each layer has a matrix from its inputs to the rank, A, and one from there to its outputs.
    inner = sum(count for name, count in counts.items() if ".lora_A." in name)
    return Adapter(
        parameters=sum(counts.values()),
        largest=max(counts.values()),
        inputs=inner // lora.rank,
        width=lora.rank * len(counts) // 2,
    )


@cache
def _of_source(source: str, outputs: int | None) -> Sizes:
    with torch.device("meta"):
        return sizes_of_model(_empty(source, outputs))


def _empty(source: str, outputs: int | None = None) -> PreTrainedModel:
    """A model without weights, on the device of the context; outputs: how many, if not its own."""
    configuration = _configuration(source)
    if outputs is not None:
        configuration.get_text_config().vocab_size = outputs
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        configuration, trust_remote_code=False
    )
    return model


@cache
def _of_arch(fields: tuple[Any, ...], entries: int) -> Sizes:
    with torch.device("meta"):
        return sizes_of_model(build(ArchConfig(*fields), Vocabulary(entries), 0))


def sizes_of_model(model: PreTrainedModel) -> Sizes:
    """The sizes of a model on any device."""
    shape = model.config.get_text_config()
    cap = getattr(shape, "attn_logit_softcapping", None)
    counts = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return Sizes(
        parameters=sum(counts.values()),
        largest=max(counts.values()),
        layers=shape.num_hidden_layers,
        hidden=shape.hidden_size,
        intermediate=_intermediate(shape),
        heads=shape.num_attention_heads,
        kv_heads=getattr(shape, "num_key_value_heads", None) or shape.num_attention_heads,
        head_dim=getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads,
        vocabulary=shape.vocab_size,
        qk_norm=any(name.endswith("q_norm.weight") for name in counts),
        norms=sum(".0." in name and _NORM.search(name) is not None for name in counts),
        layer_norm=any(name.endswith("ln_f.bias") for name in counts),
        gated=any(name.endswith("gate_proj.weight") for name in counts),
        # As models are loaded: sdpa, where the architecture has it.
        eager=not model._supports_sdpa,
        capped=cap is not None,
        plain_head=has_plain_head(model),
    )


def _intermediate(shape: Any) -> int:
    """Width of the feed-forward part; GPT-2 calls it n_inner, null is four times the model's."""
    given = getattr(shape, "intermediate_size", None) or getattr(shape, "n_inner", None)
    return int(given or 4 * shape.hidden_size)


def _configuration(source: str) -> Any:
    source, _ = base_of(source)
    folder = Path(source).expanduser()
    if folder.is_dir():
        try:
            return AutoConfig.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True
            )
        except Exception as error:
            raise ModelError(
                f"the configuration in {source} cannot be read ({in_words(error)}); give a "
                "folder with a config.json of the transformers library"
            ) from error
    if source in _KNOWN:
        return Qwen3Config(**_KNOWN[source])
    raise ModelError(
        f"the sizes of {source} are not known here; known are {' and '.join(_KNOWN)}: give a "
        "folder that holds its config.json"
    )
