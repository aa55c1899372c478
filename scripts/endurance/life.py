"""The account over a month: jobs come, are worked on, end, fail, succeed late, disappear.

Owns which files there must be in the end and what the host delivered of each. All times
are simulated; everything is drawn from one seeded source.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from typing import TYPE_CHECKING

from fetcher.simulator import Serving

if TYPE_CHECKING:
    from collections.abc import Collection
    from random import Random

    from fetcher.simulator import SimRequest, Simulator

DAY_S = 86_400.0
NAMES = ("audio.wav", "Interview 3.mp4", "اجتماع الفريق.m4a", "目次.wav", "a/../b?.mp3", "")
_SMALL_BYTES, _LARGE_BYTES = (500, 60_000), (400_000, 2_000_000)
_BURST_JOBS = 48
_HOUR_S = 3600.0
_RECENT_S = 1.0  # real: what was answered so short before a kill may not have been recorded


class Life:
    """The jobs of one month."""

    def __init__(self, sim: Simulator, rng: Random) -> None:
        self.sim = sim
        self.right: dict[str, set[str]] = {}  # SHA-256 of the file of every job there ever was
        self.gone: set[str] = set()
        self.delivered: dict[str, list[str]] = {}  # how the host sent a job's file to its end
        self.excused: set[str] = set()  # under way when the watcher was stopped or killed
        self.requests: Counter[str] = Counter()
        self._delivered_at_s: dict[str, float] = {}
        self._rng = rng
        self._lying: deque[str] = deque()
        self._mending: deque[str] = deque()

    # ---- jobs --------------------------------------------------------------------------

    def begin(self, count: int) -> None:
        """Let so many jobs have finished before the month began."""
        for _ in range(count):
            self._add(created_at=None)

    def submit(self) -> None:
        """Submit one job now. Most end in minutes, some in days; some fail."""
        rng = self._rng
        kind = rng.random()
        takes_s = rng.uniform(1, 5) * DAY_S if kind < 0.03 else rng.uniform(0.01, 0.5) * _HOUR_S
        now = self.sim.clock.now()
        if kind > 0.95:
            job = self._add(created_at=now, fails_after_s=takes_s)
            if kind > 0.98:
                self._mending.append(job)
        else:
            job = self._add(created_at=now, finishes_after_s=takes_s)
            if kind > 0.92:
                self.sim.override(job, status="pending", audio_url=None)
                self._lying.append(job)

    def burst(self) -> set[str]:
        """Let many large files be there at once, from hosts that take a second for each.

        Returns their jobs.
        """
        jobs = set()
        for _ in range(_BURST_JOBS):
            size_bytes = self._rng.randint(*_LARGE_BYTES)
            job = self._add(created_at=self.sim.clock.now(), size_bytes=size_bytes)
            self.sim.serve(job, Serving(rate_bytes_s=size_bytes))
            jobs.add(job)
        return jobs

    def pass_a_day(self, there: Collection[str]) -> None:
        """Let what happens once a day happen: failed jobs succeed, lies end, jobs go."""
        for _ in range(len(self._mending) // 2):
            job = self._mending.popleft()
            if self.sim.job(job).status == "failed":
                self.sim.finish(job)
        for _ in range(len(self._lying) // 2):
            self._tell_the_truth(self._lying.popleft())
        open_ = [job for job in self.sim.ids[:500] if self.sim.job(job).status == "pending"]
        kept = [job for job in self.sim.ids[:500] if job in there]
        for job in self._rng.sample(open_, min(1, len(open_))):
            self._delete(job)
        for job in self._rng.sample(kept, min(2, len(kept))):
            self._delete(job)

    def end(self) -> None:
        """Let every job come to its end, and the list tell the truth."""
        while self._lying:
            self._tell_the_truth(self._lying.popleft())
        for job in self.sim.ids:
            if self.sim.job(job).status == "pending":
                self.sim.finish(job)

    def wanted(self) -> set[str]:
        """Return the jobs whose file must be there by now."""
        return {job for job in self.sim.ids if self.sim.job(job).status == "success"}

    def _size_bytes(self) -> int:
        return self._rng.randint(*(_LARGE_BYTES if self._rng.random() < 0.02 else _SMALL_BYTES))

    def _add(
        self,
        *,
        created_at: float | None,
        size_bytes: int | None = None,
        finishes_after_s: float | None = None,
        fails_after_s: float | None = None,
    ) -> str:
        job = self.sim.add_job(
            self._rng.choice(NAMES),
            created_at=created_at,
            size_bytes=size_bytes or self._size_bytes(),
            finishes_after_s=finishes_after_s,
            fails_after_s=fails_after_s,
        )
        self.right[job] = {hashlib.sha256(self.sim.content(job)).hexdigest()}
        return job

    def _tell_the_truth(self, job: str) -> None:
        if job not in self.gone:
            self.sim.job(job).overrides.clear()

    def _delete(self, job: str) -> None:
        self.sim.delete(job)
        self.gone.add(job)

    # ---- requests ----------------------------------------------------------------------

    def excuse(self) -> None:
        """Excuse what the watcher has under way, or may not have recorded yet.

        What the host has sent may still be in a socket's buffer when the watcher ends.
        """
        since_s = self.sim.clock.real_s() - _RECENT_S
        recent = [one for one in self.sim.log.of("audio") if not one.status or one.at_s > since_s]
        self.excused.update(one.job for one in recent if one.job)
        self.excused.update(job for job, at_s in self._delivered_at_s.items() if at_s > since_s)

    def close_books(self) -> None:
        """Count the requests that have ended, and forget them."""
        under_way: list[SimRequest] = []
        for request in self.sim.log.all():
            is_open = not request.status and request.at_s > self.sim.clock.real_s() - 5 * _RECENT_S
            if is_open:
                under_way.append(request)
                continue
            self.requests[request.kind] += 1
            if request.kind == "audio" and request.job and request.status in (200, 206):
                self._note_delivery(request.job, request)
        self.sim.log.clear()
        for request in under_way:
            self.sim.log.add(request)

    def _note_delivery(self, job: str, request: SimRequest) -> None:
        if job in self.gone:
            return
        size_bytes = self.sim.job(job).result.size_bytes
        first = int((request.range or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        starts = first if request.status == 206 else 0
        if starts + request.body_bytes >= size_bytes:
            how = f"{request.status} from {starts} at {request.at_s:.2f} s"
            self.delivered.setdefault(job, []).append(how)
            self._delivered_at_s[job] = request.at_s

    def twice(self) -> list[str]:
        """Return the jobs whose file was delivered to its end more than once without excuse."""
        return [
            f"{job} ({', '.join(how)})"
            for job, how in self.delivered.items()
            if len(how) > 1 and job not in self.excused
        ]
