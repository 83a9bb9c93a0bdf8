"""Our side of "paper beside ours": what rows say of committed results."""

from __future__ import annotations

import functools

from opdcliff.report.drawing.parameters import parameter_counts
from opdcliff.report.paper_numbers import OurNumbers, off, onset_of
from opdcliff.verification import number, span

# The clip of the paper's marker.
CLIP = 5.0
# Policy-ratio rules: ASPO beside the mask.
RULES = "opdcliff study experiment=policy_ratio_rules"
_ONSET = ("onset", "onset_lo", "onset_hi")


def threshold(committed: OurNumbers) -> str:
    """lambda* at the clip of the paper, with the p and b behind it."""
    p, b = committed.locked.binding
    return (
        f"lambda* = {number(committed.star(CLIP))} at c = {CLIP:g}, p = {number(p)}, "
        f"b = {number(b)} [M]"
    )


def plain_start(committed: OurNumbers) -> str:
    """The onset without warm-up, and how far off it is."""
    arms = {row["arm"]: row for row in committed.locked.verdicts["exploratory"]}
    found = arms["plain_start"]
    return (
        f"{number(found['onset'])} {span(found['low'], found['high'])}, exploratory: "
        f"{off(found['onset'], committed.star(CLIP))} of lambda* [M]"
    )


def below(committed: OurNumbers) -> str:
    """The parse rate at the lambda below the cliff."""
    lam = committed.safe_lam()
    share = lam / committed.star(CLIP)
    rate = committed.mean("fine_grid", "eval/parse_rate", lam)
    return f"{rate} at lambda = {number(lam)}, {share:.2f} of lambda* [M]"


def flat(committed: OurNumbers) -> str:
    """Difference and level of NDCG@1 of answers that parse."""
    runs, lam = committed.locked.arm("fine_grid"), committed.safe_lam()
    level = runs["eval/ndcg1_parsed"][runs.lam == lam].mean()
    return f"difference {committed.contrast('flatness')}; level {number(level)} at {number(lam)}"


@functools.cache
def _student_parameters(larger: int) -> int:
    return parameter_counts(["tiny"], "tiny_5x", larger)["tiny"]


def parity(committed: OurNumbers) -> str:
    """NDCG@1 less that of the larger model, and the sizes of both."""
    larger = int(committed.locked.arm("larger_sft")["model/parameters"].iloc[0])
    own = _student_parameters(larger)
    return (
        f"NDCG@1 of all answers: difference {committed.contrast('parity')}; {own:,} parameters "
        f"against {larger:,}, {larger / own:.1f} times as many"
    )


def study(data: str, protocol: str, command: str, committed: OurNumbers) -> str:
    """The onsets of an exploratory study, clip by clip."""
    rows = committed.studied(data, protocol, command).to_dict("records")
    said = [
        f"{row['clip']}: {onset_of(row)} lambda* = {number(row['lambda_star'])}, "
        f"{row['seeds']} seed{'' if row['seeds'] == 1 else 's'}"
        for row in rows
    ]
    return f"{'; '.join(said)} [M]"


def near_start(committed: OurNumbers) -> str:
    """Onsets near p = 1 by estimator and start."""
    name = "near_paper_start"
    rows = committed.studied("mini", name, f"opdcliff study experiment={name}").to_dict("records")
    said = [
        f"{row['estimator']}, {'plain' if row['warmup'] == 0 else 'warm-up'}: {onset_of(row)} it"
        for row in rows
    ]
    star, seeds = number(rows[0]["lambda_star"]), rows[0]["seeds"]
    return f"lambda* = {star} at c = 2, {seeds} seeds; {'; '.join(said)} [M]"


def without_text(committed: OurNumbers) -> str:
    """The range of parse rates of the contract without free text."""
    name = "scope_ranking_only"
    cells = committed.cells("", name, f"opdcliff collect protocol={name}")
    rates, lams = cells["eval/parse_rate"], cells["lam"]
    return (
        f"{100 * rates.min():.1f} to {100 * rates.max():.1f}% parse in all {len(cells)} runs, "
        f"lambda {lams.min():g} to {lams.max():g}: no onset [M]"
    )


def rules(committed: OurNumbers) -> str:
    """Where ASPO and the mask on pi_T/pi_S fall to half, and how many runs collapsed."""
    cells = committed.cells("mini", "policy_ratio_rules", RULES)
    onsets = committed.studied("mini", "policy_ratio_rules", RULES).set_index("clip")
    said = []
    for clip, name in (("aspo", "ASPO"), ("c5", "mask on pi_T/pi_S")):
        runs = cells[cells["clip"] == clip]
        onset, low, high = (float(onsets[key][clip]) for key in _ONSET)
        said.append(
            f"{name}: half the answers parse at {number(onset)} {span(low, high)}, "
            f"{(runs.status == 'collapsed').sum()} of "
            f"{len(runs)} runs collapsed"
        )
    return f"{'; '.join(said)} [M]"
