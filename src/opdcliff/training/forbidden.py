"""Entries that a model forbids (logit -inf, as some put into padding rows), in the objective.

Their mass is exactly 0, and what they add is the limit of its formula as that mass falls to 0:

- The student forbids: pi_S w A -> 0 whatever the others do, since x log x -> 0. Counts 0.
- Only the teacher forbids: A -> -inf at r -> 0. Counts 0 where the rule's weight is 0 there
  (two_sided), or at lam = 0; elsewhere there is no finite limit: an error.
- Only the base forbids: A -> +inf for lam > 1, -inf for lam < 1. Counts 0 where the weight is 0
  (mask, two_sided: r > c), else an error. At lam = 1 no base is read.
- Teacher and base forbid: as for the teacher, for any relation between the two limits.

In the diagnostics, too, entries that count 0 add 0: log pi_S - log pi_T has no finite mean there.
A batch without such entries passes through untouched, bit for bit.
"""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor

from opdcliff.errors import ModelError

MaybeTensor = TypeVar("MaybeTensor", Tensor, Tensor | None)

_REMEDY = {
    "teacher": "choose a teacher that allows it, or clip=two_sided, which leaves such tokens out",
    "base": "choose a warm start that allows it, or lam.value=1, which reads no base",
}


def dead_entries(logp_student: Tensor) -> Tensor | None:
    """True on entries that the student forbids; None if there are none."""
    dead = logp_student.detach().isneginf()
    return dead if dead.any() else None


def zeroed(logp: MaybeTensor, dead: Tensor | None) -> MaybeTensor:
    """Log-probs with 0 at dead entries, so that a mass of 0 meets finite factors: A = 0, r = 1."""
    return logp if logp is None or dead is None else logp.masked_fill(dead, 0.0)


def settle(
    advantage: Tensor,
    log_ratio: Tensor,
    weight: Tensor | None,
    logp_teacher: Tensor,
    logp_base: Tensor | None,
    mask: Tensor,
    *,
    lam: float,
    index: Tensor | None,
    sampled: bool,
) -> tuple[Tensor, Tensor]:
    """Advantage and log ratio with 0 for the entries that teacher or base forbid and w leaves out.

    weight: w of each entry, None if the rule leaves out nothing. mask: true on entries that count.
    index: token id of each entry; None where they are the vocabulary. Any common shape.

    Raises:
        ModelError: teacher or base forbids an entry that counts.
    """
    by_teacher = logp_teacher.detach().isneginf()
    forbids = {} if lam == 0.0 else {"teacher": by_teacher}
    if lam != 1.0 and logp_base is not None:
        forbids["base"] = logp_base.detach().isneginf()
    if not any(bool(entries.any()) for entries in (by_teacher, *forbids.values())):
        return advantage, log_ratio
    for model, entries in forbids.items():
        counted = entries & mask if weight is None else entries & mask & (weight != 0.0)
        if counted.any():
            raise ModelError(_refusal(model, counted, index, sampled=sampled))
        advantage = advantage.masked_fill(entries, 0.0)
    return advantage, log_ratio.masked_fill(by_teacher, 0.0)


def _refusal(model: str, counted: Tensor, index: Tensor | None, *, sampled: bool) -> str:
    place = counted.nonzero()[0]
    token = int(place[-1] if index is None else index[tuple(place)])
    name = "every token outside optim.topk" if token < 0 else f"token {token}"
    does = "sampled it" if sampled else "holds mass on it"
    return (
        f"the {model} forbids {name} (logit -inf) and the student {does}: the advantage is "
        f"infinite; {_REMEDY[model]}"
    )
