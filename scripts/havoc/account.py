"""The account that is fetched in the storm: its jobs, their hosts' habits, what goes wrong.

Owns which contents a job's file may have, and what the host sent for it. Everything is drawn
from one seeded source; the timing of processes stays the machine's own.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from fetcher.simulator import Fault, Serving

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from random import Random

    from fetcher.simulator import SimRequest, Simulator

NAMES = ("audio.wav", "Interview 3.mp4", "اجتماع الفريق.m4a", "目次.wav", "a/../b?.mp3", "")
_SMALL_BYTES = (1_000, 400_000)
_LARGE_BYTES = (3_000_000, 40_000_000)
_RATES_BYTES_S = (1_500_000.0, 6_000_000.0, 20_000_000.0)
# Hosts from which a cut file cannot go on, or whose files change: right bytes are asked of
# them all the same, but what they send again is not counted.
_UNRULY = (
    Serving(ranges=False, rate_bytes_s=_RATES_BYTES_S[-1]),
    Serving(etag=None, last_modified=False, rate_bytes_s=_RATES_BYTES_S[-1]),
    Serving(length="chunked", rate_bytes_s=_RATES_BYTES_S[-1]),
    Serving(gzip=True),
)
_OPEN_LARGE, _OPEN_SMALL = 8, 30


class Account:
    """The jobs of one storm, and the account of bytes."""

    def __init__(self, sim: Simulator, rng: Random) -> None:
        self.sim = sim
        self.right: dict[str, set[str]] = {}  # SHA-256 of every version a job's file has had
        self.unruly: set[str] = set()
        self.cut_short: Counter[str] = Counter()  # times a job was in flight when killed
        self.sent_bytes: Counter[str] = Counter()
        self._rng = rng
        self._large: set[str] = set()
        self._finishing: list[str] = []

    # ---- jobs --------------------------------------------------------------------------

    def refill(self, there: Collection[str]) -> None:
        """Add jobs until enough is missing for another run to be cut in the middle."""
        missing = self.right.keys() - set(there)
        for _ in range(max(0, _OPEN_LARGE - len(missing & self._large))):
            self._large.add(self._add(_LARGE_BYTES))
        for _ in range(max(0, _OPEN_SMALL - len(missing - self._large))):
            self._add(_SMALL_BYTES)

    def stir(self, there: Collection[str]) -> None:
        """Between two runs: finish what was pending, expire links, change a file or two."""
        for job in self._finishing:
            self.sim.finish(job)
        self._finishing.clear()
        if self._rng.random() < 0.3:
            self.sim.expire_links()
        changing = sorted(self.unruly - set(there))
        for job in self._rng.sample(changing, min(2, len(changing))):
            self.change(job)

    def hurry(self) -> None:
        """Let every host serve as fast as it can from here on."""
        for job in self.right:
            serving = self.sim.job(job).serving or Serving()
            self.sim.serve(job, replace(serving, rate_bytes_s=None))

    def change(self, job: str) -> None:
        """Put another file behind a job's link."""
        self.sim.change(job)
        self.right[job].add(self._digest(job))

    async def change_in_flight(self) -> None:
        """Change a file while it may be under way."""
        await asyncio.sleep(self._rng.uniform(0.5, 1.5))
        in_flight = sorted({r.job for r in self._in_flight() if r.job} & self.unruly)
        if in_flight:
            self.change(self._rng.choice(in_flight))

    def _add(self, sizes: tuple[int, int]) -> str:
        size_bytes = int(sizes[0] * (sizes[1] / sizes[0]) ** self._rng.random())
        serving = Serving(rate_bytes_s=self._rng.choice(_RATES_BYTES_S))
        unruly = self._rng.random() < 0.15
        if unruly:
            serving = self._rng.choice(_UNRULY)
        pending = self._rng.random() < 0.1
        job = self.sim.add_job(
            self._rng.choice(NAMES),
            size_bytes=size_bytes,
            serving=serving,
            status="pending" if pending else "success",
        )
        self.right[job] = {self._digest(job)}
        if unruly:
            self.unruly.add(job)
        if pending:
            self._finishing.append(job)
        return job

    def _digest(self, job: str) -> str:
        return hashlib.sha256(self.sim.content(job)).hexdigest()

    # ---- bytes -------------------------------------------------------------------------

    def note_kill(self) -> None:
        """Note which files are under way at this moment."""
        self.cut_short.update({request.job for request in self._in_flight() if request.job})

    def close_books(self) -> set[str]:
        """Add up what was sent since the last time; return the jobs that got any bytes."""
        fetched = set()
        for request in self.sim.log.of("audio"):
            if request.job and request.body_bytes and request.status in (0, 200, 206):
                self.sent_bytes[request.job] += request.body_bytes
                fetched.add(request.job)
        self.sim.log.clear()
        return fetched

    def beyond_bytes(self) -> dict[str, int]:
        """Return what orderly hosts sent beyond the content, by job."""
        return {
            job: self.sent_bytes[job] - self.sim.job(job).result.size_bytes
            for job in self.right
            if job not in self.unruly
        }

    def _in_flight(self) -> list[SimRequest]:
        return [request for request in self.sim.log.of("audio") if request.status == 0]


def faults(rng: Random) -> list[Fault]:
    """Return what goes wrong all the time: each with its own small chance per request."""

    def rare(share: float) -> Callable[..., Fault]:
        return partial(Fault, times=None, when=lambda _: rng.random() < share)

    busy = {"Retry-After": "1"}
    return [
        rare(0.02)(on="audio", cut_after_bytes=0, reset=True),
        rare(0.02)(on="audio", cut_after_bytes=20_000),
        rare(0.02)(on="audio", cut_after_bytes=700_000),
        rare(0.02)(on="audio", cut_after_bytes=9_000_000),
        rare(0.01)(on="audio", stall_after_bytes=150_000),
        rare(0.02)(on="audio", status=500),
        rare(0.01)(on="audio", status=503, headers=busy),
        rare(0.01)(on="audio", status=429, headers=busy),
        rare(0.02)(on="audio", html=True),
        rare(0.02)(on="audio", disconnect=True),
        rare(0.03)(on="audio", delay_s=0.5),
        rare(0.10)(on="list", status=502),
        rare(0.05)(on="list", html=True),
        rare(0.05)(on="list", cut_after_bytes=200),
    ]
