"""A stop while the disk is slow: in time, in order, and with nothing half recorded.

The real process, in which every fsync takes as long as the test says.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import KEY, check_mirror, eventually, files, unfinished

import fetcher

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator

    from fetcher.simulator import Simulator

_PROGRAM = """
import os, sys, time
begun, seconds, within = sys.argv.pop(1), float(sys.argv.pop(1)), float(sys.argv.pop(1))
real, leave = os.fsync, os._exit
def fsync(fd):
    if ".part" in os.readlink(f"/proc/self/fd/{fd}") if sys.platform == "linux" else True:
        open(begun, "a").close()
        time.sleep(seconds)
    real(fd)
def note_lock(status):
    import fcntl
    with open(sys.argv[sys.argv.index("-d") + 1] + "/.fetcher/lock", "r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.rename(begun, begun + ".held")
    leave(status)
os.fsync, os._exit = fsync, note_lock
from fetcher import __main__, foreground
from fetcher.runs import pipeline
foreground._STOP_WITHIN_S = within
pipeline._FINISH_WITHIN_S = 0.1
__main__.main()
"""


class Slow:
    """A backfill whose disk is slow. `begun`: there once the first fsync has begun."""

    def __init__(self, process: Process, begun: Path) -> None:
        self.process = process
        self.begun = begun

    @property
    def held_its_lock(self) -> bool:
        """Whether it still held its destination when it ended."""
        return self.begun.with_name(self.begun.name + ".held").exists()

    async def stopped(self) -> tuple[int, list[dict[str, Any]]]:
        """Stop it once all is listed and it waits for the disk; return its status and events."""
        assert self.process.stdout is not None
        told = b""
        async with asyncio.timeout(20):
            while b"poll.completed" not in told:
                told += await self.process.stdout.readline() or b"poll.completed: never"
            await eventually(self.begun.exists)
            with suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGTERM)
            out, err = await self.process.communicate()
        assert b"Traceback" not in err
        assert b"destroyed" not in err
        assert self.process.returncode is not None
        return self.process.returncode, [json.loads(line) for line in (told + out).splitlines()]


@asynccontextmanager
async def slow(
    sim: Simulator, dest: Path, *options: str, fsync_s: float, within_s: float = 10.0
) -> AsyncIterator[Slow]:
    """Give a running backfill; every fsync of a file takes so long, a stop no longer than that."""
    begun = dest.with_name("begun")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _PROGRAM, str(begun), str(fsync_s), str(within_s)),
        *("backfill", "--json", "--api-url", sim.api_url, "-d", str(dest), "--min-free", "0"),
        *options,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(fetcher.__file__).parents[1]),
            "HOME": str(dest.parent),
            "MUNSIT_API_KEY": KEY,
        },
        cwd=dest.parent,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Slow(process, begun)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def check_end(events: list[dict[str, Any]], status: int) -> dict[str, Any]:
    """Assert that the final event is the last one and adds up; return it."""
    assert [e["event"] for e in events].index("run.completed") == len(events) - 1
    final = events[-1]
    classes = ("downloaded", "adopted", "already", "failed", "pending", "rejected", "filtered")
    assert final["records"] == sum(final[one] for one in classes)
    assert final["downloaded"] == sum(e["event"] == "download.completed" for e in events)
    assert final["exit_code"] == status
    return final


async def test_a_stop_waits_for_no_fsync_and_gives_nothing_back_while_it_runs(
    sim: Simulator, tmp_path: Path
) -> None:
    dest = tmp_path / "dest"
    sim.add_jobs(3, size_bytes=600_000)
    async with slow(sim, dest, fsync_s=60, within_s=0.5) as run:
        status, events = await run.stopped()
        assert status == 143
        assert check_end(events, status)["pending"] == 3
        assert run.held_its_lock
        assert files(dest) == {}


async def test_a_disk_that_cannot_finish_in_time_leaves_the_rest_to_the_next_run(
    sim: Simulator, tmp_path: Path
) -> None:
    dest = tmp_path / "dest"
    sim.add_jobs(150)
    async with slow(sim, dest, fsync_s=0.3) as run:
        status, events = await run.stopped()
        assert status == 143
        done = check_end(events, status)["downloaded"]
        assert done < 150
        assert len(files(dest)) >= done
    async with slow(sim, dest, fsync_s=0) as run:
        out, _ = await run.process.communicate()
    assert run.process.returncode == 0
    final = check_end([json.loads(line) for line in out.splitlines()], 0)
    assert (final["already"], final["downloaded"] + final["adopted"]) == (done, 150 - done)
    check_mirror(sim, dest)
    assert unfinished(dest) == []


@pytest.mark.parametrize(
    ("options", "wanted"), [((), 0), (("--exec-after", "true"), 143)], ids=["all done", "a command"]
)
async def test_a_stop_that_comes_after_the_last_file_has_come_stops_no_more_than_commands(
    options: tuple[str, ...], wanted: int, sim: Simulator, tmp_path: Path
) -> None:
    dest = tmp_path / "dest"
    sim.add_job(size_bytes=600_000)
    async with slow(sim, dest, *options, fsync_s=1.0) as run:
        status, events = await run.stopped()
    assert (status, check_end(events, status)["downloaded"]) == (wanted, 1)
    check_mirror(sim, dest)
