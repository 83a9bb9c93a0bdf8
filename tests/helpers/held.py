"""What a rank of a DeepSpeed engine holds, for tests: `torch.distributed.run -m held FILE WORD...`.

Rank 0 writes the bytes of all tensors, each storage once, to the JSON file: while gradients of an
update are there, after its optimizer step, and within `whole_student`.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

import torch
from torch import distributed as dist

from opdcliff.engine.zero import DeepSpeedEngine
from opdcliff.models.load import build
from opdcliff.planning.sizes import Vocabulary
from opdcliff.settings.checks import load
from opdcliff.settings.compose import compose_one


def held() -> int:
    """Bytes of all tensors of this process."""
    gc.collect()
    sizes = {}
    for thing in gc.get_objects():
        if isinstance(thing, torch.Tensor) and thing.device.type == "cpu":
            gradient = [thing.grad] if thing.is_leaf and thing.grad is not None else []
            for tensor in (thing, *gradient):
                storage = tensor.untyped_storage()
                sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


def main(file: Path, words: list[str]) -> None:
    config = load(compose_one(words))
    arch = config.model.arch
    assert arch is not None
    student = build(arch, Vocabulary(config.data.tokenizer_entries), 0)
    engine = DeepSpeedEngine(student.to(getattr(torch, config.model.dtype)), config)
    ids = torch.randint(5, 200, (2, 16))
    found = {}
    # Optimizer states come with the first step.
    for _ in range(2):
        for part in range(2):
            loss = -engine.score(ids, torch.ones_like(ids), 8).sum() / 32
            engine.backward(loss, last=part == 1)
            del loss
        found["backward"] = held()
        engine.step()
    found["step"] = held()
    with engine.whole_student():
        found["whole"] = held()
    if engine.rank == 0:
        file.write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
