"""The command `scripts/bench`: which workloads, which tools, how often; and the report."""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark import compare, figures, origin, tables, targets, tools
from benchmark.measure import FigureError
from benchmark.targets import Verdict
from benchmark.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmark.compare import Folders, Samples

_MEMORY = Path("/dev/shm")  # where the files that are served lie, if it has room
_NEEDED_BYTES = 2_500_000_000


def main() -> int:
    """Measure what was asked for and print it; return 1 where a target was missed.

    A quick measurement only shows that everything works: it judges nothing.
    """
    options = _parser().parse_args()
    known = [*(workload.name for workload in WORKLOADS), *figures.FIGURES]
    unknown = [name for name in options.names if name not in known]
    if unknown:
        print(f"bench: no workload {unknown[0]!r}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    wanted = options.names or known
    with _folders(options.folder) as folders:
        failed: list[Verdict] = []
        results = _compare(options, wanted, folders, failed)
        verdicts = [] if options.quick else targets.judge(results)
        verdicts += _measure_figures(options, wanted, folders, failed)
    verdicts += failed
    if verdicts:
        print(tables.verdicts(verdicts))
    reached = not failed if options.quick else all(verdict.reached for verdict in verdicts)
    return 0 if reached else 1


def _compare(
    options: argparse.Namespace, wanted: Sequence[str], folders: Folders, failed: list[Verdict]
) -> dict[str, Samples]:
    """Run the workloads that are wanted and print each one's table once it is complete."""
    names = [name for name in tools.installed() if name in options.tools]
    results: dict[str, Samples] = {}
    for workload in (w for w in WORKLOADS if w.name in wanted):
        if workload.needs_nginx and not origin.is_installed():
            print(f"{workload.name}: left out, it needs nginx and openssl\n")
            continue
        size = workload.quick() if options.quick else workload
        rounds = 1 if options.quick else options.rounds
        with _noted(workload.name, failed):
            results[workload.name] = compare.measure(size, names, rounds, folders)
            print(tables.comparison(size, results[workload.name]), flush=True)
    return results


def _measure_figures(
    options: argparse.Namespace, wanted: Sequence[str], folders: Folders, failed: list[Verdict]
) -> list[Verdict]:
    found: list[Verdict] = []
    for name in (name for name in figures.FIGURES if name in wanted):
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        with _noted(name, failed):
            found += figures.FIGURES[name](folders, quick=options.quick)
    return found


@contextmanager
def _noted(name: str, failed: list[Verdict]) -> Iterator[None]:
    """Turn what could not be measured into a missed target, and go on."""
    try:
        yield
    except FigureError as error:
        print(f"{name}: not measured: {error}\n", flush=True)
        failed.append(Verdict(f"{name}: not measured", math.inf, 0.0))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__, allow_abbrev=False)
    known = [*(workload.name for workload in WORKLOADS), *figures.FIGURES]
    parser.add_argument("names", nargs="*", metavar="WORKLOAD", help=f"of {', '.join(known)}")
    parser.add_argument("--quick", action="store_true", help="one round of a tenth of the files")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument(
        "--tools",
        type=lambda text: text.split(","),
        default=list(tools.TOOLS),
        help="comma-separated; default: all that are installed",
    )
    parser.add_argument(
        "--folder", type=Path, help="where files are fetched to; default: temporary"
    )
    return parser


@contextmanager
def _folders(place: Path | None) -> Iterator[Folders]:
    """Make the folders of one session of measuring, and remove them at its end."""
    roomy = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _NEEDED_BYTES
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=place) as own,
        tempfile.TemporaryDirectory(prefix="bench-", dir=_MEMORY if roomy else None) as files,
    ):
        if os.geteuid() == 0:
            Path(files).chmod(0o755)
        yield compare.Folders(Path(files), Path(own) / "scratch", Path(own) / "dest")


if __name__ == "__main__":
    sys.exit(main())
