"""The figures of a report: which of them are locked, what they show, the picture inlined."""

from __future__ import annotations

import base64

from opdcliff.report.drawing.build import NAMES
from opdcliff.report.html_tags import Html, join, prose, tag
from opdcliff.report.inputs import ReportInputs

# What rests on a lock comes first.
_ORDER = ("locked", "locked and exploratory", "exploratory", "closed form")

# Evidence of each figure, and its caption; what is measured is in the picture, not here.
CAPTIONS: dict[str, tuple[str, str]] = {
    "geometry": (
        "closed form",
        "One position: the fixed point of the student climbs with lambda until it meets the clip. "
        "Nothing here is measured.",
    ),
    "threshold_surface": (
        "closed form",
        "Level lines of lambda* over the teacher's mass p and the warm start's b, for three clips, "
        "and lambda* against the clip. Nothing here is measured.",
    ),
    "bifurcation": (
        "closed form",
        "One position simulated: under the mask the student rests below lambda* and runs away "
        "above it; other clip rules beside it. Nothing here is measured.",
    ),
    "fine_grid": (
        "locked",
        "Every seed of the arm `fine_grid`: final parse rate and NDCG@1 against lambda, above them "
        "the windows of T1 and T1_exact, the closed form and the observed onset.",
    ),
    "budget": (
        "locked and exploratory",
        "Onset against the number of updates. Locked: T1 and T2. Exploratory: the arm "
        "`plain_start`, for which nothing was predicted.",
    ),
    "small_clip": (
        "locked and exploratory",
        "Predicted against observed onset over clips, from one pair (p, b). Locked: c = 5 and "
        "c = 2. Exploratory: all others.",
    ),
    "trajectories": (
        "exploratory",
        "Runs of the locked study over time, looked at without a prediction: below, near and above "
        "the cliff.",
    ),
    "size_axis": (
        "locked and exploratory",
        "The distilled student beside fine-tuned models of several sizes. Locked: student, warm "
        "start and the larger model of the test parity. Exploratory: the other sizes.",
    ),
    "clip_rules": (
        "exploratory",
        "Parse rate under each clip rule. PPO and ASPO clip another ratio, about which the closed "
        "form says nothing.",
    ),
    "calibration": (
        "exploratory",
        "p, b and lambda* per token class and offset, as measured before any distillation.",
    ),
    "scope": (
        "locked and exploratory",
        "How far the onset lies from lambda* on other tasks, sizes, families and contracts. "
        "Locked: the two rows of the locked study. Exploratory: all others.",
    ),
    "titles_onset": (
        "exploratory",
        "Text whose positions differ, item titles: parse rates against lambda at two step sizes, "
        "and candidates for the onset.",
    ),
    "near_grid": (
        "locked",
        "The cliff of nearly deterministic text, p = .98, at two clips: every run, the windows and "
        "the onsets from grid cells.",
    ),
    "shortfall": (
        "locked and exploratory",
        "How far short of lambda* the onset falls from p = .86 to .99, beside what was predicted. "
        "Locked: mini, near and near_p99. Exploratory: all others.",
    ),
    "step_sizes": (
        "exploratory",
        "Where the onset lies at other step sizes, batches and warm-ups, and at the paper's "
        "estimator and start, beside what a pilot at the same settings had predicted.",
    ),
    "near_budget": (
        "locked",
        "Onset against the budget of plain gradient steps: windows, observed onsets and the law of "
        "the pilot's clock.",
    ),
    "preview_locked": (
        "locked",
        "Parse rates of settled students, sampled and locked before any run, beside every run: two "
        "clips and none.",
    ),
    "preview_beside": (
        "exploratory",
        "Parse rates of settled students, sampled without any training, beside the final rates of "
        "runs.",
    ),
    "preview_rare": (
        "exploratory",
        "Runs without a clip beside settled students, with the entries that the warm start hardly "
        "holds settled, and held where they are.",
    ),
    "pretrained": (
        "exploratory",
        "SmolLM2-135M on two tasks: settled students and pilots, predicted before the runs, and "
        "the runs, past the lambda* of the medians.",
    ),
}


def figure_section(inputs: ReportInputs) -> Html:
    """All figures but those of other locks, and a line on each that is not there."""
    shown, missing = [], []
    for name in sorted(NAMES, key=lambda name: _ORDER.index(CAPTIONS[name][0])):
        drawing = inputs.drawing(name)
        if drawing.elsewhere:
            continue
        evidence, caption = CAPTIONS[name]
        if drawing.missing:
            missing.append(tag("li", tag("b", name), ": ", prose(drawing.missing)))
            continue
        data = base64.b64encode(drawing.svg).decode("ascii")
        picture = tag("img", src=f"data:image/svg+xml;base64,{data}", alt=f"{name}: {caption}")
        words = tag(
            "figcaption",
            tag("b", f"{evidence[:1].upper()}{evidence[1:]}. "),
            prose(caption),
            tag("br"),
            tag("span", f"Drawn from {drawing.provenance}", class_="soft"),
        )
        frame = tag("div", picture, class_="picture", tabindex="0", role="region", aria_label=name)
        shown.append(tag("figure", frame, words))
    absent = [tag("p", "Not shown:"), tag("ul", *missing)] if missing else []
    return join([*shown, *absent])
