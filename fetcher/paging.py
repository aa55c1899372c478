"""Where to look next in a list that may change while it is read. Pure.

The list is newest first and read by offset, so a record deleted meanwhile moves later ones
toward the start, where the next offset would miss them; an inserted one moves them away,
where they are only seen twice. Rules of the walk:

    a page follows another      it begins a few records before the other's end; if none of
                                its records was seen, something was deleted: step back and
                                read again until pages touch
    a page is shorter than asked   the end, or a server that caps pages: ask right behind it
    that is not empty           a cap: what came so far is the server's page size
    that is empty               read the last few records once more; as they were: the end,
                                otherwise go on from there (a deletion between the two
                                requests, or an empty answer that was no end)

What a server documents about page sizes or totals is never relied on: the walk advances by
what came. A server that ignores `offset` is noticed by its repeating itself.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from fetcher.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fetcher.models import JobId

_OVERLAP = 5  # records that two pages share: so many deletions between two requests are free
_REMEMBERED_PAGES = 8
_MOST_STEPS_BACK = 40
_MOST_REPEATS = 3


class _Mode(Enum):
    PAGE = auto()  # a page that must touch what was seen
    BEYOND = auto()  # right behind a short page: is there more?
    RECHECK = auto()  # the last records again, after nothing came from beyond


@dataclass(frozen=True, slots=True)
class Request:
    """One list request: `offset` and `limit`, in records."""

    offset: int
    limit: int


class Walk:
    """The walk through one whole list: ask for `next`, give the answer to `feed`."""

    def __init__(self, page_size: int) -> None:
        self._limit = page_size
        self._full = page_size  # a page of so many is no sign of the end
        self._mode = _Mode.PAGE
        self._offset = 0
        self._end = 0  # just behind the last record that was reached
        self._last_count = 0
        self._blind = False  # the last page had not one readable id
        self._recent: deque[frozenset[JobId]] = deque(maxlen=_REMEMBERED_PAGES)
        self._first: tuple[JobId, ...] = ()
        self._repeats = 0
        self._steps_back = 0
        self.finished = False

    @property
    def next(self) -> Request:
        """Return the next request; meaningless once `finished`."""
        return Request(self._offset, self._limit)

    def feed(self, ids: Sequence[JobId], count: int) -> None:
        """Take the answer to `next`: ids in order, and how many elements there were.

        `count` includes elements without a readable id. Raises ApiError when the list
        contradicts itself again and again.
        """
        match self._mode:
            case _Mode.BEYOND:
                self._feed_beyond(count)
            case _Mode.RECHECK if count == self._shared and self._seen(ids):
                self.finished = True
            case _Mode.PAGE | _Mode.RECHECK:
                self._feed_page(tuple(ids), count)

    def _feed_page(self, ids: tuple[JobId, ...], count: int) -> None:
        if self._repeats_itself(ids):
            self.finished = True
            return
        if not count and self._offset == 0:
            self.finished = True  # an empty list; its caller knows whether that can be
            return
        if not count or not self._touches(ids):
            self._step_back()
            return
        self._steps_back = 0
        self._recent.append(frozenset(ids))
        self._end = self._offset + count
        self._last_count = count
        self._blind = not ids
        if not self._first:
            self._first = ids
        if count < self._full:
            self._go(_Mode.BEYOND, self._end)
        else:
            self._go(_Mode.PAGE, self._end - min(_OVERLAP, count // 2))

    @property
    def _shared(self) -> int:
        """Return how many of the last records are read again to see that nothing moved."""
        return max(1, min(_OVERLAP, self._last_count // 2))

    def _seen(self, ids: Sequence[JobId]) -> bool:
        return all(any(job_id in page for page in self._recent) for job_id in ids)

    def _feed_beyond(self, count: int) -> None:
        if count:
            self._full = min(self._full, self._last_count)
            self._go(_Mode.PAGE, self._end - min(_OVERLAP, self._last_count // 2))
        else:
            self._go(_Mode.RECHECK, self._end - self._shared)

    def _touches(self, ids: tuple[JobId, ...]) -> bool:
        """Return whether nothing can have slipped between this page and what was seen."""
        if self._offset == 0 or self._last_count == 1 or self._blind:
            return True
        return not ids or any(job_id in page for page in self._recent for job_id in ids)

    def _step_back(self) -> None:
        self._steps_back += 1
        if self._steps_back > _MOST_STEPS_BACK:
            raise ApiError("The history contradicts itself from one page to the next")
        width = max(self._last_count, 1) * 2 ** min(self._steps_back - 1, 20)
        self._go(_Mode.PAGE, max(0, self._offset - width))

    def _repeats_itself(self, ids: tuple[JobId, ...]) -> bool:
        """Return whether the server keeps sending its first page whatever is asked."""
        if not ids or self._offset == 0 or ids != self._first:
            self._repeats = 0
            return False
        self._repeats += 1
        return self._repeats >= _MOST_REPEATS

    def _go(self, mode: _Mode, offset: int) -> None:
        self._mode = mode
        self._offset = offset
