"""Whether prompts with their answers fit into the positions that the models know.

Past the position that a model was made for, learned embeddings end in an error deep inside it,
and rotary ones go on without a word; both are found out here, before anything is tuned or sampled.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from opdcliff.contract import contract_of
from opdcliff.data import Splits, line_of, read_splits
from opdcliff.errors import DataError
from opdcliff.models.load import known_positions
from opdcliff.models.tokens.codec import Codec
from opdcliff.settings import AS_TEACHER, ModelConfig, RunConfig, model_option

SPLITS = ("train", "calibration", "test")
# What makes the prompts of a data set shorter.
_SHORTER = {
    "mini": "lower data.candidates",
    "titles": "lower data.candidates",
    "amazon_fashion": "lower data.max_title_words, data.max_history or data.candidates",
    "amazon_titles": "lower data.max_title_words, data.max_history or data.candidates",
    "prompts": "shorten the prompt",
}


def measure_lengths(config: RunConfig, codec: Codec, splits: Splits) -> dict[str, Any]:
    """What `check_lengths` needs to know, as facts of a manifest.

    longest: for each split, the number (from 1) of its longest prompt and its length in tokens.
    positions: how many each loaded or built model knows; None where its configuration says nothing.

    Raises:
        ModelError: the configuration of a model cannot be loaded.
    """
    longest = {name: _longest(codec, splits, name) for name in SPLITS}
    return {"longest": longest, "positions": _positions(config.model)}


def check_lengths(config: RunConfig, data: Path, lengths: dict[str, Any]) -> None:
    """Refuse a prompt that does not fit into a model together with its answer.

    Every split is sampled from: `train` in updates, `test` in evaluations, and `calibration`, where
    an answer that has opened its text as late as it may is made to go on.

    data: folder of the prepared prompts. lengths: what `measure_lengths` gave.

    Raises:
        DataError: naming the prompt that misses by most.
    """
    rooms = _rooms(config)
    split = max(SPLITS, key=lambda name: lengths["longest"][name][1] + sum(rooms[name].values()))
    number, tokens = lengths["longest"][split]
    known = {name: n for name, n in _all_positions(config, lengths).items() if n is not None}
    model = min(known, key=known.__getitem__, default="")
    if not model or tokens + sum(rooms[split].values()) <= known[model]:
        return
    room = " and ".join(f"{name}={count}" for name, count in rooms[split].items())
    raise DataError(
        f"prompt {number} of the {split} split{_place(config, data, split, number)} has {tokens} "
        f"tokens, its answer may take {room} more, and the {model} knows {known[model]} positions; "
        f"{', or '.join(_remedies(config, rooms[split], known[model] - tokens))}"
    )


def _longest(codec: Codec, splits: Splits, name: str) -> tuple[int, int]:
    # One by one: a batch would start threads, and warn in every process that is forked later.
    counts = [len(codec.prompt_ids(e)) for e in getattr(splits, name)]
    tokens = max(counts, default=0)
    return (counts.index(tokens) + 1 if counts else 0, tokens)


def _positions(model: ModelConfig) -> dict[str, int | None]:
    if model.student is None:
        assert model.arch is not None, "checked by settings.check"
        return {"student": model.arch.max_positions, "teacher": model.arch.max_positions}
    student = known_positions(model.student, revision=model.student_revision)
    if model.teacher is None:
        return {"student": student, "teacher": student}
    teacher = known_positions(model.teacher, revision=model.teacher_revision)
    return {"student": student, "teacher": teacher}


def _all_positions(config: RunConfig, lengths: dict[str, Any]) -> dict[str, int | None]:
    """With the larger model of a locked protocol, which is tuned and measured on the same."""
    found: dict[str, int | None] = dict(lengths["positions"])
    predictions = config.protocol.predictions
    if predictions is not None and predictions.larger_model not in (None, AS_TEACHER):
        arch = model_option(predictions.larger_model).arch
        found[f"model {predictions.larger_model}"] = None if arch is None else arch.max_positions
    return found


def _rooms(config: RunConfig) -> dict[str, dict[str, int]]:
    """Tokens behind the prompts of each split, by the setting they come from."""
    answer = {"rollout.max_new_tokens": config.rollout.max_new_tokens}
    rooms = dict.fromkeys(SPLITS, answer)
    if contract_of(config.data).has_text:
        forced = {"calibration.forced_words": config.calibration.forced_words}
        rooms["calibration"] = answer | forced
    return rooms


def _place(config: RunConfig, data: Path, split: str, number: int) -> str:
    """Where the user finds the prompt, if it comes from a file of one prompt a line."""
    if config.data.name != "prompts":
        return ""
    file = Path(config.data.path or "").expanduser()
    line = line_of(file, getattr(read_splits(data), split)[number - 1].prompt)
    return "" if line is None else f" ({file} line {line})"


def _remedies(config: RunConfig, room: dict[str, int], left: int) -> list[str]:
    """What to change; left: positions behind the prompt, below 1 where no answer would fit."""
    built = config.model.student is None
    return [
        *([f"lower {' or '.join(room)}"] if left > 0 else []),
        _SHORTER[config.data.name],
        "raise model.arch.max_positions" if built else "choose models with a longer context",
    ]
