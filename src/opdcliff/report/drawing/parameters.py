"""Parameter counts of the tiny models, from one recorded count and the shapes in conf/model."""

from __future__ import annotations

from collections.abc import Sequence


class _Vocabulary:
    """As much of a tokenizer as `models.build` asks for."""

    eos_token_id, pad_token_id = 1, 0

    def __init__(self, entries: int) -> None:
        self._entries = entries

    def __len__(self) -> int:
        return self._entries


def parameter_counts(names: Sequence[str], known: str, recorded: int) -> dict[str, int]:
    """Parameters of options of the group `model`, which share the vocabulary of `known`.

    recorded: the parameters of `known` as a run counted them; they give the entries of the
    tokenizer, which no results table holds. Shapes are built without weights.

    Raises:
        ValueError: no vocabulary gives `known` that many parameters.
    """
    spare = 2
    one, two = (_count(known, entries) for entries in (spare, spare + 1))
    more, rest = divmod(recorded - one, two - one)
    if rest or more < 0:
        raise ValueError(f"no vocabulary gives {known} {recorded} parameters")
    return {name: _count(name, spare + more) for name in names}


def _count(name: str, entries: int) -> int:
    # Only this figure needs the model libraries.
    import torch

    from opdcliff.models import build
    from opdcliff.settings import model_option

    arch = model_option(name).arch
    if arch is None:
        raise ValueError(f"model {name} is loaded, not built: its size is not in conf")
    with torch.device("meta"):
        model = build(arch, _Vocabulary(entries), 0)
    return sum(weight.numel() for weight in model.parameters())
