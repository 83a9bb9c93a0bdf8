"""Planned against measured memory of one update: `opdcliff plan` held against torch.

    .venv/bin/python benchmarks/memory.py [hydra overrides]

On a CUDA device: student, teacher and base of 100 million parameters each, built from config, one
process. Every phase is run once after a first update, and the plan is set beside
torch.cuda.max_memory_allocated of that phase. Nobody has run this part on a GPU yet.
On the CPU, where torch counts no bytes: activations of a smaller student, as the bytes of the
tensors that autograd saves, each storage once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from opdcliff.engine.single import SingleEngine
from opdcliff.models.load import build
from opdcliff.planning.memory import BACKWARD, ROLLOUT, SCORING, STEP, make_plan
from opdcliff.planning.sizes import Vocabulary, setup_of
from opdcliff.rollout.draws import TRAIN_STREAM
from opdcliff.rollout.reference import sample
from opdcliff.rollout.scoring import completion_logp
from opdcliff.settings.checks import load
from opdcliff.settings.compose import compose_one
from opdcliff.settings.schema import RunConfig
from opdcliff.theory.clip_rules import ClipRule
from opdcliff.training.objective import sampled_loss

PROMPT, MB = 128, 1e6
LARGE = {"hidden_size": 768, "intermediate_size": 2048, "layers": 12, "heads": 12, "kv_heads": 4}
SMALL = {"hidden_size": 256, "intermediate_size": 768, "layers": 4, "heads": 4, "kv_heads": 2}


def settings(cuda: bool, words: list[str]) -> RunConfig:
    """The run that is measured; `words` come last."""
    sizes = {**(LARGE if cuda else SMALL), "head_dim": 64, "max_positions": 1024}
    own = [
        *(f"model.arch.{name}={value}" for name, value in sizes.items()),
        f"data.tokenizer_entries={32000 if cuda else 4000}",
        f"rollout.max_new_tokens={512 if cuda else 96}",
        "rollout.prompts_per_update=16",
        "engine.micro_batch=8",
        "lam.value=1.5",
    ]
    return load(compose_one([*own, *words]))


class Run:
    """The models, one batch that is padded on both sides, and the phases of an update."""

    def __init__(self, config: RunConfig) -> None:
        arch = config.model.arch
        assert arch is not None
        vocabulary = Vocabulary(config.data.tokenizer_entries)
        dtype = getattr(torch, config.model.dtype)
        student, teacher, base = (build(arch, vocabulary, seed).to(dtype) for seed in range(3))
        self.config, self.engine = config, SingleEngine(student.eval(), config)
        device = self.engine.device
        self.frozen = [m.to(device).requires_grad_(False).eval() for m in (teacher, base)]
        self.answer, self.rows = config.rollout.max_new_tokens, config.rollout.prompts_per_update
        shape = (self.rows, PROMPT + self.answer)
        self.ids_BL = torch.randint(5, len(vocabulary), shape, device=device)
        self.attention_BL = torch.ones_like(self.ids_BL)
        self.attention_BL[0, :5] = 0
        self.attention_BL[-1, -9:] = 0
        self.logp: list[Tensor] = []

    def rollout(self) -> None:
        """Sample answers that never end."""
        entries = self.config.data.tokenizer_entries
        sample(
            self.engine.student,
            self.ids_BL[:, :PROMPT],
            self.attention_BL[:, :PROMPT],
            numbers=range(self.rows),
            seed=0,
            stream=TRAIN_STREAM,
            max_new_tokens=self.answer,
            temperature=1.0,
            end_ids=(1,),
            pad_id=0,
            banned_V=torch.arange(entries, device=self.engine.device) == Vocabulary.eos_token_id,
        )

    @torch.no_grad()
    def score(self) -> None:
        """Log-probs under teacher and base."""
        chunk = self.config.engine.score_chunk_tokens
        inputs = (self.ids_BL, self.attention_BL, self.answer)
        self.logp = [
            completion_logp(model, *inputs, temperature=1.0, chunk_tokens=chunk)
            for model in self.frozen
        ]

    def forward(self, rows: slice) -> Tensor:
        """The loss of some rows."""
        student = self.engine.score(self.ids_BL[rows], self.attention_BL[rows], self.answer)
        teacher, base = (logp[rows] for logp in self.logp)
        options: dict[str, Any] = {"lam": 1.5, "rule": ClipRule.MASK, "strength": 5.0}
        mask_BT = self.attention_BL[rows, -self.answer :]
        count = self.rows * self.answer
        return sampled_loss(student, teacher, base, mask_BT, token_count=count, **options).loss

    def backward(self) -> None:
        """Gradients of the whole batch."""
        size = self.config.engine.micro_batch
        for start in range(0, self.rows, size):
            rows = slice(start, start + size)
            self.engine.backward(self.forward(rows), last=start + size >= self.rows)

    def step(self) -> None:
        """The optimizer's update."""
        self.engine.step()


def on_cuda(run: Run) -> None:
    """Print planned and measured bytes of each phase."""
    plan = make_plan(setup_of(run.config, prompt=PROMPT, cuda=True))
    actions: dict[str, Callable[[], None]] = {
        ROLLOUT: run.rollout,
        SCORING: run.score,
        BACKWARD: run.backward,
        STEP: run.step,
    }
    # The optimizer's states come with the first update.
    for action in actions.values():
        action()
    for phase, action in actions.items():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        action()
        torch.cuda.synchronize()
        show(phase, plan.total(phase), torch.cuda.max_memory_allocated())


def on_cpu(run: Run) -> None:
    """Print planned and measured bytes of the activations."""
    run.score()
    owned = {p.untyped_storage().data_ptr() for p in run.engine.student.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        # The graph is held until the sum is taken, so that no address is used twice.
        loss = run.forward(slice(0, run.config.engine.micro_batch))
        measured = sum(saved.values())
    del loss
    plan = make_plan(setup_of(run.config, prompt=PROMPT, cuda=False))
    show("activations", plan.part("activations"), measured)


def show(name: str, planned: int, measured: int) -> None:
    """One line, in 10^6 bytes."""
    share = planned / measured - 1.0
    print(
        f"{name:<12} planned {planned / MB:9.1f} MB   measured {measured / MB:9.1f}   {share:+.1%}"
    )


def main() -> None:
    cuda = torch.cuda.is_available()
    run = Run(settings(cuda, sys.argv[1:]))
    count = sum(p.numel() for p in run.engine.student.parameters())
    print(f"{run.engine.device}, {run.config.model.dtype}, student of {count:,} parameters")
    (on_cuda if cuda else on_cpu)(run)


if __name__ == "__main__":
    main()
