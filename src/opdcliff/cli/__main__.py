"""`python -m opdcliff.cli`: the same as the command `opdcliff`."""

from __future__ import annotations

import sys

from opdcliff.cli import main

if __name__ == "__main__":
    sys.exit(main())
