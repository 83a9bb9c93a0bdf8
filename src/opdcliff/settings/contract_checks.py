"""Checks of the contract, and of what its answers can come from."""

from __future__ import annotations

from opdcliff.contract import NO_WRAPPER, contract_of
from opdcliff.errors import ConfigError
from opdcliff.settings.schema import RunConfig


def check_contract(config: RunConfig) -> None:
    """Refuse a contract that does not go with the data or the models.

    Raises:
        ConfigError: an unknown contract or wrapper; a form that has no effect or is missing;
            anything but a plain ranking without prompts and models of one's own.
    """
    data, model = config.data, config.model
    contract = contract_of(data)
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
