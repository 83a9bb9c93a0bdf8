"""What breaks: where answers failed, the entry that the settled student no longer has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from opdcliff.models import Codec
from opdcliff.preview.sampling import SettledAnswers
from opdcliff.storage import visible
from opdcliff.training import Judged

# A position counts as where an answer broke if the teacher had at least this mass on what is gone.
_LEAST = 0.01
# Rows told per lambda and clip, and characters of the answer before the place.
_MOST, _CONTEXT = 3, 24


@dataclass(frozen=True)
class Break:
    """An entry that is gone, and the failed answers that needed it most there.

    rate: those answers over all answers. entry: its text. context: the end of one such answer
    before it; both `visible`. lost: teacher's mass on what was gone there, mean.
    """

    c: float
    lam: float
    rate: float
    entry: str
    context: str
    lost: float


def breaks_of(
    answers: SettledAnswers, judged: Sequence[Judged], codec: Codec, c: float, lam: float
) -> list[Break]:
    """The entries behind most of the failed answers, the costliest first.

    Of each failed answer the position with the largest mass lost is taken as where it broke.
    """
    found: dict[int, list[tuple[int, int, float]]] = {}
    lost_BT, rows = answers.lost_BT.cpu(), answers.rollout.answers()
    for row, one in enumerate(judged):
        if one.verdict.ok:
            continue
        place = int(lost_BT[row].argmax())
        lost = float(lost_BT[row, place])
        if lost >= _LEAST:
            entry = int(answers.gone_BT[row, place])
            found.setdefault(entry, []).append((row, place, lost))
    counts = Counter({entry: len(places) for entry, places in found.items()})
    breaks = []
    for entry, count in counts.most_common(_MOST):
        row, place, _ = found[entry][0]
        before = visible(codec.answer_text(rows[row][:place])[-_CONTEXT:])
        mean = sum(lost for _, _, lost in found[entry]) / count
        breaks.append(Break(c, lam, count / len(judged), _name(codec, entry), before, mean))
    return breaks


def _name(codec: Codec, entry: int) -> str:
    if entry in codec.end_ids:
        return "the end of the answer"
    if entry >= len(codec.token_bytes) or codec.token_bytes[entry] is None:
        return f"entry {entry}, which is no text"
    return visible(codec.answer_text([entry]))
