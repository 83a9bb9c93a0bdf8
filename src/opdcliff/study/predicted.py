"""What a pilot recommends, found again by the settings that the pilot had."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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
    path, rows, crowded = _read(
        config, prepared, paths, "lambda=predicted", "choose lambda=safe, a multiple of lambda*"
    )
    row = _at(rows, config.clip.strength)
    strength, found = float(row["strength"]), float(row["recommended"])
    overshot = strength in crowded
    if overshot or not found > 1.0:
        why = "overshot on arrival, so that a run may be lost at any lambda," if overshot else ""
        raise ConfigError(
            f"the pilot {why or 'leaves no lambda above 1'} at c = {strength:g}: see what its "
            f"margin is made of ({path}), take smaller steps, or set lam.value"
        )
    return found


def predicted_margins(
    config: RunConfig, prepared: Prepared, paths: StudyPaths
) -> Callable[[float], float]:
    """Logits from lambda* down to the lower end of the predicted onset, by clip strength.

    Raises:
        ConfigError: as `predicted_lam`; for a strength that is unknown once it is asked for.
    """
    _, rows, _ = _read(
        config, prepared, paths, "preview.margin=null", "set preview.margin to a number of logits"
    )

    def margin(strength: float) -> float:
        row = _at(rows, strength)
        return max(0.0, (float(row["star"]) - float(row["low"])) * float(row["gain"]))

    return margin


def _read(
    config: RunConfig, prepared: Prepared, paths: StudyPaths, who: str, otherwise: str
) -> tuple[Path, dict[float, dict[str, Any]], list[float]]:
    """The file of the prediction, its rows by clip strength, and the strengths that are crowded."""
    path = prediction_folder(config, prepared, paths) / PREDICTION
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = {float(row["strength"]): dict(row) for row in content["at"]}
        for row in rows.values():
            for name in ("recommended", "star", "low", "gain"):
                float(row[name])
        return path, rows, list(content["crowded"])
    except FileNotFoundError as error:
        raise ConfigError(
            f"{who} finds no prediction for these settings and models; run `opdcliff predict` with "
            f"them first, or {otherwise}"
        ) from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{path} is no prediction; run `opdcliff predict` again") from error


def _at(rows: Mapping[float, dict[str, Any]], strength: float | None) -> dict[str, Any]:
    if strength is None or strength not in rows:
        known = ", ".join(f"{c:g}" for c in rows)
        raise ConfigError(
            f"the prediction for these settings is for clip strengths {known}, not "
            f"{strength}; add it to calibration.strengths and run `opdcliff predict` again"
        )
    return rows[strength]
