"""Labels against the judge: an answer that is accepted is live to its end, and no other is."""

from __future__ import annotations

from collections.abc import Sequence

from opdcliff.contract import Contract, PrefixState, is_complete
from opdcliff.data import Example
from opdcliff.errors import ModelError
from opdcliff.models import Codec
from opdcliff.rollout import Rollout


def check_labels(
    rollout: Rollout,
    examples: Sequence[Example],
    states_of: Sequence[Sequence[PrefixState | None]],
    contract: Contract,
    codec: Codec,
) -> None:
    """Refuse labels that do not tell the same of an answer as the contract does.

    Masses of positions that are labelled wrongly would be a wrong lambda* without a word.

    Raises:
        ModelError: with the first such answer.
    """
    rows = zip(examples, rollout.answers(), rollout.ended_B.tolist(), states_of, strict=True)
    for example, ids, ended, states in rows:
        if not ended:
            continue
        text = codec.answer_text(ids[:-1])
        accepted = contract.judge(text, example, ended=True).ok
        last = states[-1]
        if accepted != (last is not None and is_complete(last)):
            live = sum(state is not None for state in states)
            raise ModelError(
                f"the answer {text[:200]!r} {'parses' if accepted else 'does not parse'}, and "
                f"{live} of its {len(states)} positions are labelled; p and b would be wrong: "
                "report it with the tokenizer's name"
            )
