"""The memory plan against the memory that the real objects take, and the verb around it."""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import DynamicCache, GPT2Config, PreTrainedModel

import families
from opdcliff.calibration.modal_mass import Positions, modal_logits
from opdcliff.cli import command
from opdcliff.engine.launch_command import free_port
from opdcliff.engine.single import SingleEngine
from opdcliff.models.load import build
from opdcliff.models.trio import Trio, fresh_student
from opdcliff.planning.memory import (
    BACKWARD,
    EVALUATION,
    MASSES,
    ROLLOUT,
    SCORING,
    STEP,
    Plan,
    make_plan,
)
from opdcliff.planning.sizes import Vocabulary, adapter_of, setup_of, sizes_of, sizes_of_model
from opdcliff.processes import ForkedRanks
from opdcliff.rollout import scoring
from opdcliff.rollout.draws import TRAIN_STREAM, Rollout
from opdcliff.rollout.reference import sample
from opdcliff.settings.checks import load
from opdcliff.settings.compose import compose_one
from opdcliff.settings.schema import RunConfig
from opdcliff.theory.clip_rules import ClipRule
from opdcliff.training.full_objective import Frozen
from opdcliff.training.objective import LossOutput
from opdcliff.training.parts import cut, parts_of, unchanged
from opdcliff.training.update import Batch, accumulate, part_loss, score_frozen

TOLERANCE = 0.2
ROWS, PROMPT, ANSWER = 4, 24, 72
# A few million parameters: large beside what the plan leaves out.
SIZES = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "layers": 3,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 64,
    "max_positions": 256,
}
WORDS = [
    *(f"model.arch.{name}={value}" for name, value in SIZES.items()),
    "data.tokenizer_entries=3000",
    "lam.value=1.5",
    "engine.device=cpu",
    "engine.score_chunk_tokens=128",
    f"rollout.prompts_per_update={ROWS}",
    f"rollout.max_new_tokens={ANSWER}",
    "evaluation.prompts=4",
    "evaluation.final_prompts=4",
]


class Live(TorchDispatchMode):
    """Bytes of the tensors made within it that are still there, and the most at once.

    owned: tensors that were there before.
    """

    def __init__(self, owned: Iterable[Tensor]) -> None:
        super().__init__()
        self._live: dict[int, int] = {}
        self._owned = {tensor.untyped_storage()._cdata for tensor in owned}
        self.now = self.peak = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self._live and key not in self._owned:
                    self._live[key] = storage.nbytes()
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._forget, key)
        self.peak = max(self.peak, self.now)
        return out

    def _forget(self, key: int) -> None:
        self.now -= self._live.pop(key)


@dataclass
class World:
    """The models of a run of the sizes above, a batch, and its plan."""

    config: RunConfig
    engine: SingleEngine
    teacher: PreTrainedModel
    base: PreTrainedModel
    plan: Plan
    rollout: Rollout

    @property
    def full(self) -> bool:
        return self.config.optim.estimator == "full"

    def __post_init__(self) -> None:
        self.parts = parts_of(self.rollout, self.config.engine.micro_batch, ranks=1)


def config_of(*words: str) -> RunConfig:
    return load(compose_one([*WORDS, *words]))


def world(*words: str) -> World:
    config = config_of(*words)
    arch = config.model.arch
    assert arch is not None
    vocabulary = Vocabulary(config.data.tokenizer_entries)
    return world_of(config, [build(arch, vocabulary, seed) for seed in range(3)])


def family_world(folder: Path, family: str, *words: str) -> World:
    """A pair of a family, planned from the configuration in its folder."""
    shape = {
        "vocab_size": 3000,
        "hidden_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
    }
    if family != "gpt2":
        shape |= {"intermediate_size": 768, "num_key_value_heads": 2}
    if family in ("gemma2", "gemma3"):
        shape["head_dim"] = 64
    models = [families.build(family, seed, **shape) for seed in range(3)]
    models[0].config.save_pretrained(folder)
    config = config_of(f"model.student={folder}", f"model.teacher={folder}", *words)
    return world_of(config, models)


def world_of(config: RunConfig, models: list[PreTrainedModel]) -> World:
    dtype = getattr(torch, config.model.dtype)
    student, teacher, base = (model.to(dtype) for model in models)
    for frozen in (teacher, base):
        frozen.requires_grad_(False)
    trio = Trio(student, teacher, base, None)
    if config.model.lora is not None:
        student = fresh_student(trio, config.model.lora).student
    ids_BL = torch.randint(5, 3000, (ROWS, PROMPT + ANSWER))
    attention_BL = torch.ones_like(ids_BL)
    # Padding on both sides, as real batches have: without it attention takes no mask.
    attention_BL[0, :5] = 0
    attention_BL[1, -9:] = 0
    mask_BT = attention_BL[:, -ANSWER:].bool()
    rollout = Rollout(ids_BL, attention_BL, mask_BT, torch.ones(ROWS, dtype=torch.bool))
    plan = make_plan(setup_of(config, prompt=PROMPT, cuda=False))
    return World(config, SingleEngine(student.eval(), config), teacher, base, plan, rollout)


def size(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors, each storage once."""
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def close(planned: int, measured: int) -> None:
    assert planned == pytest.approx(measured, rel=TOLERANCE)


def batch_of(w: World, teacher: Tensor | Frozen, base: Tensor | Frozen) -> Batch:
    return Batch([], w.rollout, w.parts, teacher, base, None, ROWS * ANSWER)


def loss_of(w: World, teacher: Tensor | Frozen, base: Tensor | Frozen) -> LossOutput:
    """The loss of the last part, whose answers are the longest, as the training loop takes it."""
    rows, batch = w.parts[-1], batch_of(w, teacher, base)
    part = cut(w.rollout, rows)
    return part_loss(w.config, ClipRule.MASK, 1.5, batch, w.engine, rows, part)


def update(w: World, teacher: Tensor | Frozen, base: Tensor | Frozen) -> None:
    """As the training loop makes it."""
    accumulate(w.config, ClipRule.MASK, 1.5, batch_of(w, teacher, base), w.engine)
    w.engine.step()


@torch.no_grad()
def frozen_logp(w: World, model: PreTrainedModel) -> Tensor | Frozen:
    return score_frozen(model, rollout=w.rollout, parts=w.parts, level=unchanged, config=w.config)


# ---- against measured memory ----------------------------------------------------------------


CASES = [
    [],
    ["engine.micro_batch=1"],
    ["model.dtype=bfloat16", "model.arch.family=llama"],
    ["model.dtype=bfloat16", "engine.micro_batch=2", "engine.score_chunk_tokens=1024"],
    ["optim.estimator=full"],
    ["engine.gradient_checkpointing=true"],
    ["engine.gradient_checkpointing=true", "model.dtype=bfloat16"],
    ["lora=adapter"],
    ["lora=adapter", "model.dtype=bfloat16", "engine.micro_batch=2", "model.lora.rank=64"],
    ["lora=adapter", "engine.gradient_checkpointing=true"],
]


@pytest.mark.parametrize("words", CASES, ids=[" ".join(words) or "defaults" for words in CASES])
def test_an_update_takes_what_is_planned(words: list[str]) -> None:
    check_update(world(*words))


FAMILY_CASES = [
    *[(family, []) for family in ("mistral", "gemma2", "gemma3", "phi3", "gpt2", "olmo2")],
    ("gemma2", ["optim.estimator=full"]),
    *[(family, ["engine.gradient_checkpointing=true"]) for family in ("gemma2", "gemma3", "gpt2")],
]


@pytest.mark.parametrize(
    ("family", "words"), FAMILY_CASES, ids=[" ".join([f, *words]) for f, words in FAMILY_CASES]
)
def test_an_update_of_a_family_takes_what_is_planned(
    family: str, words: list[str], tmp_path: Path
) -> None:
    check_update(family_world(tmp_path, family, *words))


CHUNK_CASES = [
    ("qwen3", []),
    ("qwen3", ["engine.micro_batch=2", "model.dtype=bfloat16"]),
    ("qwen3", ["engine.gradient_checkpointing=true"]),
    ("qwen3", ["optim.topk=40"]),
    ("qwen3", ["lora=adapter"]),
    ("gemma2", ["engine.micro_batch=2"]),
]


@pytest.mark.parametrize(
    ("family", "words"), CHUNK_CASES, ids=[" ".join([f, *words]) for f, words in CHUNK_CASES]
)
def test_an_update_of_the_full_estimator_in_chunks_takes_what_is_planned(
    family: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk has 43 of the 288 tokens, and is run again in the backward pass."""
    monkeypatch.setattr(scoring, "CPU_CHUNK_LOGITS", 2**17)
    words = ["optim.estimator=full", *words]
    check_update(world(*words) if family == "qwen3" else family_world(tmp_path, family, *words))


def check_update(w: World) -> None:
    models = (w.engine.student, w.teacher, w.base)
    owned = [parameter for model in models for parameter in model.parameters()]
    with Live(owned) as live:
        teacher, base = (frozen_logp(w, model) for model in (w.teacher, w.base))
    states = [f.kept_BTX for f in (teacher, base) if isinstance(f, Frozen)]
    kept = size(state for state in states if state is not None)
    close(w.plan.part("scoring workspace") + kept, live.peak)
    assert w.plan.part("teacher and base states") == kept
    # Optimizer states come with the first step.
    update(w, teacher, base)
    resident = [size(model.parameters()) for model in models]
    if w.config.model.lora is not None:
        # The base's own weights are the student's.
        resident[0] -= resident[2]
    state = [t for s in w.engine._optimizer.state.values() for t in s.values() if t.dim() > 0]
    held = {id(p) for p in owned}
    masters = [p for p in w.engine._masters.parameters if id(p) not in held]
    assert bool(masters) == (w.config.model.dtype == "bfloat16" and w.config.model.lora is None)
    resident.append(size(masters))
    parts = ("student weights", "teacher", "base", "fp32 master weights", "optimizer states")
    for name, measured in zip(parts, [*resident, size(state)], strict=True):
        close(w.plan.part(name), measured)
    owned += [*state, *masters]
    with Live(owned) as forward:
        output = loss_of(w, teacher, base)
        # The loss holds the graph; full log-probs and their products belong to the head.
        held = forward.now
    if not w.full:
        close(w.plan.part("activations"), held)
    del output
    fixed = sum(resident) + size(state)
    with Live(owned) as whole:
        update(w, teacher, base)
    measured = fixed + kept + whole.peak
    close(max(w.plan.total(BACKWARD), w.plan.total(STEP)), measured)
    # Beyond what is resident, where a mistake would hide among the weights.
    planned = max(w.plan.total(BACKWARD), w.plan.total(STEP)) - fixed - kept
    close(planned, whole.peak)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_take_what_is_planned(dtype: str) -> None:
    w = world(f"model.dtype={dtype}")
    teacher, base = (frozen_logp(w, model) for model in (w.teacher, w.base))
    w.engine.backward(loss_of(w, teacher, base).loss, last=True)
    gradients = [p.grad for p in w.engine._masters.parameters if p.grad is not None]
    close(w.plan.part("gradients"), size(gradients))


def test_an_adapter_is_counted_without_weights() -> None:
    w = world("lora=adapter", "model.lora.rank=8", "model.lora.targets=[q_proj,down_proj]")
    adapter = adapter_of(w.config)
    assert adapter is not None
    # Three layers, each with a matrix on either side of the rank.
    assert adapter.parameters == 3 * 8 * ((256 + 256) + (768 + 256))
    assert (adapter.largest, adapter.width) == (8 * 768, 3 * 2 * 8)
    assert adapter.inputs == 3 * (256 + 768)
    mine = [p for p in w.engine.student.parameters() if p.requires_grad]
    assert sum(p.numel() for p in mine) == adapter.parameters
    both = {id(p): p for m in (w.engine.student, w.base) for p in m.parameters()}
    assert sum(p.numel() for p in both.values()) == sizes_of_model(w.base).parameters + (
        adapter.parameters
    )


def test_an_adapter_takes_no_copy_of_the_student_but_under_zero3() -> None:
    def need(*words: str) -> Plan:
        setup = setup_of(config_of(*words, "engine.ranks=2"), prompt=PROMPT, cuda=True)
        return make_plan(setup)

    for engine in ("zero1", "zero2", "zero3"):
        full, adapter = (need(f"engine={engine}", *lora) for lora in ((), ("lora=adapter",)))
        assert adapter.part("optimizer states") < 0.2 * full.part("optimizer states")
        assert adapter.part("base") == full.part("base")
        ratio = adapter.part("student weights") / full.part("student weights")
        assert (ratio < 0.2) == (engine != "zero3")
        assert (1.0 < ratio < 1.2) == (engine == "zero3")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sampling_takes_what_is_planned(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    w = world(f"model.dtype={dtype}", "evaluation.prompts=1", "evaluation.final_prompts=1")
    caches: list[DynamicCache] = []
    start = DynamicCache.__init__

    def start_and_keep(self: DynamicCache, *args: Any, **options: Any) -> None:
        start(self, *args, **options)
        caches.append(self)

    monkeypatch.setattr(DynamicCache, "__init__", start_and_keep)
    student = w.engine.student
    with Live(student.parameters()) as live:
        sample(
            student,
            w.rollout.ids_BL[:, :PROMPT],
            w.rollout.attention_BL[:, :PROMPT],
            numbers=range(ROWS),
            seed=0,
            stream=TRAIN_STREAM,
            max_new_tokens=ANSWER,
            temperature=1.0,
            end_ids=(1,),
            pad_id=0,
            banned_V=torch.arange(3000) == Vocabulary.eos_token_id,
        )
    (layers,) = [cache.layers for cache in caches if cache.layers]
    measured = size([t for layer in layers for t in (layer.keys, layer.values)])
    resident = sum(size(model.parameters()) for model in (student, w.teacher, w.base))
    states = w.plan.part("optimizer states") + w.plan.part("fp32 master weights")
    cache = next(part.bytes for part in w.plan.parts if part.name == "KV cache")
    close(cache, measured)
    close(w.plan.total(ROLLOUT), resident + states + live.peak)
    assert w.plan.total(EVALUATION) < w.plan.total(ROLLOUT)


@pytest.mark.parametrize("chunk", [64, 1024])
def test_class_masses_take_what_is_planned(chunk: int) -> None:
    w = world(f"engine.score_chunk_tokens={chunk}", "data.tokenizer_entries=9000")
    shape = (ROWS, ANSWER)
    every = torch.zeros(shape, dtype=torch.long)
    positions = Positions(every, every, every, every > 0, every, [np.arange(10)], ["text"])
    with Live(w.teacher.parameters()) as live:
        modal_logits(w.teacher, w.rollout, positions, temperature=1.0, chunk_tokens=chunk)
    close(w.plan.part("class mass workspace"), live.peak)


@pytest.mark.multirank
@pytest.mark.parametrize("engine", ["zero2", "zero3"])
def test_two_ranks_hold_what_is_planned(engine: str, tmp_path: Path) -> None:
    words = [*WORDS, f"engine={engine}", "model.dtype=bfloat16", "engine.bucket_elements=100000"]
    words.append("engine.micro_batch=1")
    ranks = ForkedRanks(
        "held",
        [str(tmp_path / "held.json"), *words],
        ranks=2,
        port=free_port(),
        environment={**os.environ, "DS_ACCELERATOR": "cpu"},
        errors=tmp_path / "errors",
    )
    assert ranks.wait() == 0, (tmp_path / "errors").read_text()
    found = json.loads((tmp_path / "held.json").read_text())
    plan = make_plan(setup_of(load(compose_one(words)), prompt=PROMPT, cuda=False))
    # There are no frozen models in that process, and nothing is under way when it is asked.
    absent = ("teacher", "base", "optimizer workspace", "class mass workspace")
    passing = ("activations", "scoring head", "KV cache", "sampling workspace", "scoring workspace")
    for moment, phase in (("backward", BACKWARD), ("step", SCORING), ("whole", MASSES)):
        outside = {*absent, *passing}
        # ZeRO-3 keeps nothing gathered, and ZeRO-2 no buffer, once a pass is over.
        outside |= {"communication buffers"} if engine == "zero2" else set()
        outside |= {"gathered student"} if moment != "whole" else set()
        planned = sum(p.bytes for p in plan.parts if phase in p.phases and p.name not in outside)
        close(planned, found[moment])


# ---- sizes ----------------------------------------------------------------------------------


def decoder(hidden: int, layers: int, heads: int, kv: int, inner: int, tied: bool) -> int:
    """Parameters of a Qwen3 with heads of 128 and 151936 entries, counted by hand."""
    attention = 2 * hidden * 128 * heads + 2 * hidden * 128 * kv + 2 * 128
    layer = attention + 3 * hidden * inner + 2 * hidden
    return layers * layer + hidden + 151936 * hidden * (1 if tied else 2)


def test_the_papers_pair_is_known_without_a_download() -> None:
    revisions = [f"model.{role}_revision={'0a' * 20}" for role in ("student", "teacher")]
    config = load(compose_one(["model=qwen3_1p7b", "lam.value=1.5", *revisions]))
    student, teacher = sizes_of(config, "student"), sizes_of(config, "teacher")
    assert student.parameters == decoder(2048, 28, 16, 8, 6144, True)
    assert teacher.parameters == decoder(4096, 36, 32, 8, 12288, False)
    assert (student.largest, teacher.largest) == (151936 * 2048, 151936 * 4096)
    assert student.qk_norm


def test_a_folder_needs_its_configuration_alone(tmp_path: Path) -> None:
    w = world()
    w.teacher.config.save_pretrained(tmp_path)
    config = config_of(f"model.student={tmp_path}", f"model.teacher={tmp_path}")
    assert sizes_of(config, "teacher") == sizes_of_model(w.teacher)
    # A teacher that is to be tuned from the student's folder has its sizes.
    own = ("model.teacher=null", "model.tune_loaded_student=true")
    assert sizes_of(config_of(f"model.student={tmp_path}", *own), "teacher") == sizes_of_model(
        w.teacher
    )


@pytest.mark.parametrize(("given", "width"), [(None, 256), (96, 96)])
def test_a_feed_forward_part_of_another_name_is_found(
    given: int | None, width: int, tmp_path: Path
) -> None:
    """That of GPT-2, where null is four times the model's width."""
    GPT2Config(n_embd=64, n_layer=2, n_head=2, n_inner=given, vocab_size=300).save_pretrained(
        tmp_path
    )
    sizes = sizes_of(config_of(f"model.student={tmp_path}", f"model.teacher={tmp_path}"), "teacher")
    assert (sizes.hidden, sizes.intermediate, sizes.kv_heads, sizes.head_dim) == (64, width, 2, 32)


def test_a_pair_of_different_outputs_is_planned_over_the_shared_ones(tmp_path: Path) -> None:
    for role, outputs in (("student", 300), ("teacher", 320)):
        families.configuration("llama", vocab_size=outputs).save_pretrained(tmp_path / role)
    config = config_of(*(f"model.{role}={tmp_path / role}" for role in ("student", "teacher")))
    setup = setup_of(config, prompt=PROMPT, cuda=False)
    assert setup.teacher == setup.student
    assert setup.student.vocabulary == 300
    assert sizes_of(config, "teacher").vocabulary == 320


def test_more_ranks_and_stages_need_less() -> None:
    def need(*words: str) -> Plan:
        return make_plan(setup_of(config_of(*words), prompt=PROMPT, cuda=True))

    common = ["engine.ranks=4", "model.dtype=bfloat16", "engine.bucket_elements=1000"]
    stages = [need(f"engine={name}", *common) for name in ("zero1", "zero2", "zero3")]
    totals = [plan.total(STEP) for plan in stages]
    assert totals == sorted(totals, reverse=True)
    assert len(set(totals)) == 3
    off = need("engine=zero2", *common, "engine.offload_optimizer=true")
    assert off.total(STEP) < totals[1]
    assert off.host > 16 * stages[0].part("base") / 2 / 4
    split = need("engine=zero2", *common, "engine.shard_teacher=true")
    assert split.part("teacher") * 4 == stages[1].part("teacher")


# ---- the verb -------------------------------------------------------------------------------

# One cell of the grid, to save time.
PAPER = ["experiment=paper_fine_grid", "lam.of_threshold=1.0", "seed=0"]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: str) -> tuple[int, str, str]:
        code = command.main(["plan", *words])
        text = capsys.readouterr()
        return code, text.out, text.err

    return call


def test_an_experiment_is_planned_without_its_data_and_models(run: Run) -> None:
    words = [*PAPER, "data.path=/nowhere", "memory_gb=80"]
    code, out, err = run(*words, "engine.micro_batch=1")
    assert (code, err) == (0, "")
    said = " ".join(out.split())
    assert "student of 1,720,574,976 parameters, teacher of 8,190,735,360" in said
    assert "It fits: " in out
    code, out, err = run(*words, "engine.micro_batch=16", "prompt_tokens=900")
    assert code == 14
    assert "prompts of 900 tokens (as given)" in out
    assert "it does not fit: " in err
    assert err.count("\n") == 1
    # What is named as enough is enough.
    lever = err.split("enough is ")[1].strip()
    assert run(*words, "engine.micro_batch=16", "prompt_tokens=900", lever)[0] == 0


def test_nothing_may_be_enough(run: Run) -> None:
    code, out, err = run(*PAPER, "memory_gb=1")
    assert code == 14
    assert "nothing here is enough" in err
    assert " yes " not in out


def test_of_a_grid_the_cell_that_needs_most_is_shown(run: Run) -> None:
    code, out, _ = run("-m", "optim.estimator=sampled,full", "memory_gb=80")
    assert code == 0
    assert "largest of 2 cells: optim.estimator=full" in out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["memory_gb=lots"], "memory_gb=lots is not allowed"),
        (["memory_gb=nan"], "memory_gb=nan is not allowed"),
        (["prompt_tokens=0"], "prompt_tokens=0 is not allowed"),
        (["engine.micro_batch=0"], "engine.micro_batch=0 is not allowed"),
    ],
)
def test_what_makes_no_plan_is_one_line(words: list[str], text: str, run: Run) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert text in err


def test_a_model_of_unknown_size_is_one_line(run: Run) -> None:
    code, _, err = run("model=qwen3_1p7b", "model.student=some/thing", "memory_gb=80")
    assert code == 4
    assert "the sizes of some/thing are not known here" in err


def test_parts_have_one_name_per_phase() -> None:
    plan = make_plan(setup_of(config_of(), prompt=PROMPT, cuda=False))
    seen = [(part.name, phase) for part in plan.parts for phase in part.phases]
    assert len(seen) == len(set(seen))
    assert all(asdict(part)["bytes"] > 0 for part in plan.parts)
