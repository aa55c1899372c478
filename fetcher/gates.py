"""What all transfers share: hosts that asked for a pause, and the limit on bytes a second."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_HOST = re.compile(r"[^/?#]*//(?:[^/?#]*@)?(\[[^][/?#]*](?::[0-9]*)?|[^][/?#]*)(?:[/?#]|\Z)")
_SLICE_S = 0.1  # a limited transfer asks for so much time's worth of bytes at once


def host_of(url: str) -> str:
    """Return the host and port of a link, for messages and gates; empty for garbage."""
    match = _HOST.match(url)
    return match[1].lower() if match else ""


class Gates:
    """One gate per host: a 429 or 503 closes it for everybody who talks to that host."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._open_at_s: dict[str, float] = {}

    def hold(self, host: str, delay_s: float) -> None:
        """Let nobody through to `host` for `delay_s` seconds from now."""
        until_s = self._clock() + delay_s
        self._open_at_s[host] = max(until_s, self._open_at_s.get(host, 0.0))

    def open(self, host: str) -> None:
        """Let through who comes from now on; who waits already stays until the time it was told."""
        self._open_at_s.pop(host, None)

    def left_s(self, host: str) -> float:
        """Return for how many more seconds nobody gets through to `host`; 0 where it is open."""
        return max(0.0, self._open_at_s.get(host, 0.0) - self._clock())

    async def passed(self, host: str) -> None:
        """Return once the gate of `host` is open."""
        # A time, not an event: a later refusal may have moved it on while we slept.
        while (wait_s := self.left_s(host)) > 0:  # noqa: ASYNC110
            await asyncio.sleep(wait_s)
        self._open_at_s.pop(host, None)


class Limiter:
    """`--limit-rate`: bytes a second over all transfers, even and without bursts.

    Each taker books the next free stretch of time, so the sum never exceeds the rate, and
    a tenth of a second is all that can be taken at once.
    """

    def __init__(self, rate_bytes_s: float | None, clock: Callable[[], float]) -> None:
        self._rate_bytes_s = rate_bytes_s
        self._clock = clock
        self._free_at_s = 0.0

    def slice_bytes(self, most: int) -> int:
        """Return how many bytes to ask for at once, at most `most`."""
        if self._rate_bytes_s is None:
            return most
        return max(1, min(most, int(self._rate_bytes_s * _SLICE_S)))

    async def take(self, count: int) -> None:
        """Return when `count` more bytes may have come."""
        if self._rate_bytes_s is None:
            return
        now_s = self._clock()
        self._free_at_s = max(self._free_at_s, now_s) + count / self._rate_bytes_s
        await asyncio.sleep(self._free_at_s - now_s)
