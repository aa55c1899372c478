"""The storm: run, kill, look, again; then one run in peace, and the account of it all.

Owns the order of things and what counts as a failure. The simulator lives in this process,
so what the host sent is known to the byte.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from fetcher.simulator import Simulator
from havoc.account import Account, faults
from havoc.folder import Folder

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 2**20
ALLOWED_BYTES = 8 * MIB  # beyond the content, for each kill and transfer in flight
_AT_A_TIME = 8
_LONGEST_S = 120.0
_SETTLE_S = 0.1  # until the host has noticed that its clients are gone
_PEACEFUL_RUNS = 3
# Ends of a run that faults explain: all is there, some files gave up, the API kept failing.
_EXPLAINED = frozenset((0, 1, 4))


@dataclass(slots=True)
class Report:
    """What came out of it."""

    seed: int
    kills: int = 0
    in_flight: int = 0
    jobs: int = 0
    content_bytes: int = 0
    beyond_bytes: int = 0
    worst_bytes: int = 0
    ends: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def each_bytes(self) -> float:
        """Bytes beyond the content for each kill and transfer in flight."""
        return self.beyond_bytes / max(1, self.in_flight)

    def text(self) -> str:
        """Return the report as lines for a person."""
        ends = ", ".join(f"{count} x {code}" for code, count in sorted(self.ends.items()))
        lines = [
            (
                f"seed {self.seed}: {self.kills} kills with {self.in_flight} transfers in flight,"
                f" {self.jobs} jobs, {self.content_bytes / MIB:,.0f} MiB of content"
            ),
            (
                f"fetched beyond the content: {self.beyond_bytes / MIB:.1f} MiB in all,"
                f" {self.each_bytes / MIB:.2f} MiB for each kill and transfer in flight"
                f" (allowed: {ALLOWED_BYTES // MIB}; the worst file: {self.worst_bytes / MIB:.2f})"
            ),
            f"runs that ended by themselves, by exit status: {ends or 'none'}",
            *(f"FAILED: {failure}" for failure in self.failures),
        ]
        return "\n".join([*lines, "failed" if self.failures else "all files right, none lost"])


async def storm(dest: Path, *, kills: int, seed: int, say: Callable[[str], None]) -> Report:
    """Kill a backfill into `dest` so many times, then let it finish; return what was seen."""
    report = Report(seed)
    async with Simulator(seed) as sim:
        loop = _Storm(Account(sim, Random(seed)), Folder(dest), report, Random(seed + 1))
        while report.kills < kills and not report.failures:
            await loop.one_run()
            if report.kills % 20 == 0:
                say(f"{report.kills} kills, {len(loop.there)} files in place")
            if sum(report.ends.values()) > kills:
                report.failures.append("most runs end before they can be killed")
        if not report.failures:
            await loop.peace()
    return report


class _Storm:
    """The state of one storm between its runs."""

    def __init__(self, account: Account, folder: Folder, report: Report, rng: Random) -> None:
        self.there: set[str] = set()
        self._account = account
        self._folder = folder
        self._report = report
        self._rng = rng
        account.sim.faults.add(*faults(rng))

    async def one_run(self) -> None:
        """Start a backfill, kill it at a random moment, and look at what it left."""
        self._account.stir(self.there)
        self._account.refill(self.there)
        changing = asyncio.create_task(self._account.change_in_flight())
        process = await self._start()
        # Start-up, listing and planning take half a second and are worth a third of the kills.
        longest_s = 0.6 if self._rng.random() < 0.3 else 3.0
        status = await _ended_within(process, self._rng.uniform(0.02, longest_s))
        if status is None:
            self._account.note_kill()
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            self._report.kills += 1
        else:
            self._note_end(status)
        changing.cancel()
        await self._look()

    async def peace(self) -> None:
        """Let a run finish without faults, and prove that nothing is lost or fetched twice."""
        self._account.stir(self.there)
        self._account.sim.faults.clear()
        self._account.hurry()
        status = await self._whole_run()
        if status != 0:
            self._fail(f"the last run ended with {status}")
        missing = self._account.right.keys() - self.there
        if missing:
            self._fail(f"{len(missing)} files are missing, such as {min(missing)}")
        if self._folder.parts():
            self._fail(f"partial files are left: {self._folder.parts()[:5]}")
        status = await self._whole_run()
        if status != 0:
            self._fail(f"a run with nothing to do ended with {status}")
        self._add_up()

    async def _whole_run(self) -> int | None:
        process = await self._start()
        status = await _ended_within(process, _LONGEST_S)
        if status is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        await self._look()
        return status

    async def _look(self) -> None:
        """Judge the folder, and that nothing which was there already was fetched again."""
        await asyncio.sleep(_SETTLE_S)
        again = self._account.close_books() & self.there
        if again:
            self._fail(f"fetched again although in place: {sorted(again)[:5]}")
        lost = self.there - (there := self._folder.look(self._account.right))
        if lost:
            self._fail(f"no longer in place: {sorted(lost)[:5]}")
        self.there = there
        self._report.failures += self._folder.wrong
        self._folder.wrong.clear()

    def _add_up(self) -> None:
        report, account = self._report, self._account
        beyond = account.beyond_bytes()
        report.jobs = len(account.right)
        sizes = (account.sim.job(job).result.size_bytes for job in account.right)
        report.content_bytes = sum(sizes)
        report.beyond_bytes = sum(beyond.values())
        report.in_flight = sum(account.cut_short[job] for job in beyond)
        each = (extra / max(1, account.cut_short[job]) for job, extra in beyond.items())
        report.worst_bytes = int(max(each, default=0))
        if report.beyond_bytes > ALLOWED_BYTES * max(1, report.in_flight):
            self._fail("too much was fetched again")

    def _note_end(self, status: int) -> None:
        self._report.ends[status] += 1
        if status not in _EXPLAINED:
            self._fail(f"a run ended with {status}; its last words are in {self._log()}")

    def _fail(self, text: str) -> None:
        self._report.failures.append(text)

    def _log(self) -> Path:
        return self._folder.dest.with_name("fetcher.log")

    async def _start(self) -> asyncio.subprocess.Process:
        program = str(Path(sys.executable).with_name("fetcher"))
        with self._log().open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *(program, "backfill", "--api-url", self._account.sim.api_url),
                *("-d", str(self._folder.dest), "-o", "{stem}/{id}{ext}", "-j", str(_AT_A_TIME)),
                *("--timeout", "2", "--retry-delay", "0.1", "--page-size", "50"),
                *("--progress", "off"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "MUNSIT_API_KEY": "chaos"},
                start_new_session=True,
            )


async def _ended_within(process: asyncio.subprocess.Process, seconds: float) -> int | None:
    """Return the exit status, None where the process still runs after so many seconds."""
    try:
        return await asyncio.wait_for(process.wait(), seconds)
    except TimeoutError:
        return None
