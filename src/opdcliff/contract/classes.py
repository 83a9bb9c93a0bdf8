"""Which contracts have token classes beside their judge."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from opdcliff.contract.engine import engine
from opdcliff.contract.forms.schema import SchemaContract
from opdcliff.contract.forms.wrapper import NO_WRAPPER, Wrapped
from opdcliff.contract.grammar.sets import GrammarSets
from opdcliff.contract.grammar.vocabulary import grammar_of
from opdcliff.contract.labels import Labels
from opdcliff.contract.modal_sets import ModalSets
from opdcliff.contract.parse import RankingContract
from opdcliff.contract.verdict import Contract
from opdcliff.errors import OpdcliffError


def labels_of(
    contract: Contract, token_bytes: Sequence[bytes | None], end_ids: Sequence[int]
) -> Labels | None:
    """Labels of answers over a vocabulary, None where the contract only judges.

    token_bytes: what each token id adds to an answer; None for special and unused ids.
    """
    if isinstance(contract, RankingContract):
        return ModalSets(contract, token_bytes, end_ids)
    inner, wrapper = _unwrapped(contract)
    if isinstance(inner, SchemaContract):
        return GrammarSets(token_bytes, end_ids, wrapper)
    return None


def classes_problem(contract: Contract, forms: Iterable[str]) -> str | None:
    """Why answers to prompts of these forms have no classes, as the end of a sentence; or None."""
    if isinstance(contract, RankingContract):
        return None
    inner, wrapper = _unwrapped(contract)
    if not isinstance(inner, SchemaContract):
        return "judges whole answers and has no token classes"
    try:
        engine()
        for form in dict.fromkeys(forms):
            grammar_of(form, wrapper)
    except OpdcliffError as error:
        return f"judges whole answers, and its classes cannot be told: {error}"
    return None


def _unwrapped(contract: Contract) -> tuple[Contract, str]:
    if isinstance(contract, Wrapped):
        return contract.inner, contract.wrapper
    return contract, NO_WRAPPER
