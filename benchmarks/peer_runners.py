"""What `peers.py` sets beside each other: this project, a plain loop, and TRL's trainers."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from made_models import PAD, make_splits
from peer_trl import Trl
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from opdcliff.data import Splits
from opdcliff.engine.single import SingleEngine
from opdcliff.models import Trio
from opdcliff.rollout import Rollout, completion_features, completion_logp, features_logp
from opdcliff.settings import RunConfig
from opdcliff.theory import ClipRule
from opdcliff.training.full_objective import full_loss
from opdcliff.training.objective import sampled_loss
from opdcliff.training.running_means import RunningMeans
from opdcliff.training.update import Batch, accumulate, sample_batch

RUNNERS = ("ours", "ours_lam1", "plain", "trl_iw_opd", "trl_distillation")
# Of `ours` and `plain`, which have a base to score.
LAM = 1.5
# Answers that losses are compared on.
COMPARED = 2


class Runner(Protocol):
    """Something that can make one update when it is its turn."""

    def update(self) -> None:
        """Sample, score, and step."""

    def tokens(self) -> float:
        """Mean tokens of the answers of the last update."""


class Ours:
    """An update as `training.loop` makes it."""

    def __init__(
        self, config: RunConfig, trio: Trio, splits: Splits, lam: float, rule: ClipRule
    ) -> None:
        student = copy.deepcopy(trio.student).requires_grad_(True)
        self.trio, self.splits = replace(trio, student=student), splits
        self.config, self.lam, self.rule = config, lam, rule
        self.engine = SingleEngine(student, config)
        self.number = 0

    def sample(self) -> Batch:
        """The next batch, sampled and scored."""
        meter = RunningMeans()
        return sample_batch(
            self.config, self.lam, self.trio, self.splits, self.engine, self.number, meter
        )

    def gradient(self, batch: Batch) -> float:
        """The loss of a batch, whose gradient is then in the student's parameters."""
        return float(accumulate(self.config, self.rule, self.lam, batch, self.engine).loss)

    def update(self) -> None:
        self.batch = self.sample()
        self.gradient(self.batch)
        self.engine.step()
        self.number += 1

    def tokens(self) -> float:
        return float(self.batch.rollout.mask_BT.sum()) / len(self.batch.examples)


class Plain:
    """On-policy distillation by hand, with nothing but torch and transformers."""

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        base: PreTrainedModel,
        prompt_NL: Tensor,
        *,
        answers: int,
        new_tokens: int,
        end: int,
        lr: float,
        betas: tuple[float, float],
        lam: float,
        clip: float,
    ) -> None:
        self.student, self.teacher, self.base = student, teacher, base
        self.prompt_NL, self.answers, self.at = prompt_NL, answers, 0
        self.lam, self.clip = lam, clip
        self.optimizer = torch.optim.AdamW(
            student.parameters(), lr=lr, betas=betas, weight_decay=0.0
        )
        self.how = GenerationConfig(
            max_new_tokens=new_tokens,
            do_sample=True,
            top_k=0,
            eos_token_id=end,
            pad_token_id=PAD,
        )
        self.end = end

    def logp(self, model: PreTrainedModel, ids_BL: Tensor, mask_BL: Tensor, length: int) -> Tensor:
        """Log-probs of the answer tokens."""
        logits_BTV = model(ids_BL, attention_mask=mask_BL, logits_to_keep=length + 1).logits
        logp_BTV = logits_BTV[:, :-1].float().log_softmax(-1)
        return logp_BTV.gather(-1, ids_BL[:, -length:, None]).squeeze(-1)

    def loss(self, ids_BL: Tensor, mask_BL: Tensor, length: int) -> Tensor:
        """The policy gradient's loss over the answers, the last `length` tokens."""
        with torch.no_grad():
            teacher = self.logp(self.teacher, ids_BL, mask_BL, length)
            base = self.logp(self.base, ids_BL, mask_BL, length)
        student = self.logp(self.student, ids_BL, mask_BL, length)
        now = student.detach()
        advantage = self.lam * teacher - now - (self.lam - 1) * base
        keep = ((teacher - now).exp() <= self.clip) & mask_BL[:, -length:].bool()
        return -(keep * advantage * student).sum() / mask_BL[:, -length:].sum()

    def update(self) -> None:
        rows = torch.arange(self.at, self.at + self.answers) % len(self.prompt_NL)
        self.at += self.answers
        prompt_BL = self.prompt_NL[rows]
        ids_BL = self.student.generate(
            prompt_BL, attention_mask=torch.ones_like(prompt_BL), generation_config=self.how
        )
        answer_BT = ids_BL[:, prompt_BL.shape[1] :]
        ended_BT = (answer_BT == self.end).long()
        mask_BL = torch.cat(
            [torch.ones_like(prompt_BL), (ended_BT.cumsum(-1) - ended_BT == 0).long()], dim=1
        )
        self.loss(ids_BL, mask_BL, answer_BT.shape[1]).backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.length = float(mask_BL[:, prompt_BL.shape[1] :].sum()) / len(ids_BL)

    def tokens(self) -> float:
        return self.length


def our_loss(
    config: RunConfig,
    student: PreTrainedModel,
    trio: Trio,
    rollout: Rollout,
    *,
    lam: float,
    rule: ClipRule,
    full: bool,
) -> Tensor:
    """This project's loss of given answers, by its own scoring and objective."""
    inputs = (rollout.ids_BL, rollout.attention_BL, rollout.mask_BT.shape[1])
    temperature = config.rollout.temperature

    def logp(model: PreTrainedModel) -> Tensor:
        if full:
            return features_logp(model, completion_features(model, *inputs), temperature)
        chunk = config.engine.score_chunk_tokens
        return completion_logp(model, *inputs, temperature=temperature, chunk_tokens=chunk)

    with torch.no_grad():
        teacher = logp(trio.teacher)
        base = None if lam == 1.0 else logp(trio.base)
    return (full_loss if full else sampled_loss)(
        logp(student),
        teacher,
        base,
        rollout.mask_BT,
        lam=lam,
        rule=rule,
        strength=config.clip.strength,
        token_count=int(rollout.mask_BT.sum()),
    ).loss


def gradient(loss: Tensor, model: PreTrainedModel) -> Tensor:
    """All gradients of a loss in a row, and none left behind."""
    loss.backward()  # type: ignore[no-untyped-call]
    found = torch.cat([p.grad.flatten().double() for p in model.parameters()])
    model.zero_grad()
    return found


def agreement(
    runners: dict[str, Runner], config: RunConfig, trio: Trio, prompts: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Loss of each peer and ours on the same answers, and how far their gradients lie apart.

    gradient: the norm of the difference over that of ours.
    """
    few = replace(config, rollout=replace(config.rollout, prompts_per_update=COMPARED))
    ours = Ours(few, trio, make_splits(prompts), LAM, ClipRule.MASK)
    rollout, student = ours.sample().rollout, ours.trio.student
    found = {}
    for name, runner in runners.items():
        full, lam, rule = False, 1.0, ClipRule.NONE
        if isinstance(runner, Plain):
            lam, rule = LAM, ClipRule.MASK
            theirs = runner.loss(rollout.ids_BL, rollout.attention_BL, rollout.mask_BT.shape[1])
            model = runner.student
        elif isinstance(runner, Trl):
            full, model = not runner.iw, runner.trainer.model
            theirs = runner.loss(rollout)
        else:
            continue
        own = our_loss(few, student, trio, rollout, lam=lam, rule=rule, full=full)
        g_theirs, g_own = gradient(theirs, model), gradient(own, student)
        found[name] = {
            "loss": float(theirs.detach()),
            "ours": float(own.detach()),
            "gradient": float((g_theirs - g_own).norm() / g_own.norm()),
        }
    return found


def make_runner(name: str, config: RunConfig, trio: Trio, prompts: Sequence[str]) -> Runner:
    """The runner of a name; each has a student of its own."""
    if name.startswith("trl"):
        return Trl(name, config, trio, prompts)
    if name == "plain":
        ids = [trio.codec.encode(text) for text in prompts]
        return Plain(
            copy.deepcopy(trio.student).requires_grad_(True),
            trio.teacher,
            trio.base,
            torch.tensor(ids, device=trio.student.device),
            answers=config.rollout.prompts_per_update,
            new_tokens=config.rollout.max_new_tokens,
            end=trio.codec.end_ids[0],
            lr=config.optim.lr,
            betas=(config.optim.beta1, config.optim.beta2),
            lam=LAM,
            clip=float(config.clip.strength or math.inf),
        )
    splits = make_splits(prompts)
    if name == "ours_lam1":
        return Ours(config, trio, splits, 1.0, ClipRule.NONE)
    return Ours(config, trio, splits, LAM, ClipRule.MASK)
