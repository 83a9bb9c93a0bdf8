"""Grids of cells: their records, the pool that runs them, and the tables of what came out."""

from __future__ import annotations

from opdcliff.study.cell_table import print_cells
from opdcliff.study.cells import Cell
from opdcliff.study.collect import collect
from opdcliff.study.duration import planned_updates
from opdcliff.study.jobs import run_grid, run_one, sweep_words
from opdcliff.study.pool import incomplete, run_cells
from opdcliff.study.predicted import PREDICTION, predicted_margins, prediction_folder
from opdcliff.study.slurm import check_slurm, is_slurm, launcher_settings, sbatch_script
from opdcliff.study.study import LAM_DECIMALS, arm_config, check_protocol, grid, run_study
from opdcliff.study.summary import Summary, print_summary, summarise_study

__all__ = [
    "LAM_DECIMALS",
    "PREDICTION",
    "Cell",
    "Summary",
    "arm_config",
    "check_protocol",
    "check_slurm",
    "collect",
    "grid",
    "incomplete",
    "is_slurm",
    "launcher_settings",
    "planned_updates",
    "predicted_margins",
    "prediction_folder",
    "print_cells",
    "print_summary",
    "run_cells",
    "run_grid",
    "run_one",
    "run_study",
    "sbatch_script",
    "summarise_study",
    "sweep_words",
]
