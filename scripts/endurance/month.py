"""The month: life, weather, restarts and samples over time, then peace and the last look.

Owns the order of things. The simulator lives in this process, so what it was asked for is
known to the request.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from havoc.folder import Folder

from endurance.life import DAY_S, Life
from endurance.verdict import Report
from endurance.watcher import Watcher
from endurance.weather import Weather
from fetcher.simulator import Simulator

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DAYS = 30
STORMY_DAYS = 10  # with kills and restarts; one process lives through the others
_TICK_S = 0.05
_REST_S = 1.0
_SPELL_DAYS = 0.25
_SETTLE_S = 60.0  # real: until everything is there once all is well


@dataclass(frozen=True, slots=True)
class Plan:
    """How long a simulated day lasts, how many jobs it brings, and how many were before.

    `most_growth` of memory: a short life is still warming up in its second tenth.
    """

    day_s: float
    jobs_a_day: int
    jobs_before: int
    most_growth: float

    @property
    def speed(self) -> float:
        """Return how many simulated seconds a real one has."""
        return DAY_S / self.day_s


async def live(folder: Path, plan: Plan, *, seed: int, say: Callable[[str], None]) -> Report:
    """Live through the month and return what was seen."""
    began = time.time() - DAYS * DAY_S
    async with Simulator(seed, started_at=began, speed=plan.speed) as sim:
        month = _Month(sim, folder, plan, seed)
        month.life.begin(plan.jobs_before)
        await month.watcher.start()
        for day in range(DAYS):
            await month.one_day(day)
            say(f"day {day + 1}: {len(month.there):,} files, {month.failures or 'all well'}")
            if month.failures:
                break
        else:
            await month.peace()
        return await month.report()


class _Month:
    """The state of one month."""

    def __init__(self, sim: Simulator, folder: Path, plan: Plan, seed: int) -> None:
        self.there: set[str] = set()
        self.life = Life(sim, Random(seed))
        self._sim = sim
        self._plan = plan
        self._rng = Random(seed + 1)
        self._weather = Weather(sim, Random(seed + 2))
        self._folder = Folder(folder / "audio")
        # The interval of 30 s would be 2 ms; ten polls a second are 2,000 a simulated day.
        options = ("--interval", "0.1", "--full-every", str(plan.day_s), "--page-size", "50")
        patience = ("--retries", "1", "--retry-delay", "0.05", "--timeout", "3")
        self.watcher = Watcher(
            sim.api_url, self._folder.dest, folder / "fetcher.log", (*options, *patience)
        )
        self._report = Report(seed, plan.jobs_before)
        self._added = 0

    @property
    def failures(self) -> list[str]:
        """What has gone wrong so far."""
        return [*self._report.failures, *self.watcher.failures, *self._folder.wrong]

    async def one_day(self, day: int) -> None:
        """Let one day pass: jobs, spells of weather and, in the first days, a restart."""
        restart_at = self._rng.random() if day < STORMY_DAYS else None
        if day == STORMY_DAYS:
            await self._settle_in()
        spell_at = self._rng.uniform(0, 0.5)
        while (passed := self._passed_days()) < day + 1 and not self.failures:
            if passed - day >= spell_at:
                self._weather.change()
                spell_at += self._rng.uniform(0.1, 0.5)
            if restart_at is not None and passed - day >= restart_at:
                restart_at = None
                await self._restart()
            await self._tick()
        self._look()
        self.life.pass_a_day(self.there)
        self.life.close_books()

    async def peace(self) -> None:
        """Clear everything up; then all files must come, and a last run find nothing to do."""
        self._weather.clear()
        self.life.end()
        ends_at_s = time.monotonic() + _SETTLE_S
        while self.life.wanted() - self.there and time.monotonic() < ends_at_s:
            await self._pass_s(_REST_S / 2)
            self._look()
        await self._pass_s(_REST_S)  # so that the last samples show what it always holds
        self._report.weigh(
            self.watcher.samples, self.watcher.cpu_s, most_growth=self._plan.most_growth
        )
        await self.watcher.stop()
        missing = self.life.wanted() - self.there
        if missing:
            self._report.failures.append(f"{len(missing)} missed, such as {min(missing)}")
        before = {request.number for request in self._sim.log.of("audio")}
        await self.watcher.run_to_the_end()
        if any(request.number not in before for request in self._sim.log.of("audio")):
            self._report.failures.append("a run with nothing to do asked for audio")
        self.life.close_books()
        if self._folder.parts():
            self._report.failures.append(f"partial files are left: {self._folder.parts()[:5]}")

    async def report(self) -> Report:
        """Return what was seen; no process is left."""
        await self.watcher.kill()
        report, life, said = self._report, self.life, self.watcher.said
        report.jobs = len(life.right)
        report.days = self._passed_days()
        report.starts, report.spells = self.watcher.starts, self._weather.met
        report.requests = life.requests
        report.polls = len(said.records_of_polls)
        report.full_passes = sum(n > self._plan.jobs_before for n in said.records_of_polls)
        report.completed = said.completed.total()
        report.given_up = said.failed.total()
        report.failures[:] = self.failures
        report.judge_counts(said.completed, life.twice(), excused=life.excused)
        return report

    def _passed_days(self) -> float:
        return self._sim.clock.real_s() / self._plan.day_s

    async def _settle_in(self) -> None:
        """Start the process that is weighed, and let it meet each kind of trouble once.

        Its pools reach their size, which is bounded (1 MiB for each of 24 large files, 16
        for the manifest's pages); from then on memory must stay level.
        """
        self._weather.clear()
        await self._restart()
        burst = self.life.burst()
        ends_at_s = time.monotonic() + _SETTLE_S
        while burst - self.there and time.monotonic() < ends_at_s:
            await self._pass_s(_REST_S)
            self._look()
        for kind in self._weather.kinds:
            self._weather.begin(kind)
            await self._pass_s(self._plan.day_s * _SPELL_DAYS)
        self.watcher.samples.clear()

    async def _pass_s(self, seconds: float) -> None:
        ends_at_s = time.monotonic() + seconds
        while time.monotonic() < ends_at_s:
            await self._tick()

    async def _tick(self) -> None:
        """Let jobs come until the month is over, weigh the watcher, wait a moment."""
        due = int(min(self._passed_days(), DAYS) * self._plan.jobs_a_day)
        while self._added < due:
            self.life.submit()
            self._added += 1
        self.watcher.sample()
        await asyncio.sleep(_TICK_S)

    async def _restart(self) -> None:
        if self._rng.random() < 0.6:
            await self.watcher.kill()
            self._report.kills += 1
        else:
            await self.watcher.stop()
            self._report.stops += 1
        self.life.excuse()
        await self.watcher.start()

    def _look(self) -> None:
        """Judge the folder: only right files, and none that was there is gone."""
        there = self._folder.look(self.life.right)
        if self.there - there:
            self._report.failures.append(f"no longer in place: {sorted(self.there - there)[:5]}")
        self.there = there
