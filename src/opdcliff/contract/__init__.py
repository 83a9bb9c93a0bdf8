"""What an answer must look like: strict parse, failure codes, token classes, modal sets, NDCG.

No torch; the meaning of every `eval/...` metric starts here.
"""

from __future__ import annotations

from opdcliff.contract.modal_sets import ModalSets
from opdcliff.contract.parse import REASON, Contract, FailureCode, ParseResult, get_contract
from opdcliff.contract.ranking import Gain, ranked_grades, ranking_metrics
from opdcliff.contract.token_classes import (
    TAIL_NEEDED,
    PrefixState,
    TokenClass,
    in_plain_text,
    is_complete,
    token_class,
)

__all__ = [
    "REASON",
    "TAIL_NEEDED",
    "Contract",
    "FailureCode",
    "Gain",
    "ModalSets",
    "ParseResult",
    "PrefixState",
    "TokenClass",
    "get_contract",
    "in_plain_text",
    "is_complete",
    "ranked_grades",
    "ranking_metrics",
    "token_class",
]
