"""The settled student over lambda: how many answers will parse, and what breaks, before any run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
import torch

from opdcliff.calibration import Binding, prepare_calibration
from opdcliff.contract import get_contract
from opdcliff.data import Example
from opdcliff.errors import ConfigError
from opdcliff.models import Loaded, load_kept, prepare, prompt_batch
from opdcliff.paths import StudyPaths
from opdcliff.preview.breaks import Break, breaks_of
from opdcliff.preview.sampling import SettledAnswers, sample_settled
from opdcliff.rollout import EVALUATION_STREAM, uniforms
from opdcliff.settings import RunConfig
from opdcliff.theory import ClipRule, wilson
from opdcliff.training import answer_metrics, evaluate_model, gain_of, judge
from opdcliff.verification import PARSE_RATE

# Lambdas where none are given: so many, evenly up to this share of the largest lambda*.
_LAMS, _FARTHEST, _WITHOUT_STAR = 8, 1.4, 3.0
# Rows that decode together.
_ROWS = 1024


@dataclass(frozen=True)
class Preview:
    """Predicted rates of settled students.

    table: one row per clip strength (infinite: no clip) and lambda: parse rate with its Wilson
    interval over prompts, and the other metrics of an evaluation. breaks: what was gone where
    answers failed. stars: lambda* per strength, of the calibration. floors: parse rates of the
    teacher and the warm start on the same prompts.
    """

    table: pd.DataFrame
    breaks: list[Break]
    stars: dict[float, float]
    floors: dict[str, float]

    def recommended(self, floor: str) -> dict[float, float]:
        """Per strength the largest lambda up to which all parse rates stay at a floor or above.

        Of the teacher's floor each rate may fall short by what its interval allows. 1 where none
        does.
        """
        found = {}
        for strength, part in self.table.groupby("c", sort=False):
            least = self.floors[floor]
            holds = part.sort_values("lam").parse_hi >= least
            lams = part.sort_values("lam").lam[holds.cummin().astype(bool)]
            found[float(str(strength))] = float(lams.max()) if len(lams) else 1.0
        return found


def preview(
    config: RunConfig,
    paths: StudyPaths,
    advance: Callable[[int], None] = lambda steps: None,
) -> Preview:
    """Sample settled students at all lambdas and strengths of `config.preview`.

    advance: told the share of the work done, in thousandths.

    Raises:
        ConfigError: a rule without a fixed point of its own; what preparing models may raise.
    """
    prepared = prepare(config, paths)
    calibration, _ = prepare_calibration(config, paths, prepared)
    return curve(config, load_kept(config, prepared), calibration.binding, advance)


def curve(
    config: RunConfig,
    loaded: Loaded,
    binding: Binding | None,
    advance: Callable[[int], None] = lambda steps: None,
) -> Preview:
    """`preview` of models that are loaded; binding: what lambda* is shown for, if anything."""
    examples = loaded.splits.calibration[: config.preview.prompts]
    strengths = strengths_of(config)
    if not config.preview.margin < math.log(min(strengths)):
        raise ConfigError(
            f"preview.margin={config.preview.margin:g} takes in the teacher itself at c = "
            f"{min(strengths):g}; allowed: below log c = {math.log(min(strengths)):.3f}"
        )
    stars = _stars(binding, strengths)
    lams = config.preview.lams or _default_lams(stars)
    rows, breaks = [], []
    for number, strength in enumerate(strengths):

        def told(share: float, number: int = number) -> None:
            advance(int(1000 * (number + share) / len(strengths)))

        for lam, answers in _answers(config, loaded, examples, lams, strength, told):
            judged = judge(
                answers.rollout, examples, get_contract(config.data.contract), loaded.trio.codec
            )
            metrics = answer_metrics(judged, config.evaluation.ndcg_k, gain_of(config.evaluation))
            ok = sum(j.verdict.ok for j in judged)
            low, high = wilson(ok, len(judged))
            tokens = float(answers.rollout.mask_BT.sum())
            about = {"c": strength, "lam": lam, "parse_rate": metrics[PARSE_RATE]}
            beside = {"kl_teacher": float(answers.kl_BT.sum()) / tokens}
            named = {name.removeprefix("eval/"): value for name, value in metrics.items()}
            rows.append({**about, "parse_lo": low, "parse_hi": high, **beside, **named})
            breaks += breaks_of(answers, judged, loaded.trio.codec, strength, lam)
    floors = {
        name: _own_rate(config, loaded, examples, model)
        for name, model in (("teacher", "teacher"), ("warm_start", "base"))
    }
    return Preview(pd.DataFrame(rows), breaks, stars, floors)


def strengths_of(config: RunConfig) -> list[float]:
    """Clip strengths that are looked at, no clip (infinity) last."""
    if ClipRule(config.clip.rule) is ClipRule.NONE:
        return [math.inf]
    return [*(config.preview.strengths or config.calibration.strengths), math.inf]


def _stars(binding: Binding | None, strengths: Sequence[float]) -> dict[float, float]:
    if binding is None:
        return {}
    return {c: binding.lambda_star(c) for c in strengths if math.isfinite(c)}


def _default_lams(stars: dict[float, float]) -> list[float]:
    finite = [star for star in stars.values() if math.isfinite(star)]
    top = max(finite) * _FARTHEST if finite else _WITHOUT_STAR
    return [round(1.0 + (top - 1.0) * k / (_LAMS - 1), 4) for k in range(_LAMS)]


def _answers(
    config: RunConfig,
    loaded: Loaded,
    examples: Sequence[Example],
    lams: Sequence[float],
    strength: float,
    told: Callable[[float], None],
) -> list[tuple[float, SettledAnswers]]:
    """Answers at each lambda, several lambdas side by side, all with the same uniform numbers."""
    prompt_BL, attention_BL = prompt_batch(loaded.trio.codec, examples)
    count, limit = len(examples), config.rollout.max_new_tokens
    uniform_BT = uniforms(range(count), limit, config.preview.seed, EVALUATION_STREAM)
    rule = ClipRule.NONE if math.isinf(strength) else ClipRule(config.clip.rule)
    beside = max(1, _ROWS // count)
    found = []
    for start in range(0, len(lams), beside):
        some = lams[start : start + beside]
        lam_B1 = torch.tensor(some, dtype=torch.float64).repeat_interleave(count)[:, None]
        answers = sample_settled(
            loaded.trio.teacher,
            loaded.trio.base,
            prompt_BL.repeat(len(some), 1),
            attention_BL.repeat(len(some), 1),
            lam_B1=lam_B1,
            strength_B1=torch.full_like(lam_B1, strength),
            rule=rule,
            margin=config.preview.margin,
            uniform_BT=uniform_BT.repeat(len(some), 1),
            temperature=config.rollout.temperature,
            end_ids=loaded.trio.codec.end_ids,
            pad_id=loaded.trio.codec.pad_id,
            advance=partial(_told, told, start / len(lams), len(some) / len(lams) / limit),
        )
        parts = [answers.rows(slice(k * count, (k + 1) * count)) for k in range(len(some))]
        found += list(zip(some, parts, strict=True))
    return found


def _told(told: Callable[[float], None], before: float, step_share: float, step: int) -> None:
    told(before + step_share * step)


def _own_rate(config: RunConfig, loaded: Loaded, examples: Sequence[Example], model: str) -> float:
    metrics = evaluate_model(
        getattr(loaded.trio, model),
        loaded.trio.codec,
        examples,
        get_contract(config.data.contract),
        config.evaluation,
        config.rollout,
        seed=config.preview.seed,
    )
    return metrics[PARSE_RATE]
