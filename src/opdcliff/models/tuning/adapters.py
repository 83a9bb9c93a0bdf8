"""LoRA adapters (peft): put on a student, saved, found in a folder, merged into their base.

An adapter adds scale * B A x to the output of a linear layer, scale = alpha / rank; B starts at
zero, so that a fresh one changes nothing. It is put into the layers of the model itself, which
stays a model of the transformers library: whatever samples or scores need not know of it.

Source: [S] Hu et al., LoRA, arXiv 2106.09685.
"""

from __future__ import annotations

import copy
import itertools
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from opdcliff.errors import ConfigError, ModelError
from opdcliff.settings import LoraConfig
from opdcliff.storage import in_words, write_json_atomic

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ALL_LINEAR = "all-linear"
# How peft names the parameters of a model that it has wrapped; it looks for that when it loads.
_PREFIX = "base_model.model."
# Adapters on adapters; more are taken for a circle.
_DEEPEST = 20
# What an adapter's configuration may hold beyond plain LoRA, and what it holds where it does not.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None,),
    "target_parameters": (None, []),
    "layer_replication": (None,),
    "alora_invocation_tokens": (None,),
    "arrow_config": (None,),
    "use_qalora": (False, None),
    # Names a module to import.
    "megatron_config": (None,),
    # Others start by changing the base, which is then not the one that is named.
    "init_lora_weights": (True, False, "gaussian"),
}


def is_adapter(source: str | Path) -> bool:
    """Whether that is a folder with an adapter."""
    return (Path(source).expanduser() / ADAPTER_CONFIG).is_file()


def refuse_mixed(source: str | Path) -> None:
    """Refuse a folder of which only a part would be read: an adapter, and whole weights beside it.

    Raises:
        ModelError: the folder, and what to take out of it.
    """
    folder = Path(source).expanduser()
    whole = sorted(path.name for path in folder.glob("model*.safetensors"))
    if is_adapter(folder) and whole:
        raise ModelError(
            f"{folder} holds an adapter ({ADAPTER_CONFIG}) and whole weights ({whole[0]}); keep "
            "one of them there: the adapter goes on its own base, not on what lies beside it"
        )
    if not is_adapter(folder) and (folder / ADAPTER_WEIGHTS).is_file():
        raise ModelError(
            f"{folder} holds {ADAPTER_WEIGHTS} without {ADAPTER_CONFIG}, so nothing says how to "
            "put it on; add that file, or take the adapter out"
        )


def below(source: str | Path) -> tuple[str, str | None]:
    """What the adapter in that folder goes on: a folder or hub id, and its revision.

    A relative path is one from the adapter's folder, or else from the current one.

    Raises:
        ModelError: the adapter's configuration cannot be read or names no base.
    """
    folder = Path(source).expanduser()
    plain = _configuration(folder)
    named = plain.get("base_model_name_or_path")
    beside = folder / str(named)
    found = beside if beside.is_dir() else Path(str(named)).expanduser()
    if not isinstance(named, str) or (found.is_dir() and found.samefile(folder)):
        raise ModelError(
            f"the adapter of {folder} names no base; set base_model_name_or_path in its "
            f"{ADAPTER_CONFIG} to the folder or hub id of the model it was trained on"
        )
    return str(beside if beside.is_dir() else named), plain.get("revision")


def base_of(source: str | Path, revision: str | None = None) -> tuple[str, str | None]:
    """The whole model below adapters, and its revision; a source that is none as it is.

    Raises:
        ModelError: see `below`.
    """
    named = str(source), revision
    for _ in range(_DEEPEST):
        if not is_adapter(named[0]):
            return named
        named = below(named[0])
    raise ModelError(
        f"the adapter of {source} goes on adapters that go on each other; set "
        f"base_model_name_or_path in their {ADAPTER_CONFIG}"
    )


def sharing(model: PreTrainedModel) -> PreTrainedModel:
    """The same model with modules of its own around the same tensors; it takes no memory."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    twin: PreTrainedModel = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    return twin


def put_adapter(model: PreTrainedModel, settings: LoraConfig, seed: int) -> PreTrainedModel:
    """Put a fresh adapter on `model`, in place, and freeze all else; deterministic in `seed`.

    Its weights are float32 where those of the model are narrower.

    Raises:
        ConfigError: peft is missing, or a target is no linear layer of the model.
    """
    peft = _peft()
    targets = ALL_LINEAR if settings.targets == [ALL_LINEAR] else settings.targets
    own = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            # What it warns of is refused below.
            warnings.simplefilter("ignore", UserWarning)
            # Drawn on the CPU, whatever the device.
            torch.default_generator.manual_seed(seed)
            peft.inject_adapter_in_model(own, model)
    except ValueError as error:
        raise _no_target(", ".join(settings.targets)) from error
    _widen(model)
    _refuse_untouched(model, settings.targets)
    _refuse_tied(model, f"model.lora.targets={settings.targets}")
    return model.eval()


def has_adapter(model: torch.nn.Module) -> bool:
    """Whether one was put on it."""
    return getattr(model, "peft_config", None) is not None


def save_adapter(model: PreTrainedModel, folder: Path, base: str, revision: str | None) -> None:
    """Write the adapter of `model`, and nothing else of it, as peft and `from_pretrained` load it.

    base, revision: where the model below it is found again.
    """
    from peft import get_peft_model_state_dict

    folder.mkdir(parents=True, exist_ok=True)
    state = get_peft_model_state_dict(model)
    tensors = {
        f"{_PREFIX}{name}": value.detach().cpu().contiguous() for name, value in state.items()
    }
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    plain: dict[str, Any] = model.peft_config["default"].to_dict()
    # A set, which has another order in every process.
    plain |= {name: sorted(value) for name, value in plain.items() if isinstance(value, set)}
    plain |= {"base_model_name_or_path": base, "revision": revision, "inference_mode": True}
    write_json_atomic(folder / ADAPTER_CONFIG, plain)


def merge_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Add the adapter in `folder` to the weights of its base `model`, in place.

    Raises:
        ConfigError: peft is missing.
        ModelError: more than LoRA on linear layers, or weights that are not those of the adapter.
    """
    plain = _configuration(folder)
    for name, allowed in _PLAIN.items():
        if name in plain and plain[name] not in allowed:
            raise ModelError(
                f"the adapter of {folder} has {name}={plain[name]}, which is not merged here; "
                "merge it with peft and give the whole model"
            )
    peft = _peft()
    try:
        tensors = load_file(folder / ADAPTER_WEIGHTS)
        own = peft.LoraConfig.from_pretrained(str(folder))
        own.inference_mode = False
        peft.inject_adapter_in_model(own, model)
        _widen(model)
        expected = set(peft.get_peft_model_state_dict(model))
        if {name.removeprefix(_PREFIX) for name in tensors} != expected:
            raise ValueError("its weights are not those of its configuration")
        peft.set_peft_model_state_dict(model, tensors)
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or in_words(error)
        raise ModelError(
            f"cannot load the adapter of {folder}: {reason}; give a folder with {ADAPTER_CONFIG} "
            f"and {ADAPTER_WEIGHTS} of LoRA on this base"
        ) from error
    _refuse_tied(model, f"the adapter of {folder}")
    return merge_own(model)


@torch.no_grad()
def merge_own(model: PreTrainedModel) -> PreTrainedModel:
    """Add the adapter on `model` to its weights, in place; it is a plain model afterwards."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            model.set_submodule(name, module.get_base_layer())
    del model.peft_config
    return model.eval()


def _widen(model: PreTrainedModel) -> None:
    """Small steps would be lost in the digits of bfloat16."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))


def _refuse_untouched(model: PreTrainedModel, targets: list[str]) -> None:
    """peft passes over a name that leads nowhere, as long as another one does not."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    names = [f".{n}" for n, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    for target in targets:
        if target != ALL_LINEAR and not any(name.endswith(f".{target}") for name in names):
            raise _no_target(target)


def _no_target(names: str) -> ConfigError:
    return ConfigError(
        f"model.lora.targets: {names} is no linear layer of the student; give [{ALL_LINEAR}], or "
        "names such as [q_proj,v_proj]"
    )


def _refuse_tied(model: PreTrainedModel, what: str) -> None:
    """An adapter on a weight that two layers share would change both once it is merged."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    if model.config.get_text_config().tie_word_embeddings and any(
        isinstance(end, BaseTunerLayer) for end in ends
    ):
        raise ConfigError(
            f"{what} is on embeddings that the model shares with its head; leave embed_tokens and "
            "lm_head out"
        )


def _configuration(folder: Path) -> dict[str, Any]:
    try:
        plain = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{folder / ADAPTER_CONFIG} {in_words(error)}; give an intact adapter"
        ) from error
    if not isinstance(plain, dict):
        raise ModelError(f"{folder / ADAPTER_CONFIG} is no object; give an intact adapter")
    return plain


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ConfigError(
            "adapters need peft, which is not installed; `pip install -e '.[lora]'` adds it"
        ) from error
    return peft
