"""How much of a body to take at once: enough to be cheap, little enough to lose. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fetcher.memory import ALIGNMENT_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK_BYTES = 1 << 20  # a hop to a thread costs 125 us: worth it once a megabyte
_FIRST_BYTES = 256 << 10  # most of a small file, and soon on disk where the line is slow
_FIRST_OF_LARGE_BYTES = 64 << 10  # a slow line shows itself early, where that counts
_LARGE_BYTES = 4 << 20
LEAST_BYTES = 64 << 10
_WORTH_S = 0.05  # what is in memory when the process is killed is lost: so much time's worth


class Pace:
    """The size of the next piece, from how fast the last ones came.

    `total_bytes`: all that is to come, None where that is not known.
    """

    def __init__(self, clock: Callable[[], float], total_bytes: int | None) -> None:
        self._clock = clock
        self._asked_at_s = clock()
        is_large = total_bytes is not None and total_bytes >= _LARGE_BYTES
        self.chunk_bytes = _FIRST_OF_LARGE_BYTES if is_large else _FIRST_BYTES

    def took(self, count: int) -> None:
        """Note that a piece of `count` bytes came since the piece before."""
        now_s = self._clock()
        rate_bytes_s = count / max(now_s - self._asked_at_s, 1e-6)
        self._asked_at_s = now_s
        worth = int(rate_bytes_s * _WORTH_S)
        whole_pages = worth - worth % ALIGNMENT_BYTES
        self.chunk_bytes = max(LEAST_BYTES, min(whole_pages, 4 * self.chunk_bytes, CHUNK_BYTES))
