"""What a stopped run has left for those who come after it, counted from the stop itself.

Contract 5.8 gives five seconds to all of them together, so each has a moment by which it
must be done, whenever it could begin: what is late takes nothing from those behind it.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

# Seconds after the stop. What is not over 0.1 s later is left as it is (`foreground`); readers
# of stdout and stderr come last (`report.outlet`).
LAST_COMMAND_BY_S = 3.2
PINGS_BY_S = 4.2


class Leave:
    """The time since a stop was asked for; `stopped` returns once it is.

    `clock`: monotonic seconds.
    """

    def __init__(
        self,
        stopped: Callable[[], Coroutine[Any, Any, None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stopped = stopped
        self._clock = clock
        self._began_at: float | None = None

    async def begun(self) -> None:
        """Return once a stop is asked for; waited for from the start of a run, or it is late."""
        await self._stopped()
        if self._began_at is None:
            self._began_at = self._clock()

    def left_s(self, by_s: float) -> float:
        """Return the seconds that are left until `by_s` after the stop; no end without one."""
        if self._began_at is None:
            return math.inf
        return max(0.0, self._began_at + by_s - self._clock())
