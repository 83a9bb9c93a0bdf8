"""The first part of a report: integrity, what held and what did not, test by test."""

from __future__ import annotations

import math
from typing import Any

from opdcliff.report.html_tags import Html, join, prose, table, tag
from opdcliff.report.inputs import ReportInputs
from opdcliff.report.marks import scale
from opdcliff.theory import lambda_star
from opdcliff.verification import (
    BRACKETS,
    BRACKETS_SAY,
    Integrity,
    LockedTest,
    Outcome,
    number,
    span,
)

_INTEGRITY = {
    Integrity.CLEAN: (
        "good",
        "No run deviates from the lock, and every run began after it, at a commit that holds it.",
    ),
    Integrity.DEVIATED: (
        "odd",
        "Some runs differ from what was locked; each is listed under Deviations.",
    ),
    Integrity.UNANCHORED: (
        "bad",
        "Git or the clock does not put the lock before the runs; see Deviations.",
    ),
}
_OUTCOMES = {
    Outcome.CONFIRMED: ("good", "the interval lies inside the window"),
    Outcome.REFUTED: ("bad", "the interval lies wholly outside the window"),
    Outcome.INCONCLUSIVE: ("odd", "the interval straddles an end, or a seed does not cross"),
    Outcome.NOT_RUN: ("odd", "a cell of the test has no outcome"),
    Outcome.INADMISSIBLE: ("odd", "a metric is missing, there are too few seeds, or a gate failed"),
}


def summary(inputs: ReportInputs) -> Html:
    """Integrity and the count of each outcome, as the first thing a reader sees."""
    verdicts, integrity = inputs.verdicts, inputs.verdicts["integrity"]
    outcomes = [Outcome(test["outcome"]) for test in verdicts["tests"].values()]
    look, words = _INTEGRITY[integrity]
    cards = [_card(look, integrity.value, "integrity")]
    for outcome, (colour, _) in _OUTCOMES.items():
        count = outcomes.count(outcome)
        if count or outcome in (Outcome.CONFIRMED, Outcome.REFUTED):
            cards.append(_card(colour, f"{count} of {len(outcomes)}", outcome.value))
    runs = f"{verdicts['cells']} of {verdicts['cells_locked']}"
    cards.append(_card(None, runs, "locked runs with an outcome"))
    said = f"Integrity {integrity.value}. {words}"
    if verdicts["mismatches"]:
        said += f" {len(verdicts['mismatches'])} numbers of a mirror differ from their record."
    return join([tag("ul", *cards, class_="sums"), tag("p", said)])


def _card(look: str | None, value: str, label: str) -> Html:
    return tag("li", tag("b", value), label, class_=look)


def badge(outcome: str) -> Html:
    """The outcome as a word in a frame, whose form tells it apart without colour."""
    return tag("span", outcome, class_=f"badge {_OUTCOMES[Outcome(outcome)][0]}")


def verdict_section(inputs: ReportInputs) -> Html:
    """The table of verdicts, how to read it, and each test in full."""
    rows = [_row(inputs, test) for test in inputs.tests]
    head = ("test", "claim", "window", "observed", "to scale", "outcome")
    used = {Outcome(test["outcome"]) for test in inputs.verdicts["tests"].values()}
    meanings = "; ".join(f"{o.value}: {why}" for o, (_, why) in _OUTCOMES.items() if o in used)
    return join(
        [
            table(head, rows, kind="stack"),
            tag(
                "p",
                f"{meanings}. To scale: box, the window; bar and dot, the interval over seeds and "
                "its mean; "
                "dashed, the closed form lambda*(p, b, c). An onset is read off a grid: nothing "
                "finer than a grid cell is claimed.",
                class_="soft",
            ),
            tag(
                "details",
                tag("summary", "Test by test: derivation, seeds, what would refute"),
                *(_detail(inputs, test) for test in inputs.tests),
            ),
            _brackets(inputs),
            _exploratory(inputs),
        ]
    )


def _row(inputs: ReportInputs, test: LockedTest) -> list[str]:
    found, star = inputs.verdicts["tests"][test.id], _star(inputs, test)
    window, interval = tuple(found["window"]), tuple(found["interval"])
    observed, confidence = _observed(found), f"{100 * test.estimator.confidence:g}%"
    seen = f"window {_window(window)}, observed {observed}"
    notes = [tag("br"), tag("span", _against(star, window), class_="soft")] if star else []
    return [
        test.id,
        join([test.claim, *notes]),
        _whole(_window(window)),
        join(
            [
                *(part for half in _halves(found) for part in (_whole(half), " ")),
                tag("span", f"({confidence})", class_="soft whole"),
            ]
        ),
        scale(window, interval, found["mean"], star, seen),
        badge(found["outcome"]),
    ]


def _halves(found: dict[str, Any]) -> list[str]:
    """Mean and interval."""
    if math.isnan(found["mean"]):
        return ["none"]
    return [number(found["mean"]), span(*found["interval"])]


def _observed(found: dict[str, Any]) -> str:
    return " ".join(_halves(found))


def _bootstrap(found: dict[str, Any]) -> str:
    """What brackets alone do not have."""
    known = not math.isnan(found["bootstrap"][0])
    return f"; bootstrap over seeds {span(*found['bootstrap'])}" if known else ""


def _whole(text: str) -> Html:
    """A text that no line end breaks."""
    return tag("span", text, class_="whole")


def _window(window: tuple[float, float]) -> str:
    low, high = window
    if math.isinf(high):
        return f"at least {number(low)}"
    return f"at most {number(high)}" if math.isinf(low) else span(low, high)


def _star(inputs: ReportInputs, test: LockedTest) -> float | None:
    """lambda* of a test of the onset, from the calibration in its lock."""
    if test.estimator.kind != "onset" or test.design.strength is None:
        return None
    binding = inputs.lock.calibration["binding"]
    p, b = float(binding["p"]), float(binding["b"])
    return lambda_star(p, b, test.design.strength)


def _against(star: float, window: tuple[float, float]) -> str:
    where = "inside" if window[0] <= star <= window[1] else "outside"
    return f"closed form: lambda* = {number(star)}, {where} the window"


def _detail(inputs: ReportInputs, test: LockedTest) -> Html:
    found, design = inputs.verdicts["tests"][test.id], test.design
    facts = {
        "claim": f"{test.claim} ({test.source})",
        "hypothesis": test.hypothesis,
        "refuted if": test.refutes,
        "window": f"{_window(tuple(found['window']))}: {test.window.derivation}",
        "runs": f"arm {design.arm}, clip {design.clip}, {design.updates} updates, warm-up "
        f"{design.warmup_updates}, {design.seeds} seeds",
        "observed": f"{_observed(found)}{_bootstrap(found)}; mean "
        f"{'inside' if found['point_inside'] else 'outside'} the window",
        "seeds": ", ".join(map(number, found["points"])) or "none",
        "grid cells": span(*found["bracket"]),
        "p": f"{number(found['p_holm'])}, of the mean lying outside the window"
        f"{', Holm-corrected' if test.correction == 'holm' else ''}",
        "verdict": f"{found['outcome']}: {found['reason']}",
        "left out": test.exclusions,
        "stopping": test.stopping,
    }
    pairs = [part for key, text in facts.items() for part in (tag("dt", key), tag("dd", text))]
    return join([tag("h3", test.id, " ", badge(found["outcome"])), tag("dl", *pairs)])


def _brackets(inputs: ReportInputs) -> Html:
    rows = inputs.brackets.to_numpy().tolist()
    if not rows:
        return Html("")
    head = tuple(inputs.brackets.columns)
    return join(
        [tag("h3", BRACKETS), tag("p", prose(BRACKETS_SAY)), table(head, rows, kind="stack")]
    )


def _exploratory(inputs: ReportInputs) -> Html:
    rows = [
        [
            row["arm"],
            f"{number(row['onset'])} {span(row['low'], row['high'])}",
            span(row["bracket_lo"], row["bracket_hi"]),
            row["points"],
        ]
        for row in inputs.verdicts["exploratory"]
    ]
    if not rows:
        return Html("")
    head = ("arm", "onset", "grid cells", "seeds")
    return join(
        [
            tag("h3", "Exploratory"),
            tag("p", prose("Estimates of arms without a locked prediction, hence no verdicts.")),
            table(head, rows, kind="stack"),
        ]
    )
