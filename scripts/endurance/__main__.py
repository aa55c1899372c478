"""The command `scripts/soak`: how long, from which seed; and the report."""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
from pathlib import Path

from endurance.month import DAYS, Plan, live

_PLAN = Plan(day_s=7.0, jobs_a_day=60, jobs_before=5000, most_growth=1.05)
_QUICK_PLAN = Plan(day_s=1.2, jobs_a_day=25, jobs_before=300, most_growth=1.1)


def main() -> int:
    """Live through the month and print its report; return 1 where anything was wrong."""
    options = _parser().parse_args()
    plan = _QUICK_PLAN if options.quick else _PLAN
    seed = random.randrange(10**6) if options.seed is None else options.seed
    folder = Path(tempfile.mkdtemp(prefix="soak-", dir=options.folder))
    say(f"seed {seed}: {DAYS} days of {plan.day_s:g} s, in {folder}")
    report = asyncio.run(live(folder, plan, seed=seed, say=say))
    print(report.text())
    if report.failures:
        print(f"what is there was left in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


def say(text: str) -> None:
    """Tell a person how far it is."""
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="half a minute instead of four")
    parser.add_argument("--seed", type=int, help="of jobs, weather, restarts; default: random")
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    return parser


if __name__ == "__main__":
    sys.exit(main())
