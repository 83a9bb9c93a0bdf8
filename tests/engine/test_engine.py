"""Engines: parts and ranks sum to the whole update, nothing is updated on a gradient that is NaN.

Whether ranks train alike is in test_engine_equality.py; here, how they fail.
"""

from __future__ import annotations

import io
import os
import signal
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import failing
from kept import parameters, refused_update
from opdcliff.engine.parts import build_optimizer
from opdcliff.engine.single import SingleEngine
from opdcliff.engine.state import load_parameters, trained
from opdcliff.engine.watch import StepWatch
from opdcliff.errors import ConfigError, EngineError
from opdcliff.models.device import pick_device
from opdcliff.models.load import build
from opdcliff.models.prepare import Prepared
from opdcliff.models.tokens.train_bpe import train_bpe
from opdcliff.paths import StudyPaths
from opdcliff.processes.rank_events import encode
from opdcliff.records.record import read_record
from opdcliff.settings.checks import load
from opdcliff.settings.compose import compose_one
from opdcliff.settings.schema import RunConfig
from opdcliff.study.cells import RANKS_LOG, Cell, run_cell
from opdcliff.training import ranks as ranks_module
from opdcliff.training.job import Job
from places import HELPERS

LAM = 1.5
WORDS = [
    "debug=seconds",
    "tracking=off",
    "evaluation.every=1",
    "evaluation.collapse_floor=0.0",
    "engine.device=cpu",
    # Two parts per update and rank, and several chunks of the head, fewer for shorter answers.
    "engine.micro_batch=1",
    "engine.score_chunk_tokens=8",
]


def _config(*words: str) -> RunConfig:
    return load(compose_one([*WORDS, f"lam.value={LAM}", *words]))


# ---- one process ----------------------------------------------------------------------------


def _single(
    engine: dict[str, Any] | None = None, dtype: str = "float64", **changes: Any
) -> SingleEngine:
    config = _config()
    assert config.model.arch is not None
    vars(config.optim).update(changes)
    vars(config.engine).update(engine or {})
    # AdamW divides by the size of the gradient, which makes much of rounding.
    dtype = getattr(torch, dtype)
    return SingleEngine(build(config.model.arch, train_bpe(["a b"], 270), 0).to(dtype), config)


def _loss(engine: SingleEngine, rows: slice) -> torch.Tensor:
    ids = torch.arange(5, 53).view(4, 12)[rows]
    return -engine.score(ids, torch.ones_like(ids), 6).sum() / 24


def test_parts_sum_to_the_whole_update() -> None:
    whole, parted = _single(), _single()
    whole.backward(_loss(whole, slice(None)), last=True)
    for start in range(4):
        parted.backward(_loss(parted, slice(start, start + 1)), last=start == 3)
    norm = whole.step()
    assert parted.step() == pytest.approx(norm, rel=1e-12)
    for first, second in zip(parameters(whole).values(), parameters(parted).values(), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-9)


def test_updates_do_not_share_gradients() -> None:
    engine = _single(lr=1e-12)
    norms = []
    for _ in range(2):
        engine.backward(_loss(engine, slice(None)), last=True)
        norms.append(engine.step())
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)


def test_the_norm_is_that_before_clipping() -> None:
    engines = [_single(grad_clip=clip) for clip in (1e9, 1e-3)]
    norms = []
    for engine in engines:
        engine.backward(_loss(engine, slice(None)), last=True)
        norms.append(engine.step())
    assert norms[0] == norms[1] > 1e-3


def test_sgd_takes_plain_steps_along_the_gradient_and_keeps_nothing() -> None:
    engine = _single(name="sgd", lr=0.01, grad_clip=1e9)
    before = parameters(engine)
    engine.backward(_loss(engine, slice(None)), last=True)
    gradients = {name: p.grad.clone() for name, p in trained(engine.student) if p.grad is not None}
    engine.step()
    after = parameters(engine)
    assert gradients
    for name, gradient in gradients.items():
        torch.testing.assert_close(after[name], before[name] - 0.01 * gradient, rtol=0, atol=1e-12)
    # A checkpoint of it holds weights alone, and goes on as if nothing had been.
    state = engine.state()
    assert {key.partition("/")[0] for key in state} == {"parameter"}
    other = _single(name="sgd", lr=0.01, grad_clip=1e9)
    load_parameters(trained(other.student), state)
    other.load_state(state)
    for one in (engine, other):
        one.backward(_loss(one, slice(None)), last=True)
        one.step()
    assert _same(parameters(engine), parameters(other))


def test_a_norm_that_is_not_finite_updates_nothing() -> None:
    engine = _single()
    before = parameters(engine)
    assert not np.isfinite(refused_update(engine))
    assert _same(before, parameters(engine))
    engine.backward(_loss(engine, slice(None)), last=True)
    assert np.isfinite(engine.step())
    assert not _same(before, parameters(engine))


def test_checkpointing_keeps_less_and_changes_no_gradient() -> None:
    kept = []
    engines = [_single(), _single(engine={"gradient_checkpointing": True})]
    for engine in engines:
        engine.student.eval()
        kept.append(_saved_elements(engine))
        # Layers left in training mode would not use the cache when sampling.
        assert not any(module.training for module in engine.student.modules())
    assert kept[1] < 0.5 * kept[0]
    first, second = (dict(engine.student.named_parameters()) for engine in engines)
    for name, value in first.items():
        assert value.grad is not None
        torch.testing.assert_close(second[name].grad, value.grad, rtol=0, atol=1e-12)


DROPPING: dict[str, dict[str, Any]] = {
    "opt": {
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "dropout": 0.1,
        "attention_dropout": 0.1,
    },
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "hidden_dropout": 0.1},
    "xglm": {
        "d_model": 32,
        "ffn_dim": 48,
        "num_layers": 2,
        "attention_heads": 4,
        "dropout": 0.1,
        "activation_dropout": 0.1,
    },
}


@pytest.mark.parametrize("architecture", DROPPING)
def test_dropout_inside_of_layers_stays_off_when_they_are_run_again(architecture: str) -> None:
    shape = DROPPING[architecture] | {"vocab_size": 23, "pad_token_id": 0, "eos_token_id": 1}
    ids = torch.randint(2, 23, (4, 12), generator=torch.Generator().manual_seed(0))
    found = []
    for again in (False, True):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **shape)).eval()
        engine = SingleEngine(model, _config(f"engine.gradient_checkpointing={again}"))
        scores = [engine.score(ids, torch.ones_like(ids), 8) for _ in range(2)]
        assert torch.equal(*scores)
        engine.backward(scores[0].sum(), last=True)
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert not any(module.training for module in model.modules())
        found.append((scores[0].detach(), gradients))
    (plain, plain_gradients), (recomputed, gradients) = found
    assert torch.equal(plain, recomputed)
    assert gradients.keys() == plain_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, plain_gradients[name], rtol=0, atol=1e-6)


def _saved_elements(engine: SingleEngine) -> int:
    """Make the gradient of a loss; elements of the tensors that were kept for it."""
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = _loss(engine, slice(None))
    for parameter in engine.student.parameters():
        kept.pop(parameter.data_ptr(), None)
    engine.backward(loss, last=True)
    return sum(kept.values())


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["engine.ranks=2"], "engine.ranks=2 needs a ZeRO engine"),
        (["engine.offload_optimizer=true"], "offload_optimizer=true does not go .* engine=zero2"),
        (["engine=zero0", "engine.overlap_comm=true"], "overlap_comm=true does not go with"),
        (["engine=zero2", "engine.offload_parameters=true"], "set engine=zero3"),
        (["engine.shard_teacher=true"], "shard_teacher=true does not go with engine=single"),
        (["engine=zero2", "engine.ranks=1", "engine.shard_teacher=true"], "no ranks to split over"),
        (["engine=zero0", "model.dtype=bfloat16"], "bfloat16 does not go with engine=zero0"),
        (["engine=zero2", "model.dtype=float64"], "model.dtype=float64"),
        (["engine=zero2", "rollout.prompts_per_update=5"], "prompts_per_update=5 .*ranks=2"),
        (["engine=zero2", "evaluation.prompts=1"], "evaluation.prompts=1 .*ranks=2"),
        (["engine.name=zero4"], r"single \| zero0 \| zero1 \| zero2 \| zero3"),
    ],
)
def test_what_ranks_cannot_share_is_refused(words: list[str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        _config(*words)


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"engine\.device=cuda and torch sees no GPU"):
        pick_device(_config("engine.device=cuda").engine)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"engine\.ranks=2 and torch sees 1 GPUs"):
        pick_device(_config("engine=zero2", "engine.device=auto").engine)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    device = pick_device(_config("engine=zero2", "engine.device=auto").engine)
    assert device == torch.device("cuda", 1)


def test_a_job_arrives_as_it_was_sent(tmp_path: Path) -> None:
    config = _config("engine=zero1", "optim.lr=1.2345678901e-05", "optim.topk=null")
    job = Job(config, 1.1 / 3, Prepared(Path("a b"), Path("/x"), "0e12"))
    job.write(tmp_path / "job.yaml")
    assert Job.read(tmp_path / "job.yaml") == job


def _updates(engine: SingleEngine, count: int) -> None:
    for _ in range(count):
        for start in (0, 2):
            engine.backward(_loss(engine, slice(start, start + 2)), last=start == 2)
        engine.step()


def _way(engine: SingleEngine, start: dict[str, torch.Tensor]) -> torch.Tensor:
    """How far each weight that the optimizer holds is from where it was."""
    state = engine.state()
    return torch.cat([(state[key] - start[key]).flatten() for key in start]).abs()


def test_bfloat16_weights_move_as_far_as_float32_ones() -> None:
    """At the step size of large models, which is far below what a bfloat16 weight can show."""
    lr, count = 1e-6, 20
    ways = {}
    for dtype in ("float32", "bfloat16"):
        engine = _single(dtype=dtype, lr=lr)
        start = {k: v for k, v in engine.state().items() if k.startswith("parameter/")}
        _updates(engine, count)
        ways[dtype] = _way(engine, start)
        moved, meant = engine.first_step()
        assert moved == pytest.approx(meant, rel=0.01)
        # What the forward pass sees are the same weights, rounded.
        for name, weight in parameters(engine).items():
            assert weight.dtype == getattr(torch, dtype)
            assert torch.equal(weight, engine.state()[f"parameter/{name}"].to(weight.dtype))
    assert ways["float32"].mean() > 0.3 * count * lr
    assert ways["bfloat16"].mean() == pytest.approx(float(ways["float32"].mean()), rel=0.05)
    standing = [float((way == 0.0).double().mean()) for way in ways.values()]
    assert standing[1] == pytest.approx(standing[0], abs=0.01)


def test_gradients_of_bfloat16_parts_are_summed_in_float32() -> None:
    whole, parted = _single(dtype="bfloat16"), _single(dtype="bfloat16")
    whole.backward(_loss(whole, slice(0, 1)), last=True)
    for part in range(64):
        parted.backward(_loss(parted, slice(0, 1)) / 64, last=part == 63)
    # In bfloat16 a sum stops growing at 256 times what is added.
    assert parted.step() == pytest.approx(whole.step(), rel=1e-3)


def test_a_bfloat16_run_goes_on_bit_for_bit() -> None:
    undisturbed, before = _single(dtype="bfloat16"), _single(dtype="bfloat16")
    _updates(undisturbed, 4)
    _updates(before, 2)
    state = before.state()
    after = _single(dtype="bfloat16")
    load_parameters(trained(after.student), state)
    after.load_state(state)
    _updates(after, 2)
    assert _same(undisturbed.state(), after.state())
    assert _same(parameters(undisturbed), parameters(after))
    # The model's own weights hold too few digits for that.
    kept = {key: value.bfloat16().float() for key, value in state.items() if "/" in key}
    assert not _same(kept, {key: state[key] for key in kept})


def test_weights_that_lose_their_steps_are_found_out() -> None:
    layer = torch.nn.Linear(64, 64, bias=False)
    torch.nn.init.normal_(layer.weight, std=0.02)
    shares = {}
    for dtype in (torch.float32, torch.bfloat16):
        weight = torch.nn.Parameter(layer.weight.detach().to(dtype))
        optimizer = build_optimizer([weight], _config("optim.lr=1e-6").optim)
        watch = StepWatch(optimizer)
        assert watch.close() == (0.0, 0.0)
        for gradient in (0.0, 1.0, -1.0):
            weight.grad = torch.full_like(weight, gradient)
            optimizer.step()
            moved, meant = watch.close()
        # Of the first step alone that had something to do.
        assert 0.5 * 64 * 64 < meant / 1e-6 < 64 * 64
        shares[dtype] = moved / meant
    assert shares[torch.float32] == pytest.approx(1.0, abs=1e-3)
    assert shares[torch.bfloat16] < 0.1


# ---- ranks that end badly -------------------------------------------------------------------


def _failing_cell(
    fault: str, launcher: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Cell, Prepared, StudyPaths]:
    monkeypatch.setenv(failing.FAULT, fault)
    monkeypatch.setenv("PYTHONPATH", HELPERS, prepend=os.pathsep)
    monkeypatch.setattr(ranks_module, "RANK_MODULE", "failing")
    cell = Cell(_config("engine=zero2", f"engine.launcher={launcher}"), LAM, "test")
    return cell, Prepared(folder, folder, "none"), StudyPaths(folder / "runs", folder)


@pytest.mark.multirank
@pytest.mark.usefixtures("no_git")
@pytest.mark.parametrize("launcher", ["auto", "torchrun"])
@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("raise", "rank 1 failed: RuntimeError: too little bread; what"),
        ("late", "rank 1 failed: RuntimeError: too little bread; what"),
        ("kill", "rank 1 was killed or ran out of memory; rank 0 lost touch with it; what"),
        ("leave", r"all 2 ranks ended without a word \(exit code 0\)"),
    ],
)
def test_a_rank_that_fails_fails_the_run(
    launcher: str, fault: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, prepared, paths = _failing_cell(fault, launcher, tmp_path, monkeypatch)
    with pytest.raises(EngineError, match=text) as caught:
        run_cell(cell, prepared, paths)
    folder = cell.folder(prepared, paths)
    record = read_record(folder)
    assert record.status == "failed"
    assert str(caught.value) in record.manifest["reason"]
    assert str(folder / RANKS_LOG) in str(caught.value)
    assert (fault in ("raise", "late")) == ("little bread" in (folder / RANKS_LOG).read_text())


def test_a_rank_that_starts_after_another_has_failed_is_ended_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A launcher would wait for it for half a minute: it takes SIGTERM for a wish to save."""
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(ranks_module.os, "kill", lambda *what: killed.append(what))
    lines = [
        encode("error", rank=1, text="too little bread"),
        encode("started", rank=0, pid=4242, host=socket.gethostname()),
    ]
    told = ranks_module._Told()
    text = io.StringIO(b"".join(lines).decode())
    ranks_module._follow(told, text, print, lambda *_: None, lambda _: None)
    assert killed == [(4242, signal.SIGKILL)]


def test_a_remark_of_a_rank_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    text = io.StringIO(encode("remark", text="weights hardly move").decode())
    ranks_module._follow(ranks_module._Told(), text, print, lambda *_: None, lambda _: None)
    assert caplog.messages == ["weights hardly move"]


@pytest.mark.multirank
@pytest.mark.usefixtures("no_git")
@pytest.mark.parametrize("launcher", ["auto", "torchrun"])
def test_an_interrupt_ends_the_ranks(
    launcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, prepared, paths = _failing_cell("sleep", launcher, tmp_path, monkeypatch)
    ranks = []

    def interrupt(update: int) -> None:
        ranks.append(update)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cell(cell, prepared, paths, interrupt)
    assert read_record(cell.folder(prepared, paths)).status == "preempted"
    with pytest.raises(ProcessLookupError):
        os.kill(ranks[0], 0)


def _same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
