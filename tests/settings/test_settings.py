"""Every file of conf/ composes, is commented and read; every bad value is refused by name."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from opdcliff.errors import ConfigError
from opdcliff.paths import conf_dir
from opdcliff.settings.checks import check, load, science, science_of
from opdcliff.settings.compose import clip_option, compose_one
from opdcliff.settings.composition import ROOT_CONFIG, hydra_session, without_hydra
from opdcliff.settings.grid import compose_grid, launch_grid
from opdcliff.settings.schema import LoraConfig, ProtocolArm, RunConfig, field_names
from opdcliff.storage.conf_groups import default_of, describe, group_names, options_of
from opdcliff.study.study import check_protocol

GROUPS = sorted(path.name for path in conf_dir().iterdir() if path.is_dir())
OPTIONS = [
    (group, path.stem) for group in GROUPS for path in sorted((conf_dir() / group).glob("*.yaml"))
]
EXPERIMENTS = [option for group, option in OPTIONS if group == "experiment"]
HUB = ["model.student_revision=" + "0" * 40, "model.teacher_revision=" + "0" * 40]
# What an option cannot do without; {data} is an existing path.
NEEDS = {
    ("clip", "aspo"): ["rollout=staleness"],
    ("clip", "ppo"): ["rollout=staleness"],
    ("data", "amazon_fashion"): ["data.path={data}"],
    ("data", "amazon_titles"): ["data.path={data}"],
    ("data", "prompts"): ["data.path={data}", "data.test=256"],
    ("model", "qwen3_1p7b"): HUB,
    ("model", "smollm2"): ["model.student={data}"],
    ("sft", "paper"): ["model.student={data}", "model.teacher={data}"],
    ("sft", "titles"): ["data=titles"],
    ("experiment", "amazon_fashion"): ["data.path={data}"],
    ("experiment", "paper"): ["data.path={data}", "data.rubric=null", *HUB],
    ("experiment", "paper_fine_grid"): ["data.path={data}", *HUB],
    ("experiment", "rehearsal"): ["data.path={data}", "data.rubric=null", *HUB],
    ("experiment", "smollm2_mini"): ["model.student={data}"],
    ("experiment", "smollm2_ranking"): ["data.path={data}", "model.student={data}"],
    ("experiment", "smollm2_titles"): ["data.path={data}", "model.student={data}"],
    ("experiment", "smollm2_titles_mini"): ["data.path={data}", "model.student={data}"],
}
# Files that change many groups at once; their header says what for.
DELTAS = ("experiment", "debug")

# Where and how a run executes, and what has become something else by the time it starts.
PLUMBING = {
    "data.path",
    "data.form",
    "data.rubric",
    "data.study_seeds",
    "lam.of_threshold",
    "lam.predicted",
    "evaluation.stop_when_collapsed",
    "rollout.backend",
    "rollout.engine_memory",
}
PLUMBING_GROUPS = {"engine", "checkpoint", "tracking", "protocol", "tune", "preview", "grade"}


def needs(group: str, option: str, data: Path) -> list[str]:
    return [word.format(data=data) for word in NEEDS.get((group, option), [])]


def is_plumbing(name: str) -> bool:
    return name in PLUMBING or name.split(".", maxsplit=1)[0] in PLUMBING_GROUPS


@pytest.fixture(scope="module")
def default() -> RunConfig:
    return load(compose_one([]))


@pytest.fixture(scope="module")
def locked() -> RunConfig:
    """A config without nulls: that of the quick study has no predictions and no adapter."""
    return load(compose_one(["protocol=mini", "lora=adapter"]))


def look(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def changed(config: RunConfig, name: str, value: Any) -> RunConfig:
    other = copy.deepcopy(config)
    *path, last = name.split(".")
    setattr(look(other, ".".join(path)) if path else other, last, value)
    return other


# ---- every option -----------------------------------------------------------------------------


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_loads(group: str, option: str, tmp_path: Path) -> None:
    words = [f"{group}={option}", *needs(group, option, tmp_path)]
    if group == "experiment":
        words += [f"{key}={value}" for key, value in one_of_each(option).items()]
        (cell,) = compose_grid(["protocol=grid", *words]).cells
        assert cell.config.protocol.name == option
    else:
        loaded = load(compose_one(words))
        inner = {"lambda": "lam"}.get(group, group)
        named = getattr(getattr(loaded, inner, None), "name", option)
        assert named == option or option in ("mini", "paper", "staleness")
        assert (loaded.model.lora is None) == (option != "adapter")


def one_of_each(experiment: str) -> dict[str, str]:
    """The first value of every parameter that an experiment sweeps."""
    composed = OmegaConf.load(conf_dir() / "experiment" / f"{experiment}.yaml")
    assert isinstance(composed, DictConfig)
    params = dict(OmegaConf.select(composed, "hydra.sweeper.params") or {})
    for entry in composed.get("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            params = one_of_each(entry) | params
    return {str(key): str(value).split(",")[0] for key, value in params.items()}


def test_every_group_is_in_the_root_and_the_other_way_round() -> None:
    assert sorted(group_names()) == GROUPS
    for group in GROUPS:
        default = default_of(group)
        assert default is None or default in options_of(group)
        assert options_of(group)[0] == default or default is None


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_says_what_it_is_for(group: str, option: str) -> None:
    assert len(describe(group, option)) > 15


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_header_of_an_experiment_is_its_command(name: str) -> None:
    lines = (conf_dir() / "experiment" / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    verbs = ("train -m", "study", "lock", "status")
    assert lines[1].startswith(tuple(f"# opdcliff {verb} experiment={name}" for verb in verbs))
    assert len(lines) < 60


# Of names of one's own.
TEXTS = ("choices",)


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Dotted name and line number (from 0) of every leaf of a YAML mapping."""
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if name == "defaults":
            continue
        if isinstance(value, yaml.MappingNode) and key.value not in TEXTS:
            yield from leaves(value, f"{name}.")
        else:
            yield name, key.start_mark.line


PLAIN_FILES = [conf_dir() / "config.yaml"] + [
    conf_dir() / group / f"{option}.yaml" for group, option in OPTIONS if group not in DELTAS
]


@pytest.mark.parametrize("file", PLAIN_FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_value_has_a_comment(file: Path) -> None:
    lines = file.read_text().splitlines()
    node = yaml.compose(file.read_text())
    for name, line in leaves(node):
        above = lines[line - 1].strip() if line else ""
        # The header of the file is about the file, not about its first value.
        commented = above.startswith("# ") and line > 1
        assert name == "name" or commented or "  # " in lines[line], f"{name} in {file.name}"


@pytest.mark.parametrize("protocol", options_of("protocol"))
def test_every_field_has_a_value_and_every_value_a_field(protocol: str) -> None:
    predictions = "protocol.predictions"
    names = list(flat(compose_one([f"protocol={protocol}"])))
    if predictions in names:
        # Null as a whole, which an exploratory study may leave it.
        assert protocol != "mini"
        names.remove(predictions)
        names += [name for name in field_names() if name.startswith(f"{predictions}.")]
    names.remove("model.lora")
    names += list(flat(compose_one(["lora=adapter"]).model.lora, "model.lora."))
    assert sorted(names) == sorted(field_names())


def flat(config: DictConfig, prefix: str = "") -> Iterator[str]:
    for key, value in config.items():
        if isinstance(value, DictConfig) and value and key not in TEXTS:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


@pytest.mark.parametrize("option", options_of("clip"))
def test_a_study_reads_clip_options_as_hydra_does(option: str) -> None:
    words = [f"clip={option}", "rollout=staleness"]
    assert clip_option(option) == load(compose_one(words)).clip


# ---- identity ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", field_names())
def test_science_reacts_to_science_only(name: str, locked: RunConfig) -> None:
    old = look(locked, name)
    new: Any
    if isinstance(old, bool):
        new = not old
    elif isinstance(old, list):
        new = [*old, 9.0]
    elif isinstance(old, int | float):
        new = old + 1
    else:
        new = f"{old}x"
    before, after = science(locked), science(changed(locked, name, new))
    assert (before == after) == is_plumbing(name)


def test_a_run_without_an_adapter_keeps_the_identity_it_had(default: RunConfig) -> None:
    """Records and locks from before there were adapters have no such key."""
    plain = asdict(default)
    assert plain["model"].pop("lora") is None
    assert plain.pop("tune")
    assert science_of(plain) == science(default)
    assert "lora" not in science(default)["model"]


def test_science_leaves_the_config_alone(default: RunConfig) -> None:
    before = copy.deepcopy(default)
    science(default)["lam"].clear()
    assert default == before


# ---- ranges -----------------------------------------------------------------------------------

NOT_FINITE = st.sampled_from([math.nan, math.inf, -math.inf])
AT_MOST_0 = st.floats(max_value=0, allow_nan=False)
BELOW_0 = st.floats(max_value=0, exclude_max=True, allow_nan=False)
AT_LEAST_1 = st.floats(min_value=1, allow_nan=False)
ABOVE_1 = st.floats(min_value=1, exclude_min=True, allow_nan=False)

POSITIVE = """
    lam.of_threshold rollout.temperature optim.lr optim.grad_clip
    sft.teacher.lr sft.student.lr sft.grad_clip tune.epochs tune.lr tune.grad_clip
    grade.per_minute grade.timeout grade.limit
    model.lora.alpha protocol.predictions.safe_multiple protocol.predictions.blind_from"""
NOT_NEGATIVE = """
    lam.value preview.margin sft.weight_decay optim.weight_decay tune.weight_decay
    grade.temperature grade.price_in grade.price_out"""
INSIDE = """
    sft.teacher.continue_mass sft.student.continue_mass
    protocol.predictions.upper_plateau protocol.predictions.lower_plateau
    protocol.predictions.flat_delta protocol.predictions.least_lift
    protocol.predictions.parity_margin rollout.engine_memory"""
RATES = """
    sft.teacher.corrupt_rate sft.student.corrupt_rate sft.teacher.swap_rate sft.student.swap_rate
    grade.ungraded preview.rare sft.long_share tune.warmup tune.held_out model.lora.dropout
    evaluation.collapse_floor optim.beta1 optim.beta2"""
FROM_0 = """
    checkpoint.every engine.persistent_elements lam.warmup_updates sft.warmup_steps
    data.max_history grade.retries grade.repeats tracking.answers"""
SEEDS = "seed data.seed sft.seed calibration.seed tune.seed preview.seed grade.seed"
COUNTS = """
    rollout.prompts_per_update rollout.max_new_tokens rollout.updates_per_batch
    optim.updates optim.topk protocol.workers
    evaluation.every evaluation.prompts evaluation.final_prompts evaluation.ndcg_k
    evaluation.collapse_patience
    calibration.prompts calibration.offset_bin calibration.bootstrap calibration.forced_words
    sft.long_words sft.teacher.steps sft.student.steps sft.batch_size
    tune.batch_size model.lora.rank sft.micro_batch sft.lora_rank
    engine.ranks engine.threads engine.micro_batch engine.score_chunk_tokens
    engine.bucket_elements checkpoint.keep preview.prompts
    grade.answer_tokens grade.candidates grade.history grade.title_words grade.concurrency
    grade.bootstrap
    data.train data.calibration data.test data.min_items data.max_title_words data.answer_room
    model.arch.hidden_size model.arch.intermediate_size model.arch.layers model.arch.heads
    model.arch.kv_heads model.arch.head_dim model.arch.max_positions"""
CHOICES = """
    data.name data.contract data.wrapper data.negatives optim.name optim.estimator
    evaluation.gain engine.name engine.device engine.launcher model.dtype grade.answer_format
    model.arch.family rollout.backend checkpoint.resume tracking.mode clip.rule"""

BAD: dict[str, st.SearchStrategy[Any]] = {
    name: strategy
    for names, strategy in (
        (POSITIVE, AT_MOST_0 | NOT_FINITE),
        (NOT_NEGATIVE, BELOW_0 | NOT_FINITE),
        (INSIDE, AT_MOST_0 | AT_LEAST_1 | NOT_FINITE),
        (RATES, BELOW_0 | AT_LEAST_1 | NOT_FINITE),
        (FROM_0, st.integers(max_value=-1)),
        (SEEDS, st.integers(max_value=-1) | st.integers(min_value=2**32)),
        (COUNTS, st.integers(max_value=0)),
        ("preview.reached preview.floor", AT_MOST_0 | ABOVE_1 | NOT_FINITE),
        ("rollout.engine_cap", st.floats(max_value=1, exclude_max=True) | NOT_FINITE),
        ("data.candidates", st.integers(max_value=1) | st.integers(min_value=27)),
        ("protocol.predictions.least_seeds", st.just(1) | st.integers(max_value=1)),
        ("data.tokenizer_entries", st.integers(max_value=257)),
        ("preview.lams", st.lists(st.floats(max_value=0.99) | NOT_FINITE, max_size=3)),
        ("preview.strengths", st.lists(st.floats(max_value=1) | NOT_FINITE, max_size=3)),
        ("calibration.strengths", st.lists(st.floats(max_value=1) | NOT_FINITE, max_size=3)),
        ("model.lora.targets", st.sampled_from([[], [""], ["all-linear", "q_proj"]])),
        # The rule of the default clip needs a strength.
        ("clip.strength", st.none() | st.floats(max_value=1) | NOT_FINITE),
        # A key has such letters; an address holds a password, or is none.
        ("grade.key_variable", st.sampled_from(["sk-abc", "AIzaSy", "", "A B", "1A", "A" * 65])),
        (
            "grade.base_url",
            st.sampled_from(["", "x", "ftp://h", "http://u:p@h/v1", "https://h/?k=1"]),
        ),
        # No option has such a name, whatever words the generator knows.
        (CHOICES, st.text(max_size=8).map(lambda text: f"?{text}")),
    )
    for name in names.split()
}
# Any value of its type is fine, or what is wrong with it is another test's.
FREE = {
    "protocol.bisect",
    "protocol.ordered",
    "protocol.predictions.exact",
    "lam.predicted",
    "data.chat_template",
    "data.system_prompt",
    "data.template_args",
    "model.name",
    "model.student",
    "model.teacher",
    "model.student_revision",
    "model.teacher_revision",
    "model.tune_loaded_student",
    "model.tune_loaded_teacher",
    "data.path",
    "data.form",
    "data.rubric",
    "data.study_seeds",
    "grade.model",
    "grade.extra",
    "grade.rubric",
    "grade.other",
    "grade.out",
    "evaluation.stop_when_collapsed",
    "checkpoint.final_student",
    "engine.hostfile",
    "engine.gradient_checkpointing",
    "engine.offload_optimizer",
    "engine.offload_parameters",
    "engine.shard_teacher",
    "engine.overlap_comm",
    "tracking.project",
    "clip.name",
    "protocol.name",
    "protocol.arms",
    "protocol.predictions.pilot",
    "protocol.predictions.fine_grid",
    "protocol.predictions.extended",
    "protocol.predictions.previews",
    "protocol.predictions.small_clip",
    "protocol.predictions.far_below",
    "protocol.predictions.larger_model",
    "protocol.predictions.carried",
    "protocol.predictions.published",
    "protocol.predictions.choices",
}


def test_every_field_is_bounded_or_known_to_be_free() -> None:
    assert BAD.keys() | FREE == set(field_names())
    assert not BAD.keys() & FREE


@pytest.mark.parametrize("name", BAD)
@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_a_bad_value_is_refused_by_name(name: str, data: st.DataObject, locked: RunConfig) -> None:
    value = data.draw(BAD[name])
    assume(value != look(locked, name))
    with pytest.raises(ConfigError) as caught:
        check(changed(locked, name, value))
    line = str(caught.value)
    assert {"data.contract": "contract=", "clip.strength": "clip strength"}.get(name, name) in line


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"model.arch.heads": 3}, "model.arch.kv_heads=2 does not divide"),
        ({"model.arch.head_dim": 15}, "model.arch.head_dim=15 is odd"),
        ({"model.arch": None}, "no model.arch to build"),
        ({"model.student": "/nowhere"}, "model.student=/nowhere is no folder"),
        ({"model.student": "a/b", "model.teacher": "a/b"}, "set model.student_revision"),
        ({"model.teacher": "/", "model.student": None}, "both be given or both be null"),
        (
            {"model.student": "/", "model.teacher": None, "model.tune_loaded_student": False},
            "with model.tune_loaded_student=true, model.teacher=null tunes both",
        ),
        ({"model.tune_loaded_teacher": True}, "model.tune_loaded_teacher=true has no teacher"),
        ({"sft.lora_rank": 4}, "sft.lora_rank=4 is for models that are loaded"),
        ({"model.student": "./x/smollm2"}, "`opdcliff fetch smollm2` makes it"),
        ({"data.path": "/nowhere"}, "data.path=/nowhere does not exist"),
        ({"data.rubric": "/nowhere"}, "data.rubric=/nowhere does not exist"),
        ({"data.name": "prompts"}, "data.path is missing"),
        ({"data.form": "x"}, "data.form=x has no effect on data.contract=ranking_with_reason"),
        ({"data.contract": "schema"}, "data.contract=schema is for prompts of your own"),
        ({"data.name": "orders"}, "leave it schema, or set data=prompts"),
        (
            {"data.name": "orders", "data.contract": "schema", "data.form": "x"},
            "data.form=x does not go with data=orders",
        ),
        ({"data.wrapper": "think"}, "with data.wrapper=think is for prompts of your own"),
        (
            {"data.contract": "regex", "data.name": "prompts", "data.path": "/"},
            "data.contract=regex has no answers that a model could be made from",
        ),
        (
            {"data.contract": "python", "model.student": "/", "model.teacher": "/"}
            | {"data.name": "prompts", "data.path": "/", "model.tune_loaded_student": False},
            "data.form is missing for data.contract=python; set data.form=MODULE:FUNCTION",
        ),
        ({"data.contract": "regex", "data.wrapper": "fence"}, "a fence of JSON"),
        ({"data.test": 10}, "data.test=10"),
        ({"calibration.prompts": 999}, "calibration.prompts=999 exceeds"),
        ({"lam.value": None, "lam.of_threshold": None}, "lam.value and lam.of_threshold"),
        ({"clip.rule": "ppo"}, "at least 2 updates"),
        (
            {"clip.rule": "ppo", "optim.estimator": "full", "rollout.updates_per_batch": 2},
            "optim.estimator=full cannot",
        ),
        ({"rollout.engine_cap": 2.0}, "rollout.engine_cap=2 has no effect on rollout.backend=comp"),
        (
            {"rollout.backend": "vllm", "rollout.engine_cap": 2.0, "optim.estimator": "full"},
            "rollout.engine_cap=2 weighs sampled tokens",
        ),
        ({"rollout.backend": "vllm", "model.dtype": "float64"}, "model.dtype=float64 does not go"),
        (
            {"rollout.backend": "vllm", "model.lora": LoraConfig(8, 16.0, ["all-linear"], 0.0)},
            "model.lora does not go with rollout.backend=vllm",
        ),
        ({"grade.extra": {"n": 2}}, "grade.extra.n is not allowed"),
        ({"grade.extra": {"max_completion_tokens": 9}}, "grade.extra.max_completion_tokens is not"),
        ({"grade.extra": {"max_tokens": "9"}}, "grade.extra.max_tokens=9 is not allowed"),
        ({"grade.limit": 1.0}, "grade.limit=1.0 needs prices"),
        ({"grade.limit": 1.0, "grade.price_in": 1.0}, "set grade.price_in and grade.price_out"),
        ({"clip.name": "../x"}, "'../x' is not usable"),
        ({"protocol.name": "a/b"}, "'a/b' is not usable"),
        ({"protocol.name": "assets"}, "reserved"),
        (
            {"protocol.predictions.lower_plateau": 0.6, "protocol.predictions.upper_plateau": 0.6},
            "protocol.predictions.lower_plateau=0.6 is not below",
        ),
    ],
)
def test_values_that_do_not_fit_together(
    values: dict[str, Any], part: str, locked: RunConfig
) -> None:
    config = locked
    for name, value in values.items():
        config = changed(config, name, value)
    with pytest.raises(ConfigError) as caught:
        check(config)
    assert part in str(caught.value)


# ---- what is typed on the command line --------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("clip=c7", "clip=c7 is unknown; allowed: aspo, c1p5, c2"),
        ("experiment=x", "experiment=x is unknown; allowed: amazon_fashion"),
        ("debug=x", "debug=x is unknown; allowed: seconds"),
        ("lambda=0.9", "a number goes into lam.value"),
        ("hydra/launcher=x", "hydra/launcher=x is unknown"),
        ("lamm.value=1", "no setting lamm.value; did you mean lam.value"),
        ("model.lora.rank=4", "no setting model.lora.rank where model.lora is null"),
        ("foo=bar", "no setting foo;"),
        ("+foo=1", "no setting foo; allowed there: seed, model"),
        ("+lam.foo=1", "no setting lam.foo; allowed there: value"),
        ("lam.value=abc", "lam.value=abc is not a number"),
        ("lam.value=", "lam.value= is not a number"),
        ("lam.value=nan", "lam.value=nan is not finite"),
        ("seed=1.5", "seed=1.5 is not a whole number"),
        ("model.tune_loaded_student=3.5", "is not true or false"),
        ("optim.updates=null", "optim.updates=null is not allowed"),
        ("lam=3", "lam=3 is not allowed; set one of its fields"),
        ("calibration.strengths=5", "calibration.strengths=5 is not a list"),
        ("calibration.strengths=[a]", "calibration.strengths[0]=a is not a number"),
        ("data=amazon_fashion", "data.path is missing"),
        ("lam.value=1.0,1.4", "train -m lam.value=1.0,1.4"),
        ("lam.value=[1", "lam.value=[1 cannot be read"),
        ("clip", "clip cannot be read"),
        ("=3", "=3 names no setting"),
        ("--foo", "--foo is unknown; flags are"),
        ("~clip", "clip is missing"),
        ("~lam.value", "lam.value cannot be removed"),
        ("lam.value=${x}", "lam.value: Interpolation key 'x' not found"),
        ("experiment=mini_fine_grid", "a grid over lam.of_threshold, seed"),
    ],
)
def test_a_bad_word_is_answered_in_one_line(word: str, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(compose_one([word]))
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- grids ------------------------------------------------------------------------------------


def test_a_grid_is_the_product_in_order() -> None:
    cells = compose_grid(["lam.value=1.0,1.4", "clip=c5,c2", "seed=3"]).cells
    found = [(cell.config.lam.value, cell.config.clip.name, cell.config.seed) for cell in cells]
    assert found == [(1.0, "c5", 3), (1.0, "c2", 3), (1.4, "c5", 3), (1.4, "c2", 3)]
    assert cells[1].varied == ("lam.value=1.0", "clip=c2")


def test_the_command_line_overrules_the_sweep_of_an_experiment() -> None:
    cells = compose_grid(["experiment=mini_small_clip", "seed=7", "lam.of_threshold=0.5,2"]).cells
    assert [(c.config.lam.of_threshold, c.config.seed) for c in cells] == [(0.5, 7), (2.0, 7)]
    assert {cell.config.clip.name for cell in cells} == {"c2"}


@pytest.mark.parametrize(
    "words",
    [
        ["clip=glob([c5,c2])", "lam.value=1,null", "lam.of_threshold=.5", "seed=range(0,2)"],
        ["+data.template_args.x=1,2", "data.system_prompt=a,b"],
        ["+data.template_args={x:1},{y:2}", "seed=0,1"],
        ["lora=adapter", "model.lora.targets=[q_proj],[k_proj,v_proj]", "model.lora.rank=2,4"],
        ["calibration.strengths=[2],[2,3]", "data.test=300,400", "evaluation.prompts=${data.test}"],
    ],
)
def test_cells_are_those_that_hydra_would_compose_one_by_one(words: list[str]) -> None:
    words = ["protocol=grid", *words]
    grid = compose_grid(words)
    with hydra_session() as hydra:
        master = hydra.compose_config(ROOT_CONFIG, words, RunMode.MULTIRUN)
        parsed = OverridesParser.create(hydra.config_loader).parse_overrides(words)
        (jobs,) = BasicSweeper.split_arguments(parsed, None)
        one_by_one = [
            load(without_hydra(hydra.config_loader.load_sweep_config(master, list(job))))
            for job in jobs
        ]
    assert len({repr(cell.config) for cell in grid.cells}) == len(jobs)
    assert [cell.config for cell in grid.cells] == one_by_one


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["lam.value=1.2,-1"], "lam.value=-1.0 is not allowed"),
        (["clip=c5,c7"], "clip=c7 is unknown"),
        (["clip=c5,ppo", "seed=0,1"], "(in the cell clip=ppo seed=0)"),
        (["seed=0,1,0"], "cells 1 and 3 of the grid are the same run (seed=0)"),
        (["lam.value=1.2", "lam.of_threshold=0.9,1.1"], "cells 1 and 2"),
        (["engine.device=cpu,auto"], "cells 1 and 2"),
        (["hydra.launcher=x"], "set launcher=OPTION"),
        (["lam.value=interval(1,2)"], "a grid lists its values"),
        (["lam.value=glob(*)"], "lam.value=glob(*): glob() lists the options of a group"),
        (["lam.value=range(1,1.3,.1),1.3"], "a list cannot hold range()"),
        (["lam.value=[range(1,2)]"], "a list cannot hold range()"),
        (["seed=0,1", "seed=2"], "seed=2 would replace seed=0,1 and drop its cells"),
        (["seed=0,1", "lam.valu=1,2"], "there is no setting lam.valu"),
        (["seed=0,1", "optim.lr=1,x"], "optim.lr=x is not a number (in the cell seed=0 optim"),
    ],
)
def test_one_bad_cell_refuses_the_grid(words: list[str], part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_grid(words)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- protocols --------------------------------------------------------------------------------

ARM: dict[str, Any] = {
    "name": "arm",
    "clip": "c5",
    "multiples": [0.9, 1.1],
    "seeds": [0, 1],
    "estimator": None,
    "warmup_updates": None,
    "updates": None,
}


def protocol(default: RunConfig, *arms: dict[str, Any]) -> RunConfig:
    return changed(default, "protocol.arms", [ProtocolArm(**(ARM | arm)) for arm in arms])


def test_the_protocols_pass(default: RunConfig, locked: RunConfig) -> None:
    check_protocol(default)
    check_protocol(locked)
    check_protocol(protocol(default, {}, {"clip": "c2"}, {"estimator": "full"}))


@pytest.mark.parametrize(
    ("arms", "part"),
    [
        ([], "is empty; choose a protocol with arms"),
        ([{}, {"clip": "c7"}], "clip=c7 is unknown"),
        ([{"clip": "ppo"}], "(in protocol.arms[0])"),
        ([{"multiples": []}], "protocol.arms[0].multiples is empty"),
        ([{"seeds": []}], "protocol.arms[0].seeds is empty"),
        ([{"multiples": [0.9, 0.0]}], "protocol.arms[0].multiples holds 0.0"),
        ([{"multiples": [math.nan]}], "holds nan"),
        ([{"multiples": [math.inf]}], "holds inf"),
        ([{"seeds": [0, 0]}], "seed=0 twice"),
        ([{"multiples": [0.9, 0.9]}], "multiple=0.9 seed=0 twice"),
        ([{}, {"seeds": [1]}], "protocol.arms[1] has the cell multiple=0.9 seed=1"),
        ([{"seeds": [-1]}], "seed=-1 is not allowed"),
        ([{"estimator": "half"}], "optim.estimator=half is not allowed"),
        ([{"warmup_updates": -1}], "lam.warmup_updates=-1 is not allowed"),
        ([{"updates": 0}], "optim.updates=0 is not allowed"),
    ],
)
def test_a_bad_protocol_is_refused_in_one_line(
    arms: list[dict[str, Any]], part: str, default: RunConfig
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_protocol(protocol(default, *arms))
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_lambda_beside_a_protocol_is_refused(default: RunConfig) -> None:
    with pytest.raises(ConfigError, match=r"lam.value=1.2 has no effect on a study"):
        check_protocol(changed(default, "lam.value", 1.2))


def test_a_sweep_leaves_our_warnings_audible(tmp_path: Path) -> None:
    ours = logging.getLogger("opdcliff.records.tracking")
    words = ["protocol=grid", "seed=0,1", f"hydra.sweep.dir={tmp_path}"]
    assert launch_grid(words, lambda composed: composed.seed) == [0, 1]
    assert not ours.disabled
    assert ours.isEnabledFor(logging.WARNING)
