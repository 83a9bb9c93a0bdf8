"""The rehearsal is the paper's road but for sizes: every difference is listed, and is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from opdcliff.settings.compose import compose_one

# What is smaller, shorter or fewer on stand-ins.
SIZES = """
    data.candidates data.train data.calibration data.test data.max_history data.max_title_words
    data.answer_room
    sft.teacher.steps sft.student.steps sft.batch_size sft.micro_batch sft.lora_rank
    sft.warmup_steps sft.long_words rollout.prompts_per_update rollout.max_new_tokens
    lam.warmup_updates optim.updates evaluation.every evaluation.prompts evaluation.final_prompts
    calibration.prompts calibration.forced_words calibration.offset_bin calibration.bootstrap
    preview.prompts engine.ranks
    protocol.predictions.least_seeds
"""
# What goes with the size of a model: its step sizes, digits, and how sure it can be.
WITH_SIZE = """
    sft.teacher.lr sft.student.lr optim.lr model.dtype engine.gradient_checkpointing
    sft.teacher.continue_mass sft.student.corrupt_rate protocol.predictions.safe_multiple
"""
# Names, and what a user gives on the command line.
NAMES = "model.name data.rubric protocol.name model.student model.teacher"
# Of an arm: how many cells, how far apart, how long.
ARM_SIZES = {"multiples", "seeds", "updates"}


def flat(nested: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(nested, dict) and nested:
        return {k: v for key, of in nested.items() for k, v in flat(of, f"{prefix}.{key}").items()}
    return {prefix.removeprefix("."): nested}


def settings(name: str) -> dict[str, Any]:
    config = compose_one([f"experiment={name}", "data.path=FOLDER"])
    return flat(OmegaConf.to_container(config, resolve=True))


@pytest.fixture(scope="module")
def both() -> tuple[dict[str, Any], dict[str, Any]]:
    return settings("paper"), settings("rehearsal")


def test_every_difference_is_one_of_size(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    paper, rehearsal = both
    assert paper.keys() == rehearsal.keys()
    different = {name for name in paper if paper[name] != rehearsal[name]}
    arms = {"protocol.arms", "protocol.predictions.pilot"}
    assert different - arms <= {*SIZES.split(), *WITH_SIZE.split(), *NAMES.split()}
    # Nothing is listed that does not differ.
    assert {*SIZES.split(), *WITH_SIZE.split()} <= different


def test_arms_differ_in_cells_and_budgets_alone(
    both: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    paper, rehearsal = both
    for name in ("protocol.arms", "protocol.predictions.pilot"):
        for theirs, ours in zip(paper[name], rehearsal[name], strict=True):
            assert {k for k in theirs if theirs[k] != ours[k]} <= ARM_SIZES


def test_what_was_not_readable_is_named_as_a_choice() -> None:
    config = compose_one(["experiment=paper", "data.path=FOLDER"])
    choices = config.protocol.predictions.choices
    assert choices
    for name, why in choices.items():
        assert "[choice]" in why, name


def test_the_page_names_the_verbs_of_the_steps_in_their_order() -> None:
    from opdcliff.road.steps import STEPS

    page = (Path(__file__).parents[2] / "docs" / "paper.md").read_text()
    table = [line for line in page.splitlines() if line.startswith("| ")][1:]
    told = [[cell.strip() for cell in line.split("|")[1:3]] for line in table[: len(STEPS)]]
    alone = {True: " protocol=paper", False: ""}
    assert told == [[s.name, f"`opdcliff {s.verb}{alone[s.lock_alone]}`"] for s in STEPS]
