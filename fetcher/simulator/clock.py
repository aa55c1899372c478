"""The simulator's time: it can start anywhere, run faster than life and be moved on.

Owns the relation of simulated to real seconds and the text form of a time.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime


class SimClock:
    """Simulated wall time as seconds since the epoch."""

    def __init__(self, started_at: float, speed: float) -> None:
        self._started_at = started_at
        self._speed = speed
        self._zero_s = time.monotonic()
        self._ahead_s = 0.0

    def now(self) -> float:
        """Return the simulated time, in seconds since the epoch."""
        return self._started_at + self._ahead_s + self.real_s() * self._speed

    def advance(self, seconds: float) -> None:
        """Move the simulated time on (back, if negative) by so many seconds."""
        self._ahead_s += seconds

    def real_s(self) -> float:
        """Return the real seconds since the simulator was made."""
        return time.monotonic() - self._zero_s

    def real_wait_s(self, simulated_s: float) -> float:
        """Return how long so many simulated seconds last."""
        return max(0.0, simulated_s) / self._speed


def iso(at: float) -> str:
    """Return a time as the API writes it: ISO 8601, milliseconds, UTC."""
    text = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"
