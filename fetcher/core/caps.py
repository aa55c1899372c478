"""How much a server gives of what it is asked for. Pure.

What it documents is not relied on, and one answer proves little: some servers give less now
and then. A bound is believed once two answers in a row were alike, and only as long as no
page was larger.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fetcher.core.overlap import MOST_TIED

if TYPE_CHECKING:
    from fetcher.core.pages import Answer


class Cap:
    """What is known of the pages that a server gives to questions for `limit` records or more."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.full = limit  # a page of so many is no sign of the end
        self.largest = 0  # elements of the largest page so far, as far as `limit`
        self._alike = 0  # pages of just so many
        self._widest = 0  # elements of the largest page, whatever was asked for
        self._most = 2 * MOST_TIED  # that it gives, where it is asked for more
        self._cut: Answer | None = None  # the last answer, if it was less than such a question

    @property
    def most(self) -> int:
        """Return how many records the server gives where it is asked for more than `limit`."""
        is_below = self.full == self.largest < self._limit and self._alike > 1
        return self._limit if is_below else self._most

    def take(self, page: Answer) -> None:
        """Take note of a page, whatever it shows."""
        count = min(page.count, self._limit)
        self._alike = 1 if count > self.largest else self._alike + (count == self.largest)
        self.largest = max(self.largest, count)
        self._widest = max(self._widest, page.count)
        if self._cut is not None and page.asked > self._limit and page.count != self._cut.count:
            self._cut = None

    def more_behind(self, page: Answer) -> None:
        """Take note that there was more behind that page."""
        self.full = min(self.full, page.count)
        self.cut(page)

    def cut(self, page: Answer) -> None:
        """Take note that the server gave less than it was asked for, though it had more."""
        if not self._limit < page.asked > page.count or page is self._cut:
            return
        if self._cut is not None and page.count == self._cut.count:
            self._most = min(self._most, max(self._limit, self._widest))
        self._cut = page
