"""Composed from options that are kept, a config is what Hydra composes from all words at once."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from opdcliff.settings import composition
from opdcliff.settings.compose import compose_grid, compose_one

WORDS = [
    [],
    ["clip=c2", "seed=3"],
    ["debug=seconds", "lam.value=1.5", "protocol.arms=[]", "data.test=7"],
    ["seed=3", "lora=adapter", "model.lora.rank=4", "model.lora.targets=[q_proj]"],
    ["protocol=mini", "model.student=null", "model.teacher='a b'", "optim.updates=3"],
    ["rollout.max_new_tokens=${data.train}", "+data.template_args.thinking=false"],
]


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_a_config_is_what_hydra_composes(words: list[str]) -> None:
    expected = composition._by_hydra(words).config
    for _ in range(2):
        found = compose_one(words)
        assert found == expected
        assert OmegaConf.to_yaml(found) == OmegaConf.to_yaml(expected)
        assert OmegaConf.is_struct(found)


def test_a_config_that_is_changed_changes_no_other() -> None:
    compose_one(["seed=1"]).clip.strength = 77.0
    assert compose_one(["seed=1"]).clip.strength != 77.0


def test_the_cells_of_a_grid_are_composed_by_hydra_once_per_choice_of_options(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    by_hydra, composed = composition._by_hydra, list[list[str]]()

    def noting(words: list[str]) -> composition.Composition:
        composed.append(list(words))
        return by_hydra(words)

    monkeypatch.setattr(composition, "_by_hydra", noting)
    composition._of_options.cache_clear()
    cells = compose_grid(["clip=c2,c3", "seed=0,1", "lam.value=1.0,1.2"]).cells
    assert composed == [["clip=c2"], ["clip=c3"]]
    assert [(c.config.clip.name, c.config.seed, c.config.lam.value) for c in cells] == [
        (clip, seed, lam) for clip in ("c2", "c3") for seed in (0, 1) for lam in (1.0, 1.2)
    ]
