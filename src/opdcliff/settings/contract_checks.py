"""Checks of the contract, what its answers can come from, and of a judge that grades lists."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from opdcliff.contract import NO_WRAPPER, contract_of
from opdcliff.errors import ConfigError
from opdcliff.settings.schema import DataConfig, RunConfig
from opdcliff.settings.study_schema import GradeConfig

# Keys have small letters or dashes, names of environment variables need neither.
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")

# Fields of a request that are no extra ones.
_SET_ELSEWHERE = {
    *("model", "messages", "temperature", "response_format", "max_completion_tokens"),
    *("n", "stream"),
}


def check_contract(config: RunConfig) -> None:
    """Refuse a contract that does not go with the data or the models.

    Raises:
        ConfigError: an unknown contract or wrapper; a form that has no effect or is missing;
            anything but a plain ranking without prompts and models of one's own.
    """
    data, model = config.data, config.model
    contract = contract_of(data)
    if data.name == "orders":
        _check_orders(data)
        return
    if contract.ranks and data.form is not None:
        raise ConfigError(
            f"data.form={data.form} has no effect on data.contract={data.contract}, which is made "
            "of the candidates alone; leave it out"
        )
    if contract.ranks and data.wrapper == NO_WRAPPER:
        return
    what = f"data.contract={data.contract}"
    if data.wrapper != NO_WRAPPER:
        what += f" with data.wrapper={data.wrapper}"
    if data.name != "prompts":
        raise ConfigError(f"{what} is for prompts of your own; set data=prompts data.path=FILE")
    if model.student is None or model.tune_loaded_student or model.tune_loaded_teacher:
        raise ConfigError(
            f"{what} has no answers that a model could be made from here: give model.student and "
            "model.teacher as folders (`opdcliff sft` makes them from your answers), and "
            "model.tune_loaded_student=false, model.tune_loaded_teacher=false"
        )
    if data.form is None and not contract.ranks and contract.form_key is None:
        raise ConfigError(f"data.form is missing for {what}; set data.form=MODULE:FUNCTION")


def _check_orders(data: DataConfig) -> None:
    """Their answers are written to one schema, which they bring."""
    for name, own in (("contract", "schema"), ("form", None), ("wrapper", NO_WRAPPER)):
        if getattr(data, name) != own:
            raise ConfigError(
                f"data.{name}={getattr(data, name)} does not go with data=orders, whose answers "
                f"keep to a schema of its own; leave it {'null' if own is None else own}, or set "
                "data=prompts data.path=FILE"
            )


def check_grade(grade: GradeConfig) -> None:
    """Refuse an endpoint or the name of a key that holds a secret, without showing it.

    Raises:
        ConfigError: that, or a limit without prices.
    """
    variable = grade.key_variable
    if variable is not None and not _VARIABLE.fullmatch(variable):
        raise ConfigError(
            "grade.key_variable is not allowed, and not shown, since it may be a key; allowed: the "
            "NAME of an environment variable (capital letters, digits, _), or null"
        )
    for name in _SET_ELSEWHERE & grade.extra.keys():
        if name != "max_completion_tokens" or grade.extra[name] is not None:
            raise ConfigError(
                f"grade.extra.{name} is not allowed: it is set by other fields of grade, or not "
                "open to a choice; leave it out"
            )
    most = grade.extra.get("max_tokens", 1)
    if type(most) is not int or most < 1:
        raise ConfigError(f"grade.extra.max_tokens={most} is not allowed; allowed: 1 and more")
    if grade.base_url is not None:
        _check_address(grade.base_url)
    if grade.limit is not None and (grade.price_in is None or grade.price_out is None):
        raise ConfigError(
            f"grade.limit={grade.limit} needs prices to be kept; set grade.price_in and "
            "grade.price_out, per million tokens"
        )


def _check_address(text: str) -> None:
    try:
        parts = urlsplit(text)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    else:
        sound = sound and not (parts.username or parts.password or parts.query or parts.fragment)
    if not sound or not text.isprintable() or " " in text:
        raise ConfigError(
            "grade.base_url is not allowed, and not shown, since it may hold a password; allowed: "
            "http[s]://HOST[:PORT]/PATH without user, password or query"
        )
