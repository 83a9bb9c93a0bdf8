"""The seam for what samples answers: `rollout.backend` names one of `SAMPLERS`.

Another engine (SGLang, say) is one more file with a function of the `Sampler` protocol, one line
in `SAMPLERS` and its name in `settings`. What it must guarantee:

- Distribution: each token from softmax(logits / temperature) of the model as it is at the call,
  without `banned_V`. No top-k, top-p, min-p or penalty, nothing from a generation config: the
  objective scores answers under the full softmax at this temperature.
- Weights: those of `model` at the call. The student changes with every update, so an engine with
  weights of its own must load them anew each time; inside `engine.whole_student()` all of them
  are there, under ZeRO-3 as well. Samples of older weights would have a ratio pi_old/pi_rollout
  that no loss here corrects.
- End: generation stops after the first of `end_ids`, which is part of the answer, or after
  `max_new_tokens`; nothing else ends an answer, no stop string and no longest-context rule.
- Tokens in, tokens out: prompts as ids without their left padding, answers as sampled ids. Text
  decoded and tokenised again is another sequence.
- Draws: from (seed, stream, running number) alone, so that an answer depends neither on the rows
  beside it nor on what was sampled before. An engine that cannot draw so must say it in its
  docstring: its runs are then repeatable in distribution only.
- The model is left as it was: training mode, gradients, attention, global generators.

Teacher, base and student score the samples anew. An engine with weights and kernels of its own says
the log-probs it drew with (`Rollout.logp_BT`), so that the mismatch is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor
from transformers import PreTrainedModel

from opdcliff.rollout import compiled, continuous, graph, reference, vllm
from opdcliff.rollout.draws import Rollout
from opdcliff.rollout.positions import require_even


class Sampler(Protocol):
    """Samples one answer per prompt; see the module for what it must guarantee.

    prompt_BL, attention_BL: prompts, left-padded. numbers: their running numbers, B of them.
    end_ids: tokens that end an answer. pad_id: fills rows up; it may be one of them.
    banned_V: True on tokens that must not be sampled, or None.
    """

    def __call__(
        self,
        model: PreTrainedModel,
        prompt_BL: Tensor,
        attention_BL: Tensor,
        *,
        numbers: Sequence[int],
        seed: int,
        stream: int,
        max_new_tokens: int,
        temperature: float,
        end_ids: Sequence[int],
        pad_id: int,
        banned_V: Tensor | None = None,
    ) -> Rollout:
        """One rollout; row order is that of the prompts."""


SAMPLERS: dict[str, Sampler] = {
    "compiled": compiled.sample,
    "graph": graph.sample,
    "reference": reference.sample,
    "continuous": continuous.sample,
    "vllm": vllm.sample,
}


def sample(
    model: PreTrainedModel,
    prompt_BL: Tensor,
    attention_BL: Tensor,
    *,
    backend: str = "reference",
    **options: Any,
) -> Rollout:
    """Sample with a backend, a key of `SAMPLERS`; options are the keywords of `Sampler`.

    Raises ConfigError for rows that would depend on each other (`positions`).
    """
    require_even(model, attention_BL, options["max_new_tokens"])
    return SAMPLERS[backend](model, prompt_BL, attention_BL, **options)
