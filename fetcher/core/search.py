"""Where in a list, newest first, a time stands. Pure: pages are fed, offsets come out.

Begins where the time is guessed to be. Steps away from there double, and once it is known
to lie between two pages they halve, so a wrong guess and a server that gives less than it
is asked for cost a few pages more. Records of the very same time may fill several pages:
they are read from the first to the last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fetcher.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime


@frozen
class _Bound:
    """A page that begins with that time or an older one; `oldest` is None for an empty one."""

    offset: int
    end: int
    oldest: datetime | None


class Search:
    """The search for one time. `offset` is to be asked next, until `finished`.

    `position`: the first row that is not newer, as far as known; None before it is near.
    """

    def __init__(self, created_at: datetime, *, guess: int, width: int) -> None:
        """Begin around row `guess`, in pages that are expected to have `width` rows."""
        self._created_at = created_at
        self._width = width
        self._low = 0  # all rows in front of this one are newer
        self._high: _Bound | None = None
        self._step = 0
        self._reads_on = False  # behind the first row of that time
        self.offset = max(0, guess - width // 2)
        self.position: int | None = None
        self.finished = False

    def feed(self, times: Sequence[datetime], count: int) -> None:
        """Take the page at `offset`: the times that could be read, and how many rows it has."""
        if count:
            self._width = min(self._width, count)  # else what is left is read row by row
        end = self.offset + count
        oldest = min(times, default=None)
        if self._reads_on:
            self._read_on(end, oldest if times or not count else self._created_at)
        elif count and not times:
            self._step_around(end)
        elif oldest is not None and oldest > self._created_at:
            self._low = max(self._low, end)
            self._go_on(older=True)
        elif self.offset <= self._low or any(at > self._created_at for at in times):
            self.position = self.offset + sum(at > self._created_at for at in times)
            self._read_on(end, oldest)
        else:
            self._high = _Bound(self.offset, end, oldest)
            if self._created_at in times:
                self.position = self.offset
            self._go_on(older=False)

    def _read_on(self, end: int, oldest: datetime | None) -> None:
        """End here, unless the page ends with that very time: the next may begin with it."""
        self._reads_on = True
        self.offset = end
        self.finished = oldest is None or oldest < self._created_at

    def _step_around(self, end: int) -> None:
        """Leave out a page in which nothing can be read: look in front of it, then behind."""
        before = max(self._low, self.offset - self._width)
        if before < self.offset:
            self.offset = before
        else:
            self._low = end
            self._go_on(older=True)

    def _go_on(self, *, older: bool) -> None:
        high = self._high
        if high is not None and self._low >= high.offset:
            self.position = high.offset
            self._read_on(high.end, high.oldest)
            return
        if older:
            offset = self._low + self._step
            if high is not None:
                offset = min(offset, self._middle(high))
        else:
            assert high is not None
            offset = max(high.offset - self._width - self._step, self._middle(high))
        self._step = 2 * self._step + self._width
        self.offset = max(self._low, offset)

    def _middle(self, high: _Bound) -> int:
        """Return where a page halves what is left."""
        return (self._low + high.offset - self._width) // 2
