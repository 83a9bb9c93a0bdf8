"""The mass that models put on outputs that the other model of the pair does not have."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from opdcliff.models import CutRows, Trio, uncut
from opdcliff.rollout import Rollout, iter_full_logp

# A mean mass above this is no rounding: what is compared then is another model than the one given.
WARN_ABOVE = 0.01


@dataclass(frozen=True)
class Outside:
    """Mass of a model outside the entries that are compared, over the positions of answers.

    model: teacher or warm start. outputs, shared: its own entries, and those of both models.
    mean, largest: of the mass on the others under softmax(logits / temperature).
    """

    model: str
    outputs: int
    shared: int
    mean: float
    largest: float

    @property
    def warns(self) -> bool:
        """Whether so much was cut that the numbers are those of another model."""
        return self.mean > WARN_ABOVE

    def in_words(self) -> str:
        """A sentence for whoever gave the pair."""
        text = (
            f"the {self.model} has {self.outputs} outputs, and the first {self.shared} are "
            "compared, those of both models: at answer positions the others hold "
            f"{self.mean:.2g} of its mass on average, {self.largest:.2g} at most"
        )
        if not self.warns:
            return text
        return (
            f"warning: {text}; above 1% what is measured and trained is not quite the {self.model} "
            "given: fine-tune it on answers first, or check that it is of this tokenizer"
        )


def mass_outside(
    trio: Trio, rollout: Rollout, *, temperature: float, chunk_tokens: int
) -> tuple[Outside, ...]:
    """What each cut model of a pair holds outside, at the positions of a rollout's answers."""
    models = {"student": ("warm start", trio.base), "teacher": ("teacher", trio.teacher)}
    return tuple(
        _measured(*models[role], cut, rollout, temperature, chunk_tokens)
        for role, cut in trio.cut.items()
    )


def _measured(
    name: str,
    model: PreTrainedModel,
    cut: CutRows,
    rollout: Rollout,
    temperature: float,
    chunk_tokens: int,
) -> Outside:
    real_N = rollout.mask_BT.flatten()
    masses = []
    with uncut(model, cut, name):
        for part, logp_nV in iter_full_logp(
            model,
            rollout.ids_BL,
            rollout.attention_BL,
            rollout.mask_BT.shape[1],
            temperature=temperature,
            chunk_tokens=chunk_tokens,
        ):
            masses.append(logp_nV[real_N[part], cut.shared :].double().exp().sum(-1))
    mass_n = torch.cat(masses)
    return Outside(name, cut.outputs, cut.shared, mass_n.mean().item(), mass_n.max().item())
