"""The lambda that a pilot recommends, found again by the settings that the pilot had."""

from __future__ import annotations

import json
from pathlib import Path

from opdcliff.errors import ConfigError
from opdcliff.models import Prepared
from opdcliff.paths import StudyPaths
from opdcliff.settings import RunConfig, science
from opdcliff.storage import digest

PREDICTION = "prediction.json"
# Of these a prediction speaks for any value.
_FREE = ("seed", "clip")


def prediction_folder(config: RunConfig, prepared: Prepared, paths: StudyPaths) -> Path:
    """Where the prediction for runs of these settings and models is kept, at any clip and seed."""
    settings = {name: value for name, value in science(config).items() if name not in _FREE}
    settings["lam"] = {"warmup_updates": config.lam.warmup_updates}
    key = digest([settings, prepared.models_identity], "prediction")
    return paths.own.prediction_dir(key)


def predicted_lam(config: RunConfig, prepared: Prepared, paths: StudyPaths) -> float:
    """The recommended lambda at the clip of a run.

    Raises:
        ConfigError: no pilot of these settings has run, its prediction cannot be read, does not
            know this clip strength, or the pilot leaves no safe lambda above 1.
    """
    path = prediction_folder(config, prepared, paths) / PREDICTION
    strength = config.clip.strength
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = {row["strength"]: float(row["recommended"]) for row in content["at"]}
        crowded = strength in content["crowded"]
    except FileNotFoundError as error:
        raise ConfigError(
            "lambda=predicted finds no prediction for these settings and models; run `opdcliff "
            "predict` with them first, or choose lambda=safe, a multiple of lambda*"
        ) from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{path} is no prediction; run `opdcliff predict` again") from error
    if strength not in found:
        known = ", ".join(f"{c:g}" for c in found)
        raise ConfigError(
            f"the prediction for these settings is for clip strengths {known}, not "
            f"{strength}; add it to calibration.strengths and run `opdcliff predict` again"
        )
    if crowded or not found[strength] > 1.0:
        why = "overshot on arrival, so that a run may be lost at any lambda," if crowded else ""
        raise ConfigError(
            f"the pilot {why or 'leaves no lambda above 1'} at c = {strength:g}: see what its "
            f"margin is made of ({path}), take smaller steps, or set lam.value"
        )
    return found[strength]
