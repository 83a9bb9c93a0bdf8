"""The road on the terminal."""

from __future__ import annotations

import pandas as pd
from rich.console import Console

from opdcliff.road.steps import Road
from opdcliff.terminal import print_table


def print_road(road: Road, console: Console) -> None:
    """A table of all steps, and the next command on a line of its own."""
    rows = [
        {"step": each.step.name, "state": each.state, "": each.detail or each.step.leaves}
        for each in road.standings
    ]
    print_table(console, f"The road of {road.protocol}", pd.DataFrame(rows))
    console.print(road.upcoming, markup=False, highlight=False, soft_wrap=True)
