"""The onset that a pilot predicts: its parts by hand, and the verb from settings to files."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from opdcliff.errors import ConfigError
from opdcliff.models.prepare import Prepared
from opdcliff.paths import StudyPaths
from opdcliff.prereg.pilot import PilotFacts
from opdcliff.prereg.predict import Predicted, _at, predict
from opdcliff.prereg.windows import Masses
from opdcliff.settings.checks import load
from opdcliff.settings.compose import compose_one
from opdcliff.study.predicted import (
    PREDICTION,
    predicted_lam,
    predicted_margins,
    prediction_folder,
)
from opdcliff.study.study import floored
from opdcliff.theory import Population, threshold
from workshop import SECONDS, Run

P, B, C = 0.86, 0.46, 5.0
STAR = threshold.lambda_star(P, B, C)
GAIN = threshold.logit(P) - threshold.logit(B)
PILOT = PilotFacts(spread_lo=0.03, spread_hi=0.06, wobble=0.02, speed_lo=0.3, speed_hi=0.4)
STILL = PilotFacts(spread_lo=0.0, spread_hi=0.0, wobble=0.0, speed_lo=0.3, speed_hi=0.4)
CONFIG = load(compose_one(["optim.updates=200", "lam.warmup_updates=50"]))
EXACT = Masses("text, offsets 0-27", P, B, STAR, STAR)


@pytest.mark.parametrize(
    ("facts", "above", "star_lo"),
    [(PILOT, 0.1, STAR - 0.03), (PILOT, 0.0, STAR), (STILL, 0.2, STAR), (STILL, 0.0, STAR - 0.01)],
)
def test_the_margin_is_the_sum_of_its_parts(
    facts: PilotFacts, above: float, star_lo: float
) -> None:
    row = dataclasses.replace(EXACT, star_lo=star_lo)
    found = _at(CONFIG, [row], C, facts, above)
    assert sum(found.parts.values()) == pytest.approx(found.margin, abs=1e-9)
    assert found.parts["calibration"] == pytest.approx((STAR - star_lo) * GAIN)
    assert found.parts["wobble"] == 2 * facts.wobble
    short = STAR - Population(P, B, C, facts.spread_hi).critical_lambda()
    assert found.parts["spread"] == pytest.approx(short * star_lo / STAR * GAIN)
    # What the pilot rose above its fixed point late in its warm-up or after it.
    assert found.parts["overshoot"] == above
    assert found.recommended == found.clear == pytest.approx(found.low - above / GAIN)


def test_a_lambda_at_which_all_pilots_held_is_recommended_where_it_is_the_larger() -> None:
    alone = _at(CONFIG, [EXACT], C, PILOT, 0.5)
    for held, recommended in [(alone.clear + 0.1, alone.clear + 0.1), (1.0, alone.clear)]:
        found = _at(CONFIG, [EXACT], C, PILOT, 0.5, held)
        assert found.recommended == recommended
        # The rest is as the margin has it.
        assert (found.clear, found.margin) == (alone.clear, alone.margin)
        assert found.step_share(found.low - 1e-9) == alone.step_share(alone.low - 1e-9)


def test_without_noise_it_is_the_closed_form() -> None:
    found = _at(CONFIG, [EXACT], C, STILL, 0.0)
    assert found.recommended == found.low == pytest.approx(STAR)
    assert found.high == pytest.approx(STAR)


def test_the_row_whose_onset_is_lowest_decides() -> None:
    other = Masses("text, offsets all", 0.9, B, 1.7, 1.75)
    found = _at(CONFIG, [EXACT, other], C, PILOT, 0.1)
    alone = _at(CONFIG, [other], C, PILOT, 0.1)
    assert (found.low, found.recommended) == (alone.low, alone.recommended)
    assert found.star == pytest.approx(STAR)


def test_a_wanted_lambda_has_its_largest_step() -> None:
    config = load(compose_one(["optim.lr=4e-4", "optim.updates=200", "lam.warmup_updates=50"]))
    found = Predicted(Path(), 1.5, PILOT, 0.0, 0.1, [], [_at(config, [EXACT], C, PILOT, 0.1)])
    (at,) = found.at

    def steps(lam: float) -> list[float]:
        columns = ["optim.lr", "lam.warmup_updates", "optim.updates"]
        values: list[float] = found.steps(lam, config)[columns].iloc[0].tolist()
        return values

    # Up to what is recommended, the pilot's own step.
    assert steps(1.0) == steps(at.recommended - 1e-9) == [4e-4, 50, 200]
    # Half of the overshoot is left, so half the step, and twice the updates.
    halfway = (at.recommended + at.low) / 2
    assert steps(halfway) == pytest.approx([2e-4, 100, 400])
    # Nothing is left at the onset that is predicted without any overshoot.
    for beyond in (at.low, at.star):
        assert all(map(math.isnan, steps(beyond)))
    # A pilot that never overshot.
    never = _at(config, [EXACT], C, PILOT, 0.0)
    assert [never.step_share(lam) for lam in (at.low - 1e-9, at.star)] == [1.0, 0.0]


def test_the_largest_part_names_its_remedy() -> None:
    noisy = dataclasses.replace(PILOT, wobble=1.0)
    assert _at(CONFIG, [EXACT], C, noisy, 0.0).sharper.startswith("wobble: more rollout.")
    assert _at(CONFIG, [EXACT], C, PILOT, 0.0).sharper.startswith("spread: a longer lam.warmup")
    assert _at(CONFIG, [EXACT], C, PILOT, 0.9).sharper.startswith("overshoot: a longer")


@pytest.mark.parametrize(("above", "crowded"), [(0.15, []), (0.3, [1.5]), (0.4, [2.0, 1.5])])
def test_an_overshoot_that_fills_the_room_at_one_is_told(
    above: float, crowded: list[float]
) -> None:
    at = []
    for c in (2.0, 1.5):
        star = threshold.lambda_star(0.98, B, c)
        row = Masses("text, offsets all", 0.98, B, star, star)
        at.append(_at(CONFIG, [row], c, PILOT, above))
        # About log c, as p nears 1.
        assert at[-1].arrival == pytest.approx(math.log(c), rel=0.02)
    found = Predicted(Path(), 1.1, PILOT, 0.0, above, ["a"], at)
    assert [each.strength for each in found.crowded()] == crowded


@pytest.mark.parametrize(
    ("words", "options", "text"),
    [
        (["clip=none_"], {}, "clip=none_ has no cliff that the closed form predicts"),
        (["clip=truncate"], {}, "clip=truncate has no cliff"),
        ([], {"pilot": 1.0}, "pilot=1 must lie between 0 and 1"),
        ([], {"pilot": 0.0}, "pilot=0 must lie between 0 and 1"),
        ([], {"seeds": 0}, "seeds=0 must be at least 1"),
        (
            ["optim.updates=6", "lam.warmup_updates=4", "evaluation.every=2"],
            {},
            "a pilot of these settings would have 2 evaluations after its warm-up of 4 updates",
        ),
    ],
)
def test_what_is_no_pilot_is_refused_before_anything_is_trained(
    words: list[str], options: dict[str, Any], text: str, tmp_path: Path
) -> None:
    config = load(compose_one([*SECONDS, *words]))
    with pytest.raises(ConfigError, match=text):
        predict(config, StudyPaths(tmp_path), **{"pilot": 0.6, "seeds": 1, **options})
    assert not list(tmp_path.iterdir())


def test_the_verb_predicts_from_a_pilot_and_finds_it_again(run: Run, workshop: Path) -> None:
    words = ["predict", *SECONDS, "optim.updates=8", "lam.warmup_updates=2", "seeds=2"]
    reply = run(*words)
    assert reply.code == 0, reply.err
    assert "Pilot: 2 runs at lambda = 1." in reply.out
    assert "limit of small steps" in reply.out
    (folder,) = (workshop / "runs/results/predictions").iterdir()
    table = pd.read_csv(folder / "prediction.csv")
    assert table.c.tolist() == [5.0, 2.0]
    assert (table.recommended < table["lambda*"]).all()
    lams = {path.name.split("-")[1] for path in (workshop / "runs" / "predict").iterdir()}
    assert lams == {f"lam{1 + 0.6 * (table['lambda*'][0] - 1):.4f}"}
    written = json.loads((folder / "prediction.json").read_text())
    assert len(written["runs"]) == 2
    runs = sorted((workshop / "runs" / "predict").iterdir())
    before = [path.stat().st_mtime_ns for path in runs]
    assert run(*words).out == reply.out
    assert [path.stat().st_mtime_ns for path in runs] == before
    # A lambda asked for, from the same pilot: at lambda* no step makes room for it.
    asked = run(*words, f"wanted={table['lambda*'][0]}").out
    assert "The largest step at which lambda = " in asked
    assert "Where there is none" in asked
    assert [path.stat().st_mtime_ns for path in runs] == before
    for wrong in ("-1", "inf", "nan", "x"):
        assert run(*words, f"wanted={wrong}").code == ConfigError.exit_code
    # Pilots ran at c = 5 alone; nothing is seen to hold at another clip.
    assert [at["held"] for at in written["at"]][1] is None
    for at in written["at"]:
        assert at["recommended"] == max(at["clear"], at["held"] or at["clear"])
    # And `train` takes what it recommends, at either clip, for these settings alone.
    train = ["train", *words[1:-1], "lambda=predicted", "lam.warmup_updates=2"]
    for clip, at in zip(("c5", "c2"), written["at"], strict=True):
        recommended = at["recommended"]
        reply = run(*train, f"clip={clip}", "seed=3")
        if recommended > 1.0 and at["strength"] not in written["crowded"]:
            assert reply.code == 0, reply.err
            lam = math.floor(recommended * 1e4) / 1e4
            assert list((workshop / "runs").glob(f"*/{clip}-lam{lam:.4f}-*-s3-*"))
        else:
            assert reply.code == 2
            assert f"at c = {at['strength']:g}: see what its margin is made of" in reply.line
    reply = run(*train, "optim.lr=1e-4")
    assert reply.code == 2
    assert "finds no prediction for these settings and models; run `opdcliff predict`" in reply.line
    reply = run(*train, "clip=c3")
    assert reply.code == 2
    assert "is for clip strengths 5, 2, not 3.0; add it to calibration.strengths" in reply.line


def row_of(strength: float, recommended: float) -> dict[str, float]:
    """What a prediction says of one strength; the onset's lower end is .2 below lambda*."""
    return {
        "strength": strength,
        "recommended": recommended,
        "star": 1.6,
        "low": 1.4,
        "gain": 2.0,
    }


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"crowded": [5.0]},
            "the pilot overshot on arrival, so that a run may be lost at any lambda",
        ),
        (
            {"at": [row_of(5.0, 0.98)]},
            "the pilot leaves no lambda above 1 at c = 5",
        ),
        ({"at": [row_of(2.0, 1.3)]}, "for clip strengths 2, not 5.0"),
        ({"at": None}, "is no prediction; run `opdcliff predict` again"),
    ],
)
def test_a_prediction_that_names_no_safe_lambda_is_not_taken(
    changes: dict[str, Any], text: str, tmp_path: Path
) -> None:
    prepared, paths = Prepared(tmp_path, tmp_path, "ab" * 32), StudyPaths(tmp_path / "runs")
    path = prediction_folder(CONFIG, prepared, paths) / PREDICTION
    path.parent.mkdir(parents=True)
    content = {"at": [row_of(5.0, 1.2)], "crowded": []}
    path.write_text(json.dumps(content))
    assert predicted_lam(CONFIG, prepared, paths) == 1.2
    margin_at = predicted_margins(CONFIG, prepared, paths)
    assert margin_at(5.0) == pytest.approx(0.4)
    with pytest.raises(ConfigError, match=r"for clip strengths 5, not 3\.0"):
        margin_at(3.0)
    path.write_text(json.dumps(content | changes))
    with pytest.raises(ConfigError) as caught:
        predicted_lam(CONFIG, prepared, paths)
    assert text in str(caught.value)


def test_a_recommended_lambda_is_never_rounded_up() -> None:
    assert floored(1.23459) == 1.2345
    assert floored(1.2) == 1.2


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["pilot=much"], "pilot=much is not a number"),
        (["seeds=1.5"], "seeds=1.5 is not a whole number"),
        (["optim.updates=4"], "evaluations after its warm-up"),
    ],
)
def test_a_pilot_that_says_nothing_is_one_line(words: list[str], line: str, run: Run) -> None:
    reply = run("predict", *SECONDS, "lam.warmup_updates=2", *words)
    assert reply.code == 2
    assert line in reply.line
