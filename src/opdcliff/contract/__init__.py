"""What an answer must look like: strict judges, failure codes, token classes, modal sets, NDCG.

No torch; the meaning of every `eval/...` metric starts here.
"""

from __future__ import annotations

from opdcliff.contract.choice import contract_of
from opdcliff.contract.forms.wrapper import NO_WRAPPER
from opdcliff.contract.modal_sets import ModalSets, has_classes, modal_sets_of
from opdcliff.contract.parse import RankingContract
from opdcliff.contract.ranking import Gain, ranked_grades, ranking_metrics
from opdcliff.contract.token_classes import (
    TAIL_NEEDED,
    PrefixState,
    TokenClass,
    in_plain_text,
    is_complete,
    token_class,
)
from opdcliff.contract.verdict import Contract, FailureCode, ParseResult

__all__ = [
    "NO_WRAPPER",
    "TAIL_NEEDED",
    "Contract",
    "FailureCode",
    "Gain",
    "ModalSets",
    "ParseResult",
    "PrefixState",
    "RankingContract",
    "TokenClass",
    "contract_of",
    "has_classes",
    "in_plain_text",
    "is_complete",
    "modal_sets_of",
    "ranked_grades",
    "ranking_metrics",
    "token_class",
]
