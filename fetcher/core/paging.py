"""Where to look next in a list that may change while it is read. Pure.

The list is newest first and read by offset, so a record deleted meanwhile moves later ones
toward the start, where the next offset would miss them; an inserted one moves them away,
where they are only seen twice. Rules of the walk:

    a page follows another      it begins a few records before the other's end, and its
                                first record must have been seen; if it was not, something
                                was deleted: step back and read again until pages touch
    a page ends amid records    of one `created_at`, which a server may put in another order
                                each time it is asked: share all of them and one more, in a
                                page that is large enough to hold the rest; a page that begins
                                with one of them does not touch, as others may be in front
    elements without an id      hide what a page begins with: share so many more of them
    nothing can be shared       (pages of one record, or hardly an id in them) read from the
                                last readable page on, as much as the server gives; is it not
                                enough, look once more at this page: have they moved?
    a page shows no id at all   go on: the next one that does must touch the last one that did
    a page is shorter than asked,  the end, or a server that caps pages: ask right behind it
    or reaches no further
    that is something new       a cap: what came so far is the server's page size (`caps`)
    that is nothing new         read the last few records once more; as they were: the end,
                                otherwise go on from there (a deletion between the two
                                requests, or an empty answer that was no end)
    a page is the first again   ask far behind every end: an answer that is not empty means
                                that the server ignores `offset`; is that page as long as
                                was asked, a question for less tells whether `limit` is
                                ignored as well, which makes it the whole list

What a server documents about page sizes or totals is never relied on: the walk advances by
what came.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

from fetcher.core import overlap
from fetcher.core.caps import Cap
from fetcher.core.pages import Answer, Recent
from fetcher.errors import ApiError
from fetcher.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fetcher.models import JobId

_MOST_GAPS = 40  # in a row: a list that changes faster than it can be read
_MOST_STRICT_GAPS = 5  # in a row; then a page touches even if it begins amid records of one time
_MOST_RECHECKS = 100  # ends that were none after all
_FAR = 1_000_000  # records behind the last one that was seen
_ONE_PAGE = (
    "The API answers every page of the history with the first one; a larger --page-size may "
    "show the rest"
)


class _Mode(Enum):
    PAGE = auto()  # a page that must touch what was seen
    WIDER = auto()  # the same with a larger overlap: some elements have no id to touch by
    LINK = auto()  # the page before one that shares nothing readable with it
    AGAIN = auto()  # and then that one
    BACK = auto()  # after a gap: some page that touches what was seen
    BEYOND = auto()  # right behind a short page: is there more?
    RECHECK = auto()  # the last records again, after nothing new came from beyond
    PROBE = auto()  # far behind the end: does the server read `offset` at all?
    LESS = auto()  # it does not: does it read `limit`?


@frozen
class Request:
    """One list request: `offset` and `limit`, in records."""

    offset: int
    limit: int


class Walk:
    """The walk through one whole list: ask for `next`, give the answer to `feed`."""

    def __init__(self, page_size: int) -> None:
        self._limit = page_size
        self._cap = Cap(page_size)
        self._reach = 0  # just behind whatever was seen without a gap
        self._farthest = 0  # the largest `_reach` so far
        self._mode = _Mode.PAGE
        self._offset = 0
        self._asked = page_size  # how many records the next request is for
        self._is_strict = False  # a page must begin in front of all of the last page's last time
        self._first = self._last = self._held = Answer(0, (), 0)
        self._span = self._last  # from the last readable page on, to the end of the last one
        self._recent = Recent()
        self._was_empty = False  # the answer from beyond
        self._looked_at = 0  # where it ended
        self._reads_offset = False  # the server is known to
        self._was_end = False  # the page that could not follow: short, and nothing new
        self._gaps = 0
        self._rechecks = 0
        self._touched = False
        self.finished = False

    @property
    def touched(self) -> bool:
        """Return whether nothing can have slipped in front of the page that was fed last.

        True for the start of the list, for a page that begins with what was seen before, and
        for one that was read again to prove this. False for a page that the walk must look
        at again (its records may lie behind others that nobody saw), and for one that only
        shows where the list ends. Whoever leaves a walk early leaves it at a page that
        touches; what came with the pages before it, back to the last one that did, counts
        as part of it.
        """
        return self._touched

    @property
    def next(self) -> Request:
        """Return the next request; meaningless once `finished`."""
        return Request(self._offset, self._asked)

    def feed(self, ids: Sequence[JobId], count: int, *, tied: int = 0) -> None:
        """Take the answer to `next`: ids in order, and how many elements there were.

        `count` includes elements without a readable id; `tied`: as `pages.tied` says. Raises
        ApiError when the list contradicts itself again and again, and when the server
        ignores `offset` and may hold more than the one page that it gives.
        """
        answer = Answer(self._offset, tuple(ids), count, self._asked, tied)
        self._touched = False
        self._cap.take(answer)
        match self._mode:
            case _Mode.BEYOND:
                self._feed_beyond(answer)
            case _Mode.RECHECK:
                self._feed_recheck(answer)
            case _Mode.LINK:
                self._feed_link(answer)
            case _Mode.AGAIN:
                self._feed_again(answer)
            case _Mode.PROBE:
                self._feed_probe(answer)
            case _Mode.LESS:
                self._feed_less(answer)
            case _Mode.PAGE | _Mode.WIDER | _Mode.BACK:
                self._feed_page(answer)

    # ---- the modes ----

    def _feed_page(self, page: Answer) -> None:
        if page.offset == 0:
            self._feed_start(page)
        elif self._is_first_again(page) and not self._reads_offset:
            self._go(_Mode.PROBE, max(page.end, self._last.end) + _FAR)
        elif not page.count and page.offset >= self._reach:
            self._feed_beyond(page)
        elif self._mode is _Mode.BACK and self._is_known(page) and self._shrinks_to(page):
            self.finished = True  # it does so faster than its end could be looked at again
        elif self._touches(page):
            self._accept(page)
        else:
            self._feed_apart(page)

    def _feed_apart(self, page: Answer) -> None:
        """Take a page that does not begin with what was seen: a gap, or it cannot show it."""
        shared = self._last.end - page.offset
        wide = overlap.wide(self._last)
        if not page.count or self._mode is _Mode.BACK or shared > self._last.blank:
            self._step_back(page)
        elif self._last.ids and wide > shared:
            self._is_strict = wide >= overlap.run(self._last)
            self._go(_Mode.WIDER, self._last.end - wide, self._asked)
        elif page.ids:
            self._held = page
            self._is_strict = any(map(self._recent.is_whole, self._span.ids[:1]))
            self._go(_Mode.LINK, self._span.offset, self._more(2 * self._span.count))
        else:
            self._accept(page)  # it shows nothing; the next one that does must be linked
            self._touched = False

    def _feed_start(self, page: Answer) -> None:
        if page.count:
            self._first = page
            self._accept(page)
        elif self._last.count:
            raise ApiError("The history became empty while it was read; nothing was forgotten")
        else:
            self.finished = True  # its caller knows whether that can be

    def _feed_link(self, again: Answer) -> None:
        """Take the last page again, larger if that can be had: then it reaches the next one.

        Else, unless it moved toward the start, the held one may follow.
        """
        is_start = not again.offset
        is_news = again.end > self._last.end or not all(map(self._seen, again.ids))
        if is_news and (is_start or self._touches(again)):
            self._accept(again)
            return
        self._cap.cut(again)
        is_newer = self._touches(again) and again.ids[0] not in self._span.ids
        if is_start or is_newer or self._span.ids[0] in again.ids:
            self._go(_Mode.AGAIN, self._held.offset, self._held.asked)
        else:
            self._step_back(again)

    def _feed_again(self, page: Answer) -> None:
        """Take the held page again: it may have come while the last one was elsewhere."""
        if page.ids[:1] == self._held.ids[:1] or self._touches(page):
            self._accept(page)
        else:
            self._step_back(page)

    def _feed_beyond(self, page: Answer) -> None:
        were_moved = page.end > self._farthest and self._all_seen(page)  # by new ones
        if page.count and not were_moved:
            self._cap.more_behind(self._last)
            self._go_on()
        else:
            self._was_empty = not page.count
            share = self._shared_at_end
            self._is_strict = share.is_whole
            self._looked_at = page.end
            self._go(_Mode.RECHECK, max(0, page.end - share.records), share.asked)

    def _feed_recheck(self, page: Answer) -> None:
        is_illegible = not page.ids and self._shared_at_end.records <= self._last.blank
        is_known = self._is_known(page) or is_illegible
        is_as_before = self._was_empty and page.end == self._looked_at
        if is_known and (is_as_before or self._ends_there(page)):
            self.finished = True
            return
        self._rechecks += 1
        is_stuck = self._rechecks > _MOST_STRICT_GAPS
        if not self._was_empty and (is_stuck or not self._all_seen(page)):
            self._cap.more_behind(self._last)
        if self._rechecks > _MOST_RECHECKS:
            raise ApiError("The history has no end: it changes whenever that is looked at")
        self._mode = _Mode.BACK
        self._feed_page(page)

    def _feed_probe(self, page: Answer) -> None:
        if not page.count:
            self._reads_offset = True
            self._go_on()
        elif self._first.count != self._first.asked:
            self.finished = True  # fewer or more than asked: that one page is all there is
        elif self._limit > 1:
            self._go(_Mode.LESS, 0, self._limit // 2)
        else:
            raise ApiError(_ONE_PAGE)

    def _feed_less(self, page: Answer) -> None:
        if page.count <= self._limit // 2:
            raise ApiError(_ONE_PAGE)
        self.finished = True  # it gives more than it is asked for: always all

    # ---- going on ----

    def _accept(self, page: Answer) -> None:
        """Go on behind a page that nothing can have slipped in front of."""
        if page.asked > self._limit == page.count:
            self._cap.cut(page)
        self._touched = True
        went_back = self._mode is _Mode.BACK or (
            self._mode is _Mode.LINK and page.end <= self._reach
        )
        is_further = went_back or page.end > self._reach
        if not went_back and page.ids:
            self._gaps = 0
        self._recent.add(page)
        self._last = page
        self._span = self._span.up_to(page.end) if page.offset and not page.ids else page
        self._reach = page.end if is_further else self._reach
        self._farthest = max(self._farthest, self._reach)
        if page.count < self._cap.full or not is_further:
            self._go(_Mode.BEYOND, self._reach)
        else:
            self._go_on(after_gap=went_back)

    def _go_on(self, *, after_gap: bool = False) -> None:
        """Ask for the next page, after a gap with an overlap that bridges the like of it."""
        share = overlap.following(self._last, self._limit, most=self._cap.most, after_gap=after_gap)
        self._is_strict = share.is_whole
        self._go(_Mode.PAGE, self._last.end - share.records, share.asked)

    def _step_back(self, page: Answer) -> None:
        """Read the last page again, then go back in steps that double, to the start if need be.

        Raises ApiError after too many gaps without a page that touched.
        """
        if self._mode in {_Mode.BACK, _Mode.LINK, _Mode.AGAIN}:
            step = max(1, self._last.end - page.offset) * 2
        else:
            step = max(1, self._last.count)
        if self._mode is not _Mode.BACK:
            self._gaps += 1
        self._was_end = page.count < self._cap.full and all(map(self._seen, page.ids))
        if self._gaps > _MOST_GAPS:
            raise ApiError("The history contradicts itself from one page to the next")
        asked = self._more(min(self._last.asked, self._last.count))
        self._go(_Mode.BACK, max(0, self._last.end - step), asked)

    def _go(self, mode: _Mode, offset: int, asked: int | None = None) -> None:
        self._mode = mode
        self._offset = offset
        self._asked = self._limit if asked is None else asked

    # ---- what is known ----

    def _touches(self, page: Answer) -> bool:
        """Return whether the page begins with what was seen, and nothing can be in front."""
        if not page.ids or not self._seen(page.ids[0]):
            return False
        is_strict = self._is_strict and self._gaps < _MOST_STRICT_GAPS
        return not is_strict or self._recent.is_whole(page.ids[0])

    def _all_seen(self, page: Answer) -> bool:
        return bool(page.ids) and all(map(self._seen, page.ids))

    def _is_known(self, page: Answer) -> bool:
        """Return whether the page holds nothing new, and nothing can be in front of it."""
        return all(map(self._seen, page.ids)) and (not page.offset or self._touches(page))

    def _more(self, records: int) -> int:
        """Return what to ask for where so many are wanted: a page's worth, or more."""
        return max(self._limit, min(records, self._cap.most))

    @property
    def _shared_at_end(self) -> overlap.Share:
        """Return how many of the last records are read again to see that nothing moved."""
        most = max(self._cap.full, self._cap.most if self._last.count > self._limit else 0)
        return overlap.at_end(self._last, self._span, self._limit, most)

    def _ends_there(self, page: Answer) -> bool:
        """Return whether the page is shorter than what this server gives where there is more."""
        gives_even_pages = self._cap.full in {self._limit, self._cap.largest}
        return gives_even_pages and 0 < page.count < self._cap.largest

    def _shrinks_to(self, page: Answer) -> bool:
        """Return whether the list ends with this page, and ended with the one before it, too."""
        return self._was_end and self._ends_there(page)

    def _seen(self, job_id: JobId) -> bool:
        return job_id in self._recent

    def _is_first_again(self, page: Answer) -> bool:
        return bool(page.count) and page.ids == self._first.ids[: len(page.ids) or None]
