"""What a pair of different outputs leaves out, where no calibration says it."""

from __future__ import annotations

from collections.abc import Sequence

from opdcliff.calibration import Outside, mass_outside
from opdcliff.data import Example
from opdcliff.models import Loaded, sample_answers, without_compiled
from opdcliff.rollout import EVALUATION_STREAM
from opdcliff.settings import RunConfig


def outside_of(
    config: RunConfig, loaded: Loaded, examples: Sequence[Example]
) -> tuple[Outside, ...]:
    """Masses of the cut models at answers that the warm start gives to `examples`."""
    if not loaded.trio.cut:
        return ()
    how = without_compiled(config.rollout)
    answers = sample_answers(
        loaded.trio.base,
        loaded.trio.codec,
        list(enumerate(examples)),
        how,
        seed=config.preview.seed,
        stream=EVALUATION_STREAM,
    )
    chunk = config.engine.score_chunk_tokens
    return mass_outside(loaded.trio, answers, temperature=how.temperature, chunk_tokens=chunk)
