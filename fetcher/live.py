"""Pending jobs followed live over their event streams: a bounded number, oldest first.

What a stream says is knowledge and never a duty: one that fails, ends early, never speaks
or is none at all costs a pause before it is opened again, and polling still delivers.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fetcher.errors import FetcherError
from fetcher.events import JobProgress, JobSettled
from fetcher.sse import Done, Errored, Processing
from fetcher.wire import usable_url

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from fetcher.client import Api
    from fetcher.events import Sink
    from fetcher.models import Job, JobId

MOST_STREAMS = 8
_SILENCE_S = 16 * 60.0  # the service itself closes a stream after 15 silent minutes
_TURN_S = 300.0  # a stream gives way after so long when others wait
_FIRST_PAUSE_S = 5.0
_LONGEST_PAUSE_S = 600.0


@dataclass(slots=True)
class Live:
    """Follows jobs. `on_done` gets the job and its link; `on_end` is called when one failed."""

    api: Api
    sink: Sink
    on_done: Callable[[JobId, str], Awaitable[None]]
    on_end: Callable[[], None]
    clock: Callable[[], float]
    _streams: dict[JobId, asyncio.Task[None]] = field(default_factory=dict)
    _pauses_s: dict[JobId, float] = field(default_factory=dict)
    _free_at_s: dict[JobId, float] = field(default_factory=dict)

    def follow(self, waiting: Sequence[Job]) -> None:
        """Follow the first of these pending jobs that can be; drop those no longer pending."""
        names = {job.id for job in waiting}
        for job_id in [one for one in self._streams if one not in names]:
            self._streams.pop(job_id).cancel()
        for gone in [one for one in self._pauses_s if one not in names]:
            del self._pauses_s[gone]
            self._free_at_s.pop(gone, None)
        now_s = self.clock()
        patience_s = _TURN_S if len(waiting) > MOST_STREAMS else None
        for job in waiting:
            if len(self._streams) >= MOST_STREAMS:
                return
            if job.id not in self._streams and self._free_at_s.get(job.id, 0.0) <= now_s:
                follow = self._follow(job.id, job.file_name, patience_s)
                self._streams[job.id] = asyncio.create_task(follow)

    async def close(self) -> None:
        """Close every stream."""
        streams = list(self._streams.values())
        self._streams.clear()
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)

    async def _follow(self, job_id: JobId, file_name: str, patience_s: float | None) -> None:
        pause_s = min(self._pauses_s.get(job_id, _FIRST_PAUSE_S / 2) * 2, _LONGEST_PAUSE_S)
        try:
            with contextlib.suppress(FetcherError, TimeoutError):
                async with asyncio.timeout(patience_s):
                    await self._listen(job_id, file_name)
        finally:
            self._pauses_s[job_id] = pause_s
            self._free_at_s[job_id] = self.clock() + pause_s
            if self._streams.get(job_id) is asyncio.current_task():
                del self._streams[job_id]
            self.sink(JobSettled(id=job_id, file_name=file_name))

    async def _listen(self, job_id: JobId, file_name: str) -> None:
        async with self.api.progress(job_id, gap_s=_SILENCE_S) as stages:
            async for stage in stages:
                match stage:
                    case Processing(pct=pct, message=message) if pct is not None:
                        self._pauses_s.pop(job_id, None)
                        self.sink(
                            JobProgress(id=job_id, file_name=file_name, pct=pct, message=message)
                        )
                    case Done(url=url):
                        usable = usable_url(url)
                        if usable is not None:
                            await self.on_done(job_id, usable)
                        return
                    case Errored():
                        self.on_end()
                        return
                    case _:
                        pass
