"""The verb `predict`: what a pilot says of the onset, printed and written."""

from __future__ import annotations

from dataclasses import asdict

from rich.console import Console

from opdcliff.prereg import Predicted
from opdcliff.settings import RunConfig
from opdcliff.storage import encode_floats, write_json_atomic, write_text_atomic
from opdcliff.study import PREDICTION
from opdcliff.terminal import print_table, print_text


def report(
    found: Predicted, config: RunConfig, console: Console, wanted: float | None = None
) -> None:
    """Print the prediction; write prediction.csv and prediction.json.

    wanted: a lambda whose largest step size is asked for.
    """
    facts = found.pilot
    print_text(
        console,
        f"Pilot: {len(found.runs)} runs at lambda = {found.pilot_lam:g} over "
        f"{config.optim.updates} updates, warm-up {config.lam.warmup_updates}. In logits: spread "
        f"of positions {facts.spread_lo:.3f} to {facts.spread_hi:.3f}, wobble {facts.wobble:.3f}, "
        f"logit q up to {found.arrival:.3f} above its moving fixed point and {found.overshoot:.3f} "
        "from half of the warm-up on, speed "
        f"{facts.speed_lo:.3f} to {facts.speed_hi:.3f} an update.",
    )
    print_table(console, "Predicted onset, and the lambda that keeps clear of it", found.table())
    print_table(console, "What the margin is made of, in logits", found.parts())
    if wanted is not None:
        steps = found.steps(wanted, config)
        print_table(console, f"The largest step at which lambda = {wanted:g} keeps clear", steps)
        if steps["optim.lr"].isna().any():
            print_text(
                console,
                f"Where there is none, lambda = {wanted:g} is above what spread and wobble leave, "
                "whatever the step: take a smaller lambda, a larger clip or a longer warm-up.",
            )
        if (steps["optim.lr"] < config.optim.lr).any():
            print_text(
                console,
                "This takes the overshoot in proportion to the step, and the rest as it is. Run "
                "`opdcliff predict` again at the step that you choose.",
            )
    for at in found.at:
        if at.held is not None and at.held > at.clear:
            print_text(
                console,
                f"At c = {at.strength:g} the pilots' own lambda, {at.held:g}, is recommended: more "
                "than keeps clear by this margin, but with these settings all pilots held there.",
            )
    unsafe = [f"{at.strength:g}" for at in found.at if at.recommended <= 1.0]
    if unsafe:
        print_text(
            console,
            f"At c = {', '.join(unsafe)} no lambda above 1 keeps the margin of this pilot; see "
            "what it is made of.",
        )
    for at in found.crowded():
        print_text(
            console,
            f"At c = {at.strength:g} there are {at.arrival:.3f} logits above the fixed point at "
            f"lambda = 1, and the pilot overshot by {found.arrival:.3f}: a run may be lost on "
            "arrival, whatever lambda. Take a smaller optim.lr or a larger clip.",
        )
    print_text(
        console,
        "lambda* is the limit of small steps and of positions that are alike. The prediction holds "
        "for these settings: another optim.lr, batch, warm-up or budget needs its own pilot.",
    )
    found.folder.mkdir(parents=True, exist_ok=True)
    table = found.table().to_csv(index=False, float_format="%.6g")
    write_text_atomic(found.folder / "prediction.csv", table)
    content = {name: value for name, value in asdict(found).items() if name != "folder"}
    content["crowded"] = [at.strength for at in found.crowded()]
    for row, at in zip(content["at"], found.at, strict=True):
        # What `lambda=predicted` takes.
        row["recommended"] = at.recommended
    write_json_atomic(found.folder / PREDICTION, encode_floats(content))
