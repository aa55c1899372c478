"""How many files are under way at a time (`-j`), and who waits without being in the way.

A file whose host asked for a pause gives its slot to another one meanwhile, so that the files
of other hosts go on. How many may wait so is bounded: each costs some memory, and one that has
bytes on disk already two open files as well.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MOST_ASIDE = 1000  # 8 MB
MOST_ASIDE_OPEN = 64  # 128 open files, of 1,024 that are usual


class Slots:
    """So many files at a time; first come, first served."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.aside = 0
        self._aside_open = 0
        self._free = count
        self._line: deque[asyncio.Future[None]] = deque()
        self._on_free: Callable[[], None] | None = None

    def when_free(self, call: Callable[[], None]) -> None:
        """Let `call` be called whenever a file steps aside."""
        self._on_free = call

    @property
    def idle(self) -> int:
        """Return how many slots no file wants."""
        return max(0, self._free)

    async def enter(self) -> None:
        """Return once there is a slot for one more file."""
        if self._free > 0 and not self._line:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()  # it was given to us with the same breath
            raise

    def leave(self) -> None:
        """Give the slot to whoever has waited longest."""
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    async def step_aside(self, waiting: Awaitable[None], *, is_open: bool) -> None:
        """Await `waiting` without a slot, and then a slot; called with one.

        `is_open`: the file holds open files. Where too many wait already, it keeps its slot.
        """
        if self.aside >= MOST_ASIDE or (is_open and self._aside_open >= MOST_ASIDE_OPEN):
            await waiting
            return
        self.aside += 1
        self._aside_open += is_open
        self.leave()
        if self._on_free is not None:
            self._on_free()
        try:
            await waiting
            await self.enter()
        except BaseException:
            self._free -= 1  # the caller will leave a slot, which nobody waits for any more
            raise
        finally:
            self.aside -= 1
            self._aside_open -= is_open
