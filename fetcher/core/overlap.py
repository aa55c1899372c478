"""How many records of the last page the next request reads once more. Pure.

Records of one `created_at` may come in another order in every answer. So a page proves that
nothing slipped in front of it only if it begins in front of all that have the time with which
the last page ended: it has to share these, and one more. Elements without an id prove
nothing: it has to share as many more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fetcher.frozen import frozen

if TYPE_CHECKING:
    from fetcher.core.pages import Answer

OVERLAP = 5  # records that two pages share: one fewer may be deleted between two requests
MOST_TIED = 1_000  # records of one time that are read in one page: some megabytes of JSON


@frozen
class Share:
    """So many records to read again, with a page of `asked`.

    `is_whole`: they hold one in front of all those of the time with which the page ended.
    """

    records: int
    asked: int
    is_whole: bool


def run(last: Answer) -> int:
    """Return how many records to share for one in front of those of the last time."""
    return last.tied + last.blank + 1


def following(last: Answer, limit: int, *, most: int, after_gap: bool) -> Share:
    """Return what the page behind this one shares; `after_gap`: bridge the like of it, too.

    A page larger than `limit` is asked for where the records to share leave no room for
    others, up to the `most` that the server gives; where that does not do, some of them may
    cross the edge unseen.
    """
    half = last.count // 2
    shared = half if after_gap else min(OVERLAP, half)
    asked = max(limit, 2 * shared)
    is_large = most > limit and (last.tied + last.blank > 1 or last.count > limit)
    if run(last) <= min(half, limit // 2):
        shared = max(shared, run(last))
    elif is_large and run(last) <= min(MOST_TIED, most - (limit + 1) // 2):
        is_sure = last.count > limit  # that the server gives pages with room for more
        free = last.count if after_gap else run(last) + (OVERLAP if is_sure else 0)
        shared = min(last.count, max(run(last), min(free, MOST_TIED, most // 2)))
        asked = min(most, max(limit + OVERLAP, 2 * shared))
    return Share(shared, asked, shared >= run(last))


def wide(last: Answer) -> int:
    """Return an overlap that shares readable records, but no more than half of the page."""
    half = (last.count + 1) // 2
    return min(OVERLAP + last.blank, half, last.count - 1)


def at_end(last: Answer, span: Answer, limit: int, most: int) -> Share:
    """Return what is read again to see that nothing moved.

    `span`: the last page, from the last readable one on; `most`: what the server gives, of
    which only less shows the end.
    """
    shared = max(1, wide(last))
    has_front = run(span) <= span.count or not span.offset
    if has_front and run(span) < most:
        shared = max(shared, run(span))
    return Share(shared, max(limit, shared + 1), has_front and shared >= run(span))
