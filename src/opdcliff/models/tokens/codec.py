"""From prompts to token ids, and from the ids of an answer back to its bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from opdcliff.contract import Contract, Labels, labels_of
from opdcliff.data import Example
from opdcliff.errors import DataError
from opdcliff.models.tokens.chat import Chat, chat_of
from opdcliff.models.tokens.token_bytes import token_bytes
from opdcliff.settings import DataConfig

# Nothing first, as most tokenizers need none; then characters that merge with different others.
_ANCHORS = ("", "\n", "}", "a", "7")


@dataclass(frozen=True)
class Codec:
    """A tokenizer as this project uses it.

    token_bytes: what each id adds to an answer (`token_bytes`). end_ids: the ids that end an
    answer, the tokenizer's own first: fine-tuning ends answers with it. pad_id: fills rows up; it
    may be an end token, since what counts is told by position. opening_id: what the tokenizer opens
    texts with, if it does. chat: what prompts go through.
    """

    tokenizer: Any
    token_bytes: tuple[bytes | None, ...]
    end_ids: tuple[int, ...]
    pad_id: int
    opening_id: int | None
    chat: Chat | None

    def encode(self, text: str) -> list[int]:
        """Token ids of `text` as it stands, without special tokens around it."""
        # A tokenizer that knows its model's limit would print a warning of its own.
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def answer_ids(self, text: str) -> list[int]:
        """Token ids that add exactly `text` to an answer.

        Tokenizers in the manner of SentencePiece put a blank before any text that is encoded alone;
        here it is encoded behind a character, which is cut off again. Where that does not help, as
        with an added token in the middle, the text is cut in two.

        Raises:
            DataError: the tokenizer has no tokens for it.
        """
        data = text.encode()
        for anchor in _ANCHORS:
            ids = self.encode(anchor + text)
            for count in range(min(len(ids), 1 + 4 * len(anchor)) + 1):
                if self.answer_bytes(ids[count:]) == data:
                    return ids[count:]
        if len(text) > 1:
            half = len(text) // 2
            return self.answer_ids(text[:half]) + self.answer_ids(text[half:])
        raise DataError(
            f"the tokenizer has no tokens that add {_quoted(text)} to an answer; choose models "
            "whose tokenizer has every character of the answers"
        )

    def prompt_text(self, example: Example) -> str:
        """What the model reads, up to where the answer begins, but for a token that opens texts.

        Raises:
            DataError: messages and no chat template, or one that refuses them.
        """
        if self.chat is not None:
            return self.chat.render(self.tokenizer, example)
        if example.messages:
            raise DataError(
                f"the prompt {_quoted(example.prompt)} is given as messages, and there is no chat "
                "template; give data.chat_template=FILE or a prompt"
            )
        return example.prompt

    def prompt_ids(self, example: Example) -> list[int]:
        """Token ids of a prompt.

        A plain prompt is opened as the tokenizer opens texts (with a BOS for Llama or Gemma); a
        chat template writes such a token itself.

        Raises:
            DataError: see `prompt_text`; a prompt that is opened twice.
        """
        ids = self.encode(self.prompt_text(example))
        opening = self.tokenizer.bos_token_id
        if self.chat is None and self.opening_id is not None and ids[:1] != [opening]:
            ids = [opening, *ids]
        if opening is not None and ids[:2] == [opening, opening]:
            raise DataError(
                f"the prompt {_quoted(example.prompt)} begins twice with "
                f"{self.tokenizer.bos_token}; leave it out of the prompt or of the chat template"
            )
        return ids

    def answer_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes of an answer; NUL, which no contract takes, for an id that is no text.

        Such are special tokens, ids that the tokenizer does not use, and outputs beyond it:
        leaving one out would repair the answer.
        """
        known = len(self.token_bytes)
        parts = (self.token_bytes[i] if i < known else None for i in map(int, ids))
        return b"".join(b"\0" if part is None else part for part in parts)

    def answer_text(self, ids: Sequence[int]) -> str:
        """The text of an answer; no contract takes the surrogates that stand for broken UTF-8."""
        return self.answer_bytes(ids).decode("utf-8", "surrogateescape")

    def labels(self, contract: Contract) -> Labels | None:
        """Labels of a contract's answers over the vocabulary; None for one without classes."""
        return labels_of(contract, self.token_bytes, self.end_ids)

    def check_spelling(self, examples: Iterable[Example]) -> None:
        """Refuse a tokenizer whose tokens do not spell what was encoded.

        Raises:
            DataError: the bytes of an encoded prompt, joined, are not those of the prompt.
        """
        normalizer = getattr(self.tokenizer.backend_tokenizer, "normalizer", None)
        for example in examples:
            text = self.prompt_text(example)
            ids = self.encode(text)
            joined = b"".join(map(self._spelled, ids))
            forms = {text, f" {text}"}
            if normalizer is not None:
                # "\u2581" stands for a blank where a normalizer writes it.
                forms.add(normalizer.normalize_str(text).replace("\u2581", " "))
            spelled = {form.encode() for form in forms}
            if not self.tokenizer.added_tokens_decoder.keys().isdisjoint(ids):
                # Some tokenizers put a blank behind a token that was added.
                spelled = {form.replace(b" ", b"") for form in spelled}
                joined = joined.replace(b" ", b"")
            if joined not in spelled:
                raise DataError(
                    f"the tokenizer spells the prompt {_quoted(text)} as "
                    f"{_quoted(joined.decode('utf-8', 'replace'))}; its tokens are not understood, "
                    "or it lacks a character: choose another tokenizer or change the prompt"
                )

    def _spelled(self, number: int) -> bytes:
        # A prompt may hold special tokens; an answer may not.
        part = self.token_bytes[number]
        if part is None and number != self.tokenizer.unk_token_id:
            return str(self.tokenizer.convert_ids_to_tokens(number)).encode()
        return part or b""


def make_codec(tokenizer: Any, data: DataConfig, end_ids: Iterable[int] = ()) -> Codec:
    """The codec of a tokenizer for the prompts of `data`.

    end_ids: what ends answers beside the tokenizer's own end token (`end_ids_of`); ids that the
        tokenizer does not reach, as a foreign generation_config.json may name, are left out.

    Raises:
        ModelError: the bytes of its tokens are not known. ConfigError: see `chat_of`.
    """
    table = token_bytes(tokenizer)
    ends = dict.fromkeys([tokenizer.eos_token_id, *(i for i in end_ids if i < len(table))])
    pad, opening = tokenizer.pad_token_id, tokenizer.bos_token_id
    return Codec(
        tokenizer=tokenizer,
        token_bytes=table,
        end_ids=tuple(ends),
        pad_id=tokenizer.eos_token_id if pad is None else pad,
        opening_id=opening if opening in tokenizer("")["input_ids"][:1] else None,
        chat=chat_of(tokenizer, data),
    )


def end_ids_of(model: Any) -> list[int]:
    """The ids at which a model's own generation settings end an answer."""
    ends = getattr(model.generation_config, "eos_token_id", None)
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


def _quoted(text: str) -> str:
    """Its beginning in quotes; unlike `storage.short` it shows the letters, which are at fault."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
