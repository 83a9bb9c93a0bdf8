"""Pairs with a chat template through the verbs: what the models read is what is printed first."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from families import build, byte_tokenizer
from workshop import OWN_SIZES, SECONDS, Run

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% if not think %}none{% endif %}{% endif %}"
)
SMALL = [
    *("preview.prompts=4", "preview.lams=[1.0,1.5]", "preview.strengths=[5.0]"),
    "preview.margin=0.0",
]
SYSTEM = ["data.system_prompt='Be brief.'", "+data.template_args.think=false"]
READ = "What the models read, of the first prompt:"
JUDGED = ["data.contract=regex", "data.form='(?s).*x.*'"]


@pytest.fixture(scope="module")
def pair(workshop: Path) -> list[str]:
    """A pair with a template; it pads with what ends its answers, and has a second end."""
    for role, seed in (("student", 0), ("teacher", 1)):
        # Like published ones, with more outputs than the tokenizer has entries.
        model = build("qwen2", seed, vocab_size=264)
        model.generation_config.eos_token_id = [1, 50]
        model.save_pretrained(workshop / "chat" / role)
        tokenizer = byte_tokenizer()
        tokenizer.chat_template = TEMPLATE
        tokenizer.pad_token = tokenizer.eos_token
        tokenizer.save_pretrained(workshop / "chat" / role)
    rows = [
        {"candidates": ["A", "B"], **prompt}
        for i in range(sum((OWN_SIZES.train, OWN_SIZES.calibration, OWN_SIZES.test)))
        for prompt in (
            {"prompt": f"rank {i}"}
            if i % 2
            else {"messages": [{"role": "user", "content": f"say {i} {'x' * (i % 40)}"}]},
        )
    ]
    file = workshop / "chat.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = ["data=prompts", f"data.path={file}", *SECONDS]
    return [*own, *(f"model.{role}={workshop / 'chat' / role}" for role in ("student", "teacher"))]


def shown(out: str) -> str:
    """The first prompt as it was printed."""
    lines = out.splitlines()
    start = lines.index(READ) + 1
    return "\n".join(line.removeprefix("  | ") for line in lines[start:] if line[:4] == "  | ")


@pytest.mark.parametrize("words", [[], JUDGED], ids=["ranking", "judged alone"])
def test_a_preview_shows_and_reads_the_prompt_through_the_template(
    words: list[str], run: Run, pair: list[str]
) -> None:
    reply = run("preview", *pair, *SYSTEM, *words, *SMALL)
    assert reply.code == 0, reply.err
    expected = r"<system>Be brief\.\n<user>(rank \d+|say \d+ x*)\n<assistant>none"
    assert re.fullmatch(expected, shown(reply.out)), reply.out
    # It stands before what is sampled, and other words are other answers.
    assert reply.out.index(READ) < reply.out.index("Settled students")
    thinking = run("preview", *pair, SYSTEM[0], "+data.template_args.think=true", *words, *SMALL)
    assert shown(thinking.out) == shown(reply.out).removesuffix("none")
    assert thinking.out.split(READ)[1].count("written to") == 1
    assert thinking.out.splitlines()[-1] != reply.out.splitlines()[-1]


def test_a_pair_with_a_template_is_calibrated_and_trained(run: Run, pair: list[str]) -> None:
    reply = run("calibrate", *pair, *SYSTEM)
    assert reply.code == 0, reply.err
    assert shown(reply.out).startswith("<system>Be brief.\n<user>")
    reply = run("train", *pair, *SYSTEM, "lam.value=1.3", "protocol.name=chat")
    assert reply.code == 0, reply.err
    assert reply.rows() == 1


def test_messages_without_a_template_are_one_line(run: Run, pair: list[str]) -> None:
    for verb in ("calibrate", "preview", "train"):
        reply = run(verb, *pair, "data.chat_template=none", "lam.value=1.2")
        assert reply.code == 3
        assert "given as messages, and there is no chat template" in reply.line
