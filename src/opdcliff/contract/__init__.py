"""What an answer must look like: strict judges, failure codes, token classes, modal sets, NDCG.

No torch; the meaning of every `eval/...` metric starts here.
"""

from __future__ import annotations

from opdcliff.contract.choice import contract_of
from opdcliff.contract.classes import classes_problem, labels_of
from opdcliff.contract.forms.schema import BEYOND_GRAMMARS
from opdcliff.contract.forms.wrapper import NO_WRAPPER
from opdcliff.contract.labels import Labels, Place
from opdcliff.contract.parse import RankingContract
from opdcliff.contract.ranking import Gain, ranked_grades, ranking_metrics
from opdcliff.contract.token_classes import TokenClass
from opdcliff.contract.verdict import Contract, FailureCode, ParseResult

__all__ = [
    "BEYOND_GRAMMARS",
    "NO_WRAPPER",
    "Contract",
    "FailureCode",
    "Gain",
    "Labels",
    "ParseResult",
    "Place",
    "RankingContract",
    "TokenClass",
    "classes_problem",
    "contract_of",
    "labels_of",
    "ranked_grades",
    "ranking_metrics",
]
