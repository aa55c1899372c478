"""Figures of fetcher alone: start-up, idle cost, large histories, the watcher.

Owns how each is measured and what it must reach; every function returns verdicts. Accounts
too large to be fetched are made known without it: a first run that may download nothing
lists them, then their rows are marked complete.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import contextmanager
from statistics import median
from typing import TYPE_CHECKING, Protocol

from benchmark.listing import Spec
from benchmark.measure import Command, Cost, FigureError, run
from benchmark.servers import SCRIPTS, listing_of, simulated
from benchmark.targets import Verdict
from benchmark.tools import PROGRAM, fetcher_argv, fetcher_environ
from benchmark.watching import idle_polls
from benchmark.workloads import MB

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmark.compare import Folders

_NOWHERE = "http://127.0.0.1:9"  # the audio of accounts whose files are never asked for
_TIMES = 5


class Figure(Protocol):
    """Something that can be measured; `quick` makes it smaller, to see that it works."""

    def __call__(self, folders: Folders, *, quick: bool) -> list[Verdict]: ...


def startup(folders: Folders, *, quick: bool) -> list[Verdict]:
    """Measure the CPU of commands that must answer at once."""
    times = 1 if quick else 2 * _TIMES

    def cpu_s(*arguments: str) -> float:
        argv = [str(PROGRAM), *arguments]
        return median(_cost(folders, argv).cpu_s for _ in range(times))

    return [
        Verdict("--help: CPU ms", 1000 * cpu_s("--help"), 80),
        Verdict("--version: CPU ms", 1000 * cpu_s("--version"), 300),
        Verdict("status, no manifest: CPU ms", 1000 * cpu_s("status", "-d", "nowhere"), 300),
    ]


def idle(folders: Folders, *, quick: bool) -> list[Verdict]:
    """Measure a run that finds nothing new, beside what importing its libraries costs."""
    imports = [sys.executable, "-c", "import aiohttp, pydantic"]
    times = 1 if quick else 2 * _TIMES
    with _hosted(folders, count=50, size_bytes=4000) as backfill:
        _cost(folders, backfill)
        pairs = [(_cost(folders, backfill), _cost(folders, imports)) for _ in range(times)]
    beyond_s = median(ours.cpu_s - theirs.cpu_s for ours, theirs in pairs)
    return [
        Verdict("idle: CPU ms beyond importing aiohttp and pydantic", 1000 * beyond_s, 150),
    ]


def many(folders: Folders, *, quick: bool) -> list[Verdict]:
    """Measure 20,000 small files, and the run after that finds nothing new."""
    count = 1000 if quick else 20_000
    with _hosted(folders, count=count, size_bytes=10_000) as backfill:
        first, second = (_cost(folders, backfill) for _ in range(2))
    return [
        Verdict(f"{count:,} small files: peak MB", first.peak_bytes / MB, 150),
        Verdict(f"{count:,} small files: second run / first", second.wall_s / first.wall_s, 0.2),
    ]


def dry_run(folders: Folders, *, quick: bool) -> list[Verdict]:
    """Measure how the memory of a dry run grows with the history."""
    peaks = []
    for count in (3000, 30_000) if quick else (30_000, 300_000):
        with listing_of(Spec(count, 4000, _NOWHERE)) as api_url:
            argv = [*fetcher_argv("backfill", api_url, folders.dest), "--dry-run", "-q"]
            peaks.append(_cost(folders, argv).peak_bytes / MB)
    return [Verdict("dry run: MB more with ten times the records", peaks[1] - peaks[0], 30)]


def scale(folders: Folders, *, quick: bool) -> list[Verdict]:
    """Measure the first listing of a million records, and the next run over them."""
    count = 50_000 if quick else 1_000_000
    with _known_account(folders, Spec(count, 4000, _NOWHERE)) as (api_url, first):
        backfill = [*fetcher_argv("backfill", api_url, folders.dest), "-q"]
        second = _cost(folders, backfill)
        status = _cost(folders, [str(PROGRAM), "status", "-d", str(folders.dest)])
    return [
        Verdict(f"first listing of {count:,}: CPU s", first.cpu_s, 30),
        Verdict(f"first listing of {count:,}: peak MB", first.peak_bytes / MB, 150),
        Verdict(f"{count:,} known: us a record", 1e6 * second.wall_s / count, 50),
        Verdict(f"{count:,} known: peak MB", second.peak_bytes / MB, 110),
        Verdict(f"{count:,} known: status CPU ms", 1000 * status.cpu_s, 300),
    ]


def table(folders: Folders, *, quick: bool) -> list[Verdict]:
    """Measure `list` over 100,000 rows: when its first line comes, and its memory."""
    count = 5000 if quick else 100_000
    with _known_account(folders, Spec(count, 4000, _NOWHERE)) as (api_url, _):
        argv = fetcher_argv("list", api_url, folders.dest)
        whole = _cost(folders, argv)
        head = ["bash", "-c", '"$@" 2>/dev/null | head -n 1 >/dev/null', "head", *argv]
        first_line_s = median(_cost(folders, head).wall_s for _ in range(_TIMES))
    return [
        Verdict(f"list of {count:,}: seconds to the first line", first_line_s, 0.5),
        Verdict(f"list of {count:,}: peak MB", whole.peak_bytes / MB, 100),
    ]


def watch(folders: Folders, *, quick: bool) -> list[Verdict]:
    """Measure the polls of a watcher whose large account has one old pending job."""
    count = 5000 if quick else 100_000
    spec = Spec(count, 4000, _NOWHERE, pending=(count // 2,))
    with _known_account(folders, spec) as (api_url, _):
        argv = [*fetcher_argv("watch", api_url, folders.dest), "--json", "--interval", "1"]
        polls = idle_polls(Command(argv, fetcher_environ()), count=2 if quick else 10)
    return [
        Verdict("idle poll: list requests", polls.most_requests, 3),
        Verdict("idle poll: CPU ms", 1000 * polls.cpu_s, 20),
    ]


def live(folders: Folders, *, quick: bool) -> list[Verdict]:
    """Measure the time from the service's `done` to the file in place."""
    argv = [sys.executable, "-m", "benchmark.latency", str(folders.dest), "3" if quick else "20"]
    done = subprocess.run(argv, cwd=SCRIPTS, check=False, capture_output=True, text=True)
    shutil.rmtree(folders.dest, ignore_errors=True)
    if done.returncode != 0:
        raise FigureError(done.stderr.strip().rpartition("\n")[2] or "the watcher did not start")
    return [Verdict("done to file in place: seconds", median(json.loads(done.stdout)), 0.5)]


FIGURES: dict[str, Figure] = {
    "startup": startup,
    "idle": idle,
    "many": many,
    "dry-run": dry_run,
    "scale": scale,
    "list": table,
    "watch": watch,
    "live": live,
}


def _cost(folders: Folders, argv: list[str]) -> Cost:
    """Run a command; raises FigureError where it fails."""
    folders.scratch.mkdir(parents=True, exist_ok=True)
    log = folders.scratch / "figure.log"
    cost = run(Command(argv, fetcher_environ()), log=log)
    if cost.status != 0:
        said = log.read_text(errors="replace").strip()[-300:]
        raise FigureError(f"{argv[1]} ended with {cost.status}: {said}")
    return cost


@contextmanager
def _hosted(folders: Folders, *, count: int, size_bytes: int) -> Iterator[list[str]]:
    """Serve an account with its files; yield the command that brings them home."""
    try:
        with simulated(count, size_bytes, 0) as account:
            yield [*fetcher_argv("backfill", account.api_url, folders.dest), "-q"]
    finally:
        shutil.rmtree(folders.dest, ignore_errors=True)


@contextmanager
def _known_account(folders: Folders, spec: Spec) -> Iterator[tuple[str, Cost]]:
    """Serve an account that the manifest knows as complete.

    Yields the API's URL and the cost of the first listing.
    """
    try:
        with listing_of(spec) as api_url:
            argv = [*fetcher_argv("backfill", api_url, folders.dest), "-q", "--max-downloads", "0"]
            first = _cost(folders, argv)
            _mark_complete(folders.dest)
            yield api_url, first
    finally:
        shutil.rmtree(folders.dest, ignore_errors=True)


def _mark_complete(dest: Path) -> None:
    """Mark every finished job of a manifest as fetched."""
    manifest = sqlite3.connect(dest / ".fetcher" / "manifest.db")
    with manifest:
        manifest.execute(
            "UPDATE entry SET state = 'complete', path = id || '.wav', path_key = id || '.wav',"
            " bytes_total = audio_size_bytes, bytes_stored = audio_size_bytes,"
            " sha256 = printf('%064d', seq), completed_us = updated_us WHERE status = 'success'"
        )
    manifest.close()
