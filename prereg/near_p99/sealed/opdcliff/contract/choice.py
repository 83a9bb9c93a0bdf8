"""The contracts by their names."""

from __future__ import annotations

from typing import Protocol

from opdcliff.contract.forms.function import FunctionContract
from opdcliff.contract.forms.lark import LarkContract
from opdcliff.contract.forms.pattern import PatternContract
from opdcliff.contract.forms.schema import SchemaContract
from opdcliff.contract.forms.wrapper import FENCE, NO_WRAPPER, WRAPPERS, Wrapped
from opdcliff.contract.parse import RANKING_ONLY, RANKING_WITH_REASON
from opdcliff.contract.verdict import Contract
from opdcliff.errors import ConfigError

_JSON: tuple[Contract, ...] = (RANKING_WITH_REASON, RANKING_ONLY, SchemaContract())
_OTHER: tuple[Contract, ...] = (PatternContract(), LarkContract(), FunctionContract())
_CONTRACTS = {contract.name: contract for contract in (*_JSON, *_OTHER)}


class Settings(Protocol):
    """The settings that choose a contract: `data`."""

    contract: str
    wrapper: str


def get_contract(name: str) -> Contract:
    """The contract of that name; ConfigError for an unknown one."""
    if name not in _CONTRACTS:
        raise ConfigError(f"contract={name}: unknown; choose one of {', '.join(_CONTRACTS)}")
    return _CONTRACTS[name]


def contract_of(data: Settings) -> Contract:
    """The contract with its wrapper; ConfigError for an unknown one, or a fence of no JSON."""
    found = get_contract(data.contract)
    if data.wrapper not in WRAPPERS:
        raise ConfigError(
            f"data.wrapper={data.wrapper} is not allowed; allowed: {' | '.join(WRAPPERS)}"
        )
    if data.wrapper == NO_WRAPPER:
        return found
    if data.wrapper == FENCE and found not in _JSON:
        raise ConfigError(
            f"data.wrapper=fence is a fence of JSON and contract={data.contract} is none; write "
            "what stands around an answer into the contract itself"
        )
    return Wrapped(found, data.wrapper)
