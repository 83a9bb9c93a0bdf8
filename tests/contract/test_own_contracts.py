"""Contracts that are no JSON, and what stands around an answer: judged whole, without repair."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_schema_contract import Ask

from opdcliff.contract.choice import contract_of, get_contract
from opdcliff.contract.classes import classes_problem, labels_of
from opdcliff.contract.forms.function import FunctionContract
from opdcliff.contract.forms.lark import LarkContract
from opdcliff.contract.forms.pattern import PatternContract
from opdcliff.contract.json_text import MAX_CHARS
from opdcliff.contract.parse import RANKING_WITH_REASON
from opdcliff.contract.verdict import Contract
from opdcliff.errors import ConfigError, DataError


def failure(contract: Contract, form: object, text: str, *, ended: bool = True) -> str | None:
    return contract.judge(text, Ask(form=contract.read_form(form)), ended=ended).failure


# ---- expressions ------------------------------------------------------------------------------


def test_an_expression_has_to_match_the_whole_answer() -> None:
    contract = PatternContract()
    assert failure(contract, r"\d+ (yes|no)", "12 yes") is None
    assert failure(contract, r"\d+ (yes|no)", "12 yes", ended=False) == "truncated"
    for text in (" 12 yes", "12 yes\n", "12 yes no", "12 ye", ""):
        assert failure(contract, r"\d+ (yes|no)", text) == "no_match"
    assert failure(contract, "a.b", "a\nb") == "no_match"
    assert failure(contract, "(?s)a.b", "a\nb") is None
    assert failure(contract, ".*", "broken \udcc3") == "not_text"
    assert failure(contract, ".*", "x" * (MAX_CHARS + 1)) == "not_text"


@pytest.mark.parametrize(("form", "part"), [("(", "is no regular expression"), (3, "is no text")])
def test_what_is_no_expression_is_refused(form: object, part: str) -> None:
    with pytest.raises(DataError, match=part):
        PatternContract().read_form(form)


# ---- grammars ---------------------------------------------------------------------------------

SUMS = """
start: term ("+" term)*
term: NUMBER | "(" start ")"
NUMBER: /[0-9]+/
"""


def test_a_grammar_has_to_take_the_whole_answer() -> None:
    pytest.importorskip("llguidance")
    contract = LarkContract()
    for text in ("1", "1+(23+(4))", "((((7))))"):
        assert failure(contract, SUMS, text) is None
        assert failure(contract, SUMS, text, ended=False) == "truncated"
    for text in ("", "1+", "(1", "1+(2+3"):
        assert failure(contract, SUMS, text) == "incomplete"
    for text in (" 1", "1+x", "1)", "1 ", "\u00e9"):
        assert failure(contract, SUMS, text) == "no_parse"
    assert failure(contract, 'start: "\u00e9"+', "\u00e9\u00e9") is None
    assert failure(contract, SUMS, "\udcff") == "not_text"
    with pytest.raises(DataError, match=r"is no Lark grammar of llguidance: .*nowhere"):
        contract.read_form("start: nowhere")
    with pytest.raises(DataError, match="is no text"):
        contract.read_form({"start": 1})


def test_without_the_engine_a_grammar_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ConfigError, match=r"llguidance, which is not installed: .*\[grammar\]"):
        LarkContract().read_form(SUMS)


# ---- functions --------------------------------------------------------------------------------

CHECKS = '''
def even(text):
    """Refuse texts of odd length."""
    return "odd" if len(text) % 2 else None

def fails(text):
    raise KeyError("no such answer")

def talks(text):
    return "much too long, and not a code"

number = 3
'''


@pytest.fixture
def checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module in the working directory."""
    name = "checks_of_answers"
    (tmp_path / f"{name}.py").write_text(CHECKS)
    monkeypatch.chdir(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_a_function_gives_the_code(checks: str) -> None:
    contract, path = FunctionContract(), list(sys.path)
    assert failure(contract, f"{checks}:even", "ab") is None
    assert failure(contract, f"{checks}:even", "abc") == "odd"
    assert failure(contract, f"{checks}:even", "abc", ended=False) == "truncated"
    assert failure(contract, f"{checks}:even", "\udcff") == "not_text"
    assert sys.path == path


@pytest.mark.parametrize(
    ("form", "part"),
    [
        ("even", "is not MODULE:FUNCTION"),
        (None, "is not MODULE:FUNCTION"),
        ("nowhere_at_all:even", "names the module nowhere_at_all, which cannot be imported"),
        ("{checks}:odd", "names no function of checks_of_answers"),
        ("{checks}:number", "names no function of checks_of_answers"),
    ],
)
def test_what_names_no_function_is_refused(checks: str, form: str | None, part: str) -> None:
    with pytest.raises(DataError, match=part):
        FunctionContract().read_form(form and form.format(checks=checks))


@pytest.mark.parametrize(
    ("function", "part"),
    [("fails", "fails on the answer 'ab': 'no such answer'"), ("talks", "gives 'much too long")],
)
def test_a_function_that_gives_no_code_is_named(checks: str, function: str, part: str) -> None:
    with pytest.raises(DataError, match=part) as caught:
        failure(FunctionContract(), f"{checks}:{function}", "ab")
    assert "\n" not in str(caught.value)


def test_a_function_that_was_changed_since_is_refused(checks: str) -> None:
    form = FunctionContract().read_form(f"{checks}:even")
    with pytest.raises(DataError, match="was changed since the prompts were prepared"):
        FunctionContract().judge("ab", Ask(form=f"{form[:-1]}x"), ended=True)


# ---- wrappers ---------------------------------------------------------------------------------

RANKING = '{"ranking":["B","A"],"reason":"```json\\n"}'


class Chosen:
    def __init__(self, contract: str, wrapper: str) -> None:
        self.contract, self.wrapper = contract, wrapper


def wrapped(text: str, wrapper: str, *, ended: bool = True) -> str | None:
    contract = contract_of(Chosen("ranking_with_reason", wrapper))
    verdict = contract.judge(text, Ask(("A", "B")), ended=ended)
    assert (verdict.ranking == ("B", "A")) == verdict.ok
    return verdict.failure


def test_a_fence_is_asked_for_to_the_letter() -> None:
    fenced = f"```json\n{RANKING}\n```"
    assert wrapped(fenced, "fence") is None
    assert wrapped(fenced, "fence", ended=False) == "truncated"
    for text in (
        *(RANKING, fenced + "\n", " " + fenced, fenced[:-1], fenced.replace("json\n", "\n", 1)),
        *("", "```json\n```", fenced.replace("json\n", "JSON\n", 1)),
    ):
        assert wrapped(text, "fence") == "wrapper"
    assert wrapped(f"```json\n\n{RANKING}\n```", "fence") == "extra_text"
    assert wrapped("```json\n\n```", "fence") == "not_json"
    assert wrapped('```json\n{"ranking":["A"],"reason":""}\n```', "fence") == "missing"


def test_thoughts_stand_before_the_answer_and_close_once() -> None:
    for thoughts in ("", "\n\n", "\nA < B, so [B]\n", "{}", "x" * 50_000):
        assert wrapped(f"<think>{thoughts}</think>\n\n{RANKING}", "think") is None
    for text in (
        *(
            RANKING,
            f"<think>{RANKING}",
            f"<think></think>\n{RANKING}",
            f" <think></think>\n\n{RANKING}",
        ),
        f"<think><think></think></think>\n\n{RANKING}",
        f"<think></think></think>\n\n{RANKING}",
    ):
        assert wrapped(text, "think") == "wrapper"
    assert wrapped(f"<think></think>\n\n\n{RANKING}", "think") == "extra_text"
    assert wrapped("<think></think>\n\n", "think") == "not_json"


@settings(deadline=None)
@given(st.text(max_size=40), st.sampled_from(["fence", "think"]))
def test_what_is_inside_is_judged_as_it_would_be_alone(text: str, wrapper: str) -> None:
    inside = {"fence": "```json\n{}\n```", "think": "<think>so</think>\n\n{}"}[wrapper]
    asked = Ask(("A", "B"))
    alone = RANKING_WITH_REASON.judge(text, asked, ended=True)
    contract = contract_of(Chosen("ranking_with_reason", wrapper))
    assert contract.judge(inside.replace("{}", text), asked, ended=True) == alone
    assert contract.codes == ("truncated", "wrapper", *RANKING_WITH_REASON.codes[1:])


def test_contracts_by_name() -> None:
    names = ("ranking_with_reason", "ranking_only", "schema", "regex", "lark", "python")
    for name in names:
        assert get_contract(name).name == name
        assert contract_of(Chosen(name, "none")) is get_contract(name)
        assert contract_of(Chosen(name, "think")).form_key == get_contract(name).form_key
    with pytest.raises(ConfigError, match=r"data\.wrapper=xml is not allowed; allowed: none"):
        contract_of(Chosen("schema", "xml"))
    with pytest.raises(ConfigError, match=r"data\.wrapper=fence is a fence of JSON"):
        contract_of(Chosen("lark", "fence"))


def test_what_only_judges_says_that_it_has_no_classes() -> None:
    for contract in (
        *(get_contract(name) for name in ("regex", "lark", "python")),
        *(contract_of(Chosen(name, "think")) for name in ("ranking_only", "regex")),
    ):
        assert classes_problem(contract, []) == "judges whole answers and has no token classes"
        assert labels_of(contract, [b"{"], [0]) is None
    for name in ("ranking_with_reason", "ranking_only"):
        assert classes_problem(get_contract(name), [""]) is None
        assert labels_of(get_contract(name), [b"{"], [0]) is not None
