"""Settled students sampled: draws, batching, and curves of chains whose rates are known exactly."""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import markov
import opdcliff
from opdcliff.calibration.class_masses import Binding
from opdcliff.contract.choice import get_contract
from opdcliff.errors import ConfigError
from opdcliff.models.loaded import Loaded
from opdcliff.models.tokens.train_bpe import pad_left
from opdcliff.preview.curve import Preview, curve
from opdcliff.preview.kept import KeptPoints
from opdcliff.preview.points import Clip
from opdcliff.preview.sampling import SettledAnswers, sample_settled
from opdcliff.rollout import reference
from opdcliff.rollout.draws import uniforms
from opdcliff.settings.schema import RunConfig
from opdcliff.theory import threshold
from opdcliff.theory.clip_rules import ClipRule
from tiny_rollout import EOS, PAD, PROMPTS, SETTINGS, tiny_model
from workshop import OWN_SIZES, SECONDS, Run, prepared_pair, write_own_prompts, write_own_schema

MASK5, FREE = Clip(ClipRule.MASK, 5.0), Clip(ClipRule.NONE, math.inf)
P, B, WORDS, ROOM = 0.86, 0.46, 6, 136


# ---- draws ------------------------------------------------------------------------------------


def pair() -> tuple[Any, Any]:
    teacher, base = tiny_model(), tiny_model()
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return teacher, base


def answers(
    rows: list[int], lams: list[float], strength: float = math.inf, **changes: Any
) -> SettledAnswers:
    """Rows of `PROMPTS` at their lambdas."""
    prompt_BL, attention_BL = pad_left([PROMPTS[row] for row in rows], PAD)
    lam_B1 = torch.tensor(lams, dtype=torch.float64)[:, None]
    uniform_BT = uniforms(rows, SETTINGS["max_new_tokens"], SETTINGS["seed"], SETTINGS["stream"])
    options: dict[str, Any] = {
        "lam_B1": lam_B1,
        "strength_B1": torch.full_like(lam_B1, strength),
        "rule": ClipRule.NONE if math.isinf(strength) else ClipRule.MASK,
        "margin": 0.0,
        "uniform_BT": uniform_BT,
        "temperature": SETTINGS["temperature"],
        "end_ids": (EOS,),
        "pad_id": PAD,
    }
    prompt_BL, attention_BL = changes.pop("shared", (prompt_BL, attention_BL))
    return sample_settled(*pair(), prompt_BL, attention_BL, **options | changes)


def test_without_extrapolation_the_answers_are_the_teachers_own() -> None:
    rows = list(range(len(PROMPTS)))
    found = answers(rows, [1.0] * len(rows))
    prompt_BL, attention_BL = pad_left(PROMPTS, PAD)
    own = reference.sample(pair()[0], prompt_BL, attention_BL, numbers=rows, **SETTINGS)
    assert found.rollout.answers() == own.answers()
    assert found.rollout.ended_B.equal(own.ended_B)
    assert float(found.kl_BT.abs().max()) < 1e-6
    assert float(found.lost_BT.max()) == 0.0


def test_a_row_does_not_depend_on_those_beside_it() -> None:
    rows, lams = [0, 1, 2, 3, 4, 5, 6, 7], [1.0, 1.3, 1.6, 1.9, 2.2, 1.1, 1.5, 2.6]
    together = answers(rows, lams, 2.0)
    whole = together.rollout.answers()
    assert len({len(answer) for answer in whole}) > 2
    for row, lam in zip(rows, lams, strict=True):
        alone = answers([row], [lam], 2.0)
        assert alone.rollout.answers() == [whole[row]]
        length = len(whole[row])
        torch.testing.assert_close(alone.lost_BT[0, :length], together.lost_BT[row, :length])
        assert alone.gone_BT[0, :length].equal(together.gone_BT[row, :length])
        # Behind its end nothing is counted.
        assert float(together.lost_BT[row, length:].sum()) == 0.0
    part = together.rows(slice(2, 4))
    assert part.rollout.answers() == whole[2:4]


def test_prompts_that_are_read_once_give_the_same_answers() -> None:
    prompt_BL, attention_BL = pad_left(PROMPTS[:3], PAD)
    lams = [1.0, 1.6, 2.2]
    apart: list[list[int]] = []
    for lam in lams:
        apart += answers([0, 1, 2], [lam] * 3, 2.0).rollout.answers()
    spread = [lam for lam in lams for _ in range(3)]
    together = answers([0, 1, 2] * 3, spread, 2.0, shared=(prompt_BL, attention_BL))
    assert together.rollout.answers() == apart
    assert len(together.rollout.ids_BL) == 9


def test_the_models_are_left_as_they_were() -> None:
    teacher, base = pair()
    teacher.train()
    prompt_BL, attention_BL = pad_left(PROMPTS[:2], PAD)
    one_B1 = torch.ones(2, 1, dtype=torch.float64)
    sample_settled(
        teacher,
        base,
        prompt_BL,
        attention_BL,
        lam_B1=one_B1,
        strength_B1=one_B1 * 2.0,
        rule=ClipRule.MASK,
        margin=0.0,
        uniform_BT=uniforms([0, 1], 4, 0, 1),
        temperature=1.0,
        end_ids=(EOS,),
        pad_id=PAD,
    )
    assert teacher.training
    assert not base.training


# ---- curves -----------------------------------------------------------------------------------


def chained(*words: str) -> tuple[RunConfig, Loaded, Binding]:
    """A pair of chains whose text goes on with P and B at every offset."""
    config = markov.config("rollout.max_new_tokens=138", "protocol=grid", *words)
    teacher, base = (
        markov.chain([mass] * WORDS, torch.float64, opens=1.0 - 1e-12, ends=1.0 - 1e-12)
        for mass in (P, B)
    )
    trio = markov.trio(teacher, base)
    trio = replace(trio, student=trio.base)
    contract = get_contract(config.data.contract)
    loaded = Loaded(trio, markov.splits(calibration=200), trio.codec.labels(contract))
    return config, loaded, Binding("text", "0-27", P, B)


def at(found: Preview, c: float, lam: float, margin: float = 0.0) -> Any:
    table = found.table
    return table[(table.c == c) & (table.lam == lam) & (table.margin == margin)].iloc[0]


def test_the_rate_falls_where_the_closed_form_says_and_names_what_is_gone() -> None:
    star = threshold.lambda_star(P, B, 5.0)
    lams = [1.0, round(0.99 * star, 4), round(1.01 * star, 4)]
    config, loaded, binding = chained("preview.prompts=200", "preview.strengths=[5.0]")
    config.preview.lams = lams
    steps: list[int] = []
    found = curve(config, loaded, binding, steps.append)
    assert found.stars[Clip(ClipRule.MASK, 5.0)] == pytest.approx(star)
    # Nine tenths of the tail close the text, the last tenth breaks the answer.
    for lam in lams[:2]:
        assert at(found, 5.0, lam).parse_rate == pytest.approx(0.9, abs=0.07)
    assert at(found, 5.0, lams[2]).parse_rate < 0.05
    assert at(found, 5.0, lams[2]).truncated_rate > 0.9
    # Without a clip it goes on closing.
    assert at(found, math.inf, lams[2]).parse_rate > 0.7
    costly = max(found.breaks, key=lambda each: each.rate)
    assert (costly.c, costly.lam, costly.entry) == (5.0, lams[2], markov.CLOSE)
    assert costly.lost == pytest.approx(1.0 - P, abs=0.01)
    assert "reason" in costly.context or "w" in costly.context
    assert steps == sorted(steps)
    assert steps[-1] <= 1000


def test_a_margin_moves_the_fall_down_and_makes_a_band() -> None:
    star = threshold.lambda_star(P, B, 5.0)
    gain = threshold.logit(P) - threshold.logit(B)
    config, loaded, binding = chained("preview.prompts=100", "preview.strengths=[5.0]")
    lam = round(star - 0.2 / gain, 4)
    config.preview.lams = [1.0, lam]
    config.preview.margin = 0.1
    found = curve(config, loaded, binding)
    assert at(found, 5.0, lam, 0.1).parse_rate > 0.8
    config.preview.margin = 0.3
    found = curve(config, loaded, binding)
    assert at(found, 5.0, lam).parse_rate > 0.8
    assert at(found, 5.0, lam, 0.3).parse_rate < 0.1
    # What is recommended keeps the margin too; without a clip there is none.
    found.floors["half"] = 0.5
    assert found.recommended("half") == {MASK5: 1.0, FREE: lam}
    assert set(found.table[found.table.c == math.inf].margin) == {0.0}


def test_a_run_part_of_the_way_stands_where_a_smaller_lambda_would_settle() -> None:
    config, loaded, binding = chained("preview.prompts=60", "preview.strengths=[5.0]")
    config.preview.lams = [2.0]
    config.preview.reached = 0.75
    part = at(curve(config, loaded, binding), 5.0, 2.0)
    config.preview.lams, config.preview.reached = [1.5], 1.0
    whole = at(curve(config, loaded, binding), 5.0, 1.5)
    assert part.parse_rate == whole.parse_rate
    assert part.mean_length == whole.mean_length


def test_what_was_sampled_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, loaded, binding = chained("preview.prompts=8", "preview.strengths=[5.0]")
    config.preview.lams = [1.0, 2.4]
    kept = KeptPoints(tmp_path)
    first = curve(config, loaded, binding, kept=kept)
    assert first.breaks
    # A file cut short is no point.
    cut = next(path for path in tmp_path.iterdir() if "2.4" in path.name and "mask" in path.name)
    cut.write_text(cut.read_text()[:20])
    sampled: list[list[float]] = []

    def counted(*models: Any, **options: Any) -> SettledAnswers:
        sampled.append(sorted(set(options["lam_B1"][:, 0].tolist())))
        return sample_settled(*models, **options)

    monkeypatch.setattr("opdcliff.preview.curve.sample_settled", counted)
    config.preview.lams = [1.0, 1.7, 2.4]
    second = curve(config, loaded, binding, kept=kept)
    assert sampled == [[1.7, 2.4], [1.7]]
    both = second.table[second.table.lam != 1.7].reset_index(drop=True)
    pd.testing.assert_frame_equal(both, first.table)
    assert [each for each in second.breaks if each.lam == 2.4] == first.breaks
    assert second.floors == first.floors


def test_lambdas_go_past_the_largest_threshold_where_none_are_given() -> None:
    config, loaded, binding = chained("preview.prompts=4")
    found = curve(config, loaded, binding)
    assert sorted(set(found.table.c)) == [2.0, 5.0, math.inf]
    lams = sorted(set(found.table.lam))
    assert (len(lams), lams[0]) == (8, 1.0)
    assert lams[-1] == pytest.approx(1.0 + 1.4 * binding.lambda_star(5.0) - 1.0, abs=1e-3)
    without = curve(config, loaded, None)
    assert without.stars == {}
    assert without.table.lam.max() == 3.0


def test_what_is_recommended_holds_up_to_there() -> None:
    rows = [(1.0, 0.99), (1.2, 0.97), (1.4, 0.5), (1.6, 0.98), (1.8, 0.2)]
    table = pd.DataFrame([{"lam": lam, "parse_hi": rate} for lam, rate in rows])
    table = table.assign(rule="mask", c=5.0, margin=0.0)
    made = Preview(table, [], {}, {"teacher": 0.96, "warm_start": 0.4, "none": 0.995})
    assert made.recommended("teacher") == {MASK5: 1.2}
    assert made.recommended("warm_start") == {MASK5: 1.6}
    assert made.recommended("none") == {MASK5: 1.0}
    # A curve of another rule stands for itself.
    both = pd.concat([table, table.assign(rule="truncate", parse_hi=1.0)])
    assert replace(made, table=both).recommended("teacher") == {
        MASK5: 1.2,
        Clip(ClipRule.TRUNCATE, 5.0): 1.8,
    }
    assert [str(clip) for clip in (MASK5, FREE, Clip(ClipRule.TRUNCATE, 2.0))] == [
        "c = 5",
        "no clip",
        "truncate, c = 2",
    ]


def test_a_rule_on_another_ratio_is_refused() -> None:
    config, loaded, binding = chained("preview.prompts=4")
    config.clip.rule = "ppo"
    with pytest.raises(ConfigError, match=r"clip\.rule=ppo"):
        curve(config, loaded, binding)


def test_a_margin_as_wide_as_the_clip_is_refused() -> None:
    config, loaded, binding = chained("preview.prompts=4", "preview.strengths=[2.0]")
    config.preview.margin = 0.7
    with pytest.raises(ConfigError, match=r"preview\.margin=0\.7 .* below log c = 0\.693"):
        curve(config, loaded, binding)


def test_the_verb_prints_writes_and_draws(run: Run, workshop: Path) -> None:
    reply = run("preview", *SECONDS, "preview.lams=[1.0,1.5]", "preview.prompts=8")
    assert reply.code == 0, reply.err
    assert "predicted, no run made" in reply.out
    assert "Not below the teacher's rate" in reply.out
    folder = next((workshop / "runs/results/previews").iterdir())
    assert {path.name for path in folder.iterdir()} == {
        "provenance.json",
        *(f"preview.{kind}" for kind in ("csv", "json", "png", "svg")),
    }
    table = pd.read_csv(folder / "preview.csv")
    assert table.lam.tolist() == [1.0, 1.5] * 3
    content = json.loads((folder / "preview.json").read_text())
    assert content["floors"].keys() == {"teacher", "warm_start"}
    reply = run("preview", *SECONDS, "preview.lams=[0.5]")
    assert reply.code == 2
    assert "preview.lams=[0.5] is not allowed; allowed: one or more numbers >= 1" in reply.line


def test_a_pair_of_ones_own_from_python(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workshop)
    student, teacher = (word.partition("=")[2] for word in prepared_pair(workshop))
    prompts = write_own_prompts(workshop / "own.jsonl")
    sizes = [f"data.{name}={getattr(OWN_SIZES, name)}" for name in ("train", "calibration", "test")]
    words = [*SECONDS, *sizes, "preview.lams=[1.0]", "preview.prompts=4", "preview.strengths=[3.0]"]
    found = opdcliff.preview_pair(student, teacher, prompts, *words)
    assert found.table.c.tolist() == [3.0, math.inf]
    # Without grades there is no ranking to be worth anything.
    assert found.table.prompts.tolist() == [4.0, 4.0]


def own_words(workshop: Path, *words: str) -> list[str]:
    """The pair of the workshop on prompts of one's own, under another contract."""
    write_own_schema(workshop / "shape.json")
    write_own_prompts(workshop / "own.jsonl")
    sizes = [f"data.{name}={getattr(OWN_SIZES, name)}" for name in ("train", "calibration", "test")]
    prompts = ["data=prompts", "data.path=own.jsonl", "protocol.name=own"]
    return [*prepared_pair(workshop), *prompts, *sizes, *SECONDS, *words]


def previewed(run: Run, words: list[str]) -> pd.DataFrame:
    small = ["preview.lams=[1.0]", "preview.prompts=8", "preview.strengths=[3.0]"]
    reply = run("preview", *words, *small)
    assert reply.code == 0, reply.err
    folder = reply.out.strip().splitlines()[-1].removeprefix("written to ")
    return pd.read_csv(Path(folder) / "preview.csv")


def test_a_contract_that_only_judges_is_previewed_and_trained_with(
    run: Run, workshop: Path
) -> None:
    own = own_words(workshop, "data.contract=regex", "data.form='(?s).*ranking.*'")
    reply = run("calibrate", *own)
    assert reply.code == 2
    assert "data.contract=regex judges whole answers and has no token classes" in reply.line
    assert "`opdcliff preview` needs none" in reply.line
    table = previewed(run, own)
    assert not [name for name in table.columns if name.startswith("ndcg")]
    failed = table[["fail/truncated", "fail/not_text", "fail/no_match"]]
    assert (failed.sum(axis=1) + table.parse_rate).tolist() == pytest.approx([1.0, 1.0])
    reply = run("train", *own)
    assert reply.code == 2
    assert "runs take lam.value=NUMBER" in reply.line
    reply = run("train", *own, "lam.value=1.2")
    assert reply.code == 0, reply.err
    assert reply.rows() == 1
    assert run("collect", "protocol=own").code == 0


def test_a_schema_is_calibrated_by_path_and_judged_in_its_wrapper(run: Run, workshop: Path) -> None:
    own = own_words(workshop, "data.contract=schema", "data.form=shape.json")
    if importlib.util.find_spec("llguidance") is None:
        reply = run("calibrate", *own)
        assert reply.code == 2
        assert "llguidance, which is not installed" in reply.line
    else:
        reply = run("calibrate", *own)
        assert reply.code == 0, reply.err
        assert "string_text $.reason" in reply.out
    table = previewed(run, own)
    codes = ("truncated", "not_json", "extra_text", "duplicate_key", "not_finite")
    assert {f"fail/{code}" for code in codes} <= set(table.columns)
    # Of the same answers no more are rankings of all candidates.
    assert (previewed(run, own_words(workshop)).parse_rate <= table.parse_rate).all()
    fenced = previewed(run, [*own, "data.wrapper=fence"])
    assert (fenced["fail/wrapper"] + fenced["fail/truncated"]).tolist() == [1.0, 1.0]
