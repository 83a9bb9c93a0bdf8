"""Memory of a run per rank before it starts: arithmetic on sizes, nothing is allocated.

What a rank holds is a list of parts, each with the phases of an update during which it exists; the
need of the rank is the largest sum over a phase. Every answer is taken to reach its longest length.
Bytes throughout. Not counted: what CUDA, its kernels and the allocator's fragmentation take, for
which `plan_report` keeps a share of the device free.

With a LoRA adapter the student's own weights are the base's, but under ZeRO-3; gradients and
optimizer states are those of the adapter.

e is the size of a number in the model's dtype, N the parameters of the student. Which copies exist
was read off scoring, train, engine and DeepSpeed's optimizers; tests hold it against measured ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from opdcliff.planning.layers import FLOAT32, activations, kv_cache, layer_kept, layer_work
from opdcliff.planning.setup import Adapter, Setup
from opdcliff.rollout import loss_chunks

ROLLOUT, EVALUATION, MASSES, SCORING, BACKWARD, STEP = PHASES = (
    "rollout",
    "evaluation",
    "class masses",
    "scoring",
    "backward",
    "step",
)
# Those in which gradients live.
_UPDATE = (BACKWARD, STEP)

# DeepSpeed's default of stage3_max_live_parameters: gathered elements kept during an update.
_LIVE = 1_000_000_000
# Float32 copies of a chunk of logits at once: logits, logits / temperature, log-probs.
_HEAD_COPIES = 3
# Bytes per vocabulary entry while class masses are read off a chunk: log-probs, the rows that are
# live, those masked and their exponentials; and what is left of the chunk before, if there is one.
_CLASS_BYTES, _CHUNK_BEFORE = 14, 7
# Bytes per vocabulary entry and row while a token is drawn: float64 logits, probabilities and
# their sums, float32 scores.
_DRAW_BYTES = 32
# Bytes per vocabulary entry in the loss of the full estimator: ten float32 copies, those of
# teacher and base among them, and a mask.
_FULL_BYTES = 41
# What is left of that until the backward pass, where chunks are not run again: three copies.
_FULL_KEPT = 12


@dataclass(frozen=True)
class Part:
    """Memory that is held in `phases`; `host` if in that of the host although there is a GPU."""

    name: str
    bytes: int
    phases: tuple[str, ...] = PHASES
    host: bool = False


@dataclass(frozen=True)
class Plan:
    """The parts of one rank."""

    parts: tuple[Part, ...]

    def total(self, phase: str) -> int:
        """Bytes held on the device in a phase."""
        return sum(part.bytes for part in self.parts if phase in part.phases and not part.host)

    @property
    def peak(self) -> tuple[str, int]:
        """The phase that needs most, and its bytes."""
        phase = max(PHASES, key=self.total)
        return phase, self.total(phase)

    @property
    def host(self) -> int:
        """Bytes in the memory of the host."""
        return sum(part.bytes for part in self.parts if part.host)

    def part(self, name: str) -> int:
        """Bytes of the parts of that name."""
        return sum(part.bytes for part in self.parts if part.name == name)


def make_plan(s: Setup) -> Plan:
    """The parts of one rank of `s`."""
    parts = [*_student(s), *_frozen(s), *_sampling(s), *_scoring(s), *_backward(s)]
    return Plan(tuple(part for part in parts if part.bytes))


def _student(s: Setup) -> Sequence[Part]:
    """Weights, gradients and optimizer states as the engines hold them."""
    trained, share, item = s.trained, -(-s.trained // s.ranks), s.trained_item
    if s.stage == 0:
        update, wide = trained if s.cuda else 2 * s.largest, s.optimized_item
        return [
            Part("student weights", s.own * item),
            # All of them exist beside activations only if an earlier part left them.
            Part("gradients", trained * wide, _UPDATE if _accumulates(s) else (STEP,)),
            Part("fp32 master weights", trained * wide * (item < wide)),
            # AdamW's two moments in the dtype of what it works on.
            Part("optimizer states", s.moments * trained * wide),
            Part("optimizer workspace", update * wide, (STEP,)),
            Part("communication buffers", (s.ranks > 1) * s.bucket * s.item, (STEP,)),
        ]
    off, split = s.offload_optimizer, s.stage == 3
    # Stage 1 sums the gradients of parts whole, in the model's dtype.
    gradients = trained * s.item if s.stage == 1 else share * FLOAT32
    weights = -(-s.own // s.ranks) if split else s.own
    parts = [
        Part("student weights", weights * s.item, host=s.offload_parameters),
        Part("gradients", gradients, PHASES if split else _UPDATE, off and s.stage > 1),
        # The optimizer works on a float32 copy, in float32 models too.
        Part("fp32 master weights", share * FLOAT32, host=off),
        Part("optimizer states", s.moments * share * FLOAT32, host=off),
        # The share's gradients once more in float32, and a copy that AdamW makes.
        Part("optimizer workspace", 2 * share * FLOAT32, (STEP,), off),
        Part("communication buffers", s.bucket * s.item, PHASES if split else (BACKWARD,)),
    ]
    if off and not split:
        # For the way of gradients and updated weights between device and host.
        parts += [
            Part("offload buffers", s.largest * s.item),
            Part("offload buffers", (share + s.largest) * s.item, host=True),
        ]
    if split:
        live = min(s.whole, _LIVE)
        parts += [
            Part("gathered student", s.whole * s.item, (ROLLOUT, EVALUATION, MASSES)),
            Part("gathered student", live * s.item, (SCORING, BACKWARD)),
        ]
    return parts


def _frozen(s: Setup) -> Sequence[Part]:
    """Teacher and base, whole unless the teacher is split."""
    teacher = s.teacher.parameters * s.item
    parts = [Part("base", s.student.parameters * s.item)]
    if not s.shard_teacher:
        return [Part("teacher", teacher), *parts]
    # Gathered one module at a time.
    live = s.teacher.largest * s.item
    return [
        Part("teacher", -(-teacher // s.ranks)),
        Part("gathered teacher", live, (MASSES, SCORING)),
        *parts,
    ]


def _sampling(s: Setup) -> Sequence[Part]:
    """Keys and values, and the larger of reading the prompts and drawing a token."""
    parts = []
    for phase, rows in ((ROLLOUT, s.rollout_rows), (EVALUATION, s.evaluation_rows)):
        cache = kv_cache(s.student, rows, s.prompt + s.answer, s.item)
        prefill = layer_work(s.student, rows, s.prompt, s.item)
        work = max(prefill, rows * s.student.vocabulary * _DRAW_BYTES)
        parts += [Part("KV cache", cache, (phase,)), Part("sampling workspace", work, (phase,))]
    return parts


def _scoring(s: Setup) -> Sequence[Part]:
    """Models that score without keeping activations, part by part of the rank's answers.

    For the full estimator they keep the hidden states of answers, whose log-probs are made in the
    loss; models without a plain head wait until then with all they do.
    """
    vocabulary, wide = s.student.vocabulary, max(s.item, FLOAT32)
    answers = s.micro_rows * s.answer
    copies = min(s.chunk, answers) * _HEAD_COPIES
    own = _own_logits(s, s.micro_rows)
    if own and s.item == FLOAT32:
        # Such logits need no copy in float32.
        copies -= min(s.chunk, answers)
    head = max(2 * own, copies * vocabulary * wide + own)
    scoring = _pass(s, s.micro_rows, 0 if s.full else head)
    positions = s.class_rows * s.answer
    per_entry = _CLASS_BYTES + (_CHUNK_BEFORE if positions > s.chunk else 0)
    masses = min(s.chunk, positions) * vocabulary * per_entry * wide // FLOAT32
    class_own = _own_logits(s, s.class_rows)
    masses = max(2 * class_own, masses + class_own)
    parts = [Part("class mass workspace", _pass(s, s.class_rows, masses), (MASSES,))]
    if not (s.full and own):
        parts.append(Part("scoring workspace", scoring, (SCORING,)))
    if s.full and not own:
        both = s.rollout_rows * s.answer * (s.teacher.hidden + s.student.hidden) * s.item
        parts.append(Part("teacher and base states", both, (SCORING, BACKWARD)))
    return parts


def _pass(s: Setup, rows: int, head: int) -> int:
    """The wider of the backbone and the head, which has hidden states and a copy of them beside."""
    length = s.prompt + s.answer
    hidden = rows * (length + s.answer) * s.student.hidden * s.item
    return max(
        *(layer_work(m, rows, length, s.item) for m in (s.student, s.teacher)), head + hidden
    )


def _backward(s: Setup) -> Sequence[Part]:
    """Activations of a part of the batch, and the head on top of them."""
    sizes, answers = s.student, s.micro_rows * s.answer
    wide = max(s.item, FLOAT32)
    chunk, twice = min(s.chunk, answers), True
    if s.full:
        chunk, twice = loss_chunks(answers, sizes.vocabulary, s.chunk, cpu=not s.cuda)
    per_entry = _FULL_BYTES if s.full else _HEAD_COPIES * FLOAT32
    kept = 0 if twice else (answers - chunk) * _FULL_KEPT
    logits = (chunk * per_entry + kept) * sizes.vocabulary * wide // FLOAT32
    # An adapter leaves the head alone, and a model's own forward goes over it once.
    gradient = sizes.vocabulary * sizes.hidden * s.item if s.adapter is None else 0
    if s.full and (not twice or not sizes.plain_head):
        head = max(logits, gradient)
    else:
        # The gradient of the head's weight, that of a chunk, and their sum; the first is not there
        # in addition where gradients of earlier parts are counted whole.
        head = max(logits, 2 * gradient) + (0 if _accumulates(s) and s.stage < 2 else gradient)
    length = s.prompt + s.answer
    # What the cap keeps and a copy; their gradient. With the full estimator those of the others.
    own = _own_logits(s, s.micro_rows)
    head += own * (3 if s.full else 1)
    if s.recompute:
        # Layers run again one by one once the head is done, and its logits are gone.
        again = layer_kept(sizes, s.micro_rows, length, s.item)
        # On the way back through one, gradients of two of its feed-forward width.
        again += s.micro_rows * length * 2 * sizes.intermediate * s.item
        if s.stage == 0 and s.adapter is None and not _accumulates(s):
            # Beside the last one the gradients of all others, but that of tied embeddings, which
            # is handed over at the end; those of an adapter are few.
            others = s.trained - (s.trained - s.largest) // sizes.layers
            again += (others - s.largest) * s.optimized_item + s.largest * s.item
        head = max(head, again - 2 * own)
    # The answers' hidden states are copied.
    head += answers * sizes.hidden * s.item
    kept = 2 * own + activations(sizes, s.micro_rows, length, s.item, recompute=s.recompute)
    if s.adapter is not None and not s.recompute:
        kept += s.micro_rows * length * _with_adapter(s, s.adapter)
    return [Part("activations", kept, (BACKWARD,)), Part("scoring head", head, (BACKWARD,))]


def _own_logits(s: Setup, rows: int) -> int:
    """Bytes of the logits of all answers under a model that is scored by its own forward."""
    whole = rows * (s.answer + 1) * s.student.vocabulary * s.item
    return 0 if s.student.plain_head else whole


def _with_adapter(s: Setup, adapter: Adapter) -> int:
    """Bytes that the layers of a student keep for a token beyond what they do without an adapter.

    Norms, which are frozen, do without what they normalised. Where the adapter is wider than the
    layers, it gets copies of their inputs, which frozen layers themselves do not keep.
    """
    sizes, item = s.student, s.trained_item
    spared, copied = 2 * sizes.hidden, 0
    if item > s.item:
        spared += 2 * sizes.hidden + sizes.heads * sizes.head_dim + sizes.intermediate
        copied = adapter.inputs
    return (adapter.width + copied) * item - sizes.layers * spared * s.item


def _accumulates(s: Setup) -> bool:
    """Whether an update has several parts, so that gradients meet activations."""
    return s.rollout_rows > s.micro_rows
