"""Runs every Hypothesis test on random examples, in rounds, for FUZZ_MINUTES (60).

Each round has a seed of its own, which is printed first: `python dev/fuzz.py SEED` repeats that
round. The first failure ends the run; Hypothesis prints the smallest example that it found.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYTEST = [sys.executable, "-m", "pytest", "--quiet", "--exitfirst", "-m", "hypothesis"]
PROFILE = ["--hypothesis-profile", "fuzz", "-p", "no:cacheprovider"]


def main(seeds: list[str]) -> int:
    end = time.monotonic() + 60 * float(os.environ.get("FUZZ_MINUTES", "60"))
    if seeds:
        return round_of(int(seeds[0]), timeout=None)
    rounds = 0
    while (left := end - time.monotonic()) > 0:
        try:
            if code := round_of(random.randrange(2**32), left):
                return code
        except subprocess.TimeoutExpired:
            break
        rounds += 1
    print(f"no failure in {rounds} whole rounds; the time is over")
    return 0


def round_of(seed: int, timeout: float | None) -> int:
    """Runs all Hypothesis tests once and returns the exit code of pytest."""
    print(f"seed {seed}", flush=True)
    command = [*PYTEST, *PROFILE, "--hypothesis-seed", str(seed), "tests"]
    return subprocess.run(command, cwd=ROOT, timeout=timeout).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
