"""Where in the list the jobs stood, when last seen, that the service has not finished. Pure.

A row is what no `created_at` can tell: that of a job whose time is missing or wrong, and by
how much deletions above have moved one group of jobs and not another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fetcher.models import Status

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from fetcher.models import Job, JobId


class Spots:
    """Rows of the list by job, pending ones only."""

    def __init__(self) -> None:
        self._rows: dict[JobId, int] = {}

    def note(self, offset: int, jobs: Sequence[Job], count: int) -> None:
        """Take a page of `count` elements at `offset`; those that cannot be read may be anywhere.

        They are taken to be spread evenly.
        """
        pending = Status.PENDING  # looked up once: a million records are asked
        for number in [number for number, job in enumerate(jobs) if job.status is pending]:
            self._rows[jobs[number].id] = offset + number * count // len(jobs)

    def moved(self, rows: int, *, but: Container[JobId]) -> None:
        """Take note that so many records came in front of all jobs but these."""
        if rows:
            for job_id in self._rows:
                if job_id not in but:
                    self._rows[job_id] += rows

    def keep(self, ids: Container[JobId]) -> None:
        """Forget all other jobs."""
        self._rows = {job_id: row for job_id, row in self._rows.items() if job_id in ids}

    def row(self, job_id: JobId) -> int | None:
        """Return where the job should stand now, None where that is not known."""
        return self._rows.get(job_id)
