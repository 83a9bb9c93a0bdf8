"""A real server of a real model: `transformers serve`, on loopback, with weights that a test made.

The model is a Llama of one layer whose weights hold one answer: the last token decides the next.
Its grades mean nothing; what is tested is the way there and back.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from judge_desk import ALL, PROXIES, Desk

pytestmark = pytest.mark.slow

# Of `pip install transformers[serving]`.
SERVING = ("openai", "fastapi", "uvicorn")
BEGIN, END, ASKED, ANSWERS = "<|begin|>", "<|end|>", "<|asked|>", "<|answers|>"
TEMPLATE = (
    f"{BEGIN}{{% for m in messages %}}{ASKED}{{{{ m['content'] }}}}{{% endfor %}}"
    f"{{% if add_generation_prompt %}}{ANSWERS}{{% endif %}}"
)
PIECES = ['{"A":3', ',"B":0', ',"C":4', ',"D":1}']
GRADES = {"A": 3, "B": 0, "C": 4, "D": 1}


def save_judge(folder: Path, pieces: list[str]) -> None:
    """A model that answers `pieces`, whatever it is asked."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bare = Tokenizer(models.BPE(vocab={c: n for n, c in enumerate(alphabet)}, merges=[]))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    bare.add_special_tokens([BEGIN, END, ASKED, ANSWERS])
    bare.add_tokens([AddedToken(piece, normalized=False) for piece in pieces])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, bos_token=BEGIN, eos_token=END)
    tokenizer.chat_template = TEMPLATE
    size = 8 * (len(tokenizer) // 8 + 1)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=size,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=8192,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    chain = tokenizer.convert_tokens_to_ids([ANSWERS, *pieces, END])
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        model.lm_head.weight.zero_()
        for now, later in pairwise(chain):
            model.lm_head.weight[later, now] = 1.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in SERVING:
        pytest.importorskip(name, reason=f"transformers serve needs {name}")
    folder = tmp_path_factory.mktemp("judge") / "weights"
    save_judge(folder, PIECES)
    return folder


@pytest.fixture(scope="module")
def address(weights: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = "from transformers.cli.transformers import main; main()"
    words = ["serve", str(weights), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    environment = {k: v for k, v in os.environ.items() if k not in PROXIES}
    log = weights.parent / "log"
    with log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, "-c", program, *words],
            env=environment | {"HF_HUB_OFFLINE": "1"},
            stdout=out,
            stderr=out,
        )
    try:
        for _ in range(600):
            if server.poll() is not None or answers(f"http://127.0.0.1:{port}/health"):
                break
            time.sleep(0.2)
        assert server.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(30)


def answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def words(address: str, weights: Path, *more: str) -> list[str]:
    return [
        f"grade.base_url={address}",
        f"grade.model={weights}",
        "grade.key_variable=null",
        "grade.repeats=2",
        "grade.bootstrap=20",
        "grade.retries=0",
        *more,
    ]


def test_a_model_behind_transformers_serve_grades_all_lists(
    desk: Desk, address: str, weights: Path
) -> None:
    asked = words(address, weights, "grade.answer_format=text")
    said = desk.call("grade", *desk.words, *asked)
    assert said.code == 0, said.err
    file = desk.rubric()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == 4 * ALL
    by_user: dict[str, list[int]] = {}
    for row in rows:
        by_user.setdefault(row["user_id"], []).append(row["grade"])
    assert all(sorted(grades) == sorted(GRADES.values()) for grades in by_user.values())
    # Always the same letters, and so another candidate in another order.
    assert len({tuple(grades) for grades in by_user.values()}) > 1
    found = json.loads(file.with_name("rubric.manifest.json").read_text())
    assert found["requests"] == {
        "answered_or_given_up": ALL + 2,
        "by_reason": {"graded": ALL + 2},
        "without_a_token_count": 0,
    }
    # The pieces of the answer and its end.
    assert found["tokens"]["answered"] in (len(PIECES) * (ALL + 2), (len(PIECES) + 1) * (ALL + 2))


def test_an_answer_that_is_cut_is_truncated(desk: Desk, address: str, weights: Path) -> None:
    asked = words(address, weights, "grade.answer_format=text", "grade.answer_tokens=3")
    said = desk.call("grade", *desk.words, *asked)
    assert said.code == 7
    assert f"(requests: truncated {ALL})" in said.last


def test_a_server_that_is_asked_for_a_schema_is_checked_all_the_same(
    desk: Desk, address: str, weights: Path
) -> None:
    """This one takes the field and does nothing with it."""
    said = desk.call("grade", *desk.words, *words(address, weights, "grade.candidates=3"))
    assert said.code == 7
    # Four letters for three candidates, and for one.
    assert f"(requests: unknown candidate {2 * ALL})" in said.last
