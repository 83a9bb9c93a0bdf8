"""Prompts of one's own as other tools write them, through the verbs."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

from families import build, save_pair
from workshop import OWN_SIZES, SECONDS, Run

IDS = [("Caf\u00e9", 'say "x"'), ("\u4e2d", "\u00dcbung"), ("1", "2"), ("a/b", "A\\B")]
PREVIEW = ["preview.prompts=4", "preview.lams=[1.0]", "preview.strengths=[5.0]"]


def test_marks_line_ends_repeats_and_any_characters_change_nothing(
    run: Run, workshop: Path
) -> None:
    count = OWN_SIZES.train + OWN_SIZES.calibration + OWN_SIZES.test
    rows = [
        {"prompt": f"\u0440\u0430\u043d\u0433 {i} \u4e2d {'x' * (3 * i)}", "candidates": IDS[i % 4]}
        for i in range(count)
    ]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (workshop / "plain.jsonl").write_text("\n".join(map(json.dumps, rows)))
    odd = "\r\n".join([*lines[:9], "", *lines[5:], lines[0]])
    (workshop / "odd.jsonl").write_bytes(codecs.BOM_UTF8 + odd.encode())
    pair = save_pair(workshop, *(build("llama", seed, vocab_size=264) for seed in (0, 1)))
    table = workshop / "runs/results/studies/prompts/calibration/calibration.csv"
    tables = []
    for name in ("plain", "odd"):
        reply = run("calibrate", *pair, "data=prompts", f"data.path={name}.jsonl", *SECONDS)
        assert reply.code == 0, reply.err
        assert "  | \u0440\u0430\u043d\u0433" in reply.out
        tables.append(table.read_text())
    assert tables[0] == tables[1]
    own = ["data=prompts", "data.path=odd.jsonl", *SECONDS]
    assert run("preview", *pair, *own, *PREVIEW).code == 0
    assert run("train", *pair, *own, "lam.value=1.2", "protocol.name=odd").rows() == 1
