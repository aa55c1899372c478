"""Pages as they came: where each was asked for, how it ends, which ids were listed last. Pure."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from fetcher.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fetcher.models import Job, JobId

_REMEMBERED_PAGES = 8
_REMEMBERED_IDS = 2_000  # at least, however small the pages are


@frozen
class Answer:
    """A page where it was asked for; `count` includes elements without a readable id.

    `asked`: how many were wanted. `tied`: how many at its end share their `created_at`.
    """

    offset: int
    ids: tuple[JobId, ...]
    count: int
    asked: int = 0
    tied: int = 0

    @property
    def end(self) -> int:
        """Return the offset just behind the page."""
        return self.offset + self.count

    @property
    def blank(self) -> int:
        """Return how many elements have no readable id."""
        return self.count - len(self.ids)

    def up_to(self, end: int) -> Answer:
        """Return it with what follows up to there, in which no id is readable."""
        return Answer(self.offset, self.ids, end - self.offset, self.asked, self.tied)


def tied(jobs: Sequence[Job]) -> int:
    """Return how many of the last jobs have the very same `created_at`; 0 where it has none."""
    at = jobs[-1].created_at if jobs else None
    count = 0
    for job in reversed(jobs):
        if at is None or job.created_at != at:
            break
        count += 1
    return count


class Recent:
    """The ids of the last pages, and which of them stood at an edge, amid others of one time."""

    def __init__(self) -> None:
        self._pages: deque[frozenset[JobId]] = deque()
        self._count = 0
        self._edge: frozenset[JobId] = frozenset()

    def __contains__(self, job_id: JobId) -> bool:
        return any(job_id in ids for ids in self._pages)

    def is_whole(self, job_id: JobId) -> bool:
        """Return whether all records of this one's time came, as far as pages touched."""
        return job_id in self and job_id not in self._edge

    def add(self, page: Answer) -> None:
        """Remember a page; forget the oldest ones that are not needed.

        Others of the time with which it ends may follow. Those of an edge before, which came
        again amid the page, are complete: it began in front of them.
        """
        ids = frozenset(page.ids)
        last = frozenset(page.ids[len(page.ids) - page.tied :])
        self._edge = last | (self._edge - ids)
        self._pages.append(ids)
        self._count += len(ids)
        while (
            len(self._pages) > _REMEMBERED_PAGES
            and self._count - len(self._pages[0]) >= _REMEMBERED_IDS
        ):
            self._count -= len(self._pages.popleft())
