"""Composed from options that are kept, a config is what Hydra composes from all words at once."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from opdcliff.settings import composition
from opdcliff.settings.compose import compose_one

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


def test_options_are_composed_once_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    by_hydra, composed = composition._by_hydra, list[list[str]]()

    def noting(words: list[str]) -> composition.Composition:
        composed.append(list(words))
        return by_hydra(words)

    monkeypatch.setattr(composition, "_by_hydra", noting)
    composition._of_options.cache_clear()
    found = [compose_one(["clip=c2", f"seed={seed}"]) for seed in (0, 1)]
    assert composed == [["clip=c2"]]
    assert [(each.clip.name, each.seed) for each in found] == [("c2", 0), ("c2", 1)]
