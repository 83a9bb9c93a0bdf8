"""Floors against torch's own count, and both forms of the roofline on shapes of a test."""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from opdcliff.paths import REPO_ROOT
from opdcliff.rollout import completion_logp, graph
from opdcliff.rollout.steps.graph_step import GraphStep
from replayed_steps import traced

CPU = torch.device("cpu")
# Compiling a step takes half a minute.
TINY = ["--tiny", "--repeats", "1", "--backend", "reference"]


@pytest.fixture(autouse=True)
def of_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(REPO_ROOT / "benchmarks")
    # A card would be taken, and its numbers be others.
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def test_the_operations_of_a_score_are_those_that_torch_counts() -> None:
    models = importlib.import_module("made_models")
    floors = importlib.import_module("update_floors")
    shape = models.Shape(32, 48, 3, 4, 2, 8, 50)
    rows, prompt, answer = 2, 6, 5
    length = prompt + answer
    model = models.make_model(shape, 0, CPU, torch.float32)
    # Its products are counted one by one, over the whole square of positions.
    model.set_attn_implementation("eager")
    ids_BL = torch.full((rows, length), 3)
    options = {"temperature": 1.0, "chunk_tokens": 4096}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        completion_logp(model, ids_BL, torch.ones_like(ids_BL), answer, **options)
    # What is counted reads the last token too, and looks ahead.
    load = floors.Load(rows, prompt + 1, answer)
    attention = 4 * shape.layers * shape.heads * shape.head_dim
    ahead = rows * attention * length * (length - 1) / 2
    ours = floors.score_operations(shape, load) + ahead
    # Rotary positions are a product as well, a small one.
    assert counter.get_total_flops() == pytest.approx(ours, rel=0.01)


def test_weights_are_counted_as_the_model_has_them() -> None:
    models = importlib.import_module("made_models")
    for name in (".1M", "135M", "8B"):
        shape = models.SHAPES[name]
        model = models.make_model(shape, 0, torch.device("meta"), torch.float32)
        matrices = sum(p.numel() for p in model.parameters() if p.dim() == 2)
        embeddings = 1 if shape.tied else 2
        assert matrices == shape.layer_weights + embeddings * shape.head_weights


def test_decoding_reads_the_weights_once_per_token_and_a_growing_cache() -> None:
    floors = importlib.import_module("update_floors")
    shape = importlib.import_module("made_models").TINY
    weights = shape.layer_weights + shape.head_weights
    one = floors.decode_bytes(shape, floors.Load(3, 7, 1), 4)
    assert one == 4 * weights
    position = floors.cache_bytes(shape, 1, 4)
    assert position == 4 * 2 * shape.layers * shape.kv_heads * shape.head_dim
    # Two more passes, which read 8 and 9 positions of each of 3 rows.
    assert floors.decode_bytes(shape, floors.Load(3, 7, 3), 4) == 3 * one + 3 * 17 * position


def test_without_a_card_the_papers_form_says_so_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert importlib.import_module("roofline").main(["--paper"]) == 2
    assert capsys.readouterr().out.count("\n") == 1


def test_the_papers_form_runs_on_shapes_of_a_test(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(graph, "DEVICES", ("cpu",))
    monkeypatch.setattr(graph, "GraphStep", partial(GraphStep, capture=traced))
    assert importlib.import_module("roofline").main(["--tiny", "--repeats", "1", "--paper"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("backend graph, 1 repeats\n") == 3
    assert printed.count("no step draws: rollout.backend=reference") == 3
    assert printed.count("reference over graph: decode ") == 3
    assert printed.count("100% of tokens equal") == 3


def test_the_grid_goes_on_where_it_was_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    roofline = importlib.import_module("roofline")
    threads = torch.get_num_threads()
    words = [*TINY, "--sizes", ".1M", "1M", "--batches", "2", "--prompt", "3"]
    words += ["--threads", "1", "--out", str(tmp_path)]
    try:
        with monkeypatch.context() as undrawn:
            undrawn.setattr(roofline, "draw", lambda rows, file: None)
            assert roofline.main([*words, "--answers", "2"]) == 0
        table = tmp_path / "roofline.csv"
        first = table.read_text()
        # A run that was killed while it wrote.
        table.write_text(first + "cpu,float32,1,")
        assert roofline.main([*words, "--answers", "2", "3"]) == 0
    finally:
        torch.set_num_threads(threads)
    assert table.read_text().startswith(first)
    assert len(roofline.read_rows(table)) == 4
    assert (tmp_path / "roofline.png").exists()
    assert capsys.readouterr().out.count("us per answer token") == 4
