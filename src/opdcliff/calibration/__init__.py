"""p and b of every token class on the warm start's own prefixes, and lambda* from them."""

from __future__ import annotations

from opdcliff.calibration.asset import (
    calibration_asset,
    prepare_calibration,
    require_classes,
)
from opdcliff.calibration.class_masses import Binding, Calibration
from opdcliff.calibration.distribution import (
    Homogeneity,
    tabulate_curves,
    tabulate_distribution,
)
from opdcliff.calibration.modal_mass import CLASSES, NO_CLASS, label, label_classes, modal_logits
from opdcliff.calibration.outside import Outside, mass_outside
from opdcliff.calibration.pair import calibrate, own_pair

__all__ = [
    "CLASSES",
    "NO_CLASS",
    "Binding",
    "Calibration",
    "Homogeneity",
    "Outside",
    "calibrate",
    "calibration_asset",
    "label",
    "label_classes",
    "mass_outside",
    "modal_logits",
    "own_pair",
    "prepare_calibration",
    "require_classes",
    "tabulate_curves",
    "tabulate_distribution",
]
