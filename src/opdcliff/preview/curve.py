"""The settled student over lambda: how many answers will parse, and what breaks, before any run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import pandas as pd
import torch

from opdcliff.calibration import Binding, Outside, prepare_calibration
from opdcliff.contract import contract_of
from opdcliff.data import Example
from opdcliff.models import MEASURING_CODE, Loaded, Prepared, load_kept, prepare, prompt_batch
from opdcliff.paths import StudyPaths
from opdcliff.preview.breaks import Break, breaks_of
from opdcliff.preview.kept import KeptPoints
from opdcliff.preview.outside import outside_of
from opdcliff.preview.points import Clip, check_margin, points_of, stars_of
from opdcliff.preview.sampling import SettledAnswers, sample_settled
from opdcliff.rollout import EVALUATION_STREAM, uniforms
from opdcliff.settings import RunConfig
from opdcliff.storage import asset_cache, digest
from opdcliff.study import predicted_margins
from opdcliff.theory import ClipRule, wilson
from opdcliff.training import answer_metrics, evaluate_model, gain_of, judge
from opdcliff.verification import PARSE_RATE

# Rows that decode together.
_ROWS = 1024


@dataclass(frozen=True)
class Preview:
    """Predicted rates of settled students.

    table: one row per clip (rule; strength c, infinite: no clip), lambda and margin: parse rate
    with its Wilson interval over prompts, and the other metrics of an evaluation. Of two margins
    the wider one is the lower edge of a band. breaks: what was gone where answers failed. stars:
    lambda* per clip, of the calibration, if there is one. floors: parse rates of the teacher and
    the warm start on the same prompts, and the one asked for. identity: of models, prompts, seed.
    outside: mass of models on outputs that the other one lacks.
    """

    table: pd.DataFrame
    breaks: list[Break]
    stars: dict[Clip, float]
    floors: dict[str, float]
    identity: str = ""
    outside: tuple[Outside, ...] = ()

    def recommended(self, floor: str) -> dict[Clip, float]:
        """Per clip the largest lambda up to which all parse rates stay at a floor or above.

        Of the widest margin. Each rate may fall short by what its interval allows. 1 where none
        does.
        """
        found = {}
        for (rule, c), part in self.table.groupby(["rule", "c"], sort=False):
            lower = part[part.margin == part.margin.max()].sort_values("lam")
            holds = lower.parse_hi >= self.floors[floor]
            lams = lower.lam[holds.cummin().astype(bool)]
            clip = Clip(ClipRule(str(rule)), float(str(c)))
            found[clip] = float(lams.max()) if len(lams) else 1.0
        return found


def preview(
    config: RunConfig,
    paths: StudyPaths,
    advance: Callable[[int], None] = lambda steps: None,
    points: Mapping[Clip, Sequence[float]] | None = None,
    prepared: Prepared | None = None,
    margin_at: Callable[[float], float] | None = None,
) -> Preview:
    """Sample settled students at all lambdas and clips of `config`, those apart that are kept.

    advance: told the share of the work done, in thousandths. points: other lambdas than those.
    prepared: the prompts and models of `config`, if they are at hand. margin_at: logits by clip
    strength, instead of `preview.margin`.

    Raises:
        ConfigError: a rule without a fixed point of its own; what preparing models may raise.
    """
    prepared = prepare(config, paths) if prepared is None else prepared
    loaded = load_kept(config, prepared)
    if loaded.labels is not None:
        calibration, _ = prepare_calibration(config, paths, prepared)
        binding, outside = calibration.binding, calibration.outside
    else:
        examples = loaded.splits.calibration[: config.preview.prompts]
        binding, outside = None, outside_of(config, loaded, examples)
    identity = _identity(config, prepared)
    kept = KeptPoints(paths.assets_dir("preview", identity))
    if margin_at is None and config.preview.margin is None:
        margin_at = predicted_margins(config, prepared, paths)
    found = curve(
        config,
        loaded,
        binding,
        advance,
        points=points,
        kept=kept,
        margin_at=margin_at,
        identity=identity,
    )
    return replace(found, outside=outside)


def curve(
    config: RunConfig,
    loaded: Loaded,
    binding: Binding | None,
    advance: Callable[[int], None] = lambda steps: None,
    *,
    points: Mapping[Clip, Sequence[float]] | None = None,
    kept: KeptPoints | None = None,
    margin_at: Callable[[float], float] | None = None,
    identity: str = "",
) -> Preview:
    """`preview` of models that are loaded.

    binding: what lambda* is shown for, if anything. margin_at: logits by clip strength, None for
    `preview.margin` at all.
    """
    examples = loaded.splits.calibration[: config.preview.prompts]
    points = points_of(config, binding) if points is None else points
    kept = KeptPoints(None) if kept is None else kept
    series = [
        (clip, margin, lams)
        for clip, lams in points.items()
        for margin in _margins(config, clip, margin_at)
    ]
    rows, breaks = [], []
    for number, (clip, margin, lams) in enumerate(series):

        def told(share: float, number: int = number) -> None:
            advance(int(1000 * (number + share) / len(series)))

        missing = [lam for lam in lams if kept.find(clip, lam, margin) is None]
        made = {}
        for lam, answers in _answers(config, loaded, examples, missing, clip, margin, told):
            made[lam] = _judged(config, loaded, examples, answers, (clip, lam, margin))
            kept.keep(clip, lam, margin, *made[lam])
        for lam in lams:
            row, gone = made.get(lam) or kept.find(clip, lam, margin) or ({}, [])
            rows.append(row)
            # What breaks is told of the fixed point itself, not of its margin.
            breaks += gone if margin == 0.0 else []
    floors = kept.floors(lambda: _own_rates(config, loaded, examples))
    if config.preview.floor is not None:
        floors = {**floors, "floor asked for": config.preview.floor}
    stars = stars_of(binding, list(points))
    return Preview(pd.DataFrame(rows), breaks, stars, floors, identity)


def _identity(config: RunConfig, prepared: Prepared) -> str:
    """Of all that a sampled point depends on, beside its clip, lambda and margin."""
    key = {
        "models": prepared.models_identity,
        "data": prepared.data.name,
        "code": asset_cache.code_digest(*MEASURING_CODE, "preview"),
        "prompts": config.preview.prompts,
        "seed": config.preview.seed,
        "reached": config.preview.reached,
        "rare": config.preview.rare,
        "rollout": asdict(config.rollout),
        "gain": [config.evaluation.ndcg_k, config.evaluation.gain],
        "contract": [config.data.contract, config.data.wrapper],
    }
    return digest(key, "preview")


def _margins(
    config: RunConfig, clip: Clip, margin_at: Callable[[float], float] | None
) -> list[float]:
    if math.isinf(clip.strength):
        return [0.0]
    given = config.preview.margin or 0.0
    margin = given if margin_at is None else round(margin_at(clip.strength), 4)
    check_margin(clip, margin)
    return [0.0, margin] if margin > 0.0 else [0.0]


def _judged(
    config: RunConfig,
    loaded: Loaded,
    examples: Sequence[Example],
    answers: SettledAnswers,
    point: tuple[Clip, float, float],
) -> tuple[dict[str, Any], list[Break]]:
    """The row of a point, and what broke there."""
    clip, lam, margin = point
    codec, contract = loaded.trio.codec, contract_of(config.data)
    judged = judge(answers.rollout, examples, contract, codec)
    gain = gain_of(config.evaluation)
    metrics = answer_metrics(judged, config.evaluation.ndcg_k, gain, contract)
    low, high = wilson(sum(one.verdict.ok for one in judged), len(judged))
    row = {
        "rule": str(clip.rule),
        "c": clip.strength,
        "lam": lam,
        "margin": margin,
        "parse_rate": metrics[PARSE_RATE],
        "parse_lo": low,
        "parse_hi": high,
        "kl_teacher": float(answers.kl_BT.sum()) / float(answers.rollout.mask_BT.sum()),
    }
    row |= {name.removeprefix("eval/"): value for name, value in metrics.items()}
    return row, breaks_of(answers, judged, codec, clip.strength, lam)


def _answers(
    config: RunConfig,
    loaded: Loaded,
    examples: Sequence[Example],
    lams: Sequence[float],
    clip: Clip,
    margin: float,
    told: Callable[[float], None],
) -> Iterator[tuple[float, SettledAnswers]]:
    """Answers at each lambda, several lambdas side by side, all with the same uniform numbers."""
    prompt_BL, attention_BL = prompt_batch(loaded.trio.codec, examples)
    count, limit = len(examples), config.rollout.max_new_tokens
    uniform_BT = uniforms(range(count), limit, config.preview.seed, EVALUATION_STREAM)
    beside = max(1, _ROWS // count)
    for start in range(0, len(lams), beside):
        some = lams[start : start + beside]
        lam_B1 = torch.tensor(some, dtype=torch.float64).repeat_interleave(count)[:, None]
        answers = sample_settled(
            loaded.trio.teacher,
            loaded.trio.base,
            prompt_BL,
            attention_BL,
            lam_B1=config.preview.reached * lam_B1,
            strength_B1=torch.full_like(lam_B1, clip.strength),
            rule=clip.rule,
            margin=margin,
            rare=config.preview.rare,
            uniform_BT=uniform_BT.repeat(len(some), 1),
            temperature=config.rollout.temperature,
            end_ids=loaded.trio.codec.end_ids,
            pad_id=loaded.trio.codec.pad_id,
            advance=partial(_told, told, start / len(lams), len(some) / len(lams) / limit),
        )
        for number, lam in enumerate(some):
            yield lam, answers.rows(slice(number * count, (number + 1) * count))


def _told(told: Callable[[float], None], before: float, step_share: float, step: int) -> None:
    told(before + step_share * step)


def _own_rates(config: RunConfig, loaded: Loaded, examples: Sequence[Example]) -> dict[str, float]:
    models = {"teacher": loaded.trio.teacher, "warm_start": loaded.trio.base}
    return {
        name: evaluate_model(
            model,
            loaded.trio.codec,
            examples,
            contract_of(config.data),
            config.evaluation,
            config.rollout,
            seed=config.preview.seed,
        )[PARSE_RATE]
        for name, model in models.items()
    }
