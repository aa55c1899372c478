"""The process that is watched: started, stopped, killed; what it says and what it weighs.

Owns the `fetcher watch` process, the reading of its JSON lines, and samples from /proc.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.measure import cpu_of

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Sequence

_STOP_WITHIN_S = 5.0  # contract 5.8
_LAST_WORDS = 2000  # characters of stderr


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process weighs: resident bytes, open sockets, other open descriptors."""

    resident_bytes: int
    sockets: int
    files: int


@dataclass(slots=True)
class Said:
    """What all processes together have said: files by job, polls by what they listed."""

    completed: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    records_of_polls: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Watcher:
    """One destination's watcher, one process at a time. `failures`: what it did wrong."""

    api_url: str
    dest: Path
    log: Path
    options: Sequence[str]
    said: Said = field(default_factory=Said)
    samples: list[Sample] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    starts: int = 0
    cpu_s: float = 0.0
    _has_spoken: bool = False
    _process: Process | None = None
    _reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it; samples begin anew."""
        await self._run("watch")
        self.samples.clear()
        self.starts += 1

    async def run_to_the_end(self) -> None:
        """Run a backfill in its place; it must find nothing wrong."""
        await self._run("backfill")
        assert self._process is not None
        status = await self._process.wait()
        if status != 0:
            self.failures.append(f"a last backfill ended with {status}: {self.last_words()}")
        await self._ended()

    async def stop(self) -> None:
        """Ask it to stop with SIGTERM; it must end with 0 in time."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            status = await asyncio.wait_for(self._process.wait(), _STOP_WITHIN_S)
        except TimeoutError:
            self.failures.append(f"it did not stop within {_STOP_WITHIN_S:g} s")
            await self.kill()
            return
        is_early = status == -signal.SIGTERM and not self._has_spoken  # before it could listen
        if status != 0 and not is_early:
            self.failures.append(f"it ended with {status} when asked to stop: {self.last_words()}")
        await self._ended()

    async def kill(self) -> None:
        """Kill it with SIGKILL, if it runs."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        await self._ended()

    def sample(self) -> None:
        """Weigh it; a process that has ended by itself is a failure."""
        if self._process is None:
            return
        if self._process.returncode is not None:
            text = f"it ended by itself with {self._process.returncode}: {self.last_words()}"
            self.failures.append(text)
            self._process = None
            return
        pid = self._process.pid
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            resident_kib = int(status.partition("VmRSS:")[2].split()[0])
            open_ = [_target(one) for one in Path(f"/proc/{pid}/fd").iterdir()]
            sockets = sum(target.startswith("socket:") for target in open_)
            self.samples.append(Sample(resident_kib * 1024, sockets, len(open_) - sockets))
            self.cpu_s = cpu_of(pid)

    def last_words(self) -> str:
        """Return the end of its stderr."""
        return self.log.read_text(errors="replace")[-_LAST_WORDS:]

    async def _run(self, command: str) -> None:
        program = str(Path(sys.executable).with_name("fetcher"))
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(program, command, "--json", "--api-url", self.api_url),
                *("-d", str(self.dest), "-o", "{id}{ext}", *self.options),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={**os.environ, "MUNSIT_API_KEY": "soak"},
                start_new_session=True,
            )
        self._reading = asyncio.create_task(self._read(self._process))

    async def _ended(self) -> None:
        if self._reading is not None:
            await self._reading
        self._process = self._reading = None

    async def _read(self, process: Process) -> None:
        assert process.stdout is not None
        self._has_spoken = False
        async for line in process.stdout:
            self._has_spoken = True
            with contextlib.suppress(ValueError):  # the last line of a killed process
                self._note(json.loads(line))

    def _note(self, event: dict[str, object]) -> None:
        match event:
            case {"event": "download.completed", "id": str(job)}:
                self.said.completed[job] += 1
            case {"event": "download.failed", "id": str(job)}:
                self.said.failed[job] += 1
            case {"event": "poll.completed", "records": int(records)}:
                self.said.records_of_polls.append(records)
            case _:
                pass


def _target(descriptor: Path) -> str:
    """Return what a descriptor leads to; nothing where it was closed meanwhile."""
    try:
        return str(descriptor.readlink())
    except OSError:
        return ""
