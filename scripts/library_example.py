"""Brings an account's finished jobs home from a program of your own, with the library.

    .venv/bin/python scripts/library_example.py         against the built-in simulator
    .venv/bin/python scripts/library_example.py DIR     a real account: MUNSIT_API_KEY is its key

Looks first at what would come, fetches it, then waits for the jobs that are still pending.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from fetcher import Fetcher, Settings
from fetcher.errors import FetcherError
from fetcher.events import (
    DownloadCompleted,
    DownloadFailed,
    Event,
    JobFailed,
    JobPending,
    Planned,
    RunCompleted,
)
from fetcher.simulator import Simulator, populate_demo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def look(settings: Settings) -> None:
    """Say how many files a backfill would bring. Nothing is written, not even the folder."""
    files = 0
    async with Fetcher(settings) as fetcher:
        async for event in fetcher.plan():
            if isinstance(event, Planned) and event.action in ("download", "resume", "adopt"):
                files += 1
    print(f"{files} files would come")


async def bring_home(settings: Settings) -> int:
    """Fetch what is finished; return the exit status that the command line would have."""
    async with Fetcher(settings) as fetcher:
        return await tell(fetcher.backfill())


async def wait_for_the_rest(settings: Settings) -> int:
    """Stay until the service has finished every job; return the exit status as above."""
    async with Fetcher(settings) as fetcher:
        return await tell(fetcher.watch())


async def tell(events: AsyncIterator[Event]) -> int:
    """Print what happens; the last event of a run is its account."""
    exit_code = 0
    async for event in events:
        match event:
            case DownloadCompleted(path=path, bytes=size_bytes):
                print(f"  {path} ({size_bytes:,} bytes)")
            case JobPending(file_name=name):
                print(f"  {name} is not finished by the service yet")
            case DownloadFailed(file_name=name, reason=reason):
                print(f"  {name} could not be fetched: {reason}")
            case JobFailed(file_name=name, error=error):
                print(f"  {name} was failed by the service: {error}")
            case RunCompleted():
                print(f"{event.records} records: {event.downloaded} downloaded,", end=" ")
                print(f"{event.already} already here, {event.pending} pending")
                exit_code = event.exit_code
            case _:
                pass
    return exit_code


async def run(settings: Settings) -> int:
    """Do all three, one after the other."""
    try:
        await look(settings)
        return await bring_home(settings) or await wait_for_the_rest(settings)
    except FetcherError as error:  # no key, folder in use, not writable: the run could not begin
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


async def simulated() -> int:
    """Do it against the simulator, in a folder that is gone afterwards."""
    async with Simulator() as simulator:
        populate_demo(simulator)
        with tempfile.TemporaryDirectory() as folder:
            return await run(
                Settings(
                    api_key="any",
                    api_url=simulator.api_url,
                    dest=Path(folder) / "audio",
                    interval=1,
                    until_idle=True,
                )
            )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        key = os.environ.get("MUNSIT_API_KEY")
        sys.exit(asyncio.run(run(Settings(api_key=key, dest=sys.argv[1], until_idle=True))))
    sys.exit(asyncio.run(simulated()))
