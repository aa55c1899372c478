"""From the service's `done` to the file in place, as a process of its own.

`python -m benchmark.latency DEST COUNT` runs a simulator and a watcher on it, finishes COUNT
jobs of 1 MB one after the other, and prints the seconds each took as a JSON list.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.tools import fetcher_argv, fetcher_environ
from fetcher.simulator import Simulator

if TYPE_CHECKING:
    from collections.abc import Callable

_SIZE_BYTES = 1_000_000
_LONGEST_S = 30.0
_LOOK_EVERY_S = 0.002
_PAUSE_S = 0.3


async def measure(dest: Path, count: int) -> list[float]:
    """Return the seconds from `done` to the file, for each of `count` jobs."""
    async with Simulator() as sim:
        jobs = [sim.add_job(status="pending", size_bytes=_SIZE_BYTES) for _ in range(count)]
        watcher = await asyncio.create_subprocess_exec(
            *fetcher_argv("watch", sim.api_url, dest),
            *("-q", "--output", "{id}{ext}", "--interval", "60"),
            env={**os.environ, **fetcher_environ()},
        )
        try:
            await _until(lambda: bool(sim.log.of("progress")) or watcher.returncode is not None)
            if watcher.returncode is not None:
                sys.exit(f"the watcher ended with {watcher.returncode}")
            return [await _one(sim, job, dest / f"{job}.wav") for job in jobs]
        finally:
            with contextlib.suppress(ProcessLookupError):
                watcher.terminate()
            await watcher.wait()


async def _one(sim: Simulator, job: str, place: Path) -> float:
    await _until(lambda: bool(sim.log.of("progress", job=job)))
    await asyncio.sleep(_PAUSE_S)
    started = time.perf_counter()
    sim.finish(job)
    await _until(place.exists)
    return time.perf_counter() - started


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(_LONGEST_S):
        while not condition():  # noqa: ASYNC110 - another process makes it true
            await asyncio.sleep(_LOOK_EVERY_S)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(Path(sys.argv[1]), int(sys.argv[2])))))
