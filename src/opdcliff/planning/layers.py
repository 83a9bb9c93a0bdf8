"""Memory of one decoder layer and of the backbone, in bytes; of what families are made.

item is the size of a number in the model's dtype.
"""

from __future__ import annotations

from dataclasses import dataclass

FLOAT32 = 4


@dataclass(frozen=True)
class Sizes:
    """A decoder of the families that tests/planning measures.

    largest: elements of its largest parameter. norms: of a layer. layer_norm: torch's own instead
    of a root mean square. gated: a feed-forward part with separate gate. eager: attention keeps its
    scores, capped or not. plain_head: see `rollout.has_plain_head`; without, all logits of the
    answers are there at once.
    """

    parameters: int
    largest: int
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    qk_norm: bool
    norms: int = 2
    layer_norm: bool = False
    gated: bool = True
    eager: bool = False
    capped: bool = False
    plain_head: bool = True


def kv_cache(sizes: Sizes, rows: int, length: int, item: int) -> int:
    """Bytes of keys and values of `rows` sequences of `length` tokens."""
    return 2 * sizes.layers * rows * length * sizes.kv_heads * sizes.head_dim * item


def activations(sizes: Sizes, rows: int, length: int, item: int, *, recompute: bool = False) -> int:
    """Bytes that the backbone keeps for the backward pass: `rows` sequences of `length` tokens.

    The last norm and every layer; with `recompute` the layers' inputs and one mask for all.
    """
    norm = _norm(sizes, item)
    if recompute:
        return rows * length * (sizes.layers * sizes.hidden * item + length + norm)
    return sizes.layers * layer_kept(sizes, rows, length, item) + rows * length * norm


def layer_kept(sizes: Sizes, rows: int, length: int, item: int) -> int:
    """Bytes a layer keeps for the backward pass.

    Per token: norms, queries, keys and values (keys and values repeated for every head, since
    batches with padding have a mask), attention's output, four of the feed-forward width, and a row
    of the mask, which attention converts to numbers.
    """
    queries, keys = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    inner = (4 if sizes.gated else 5) * sizes.intermediate
    width = sizes.norms * _norm(sizes, item) + (4 * queries + inner) * item
    if sizes.qk_norm:
        width += (queries + keys) * (FLOAT32 + item)
    if sizes.eager:
        # Probabilities, in float32 and in the model's dtype, and what a cap keeps.
        copies = FLOAT32 + (item if item < FLOAT32 else 0) + (item if sizes.capped else 0)
        width += sizes.heads * length * copies
    return rows * length * (width + length * item)


def _norm(sizes: Sizes, item: int) -> int:
    """Bytes a norm keeps of a token: input, normalised and scaled, the first in float32."""
    return sizes.hidden * (2 * item if sizes.layer_norm else FLOAT32 + 2 * item)


def layer_work(sizes: Sizes, rows: int, length: int, item: int) -> int:
    """Bytes at once in a layer that keeps nothing: the wider of feed-forward and attention."""
    queries = sizes.heads * sizes.head_dim
    inner = (3 if sizes.gated else 4) * sizes.intermediate
    # Scores, and two copies while they become probabilities.
    scores = 3 * sizes.heads * length * (FLOAT32 // min(item, FLOAT32)) if sizes.eager else 0
    width = max(inner, 6 * queries + scores) + 4 * sizes.hidden + length
    return rows * length * width * item
