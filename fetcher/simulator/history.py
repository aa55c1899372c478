"""The account: its jobs in order, and their way from pending to an end.

Owns the order of the list, the states and the times. It knows nothing of HTTP; `record`
says how a job looks to a client, `generated` adds records that are made on demand.
"""

from __future__ import annotations

import asyncio
import heapq
from bisect import bisect_right
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from fetcher.simulator.clock import SimClock
    from fetcher.simulator.content import Content
    from fetcher.simulator.generated import Generated
    from fetcher.simulator.serving import Serving

OMIT: Final = object()  # as an override: the record lacks this field
DEFAULT_ERROR = "The audio could not be processed"


@dataclass(slots=True, eq=False)
class SimJob:
    """One job of the account; times are seconds since the epoch.

    `overrides` replace fields of the record in the list, whatever the job really is.
    `due_at` is when it ends by itself, `due_error` the reason if it then fails.
    """

    id: str
    created_at: float
    updated_at: float
    source: Content
    result: Content
    file_name: str = "audio.wav"
    audio_duration_s: float = 0.0
    status: Literal["pending", "success", "failed"] = "success"
    error: str | None = None
    serving: Serving | None = None
    overrides: dict[str, object] = field(default_factory=dict)
    due_at: float | None = None
    due_error: str | None = None
    pct: float | None = None
    message: str | None = None
    link_epoch: int = 0
    version: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class RawRow:
    """Something in the list that is no record: any JSON value, or bytes sent as they are."""

    created_at: float
    value: object


Row = SimJob | RawRow


def _age_key(row: Row) -> float:
    return row.created_at


class Account:
    """The history of one account, newest first."""

    def __init__(self, clock: SimClock) -> None:
        self.clock = clock
        self.generated: Generated | None = None
        self._rows: list[Row] = []  # oldest first, so that a new job is a cheap append
        self._jobs: dict[str, SimJob] = {}
        self._due: list[tuple[float, str]] = []
        self._listeners: dict[str, set[asyncio.Event]] = {}

    def __len__(self) -> int:
        made = self.generated.count if self.generated is not None else 0
        return len(self._rows) + made

    # ---- reading ---------------------------------------------------------------------

    def find(self, job_id: str) -> SimJob | None:
        """Return a job as it is now, None where the account has no such id."""
        self.settle()
        return self._known(job_id)

    def get(self, job_id: str) -> SimJob:
        """Return a job that a script names; raises KeyError where there is none."""
        job = self.find(job_id)
        if job is None:
            raise KeyError(job_id)
        return job

    def changeable(self, job_id: str) -> SimJob:
        """Return a job that is kept as changed, generated or not; raises KeyError."""
        job = self._jobs.get(job_id)
        if job is None and self.generated is not None:
            job = self.generated.keep(job_id)
        if job is None:
            raise KeyError(job_id)
        return job

    def ids(self) -> list[str]:
        """Return the ids of all jobs but the generated ones, newest first."""
        return [row.id for row in reversed(self._rows) if isinstance(row, SimJob)]

    def rows(self, offset: int, count: int) -> list[Row]:
        """Return rows of the list, generated ones excepted."""
        self.settle()
        stop = max(0, len(self._rows) - offset)
        return self._rows[max(0, stop - count) : stop][::-1]

    def explicit_count(self) -> int:
        """Return how many rows stand before the generated ones."""
        return len(self._rows)

    def newest_at(self) -> float | None:
        """Return the newest `created_at` among the jobs that were added."""
        return self._rows[-1].created_at if self._rows else None

    # ---- changing --------------------------------------------------------------------

    def add(self, job: SimJob) -> None:
        """Put a job where its `created_at` belongs; among equals it comes first.

        Raises ValueError where the id is taken.
        """
        if job.id in self._jobs:
            raise ValueError(f"job {job.id} exists")
        self._jobs[job.id] = job
        self._insert(job)
        if job.due_at is not None:
            heapq.heappush(self._due, (job.due_at, job.id))

    def add_raw(self, value: object, position: int) -> None:
        """Put something that is no record into the list at `position`, 0 being the newest."""
        index = max(0, len(self._rows) - position)
        self._rows.insert(index, RawRow(self.created_at_for(position), value))

    def created_at_for(self, position: int) -> float:
        """Return a time that sorts between the neighbours of `position`."""
        index = max(0, len(self._rows) - position)
        older = self._rows[index - 1].created_at if index > 0 else None
        newer = self._rows[index].created_at if index < len(self._rows) else None
        match older, newer:
            case None, None:
                return self.clock.now()
            case float() | int(), None:
                return older + 1.0
            case None, float() | int():
                return newer - 1.0
            case _:
                assert older is not None
                assert newer is not None
                return (older + newer) / 2

    def delete(self, job_id: str) -> None:
        """Take a job out of the account; raises KeyError where there is none."""
        job = self._jobs.pop(job_id)
        self._rows.remove(job)
        self.notify(job_id)

    def finish(self, job_id: str, at: float | None = None) -> None:
        """Make a job a success, from now or from the time given."""
        job = self.changeable(job_id)
        job.status, job.error, job.due_at = "success", None, None
        job.updated_at = self.clock.now() if at is None else at
        self.notify(job_id)

    def fail(self, job_id: str, error: str, at: float | None = None) -> None:
        """Make a job a failure of the service, with its reason."""
        job = self.changeable(job_id)
        job.status, job.error, job.due_at = "failed", error, None
        job.updated_at = self.clock.now() if at is None else at
        self.notify(job_id)

    def reopen(self, job_id: str, due_at: float | None = None) -> None:
        """Make a job pending (again), to end by itself at `due_at` if that is given."""
        job = self.changeable(job_id)
        job.status, job.error, job.due_at, job.due_error = "pending", None, due_at, None
        job.updated_at = self.clock.now()
        if due_at is not None:
            heapq.heappush(self._due, (due_at, job_id))
        self.notify(job_id)

    def settle(self) -> None:
        """End the jobs whose time has come."""
        now = self.clock.now()
        while self._due and self._due[0][0] <= now:
            due_at, job_id = heapq.heappop(self._due)
            job = self._known(job_id)
            if job is None or job.status != "pending" or job.due_at != due_at:
                continue
            if job.due_error is None:
                self.finish(job_id, due_at)
            else:
                self.fail(job_id, job.due_error, due_at)

    # ---- waiting ---------------------------------------------------------------------

    def notify(self, job_id: str) -> None:
        """Wake whoever waits for this job to change."""
        for event in self._listeners.get(job_id, ()):
            event.set()

    async def changed(self, job_id: str, timeout_s: float) -> None:
        """Return when the job has changed, or after so many real seconds."""
        event = asyncio.Event()
        listeners = self._listeners.setdefault(job_id, set())
        listeners.add(event)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await event.wait()
        finally:
            listeners.discard(event)
            if not listeners:
                self._listeners.pop(job_id, None)

    # ---- inside ----------------------------------------------------------------------

    def _insert(self, row: Row) -> None:
        if not self._rows or self._rows[-1].created_at <= row.created_at:
            self._rows.append(row)
            return
        self._rows.insert(bisect_right(self._rows, row.created_at, key=_age_key), row)

    def _known(self, job_id: str) -> SimJob | None:
        job = self._jobs.get(job_id)
        if job is None and self.generated is not None:
            job = self.generated.find(job_id)
        return job
