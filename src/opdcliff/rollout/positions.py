"""Models whose positions are scaled by the longest row of a batch: up to where none is.

LongRoPE (Phi-3, Phi-4-mini) has two sets of factors, and "dynamic" NTK scaling grows with the
text. The library chooses once for all rows of a batch, at every step of sampling anew, so past that
length log-probs of a row depend on the rows beside it, and scores are not of what was sampled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from opdcliff.errors import ConfigError


def even_positions(configuration: Any) -> int | None:
    """Tokens up to which all rows are scaled alike, whatever is beside them; None if always."""
    text = configuration.get_text_config()
    known = []
    for rope in _kinds(getattr(text, "rope_parameters", None) or {}):
        if rope.get("rope_type") == "longrope":
            known.append(rope.get("original_max_position_embeddings"))
            known.append(getattr(text, "original_max_position_embeddings", None))
        elif "dynamic" in str(rope.get("rope_type")):
            known.append(getattr(text, "max_position_embeddings", None))
    return min((n for n in known if isinstance(n, int) and n > 0), default=None)


def require_even(model: PreTrainedModel, attention_BL: Tensor, more: int = 0) -> None:
    """Raise ConfigError if a row, and `more` tokens behind it, is longer than `even_positions`."""
    even = even_positions(model.config)
    if even is None or attention_BL.shape[1] + more <= even:
        return
    longest = int(attention_BL.sum(-1).max()) + more
    if longest > even:
        raise ConfigError(
            f"{type(model).__name__} scales positions by the longest row of a batch once that has "
            f"more than {even} tokens, and one of {longest} is asked for: rows would depend on "
            "those beside them; shorten prompts or lower rollout.max_new_tokens, or choose another "
            "model"
        )


def _kinds(rope: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """One description, or one for each kind of layer."""
    inner = [value for value in rope.values() if isinstance(value, Mapping)]
    yield from inner or [rope]
