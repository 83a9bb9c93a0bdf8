"""The codec: prompts as a model reads them, answers as it wrote them, ends and padding."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import markov
from made_tokenizers import MADE
from opdcliff.contract.parse import RANKING_WITH_REASON, FailureCode
from opdcliff.data.example import Example
from opdcliff.errors import ConfigError, DataError
from opdcliff.models.tokens.codec import Codec, end_ids_of, make_codec
from opdcliff.models.tokens.train_bpe import EOS, PAD, train_bpe
from opdcliff.settings.schema import DataConfig

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}{{ closing }}"
)


def data(*words: str) -> DataConfig:
    return markov.config(*words).data


def example(prompt: str = "rank", *messages: tuple[str, str]) -> Example:
    return Example(prompt, ("A", "B"), (0, 0), "k", messages)


def codec(*words: str, template: str | None = None, **special: Any) -> Codec:
    tokenizer = MADE["byte_level"]()
    tokenizer.chat_template = template
    for name, value in special.items():
        setattr(tokenizer, name, value)
    return make_codec(tokenizer, data(*words))


# Answers


def with_gaps() -> PreTrainedTokenizerFast:
    """Every byte has an id; padding and end have 298 and 299; 256 to 297 are not used."""
    ids = {token: i for i, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(models.BPE(ids | {PAD: 298, EOS: 299}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token=PAD, eos_token=EOS)


@pytest.mark.parametrize("foreign", [270, 298, 299, 300, 5000])
def test_an_id_that_is_no_text_is_never_left_out_of_an_answer(foreign: int) -> None:
    made = markov.codec_of(with_gaps())
    text = '{"ranking":["A","B"],"reason":"x"}'
    ids = made.encode(text)
    assert made.answer_text(ids) == text
    inside = made.answer_text([*ids[:-3], foreign, *ids[-3:]])
    verdict = RANKING_WITH_REASON.parse(inside, ("A", "B"), ended=True)
    assert verdict.failure is FailureCode.NOT_JSON
    behind = RANKING_WITH_REASON.parse(made.answer_text([*ids, foreign]), ("A", "B"), ended=True)
    assert behind.failure is FailureCode.EXTRA_TEXT


def test_broken_utf_8_does_not_parse_and_a_split_character_does() -> None:
    made = markov.codec_of(with_gaps())
    byte_ids = {part: i for i, part in enumerate(made.token_bytes) if part is not None}

    def parsed(reason: bytes) -> bool:
        text = b'{"ranking":["A","B"],"reason":"' + reason + b'"}'
        ids = [byte_ids[bytes([byte])] for byte in text]
        return RANKING_WITH_REASON.parse(made.answer_text(ids), ("A", "B"), ended=True).ok

    assert parsed("\u00e9\u4e2d\U0001f600".encode())
    for broken in (b"\xc3", b"\xa9", b"\xe4\xb8", b"\xff", b"\xc3x", b"\xed\xa0\x80", b"\xc0\x80"):
        assert not parsed(broken)


BLANKS = [
    *(PAD, EOS, "<unk>", "\u2581", '{"ranking":["', '\u2581{"ranking":["', "A", "\u2581A", '","'),
    *('",', '"', "B", '"],"reason":"', "x", '"}'),
]


@pytest.mark.parametrize(
    ("tokens", "failure", "live"),
    [
        (['\u2581{"ranking":["', "A", '","', "B"], FailureCode.EXTRA_TEXT, 1),
        (['{"ranking":["', "\u2581A", '","', "B"], FailureCode.UNKNOWN_ID, 2),
        (['{"ranking":["', "A", '",', "\u2581", '"', "B"], None, 10),
    ],
)
def test_blanks_that_a_decoder_strips_are_part_of_an_answer(
    tokens: list[str], failure: FailureCode | None, live: int
) -> None:
    """A Strip takes one off the start of what is decoded; behind a prompt it is the answer's."""
    inner = Tokenizer(models.BPE({t: i for i, t in enumerate(BLANKS)}, [], unk_token="<unk>"))
    inner.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made = markov.codec_of(
        PreTrainedTokenizerFast(
            tokenizer_object=inner, pad_token=PAD, eos_token=EOS, unk_token="<unk>"
        )
    )
    ids = [BLANKS.index(token) for token in (*tokens, '"],"reason":"', "x", '"}', EOS)]
    verdict = RANKING_WITH_REASON.parse(made.answer_text(ids[:-1]), ("A", "B"), ended=True)
    assert verdict.failure is failure
    states = made.labels(RANKING_WITH_REASON).states(("A", "B"), ids)
    assert sum(state is not None for state in states) == live


@pytest.mark.parametrize("name", [name for name in MADE if name != "unigram"])
def test_answer_ids_add_exactly_the_text(name: str) -> None:
    made = markov.codec_of(MADE[name]())
    for text in ['{"ranking":["A"]', " soft", "}", "x", "  ", "<tool>\u00e9", "a <tool> b", ""]:
        assert made.answer_bytes(made.answer_ids(text)) == text.encode()


def test_answer_ids_of_a_tokenizer_without_a_character_are_refused() -> None:
    with pytest.raises(DataError, match="no tokens that add '\u4e2d' to"):
        markov.codec_of(markov.word_tokenizer([PAD, EOS, "p"])).answer_ids("\u4e2d")


# Ends and padding


def test_ends_are_the_union_of_tokenizer_and_generation_settings() -> None:
    tokenizer = train_bpe(["x"], 258)
    own = tokenizer.eos_token_id
    assert make_codec(tokenizer, data()).end_ids == (own,)
    assert make_codec(tokenizer, data(), [7, own, 9, 7]).end_ids == (own, 7, 9)
    beyond = len(make_codec(tokenizer, data()).token_bytes)
    assert make_codec(tokenizer, data(), [beyond, 9]).end_ids == (own, 9)
    for given, expected in ((None, []), (3, [3]), ([3, 4], [3, 4])):
        model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=given))
        assert end_ids_of(model) == expected


def test_an_end_token_inside_an_answer_is_no_text() -> None:
    made = make_codec(train_bpe(["x"], 258), data(), [65])
    modal = made.labels(RANKING_WITH_REASON)
    assert modal.token_bytes[65] is None
    assert made.token_bytes[65] is not None


# Prompts


def test_a_plain_prompt_is_read_as_it_stands() -> None:
    made = codec()
    assert made.prompt_ids(example("Caf\u00e9")) == made.encode("Caf\u00e9")


def with_opening(template: str | None = None) -> Codec:
    """A tokenizer that opens texts with <bos>, as Llama and Gemma do."""
    tokenizer = MADE["byte_level"]()
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    opening = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", opening)]
    )
    tokenizer.chat_template = template
    return make_codec(tokenizer, data())


def test_a_plain_prompt_is_opened_once() -> None:
    made = with_opening()
    opening = made.tokenizer.bos_token_id
    assert made.prompt_ids(example("rank")) == [opening, *made.encode("rank")]
    assert made.prompt_ids(example("<bos>rank")) == [opening, *made.encode("rank")]
    with pytest.raises(DataError, match="begins twice with <bos>"):
        made.prompt_ids(example("<bos><bos>rank"))


def test_a_template_opens_its_text_itself_and_twice_is_noticed() -> None:
    opening = with_opening().tokenizer.bos_token_id
    once = with_opening("<bos>" + TEMPLATE).prompt_ids(example("rank"))
    assert once.count(opening) == 1
    assert opening not in with_opening(TEMPLATE).prompt_ids(example("rank"))
    with pytest.raises(DataError, match="begins twice"):
        with_opening("<bos><bos>" + TEMPLATE).prompt_ids(example("rank"))


def test_the_template_of_the_tokenizer_is_used_unless_none_is_asked_for() -> None:
    assert codec(template=TEMPLATE).prompt_text(example()) == "[user]rank[assistant]"
    assert codec("data.chat_template=none", template=TEMPLATE).prompt_text(example()) == "rank"
    assert codec().prompt_text(example()) == "rank"


def test_system_prompt_arguments_and_file(tmp_path: Any) -> None:
    words = ("data.system_prompt='Be brief.'", "+data.template_args.closing='<x>'")
    made = codec(*words, template=TEMPLATE)
    assert made.prompt_text(example()) == "[system]Be brief.[user]rank[assistant]<x>"
    own = example("t", ("system", "Mine."), ("user", "a"), ("assistant", "b"), ("user", "c"))
    assert made.prompt_text(own) == "[system]Mine.[user]a[assistant]b[user]c[assistant]<x>"
    file = tmp_path / "chat.jinja"
    file.write_text("{{ messages[-1].content }}!")
    assert codec(f"data.chat_template={file}", template=TEMPLATE).prompt_text(own) == "c!"


def test_what_has_no_template_is_refused_in_a_line(tmp_path: Any) -> None:
    with pytest.raises(DataError, match="given as messages, and there is no chat template"):
        codec().prompt_ids(example("t", ("user", "a")))
    with pytest.raises(ConfigError, match=r"data\.system_prompt goes into a chat template"):
        codec("data.system_prompt=x")
    with pytest.raises(ConfigError, match=r"data\.template_args goes into a chat template"):
        codec("+data.template_args.a=1", "data.chat_template=none", template=TEMPLATE)
    with pytest.raises(ConfigError, match=r"chat_template=.*absent.*allowed: auto, none or a file"):
        codec(f"data.chat_template={tmp_path / 'absent'}")
    with pytest.raises(ConfigError, match=r"added with a plus, as in \+data\.template_args"):
        data("data.template_args.enable_thinking=false")
    refusing = codec(template="{{ raise_exception('roles must alternate') }}")
    with pytest.raises(DataError, match=r"refuses the messages \['user'\]: .*roles must alternate"):
        refusing.prompt_text(example())


# Spelling


def test_a_tokenizer_that_does_not_spell_a_prompt_is_refused() -> None:
    lacking = markov.codec_of(markov.word_tokenizer([PAD, EOS, "p"]))
    lacking.check_spelling([example("p")])
    with pytest.raises(DataError, match="spells the prompt 'pq' as '<pad>'"):
        lacking.check_spelling([example("pq")])


@pytest.mark.parametrize("name", [name for name in MADE if name != "unigram"])
def test_prompts_are_spelled_with_special_and_added_tokens_in_them(name: str) -> None:
    markov.codec_of(MADE[name]()).check_spelling(
        map(example, ("Caf\u00e9  \u4e2d", "<|ctl|>user\nx<|ctl|>", "a <tool> b", " "))
    )
