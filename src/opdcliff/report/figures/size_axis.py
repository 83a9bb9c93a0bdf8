"""The size axis: the distilled student beside fine-tuned models of several sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from opdcliff.report.drawing import style
from opdcliff.report.drawing.inputs import EXPLORATORY, LOCKED, Inputs, LockedStudy, Study
from opdcliff.report.drawing.page import Page, new_figure
from opdcliff.report.drawing.parameters import parameter_counts
from opdcliff.theory import t_interval

# Options of the group `model`, and the study that trained teacher and warm start of that size.
SIZES = {"tiny_half": "scope_half", "tiny": "quick", "tiny_2x": "scope_2x"}
BASE, LARGEST = "tiny", "tiny_5x"
# Multiple of lambda* at which the distilled student is measured: the safe one of the lock.
SAFE = 0.8875
METRICS = {"parse_rate": "strict parse rate", "ndcg1_all": "NDCG@1 over all answers"}
KINDS = {"opd": f"distilled, {SAFE:g} lambda*", "sft": "fine-tuned", "warm_start": "warm start"}
_RECORDED = "counted in the run"
_BUILT = "shapes of conf/model, vocabulary from the recorded count of tiny_5x"


def table(study: LockedStudy, others: Mapping[str, Study]) -> pd.DataFrame:
    """One row per run, and per reference of a study, which was measured once and has no seed."""
    larger, fine = study.arm("larger_sft"), study.arm("fine_grid")
    recorded = int(larger["model/parameters"].iloc[0])
    counts = parameter_counts([*SIZES, LARGEST], LARGEST, recorded)
    safe = fine[fine.lam == study.lock.arm("fine_grid").lams[0]]
    rows: list[dict[str, Any]] = []
    for model, kind, runs in (
        (BASE, "opd", safe),
        (BASE, "warm_start", study.arm("warm_start")),
        (LARGEST, "sft", larger),
    ):
        about = {"model": model, "kind": kind, "study": "mini", "evidence": LOCKED}
        rows += [about | _metrics(run, "eval/") for run in runs.to_dict("records")]
    for model, name in SIZES.items():
        about = {"model": model, "study": name, "evidence": EXPLORATORY}
        references = others[name].references()
        for kind, key in (("sft", "teacher"), ("warm_start", "warm_start")):
            rows.append(about | {"kind": kind} | _metrics(references[key], "eval/"))
        cells = others[name].table("cells")
        # The quick study has no runs at this multiple; the locked one has.
        near = cells[(cells.lam / cells.lambda_star - SAFE).abs() < 0.001]
        rows += [about | {"kind": "opd"} | _metrics(run, "") for run in near.to_dict("records")]
    data = pd.DataFrame(rows).astype({"seed": "Int64"})
    data.insert(1, "parameters", data.model.map(counts))
    counted = (data.kind == "sft") & (data.study == "mini")
    data["counted_by"] = counted.map({True: _RECORDED, False: _BUILT})
    return data.sort_values(["kind", "parameters", "study", "seed"], ignore_index=True)


def _metrics(row: Mapping[Any, Any], prefix: str) -> dict[str, Any]:
    return {"seed": row.get("seed", pd.NA)} | {name: row[prefix + name] for name in METRICS}


def build(inputs: Inputs) -> Page:
    """From the locked study and the quick and scope studies of results/studies/mini."""
    study, others = inputs.locked(), {}
    for name in SIZES.values():
        command = "protocol=quick" if name == "quick" else f"experiment={name}"
        others[name] = inputs.study("mini", name, f"opdcliff study {command}")
    data = table(study, others)
    figure = new_figure(
        9.4,
        4.7,
        "The distilled student beside fine-tuned models of several sizes",
        "Each size distilled has its own fine-tuned model, its teacher, and its own warm start. "
        "Ringed: runs of the locked study (8 seeds); the others are exploratory. Small: seeds; "
        "large: their mean, with the 95% interval. What was measured once has no interval.",
    )
    axes = figure.subplots(1, len(METRICS))
    for axis, (metric, label) in zip(axes, METRICS.items(), strict=True):
        _panel(axis, data, metric)
        axis.set_ylabel(label)
    axes[0].legend(loc="lower right", fontsize=8)
    return Page(figure, data, [study.origin, *(other.origin for other in others.values())])


def _panel(axis: Axes, data: pd.DataFrame, metric: str) -> None:
    sizes = data.drop_duplicates("model").set_index("model").parameters.sort_values()
    axis.set_xscale("log")
    axis.set_xticks(sizes.to_list(), [f"{n:,}\n{m}" for m, n in sizes.items()], fontsize=7.5)
    axis.minorticks_off()
    axis.set(xlim=(sizes.min() / 1.5, sizes.max() * 1.5), ylim=(0.0, 1.03), xlabel="parameters")
    for (kind, label), look, aside in zip(
        KINDS.items(), style.SERIES, (0.94, 1.06, 1.0), strict=False
    ):
        for number, (_, group) in enumerate(
            data[data.kind == kind].groupby(["parameters", "study"])
        ):
            x, values = group.parameters.iloc[0] * aside, group[metric]
            locked = group.evidence.iloc[0] == LOCKED
            if not locked and kind != "opd" and group.model.iloc[0] in (BASE, LARGEST):
                x *= 1.12
            low, high = t_interval(values.to_list())
            mean = float(values.mean())
            axis.plot([x] * len(values), values, look.marker, color=look.color, ms=2.5, alpha=0.5)
            axis.errorbar(
                [x], [mean], yerr=[[mean - low], [high - mean]], fmt=look.marker, ms=7,
                color=look.color, capsize=3, mec="black" if locked else "white",
                mew=1.3 if locked else 0.6, label=label if number == 0 else None,
            )  # fmt: skip
