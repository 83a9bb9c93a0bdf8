"""How far the engine that samples is from the student that is trained, and what corrects it.

Axes in names: B batch, T completion tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from opdcliff.engine import Engine
from opdcliff.rollout import Rollout
from opdcliff.training.running_means import RunningMeans


def engine_weight(logp_student_BT: Tensor, logp_engine_BT: Tensor, cap: float) -> Tensor:
    """min(pi_train/pi_rollout, cap) of each sampled token, detached; shape BT.

    logp_student_BT: under the weights that sampled. Truncated importance sampling, token by token
    (Yao et al. 2025 [S]; docs/theory.md, the importance ratios).
    """
    log_ratio_BT = (logp_student_BT - logp_engine_BT).detach()
    return log_ratio_BT.clamp(max=math.log(cap)).exp()


def measure_mismatch(
    meter: RunningMeans, engine: Engine, rollout: Rollout, logp_student_BT: Tensor
) -> None:
    """log pi_train/pi_rollout over the answer tokens of all ranks, in nats.

    `..._mean` estimates -KL(pi_rollout || pi_train), `..._abs_mean` the distance, and `..._abs_max`
    is the largest of the batch (between two evaluations: its mean over the batches).
    """
    assert rollout.logp_BT is not None, "an engine of its own says what it drew with"
    ratio_n = (logp_student_BT.detach() - rollout.logp_BT)[rollout.mask_BT].double()
    sums = [float(ratio_n.sum()), float(ratio_n.abs().sum()), float(ratio_n.numel())]
    total, distance, tokens = engine.sums_over_ranks(sums)
    largest = torch.tensor(engine.gather([float(ratio_n.abs().max())])).max()
    meter.add("train/engine_log_ratio_mean", total, tokens)
    meter.add("train/engine_log_ratio_abs_mean", distance, tokens)
    meter.add("train/engine_log_ratio_abs_max", float(largest), 1)
