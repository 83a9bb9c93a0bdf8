"""What tests start as ranks: `python -m small_ranks WORD`, of whatever launcher."""

from __future__ import annotations

import os
import signal
import sys
import time

RANK = os.environ.get("RANK")


def main(word: str) -> None:
    match word, RANK:
        case "say", _:
            print(RANK, *(os.environ[name] for name in ("WORLD_SIZE", "MASTER_PORT")), flush=True)
            print("rank", RANK, "has", os.environ["GIVEN"], file=sys.stderr, flush=True)
        case "leave", "1":
            sys.exit(3)
        case "die", "1":
            os.kill(os.getpid(), signal.SIGKILL)
        case "signal", _:
            for number in (signal.SIGUSR1, signal.SIGUSR2):
                os.kill(os.getpid(), number)
        case "raise", "0":
            raise RuntimeError("too little bread")
        case _:
            print("waits", flush=True)
            # Only a failing test waits this long.
            time.sleep(100)


if __name__ == "__main__":
    main(sys.argv[1])
