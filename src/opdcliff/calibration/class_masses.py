"""Calibration: p and b per token class on the warm start's own prefixes, and lambda* from them.

Two samples from the base on held-out prompts: its natural answers, for every class, and answers
whose reason is not allowed to close, so that every offset the token budget can reach is measured
(a pooled average hides a drift of b with the offset: docs/theory.md, point 10). A third sample, the
teacher's own answers, enters no median: it shows how single positions differ by prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from opdcliff.calibration.distribution import (
    FORCED,
    TEACHER,
    WARM_START,
    Homogeneity,
    homogeneity,
    thresholds,
)
from opdcliff.calibration.forced import force_on, forced_positions, open_texts
from opdcliff.calibration.label_check import check_labels
from opdcliff.calibration.modal_mass import (
    CLASSES,
    NO_CLASS,
    Positions,
    answer_states,
    label_states,
    modal_logits,
)
from opdcliff.calibration.outside import Outside, mass_outside
from opdcliff.contract import Contract, TokenClass
from opdcliff.data import Example
from opdcliff.models import Trio, sample_answers
from opdcliff.rollout import CALIBRATION_STREAM, TEACHER_STREAM, Rollout
from opdcliff.settings import CalibrationConfig, RolloutConfig

# A row needs this many positions before its threshold is reported as binding.
MIN_POSITIONS = 100
# Three samples, their three passes of both models, and what lies outside of the shared outputs.
STEPS = 7


# Below this a percentile bootstrap over prompts covers clearly less than it says.
_FEW_PROMPTS = 16


@dataclass(frozen=True)
class Binding:
    """The class (and offset bin) whose threshold is met first, with its masses."""

    token_class: str
    offsets: str
    p: float
    b: float

    def lambda_star(self, c: float) -> float:
        """Predicted onset at clip strength c > 1 (docs/theory.md, point 4).

        A mass of exactly 0 or 1 gives the limit: 1 for p = 1 or b = 0, infinity for b = 1 or p = 0.
        """
        return float(thresholds(np.array(self.p), np.array(self.b), c))


@dataclass(frozen=True)
class Calibration:
    """Measured masses and thresholds.

    table: one row per class, and per offset bin of the classes that can bind; columns class,
        offsets, positions, prompts, tail_needed, binding, and p, b, lambda_star_c<c> each with
        _lo and _hi (95% bootstrap interval over prompts).
    binding: the row with the smallest lambda* among classes whose tail the contract needs; None
        if there is none (no text class, or p <= b everywhere: no upper threshold).
    outside: what the models hold on outputs that they do not share; empty where they share all.
    unfollowed: the larger share, of the warm start's and the teacher's accepted answers, of those
        whose positions are labelled in part only, since they are written as no grammar writes.
    positions: one row per position of the classes that can bind; columns source, prompt, class,
        offset, p, b.
    homogeneity: whether the binding row's lambda* may stand for its class; None without one.
    """

    table: pd.DataFrame
    binding: Binding | None
    outside: tuple[Outside, ...] = ()
    positions: pd.DataFrame = field(default_factory=pd.DataFrame)
    homogeneity: Homogeneity | None = None
    unfollowed: float = 0.0

    @property
    def caution(self) -> str | None:
        """What to say of intervals over so few prompts that they fall short; else None."""
        if self.table.empty or not (self.table.prompts < _FEW_PROMPTS).any():
            return None
        return (
            f"caution: rows of fewer than {_FEW_PROMPTS} prompts have too short intervals: "
            "a bootstrap over so few covers less than its 95%; measure on more "
            "(calibration.prompts), or where a class is rare, on more answers"
        )


def calibrate_trio(
    trio: Trio,
    examples: Sequence[Example],
    contract: Contract,
    config: CalibrationConfig,
    how: RolloutConfig,
    *,
    chunk_tokens: int,
    advance: Callable[[int], None] = lambda steps: None,
) -> Calibration:
    """Measure p and b of every token class, and where the first threshold lies.

    p, b: median probability of teacher and base on the modal class, over positions of the base's
    own live prefixes; lambda* follows from the medians (theory.lambda_star). The median, because
    after a stray token a teacher may put next to nothing on the modal class for the rest of the
    answer: a percent of such positions moves the mean, and with it lambda*, not the typical
    position that the theory speaks of.

    advance: told how many of STEPS are made.
    """
    chosen = examples[: config.prompts]
    labels = trio.codec.labels(contract)
    assert labels is not None, "checked by require_classes"
    numbers = range(len(chosen))
    parts, left = [], []
    for source, model, stream in (
        (WARM_START, trio.base, CALIBRATION_STREAM),
        (TEACHER, trio.teacher, TEACHER_STREAM),
    ):
        answers = sample_answers(
            model, trio.codec, list(enumerate(chosen)), how, seed=config.seed, stream=stream
        )
        states_of = answer_states(answers, chosen, labels)
        left.append(check_labels(answers, chosen, states_of, contract, labels, trio.codec))
        parts.append((source, list(numbers), answers, label_states(states_of, answers, labels)))
        advance(len(parts))
        if source == WARM_START and (opened := open_texts(states_of, labels)):
            forced = force_on(trio, answers, opened, config, how)
            parts.append((FORCED, list(opened), forced, forced_positions(forced, opened, labels)))
            advance(len(parts))
    natural = parts[0][2]
    measured = []
    for source, prompts, rollout, positions in parts:
        masses = _rows(trio, prompts, rollout, positions, how.temperature, chunk_tokens)
        measured.append(masses.assign(source=source))
        advance(len(parts) + len(measured))
    rows = pd.concat(measured, ignore_index=True)
    outside = mass_outside(trio, natural, temperature=how.temperature, chunk_tokens=chunk_tokens)
    advance(STEPS)
    # The student starts on the warm start's prefixes: lambda* is of those.
    found = tabulate(rows[rows.source != TEACHER].drop(columns="source"), config)
    single = rows[rows.tail_needed]
    whole = _with_positions(found, single, config.strengths)
    return replace(whole, outside=outside, unfollowed=max(left))


def _with_positions(
    found: Calibration, positions: pd.DataFrame, strengths: Sequence[float]
) -> Calibration:
    kept = positions[["source", "prompt", "class", "offset", "p", "b"]].reset_index(drop=True)
    if found.binding is None:
        return replace(found, positions=kept)
    own = kept[kept["class"] == found.binding.token_class]
    verdict = homogeneity(own, found.binding.p, found.binding.b, strengths)
    return replace(found, positions=kept, homogeneity=verdict)


def tabulate(rows: pd.DataFrame, config: CalibrationConfig) -> Calibration:
    """Table and binding class from measured positions.

    rows: one per position with columns prompt, class, offset, tail_needed, p, b.
    """
    table = pd.DataFrame(
        [
            _row(name, needed, span, part, config)
            for name, needed, span, part in _groups(rows, config.offset_bin)
        ]
    )
    first = f"lambda_star_c{config.strengths[0]:g}"
    can_bind = table.tail_needed & (table.positions >= MIN_POSITIONS) & (table.offsets != "all")
    # The order of thresholds is the same at every c only for equal p; the first strength decides.
    candidates = table[can_bind & np.isfinite(table[first])]
    table["binding"] = False
    if candidates.empty:
        return Calibration(table, None)
    index = candidates[first].idxmin()
    table.loc[index, "binding"] = True
    row = table.loc[index]
    return Calibration(table, Binding(row["class"], row.offsets, float(row.p), float(row.b)))


def _groups(rows: pd.DataFrame, width: int) -> list[tuple[str, bool, str, pd.DataFrame]]:
    """Rows of a place by whether their tail is needed, and then by offset as well."""
    groups: list[tuple[str, bool, str, pd.DataFrame]] = []
    for name in sorted(rows["class"].unique(), key=_in_order):
        for needed in (False, True):
            part = rows[(rows["class"] == name) & (rows.tail_needed == needed)]
            if part.empty:
                continue
            groups.append((name, needed, "all", part))
            if needed:
                for bin_index, inside in part.groupby(part.offset // width):
                    start = int(str(bin_index)) * width
                    groups.append((name, needed, f"{start}-{start + width - 1}", inside))
    return groups


def _in_order(name: str) -> tuple[bool, int, str]:
    """Places in the order of their classes, the end last, then by path."""
    of_class, _, path = name.partition(" ")
    return of_class == TokenClass.EOS, [c.value for c in CLASSES].index(of_class), path


def _row(
    name: str, needed: bool, span: str, part: pd.DataFrame, config: CalibrationConfig
) -> dict[str, Any]:
    point = part[["p", "b"]].median().to_numpy()
    per_prompt = [group[["p", "b"]].to_numpy() for _, group in part.groupby("prompt")]
    resampled = _bootstrap_medians(per_prompt, config)
    row: dict[str, Any] = {
        "class": name,
        "offsets": span,
        "positions": len(part),
        "prompts": len(per_prompt),
        "tail_needed": needed,
    }
    columns = {"p": (point[0], resampled[:, 0]), "b": (point[1], resampled[:, 1])}
    for c in config.strengths:
        columns[f"lambda_star_c{c:g}"] = (
            float(thresholds(point[:1], point[1:], c)[0]),
            thresholds(resampled[:, 0], resampled[:, 1], c),
        )
    for key, (value, samples) in columns.items():
        # `lower`/`higher` keep an infinite threshold infinite instead of interpolating to NaN.
        row[key] = float(value)
        row[f"{key}_lo"] = float(np.quantile(samples, 0.025, method="lower"))
        row[f"{key}_hi"] = float(np.quantile(samples, 0.975, method="higher"))
    return row


def _bootstrap_medians(
    per_prompt: Sequence[NDArray[Any]], config: CalibrationConfig
) -> NDArray[Any]:
    """Median p and b over the positions of resampled prompts, shape (bootstrap, 2)."""
    rng = np.random.default_rng([config.seed, len(per_prompt)])
    picks = rng.integers(len(per_prompt), size=(config.bootstrap, len(per_prompt)))
    return np.stack(
        [np.median(np.concatenate([per_prompt[i] for i in pick]), axis=0) for pick in picks]
    )


def _rows(
    trio: Trio,
    prompts: Sequence[int],
    rollout: Rollout,
    positions: Positions,
    temperature: float,
    chunk_tokens: int,
) -> pd.DataFrame:
    masses = {
        name: torch.sigmoid(
            modal_logits(
                model, rollout, positions, temperature=temperature, chunk_tokens=chunk_tokens
            ).double()
        )
        for name, model in (("p", trio.teacher), ("b", trio.base))
    }
    live_BT = positions.class_BT != NO_CLASS
    prompt_BT = torch.tensor(prompts, device=live_BT.device)[:, None].expand(live_BT.shape)
    names = np.array(positions.places)
    return pd.DataFrame(
        {
            "prompt": prompt_BT[live_BT].cpu().numpy(),
            "class": names[positions.place_BT[live_BT].cpu().numpy()],
            "offset": positions.offset_BT[live_BT].cpu().numpy(),
            "tail_needed": positions.tail_BT[live_BT].cpu().numpy(),
            "p": masses["p"][live_BT].cpu().numpy(),
            "b": masses["b"][live_BT].cpu().numpy(),
        }
    )
