"""Models whose next-token distribution is known exactly: Markov chains inside a transformer.

The attention and feed-forward outputs of a one-layer Qwen3 are zero, so the logits depend on the
last token alone, through one-hot embeddings and the head. A chain answers the prompt `p` with the
opening of an answer, goes on with one word per offset, and closes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from opdcliff.data.example import Example, Splits
from opdcliff.models.tokens.codec import Codec, make_codec
from opdcliff.models.tokens.train_bpe import pad_left
from opdcliff.models.trio import Trio, assemble
from opdcliff.rollout.draws import Rollout
from opdcliff.settings.checks import load
from opdcliff.settings.compose import compose_one
from opdcliff.settings.schema import RunConfig

PAD, EOS, PROMPT, BREAK = "<pad>", "<eos>", "p", "\n"
OPEN, CLOSE = '{"ranking":["A","B"],"reason":"', '"}'
# The mass of a token that a row does not name; its log is -60.
NOTHING = math.exp(-60.0)


def tokens(words: int) -> list[str]:
    """The vocabulary: one word per offset of the reason."""
    return [PAD, EOS, PROMPT, BREAK, OPEN, CLOSE, *(f" w{i}" for i in range(words))]


def tokenizer(words: int) -> PreTrainedTokenizerFast:
    """The tokenizer of chains with that many words."""
    return word_tokenizer(tokens(words))


def word_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """One id per text, in their order, and texts that join without blanks; PAD and EOS first."""
    vocabulary = {text: i for i, text in enumerate(texts)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=PAD,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
    )


def codec_of(tokenizer: PreTrainedTokenizerFast) -> Codec:
    """The codec of a tokenizer, for prompts as they stand."""
    return make_codec(tokenizer, config().data)


def rows(
    go: Sequence[float], *, opens: float = 0.97, ends: float = 0.95
) -> dict[str, dict[str, float]]:
    """Next-token masses after each token; `go[i]` is the mass on going on at offset i.

    opens: mass on OPEN after the prompt; ends: mass on EOS after CLOSE. Closing takes nine tenths
    of the tail of a text position, a control character the last.
    """
    words = [token for token in tokens(len(go)) if token.startswith(" w")]
    after = {
        PROMPT: {OPEN: opens, BREAK: 1.0 - opens},
        CLOSE: {EOS: ends, BREAK: 1.0 - ends},
        BREAK: {EOS: 1.0},
        PAD: {EOS: 1.0},
        EOS: {EOS: 1.0},
    }
    for token, word, mass in zip([OPEN, *words], [*words, words[-1]], [*go, go[-1]], strict=True):
        tail = 1.0 - mass
        after[token] = {word: mass, CLOSE: 0.9 * tail, BREAK: 0.1 * tail}
    return after


def chain(
    go: Sequence[float], dtype: torch.dtype = torch.float32, **masses: float
) -> PreTrainedModel:
    """A model with the next-token masses of `rows`; only its head can be trained."""
    return model_of(tokens(len(go)), rows(go, **masses), dtype)


def model_of(
    texts: Sequence[str], after: Mapping[str, Mapping[str, float]], dtype: torch.dtype
) -> PreTrainedModel:
    """A model for `word_tokenizer(texts)` with mass `after[token][next]` on what follows."""
    size = len(texts)
    config = Qwen3Config(
        vocab_size=size,
        hidden_size=size,
        intermediate_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=4,
        max_position_embeddings=512,
        rms_norm_eps=0.0,
        tie_word_embeddings=False,
        pad_token_id=texts.index(PAD),
        bos_token_id=None,
        eos_token_id=texts.index(EOS),
    )
    logits = torch.full((size, size), -60.0, dtype=torch.float64)
    for token, following in after.items():
        for text, mass in following.items():
            logits[texts.index(text), texts.index(token)] = math.log(max(mass, NOTHING))
    model = Qwen3ForCausalLM(config).double()
    with torch.no_grad():
        layer = model.model.layers[0]
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(math.sqrt(size) * torch.eye(size))
        # The final norm leaves a row of length sqrt(size) as it is.
        model.lm_head.weight.copy_(logits / math.sqrt(size))
    return train_head_only(model.to(dtype).eval())


def transformer(texts: Sequence[str], seed: int = 0) -> PreTrainedModel:
    """A random float64 model for `word_tokenizer(texts)`; its attention sees padding and order."""
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(texts),
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            max_position_embeddings=64,
            pad_token_id=texts.index(PAD),
            bos_token_id=None,
            eos_token_id=texts.index(EOS),
        )
    ).double()
    with torch.no_grad():  # The library's initial weights give almost flat distributions.
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def train_head_only(model: PreTrainedModel) -> PreTrainedModel:
    """Freeze all but the head, where the chain's logits are."""
    model.requires_grad_(False)
    model.get_output_embeddings().requires_grad_(True)
    return model


def trio(teacher: PreTrainedModel, base: PreTrainedModel) -> Trio:
    """A trio of chains, the student trainable and at the base."""
    words = base.config.vocab_size - len(tokens(0))
    made = assemble(copy.deepcopy(base), teacher, codec_of(tokenizer(words)))
    train_head_only(made.student)
    return made


def example(number: int = 0, grades: tuple[int, int] = (1, 0)) -> Example:
    """The one prompt a chain knows."""
    return Example(PROMPT, ("A", "B"), grades, key=f"markov:{number}")


def splits(train: int = 8, calibration: int = 8, test: int = 8) -> Splits:
    """Splits of that prompt; what differs between copies is the numbers they are sampled with."""
    return Splits(*([example(i) for i in range(count)] for count in (train, calibration, test)))


def rollout(
    tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], answers: Sequence[Sequence[str]]
) -> Rollout:
    """The rollout in which these answers, given token by token, were sampled."""
    vocabulary = tokenizer.get_vocab()
    ids = [[vocabulary[token] for token in answer] for answer in answers]
    ended_B = torch.tensor([answer[-1] == EOS for answer in answers])
    prompts_ids = [codec_of(tokenizer).encode(p) for p in prompts]
    prompt_BL, attention_BL = pad_left(prompts_ids, vocabulary[PAD])
    width = max(map(len, ids))
    mask_BT = torch.tensor([[t < len(row) for t in range(width)] for row in ids])
    padded_BT = torch.tensor([[*row, *[vocabulary[PAD]] * (width - len(row))] for row in ids])
    return Rollout(
        torch.cat([prompt_BL, padded_BT], 1),
        torch.cat([attention_BL, mask_BT.long()], 1),
        mask_BT,
        ended_B,
    )


def config(*overrides: str) -> RunConfig:
    """A config of small runs on the CPU without tracking."""
    return load(compose_one(["debug=seconds", "tracking=off", "engine.device=cpu", *overrides]))


def head(model: PreTrainedModel) -> Any:
    """The trained weights, detached."""
    return model.get_output_embeddings().weight.detach().clone()
