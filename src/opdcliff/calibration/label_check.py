"""Labels against the judge: an answer that is accepted is live to its end, and no other is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opdcliff.contract import BEYOND_GRAMMARS, Contract, Labels
from opdcliff.data import Example
from opdcliff.errors import ModelError
from opdcliff.models import Codec
from opdcliff.rollout import Rollout


def check_labels(
    rollout: Rollout,
    examples: Sequence[Example],
    states_of: Sequence[Sequence[Any | None]],
    contract: Contract,
    labels: Labels,
    codec: Codec,
) -> float:
    """Refuse labels that do not tell the same of an answer as the contract does.

    Masses of positions that are labelled wrongly would be a wrong lambda* without a word. Where
    labels follow the ways in which a grammar writes values alone (`Labels.follows_all`), an
    accepted answer may leave them; returns the share of accepted answers that do.

    Raises:
        ModelError: with the first answer on which they differ.
    """
    accepted_ones = left = 0
    rows = zip(examples, rollout.answers(), rollout.ended_B.tolist(), states_of, strict=True)
    for example, ids, ended, states in rows:
        if not ended:
            continue
        text = codec.answer_text(ids[:-1])
        verdict = contract.judge(text, example, ended=True)
        accepted, last = verdict.ok, states[-1]
        followed = last is not None and labels.is_complete(last)
        accepted_ones += accepted
        left += accepted and not followed
        if labels.follows_all:
            agree = accepted == followed
        else:
            agree = accepted or not followed or verdict.failure in BEYOND_GRAMMARS
        if not agree:
            live = sum(state is not None for state in states)
            raise ModelError(
                f"the answer {text[:200]!r} {'parses' if accepted else 'does not parse'}, and "
                f"{live} of its {len(states)} positions are labelled; p and b would be wrong: "
                "report it with the tokenizer's name"
            )
    return left / accepted_ones if accepted_ones else 0.0
