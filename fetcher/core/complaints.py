"""Which malformed records are news, while pages share records and passes repeat them. Pure.

A record with an id is told of once. Of others, equal ones are told apart by their places: where
in the list, and behind which readable record of its page, where one stands before it. They are
told of as often as one pass has shown them: a later pass shows the same ones, though others may
stand beside them by then. That is exact as long as the list rests; where it changes under a
pass, a few may count twice or not.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fetcher.core.wire import InvalidRecord, Page

_MOST = 10_000  # that are told of in one run


class Complaints:
    """The malformed records of one run; `begin` every pass through the list, or a part of it."""

    def __init__(self) -> None:
        self.count = 0
        self._told: Counter[str] = Counter()
        self.begin()

    def begin(self) -> None:
        """Take what comes from now on for another look at the same list."""
        self._shown: Counter[str] = Counter()
        self._places: set[str] = set()
        self._reached = 0  # just behind whatever this pass has shown

    def news(self, page: Page) -> list[InvalidRecord]:
        """Return those of a page that were not told of yet."""
        found: list[InvalidRecord] = []
        for bad in page.invalid:
            if self.count < _MOST and self._is_news(bad, page.offset):
                self.count += 1
                found.append(bad)
        if page.count:
            self._reached = max(self._reached, page.offset + page.count)
        return found

    def _is_news(self, bad: InvalidRecord, offset: int) -> bool:
        if bad.id is None and not self._is_elsewhere(bad, offset):
            return False
        key = f"{bad.id or bad.mark}\0{bad.reason}"
        self._shown[key] = self._shown[key] + 1 if bad.id is None else 1
        if self._shown[key] <= self._told[key]:
            return False
        self._told[key] += 1
        return True

    def _is_elsewhere(self, bad: InvalidRecord, offset: int) -> bool:
        """Return whether this pass has not shown what stands at that place."""
        is_further = offset + bad.index >= self._reached
        if not bad.behind:
            return is_further
        place = f"{bad.mark} {bad.behind}"
        is_new = place not in self._places
        self._places.add(place)
        return is_new and is_further
