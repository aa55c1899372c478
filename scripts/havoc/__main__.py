"""The command `scripts/chaos`: how often, from which seed; and the report."""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
from pathlib import Path

from havoc.loop import storm

_KILLS, _QUICK_KILLS = 200, 12


def main() -> int:
    """Run the storm and print its report; return 1 where anything was wrong."""
    options = _parser().parse_args()
    kills = options.kills or (_QUICK_KILLS if options.quick else _KILLS)
    seed = random.randrange(10**6) if options.seed is None else options.seed
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir=options.folder))
    say(f"seed {seed}, {kills} kills, in {folder}")
    report = asyncio.run(storm(folder / "audio", kills=kills, seed=seed, say=say))
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
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__, allow_abbrev=False)
    parser.add_argument("--kills", type=int, help=f"default: {_KILLS}")
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK_KILLS} kills")
    parser.add_argument("--seed", type=int, help="of jobs, faults and moments; default: random")
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    return parser


if __name__ == "__main__":
    sys.exit(main())
