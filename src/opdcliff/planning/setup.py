"""What decides the memory of a rank: sizes of the models, of an adapter, and of a run."""

from __future__ import annotations

from dataclasses import dataclass

from opdcliff.planning.layers import FLOAT32, Sizes


@dataclass(frozen=True)
class Adapter:
    """What a LoRA adapter adds to a student.

    parameters: its elements. largest: those of its largest matrix. inputs, width: numbers that
    enter it for a token, over all layers, and that its inner matrices make of them.
    """

    parameters: int
    largest: int
    inputs: int
    width: int


@dataclass(frozen=True)
class Setup:
    """What decides the memory of one rank.

    item: bytes per number of the models. stage: of ZeRO; 0 splits nothing. bucket: elements of all
    communication buffers. prompt, answer: tokens. rows: answers of this rank at a time. chunk:
    answer tokens whose logits exist at a time. full: the estimator. recompute: gradient
    checkpointing. cuda: torch updates all parameters at once there, one after another on the CPU.
    moments: numbers that the optimizer keeps for each it trains.
    """

    student: Sizes
    teacher: Sizes
    item: int
    stage: int
    ranks: int
    bucket: int
    offload_optimizer: bool
    offload_parameters: bool
    shard_teacher: bool
    recompute: bool
    cuda: bool
    prompt: int
    answer: int
    rollout_rows: int
    evaluation_rows: int
    class_rows: int
    micro_rows: int
    chunk: int
    full: bool
    adapter: Adapter | None = None
    moments: int = 2

    @property
    def trained(self) -> int:
        """Elements that have a gradient."""
        return self.student.parameters if self.adapter is None else self.adapter.parameters

    @property
    def own(self) -> int:
        """Elements of the student that are not the base's."""
        shares = self.adapter is not None and self.stage < 3
        return self.trained if shares else self.whole

    @property
    def whole(self) -> int:
        """Elements of the student, an adapter included."""
        return self.student.parameters + (0 if self.adapter is None else self.adapter.parameters)

    @property
    def largest(self) -> int:
        """Elements of the largest parameter that has a gradient."""
        return self.student.largest if self.adapter is None else self.adapter.largest

    @property
    def trained_item(self) -> int:
        """Bytes per number that is trained: plain torch keeps an adapter in float32 at least."""
        narrow = self.adapter is None or self.stage > 0
        return self.item if narrow else max(self.item, FLOAT32)

    @property
    def optimized_item(self) -> int:
        """Bytes per number that plain torch's optimizer works on: float32 copies of narrow ones."""
        return max(self.trained_item, FLOAT32)
