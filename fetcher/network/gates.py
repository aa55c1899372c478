"""What all transfers share: hosts that asked for less, and the limit on bytes a second.

A host that answered 429 or 503 gets a gate, which everybody who talks to that host goes
through in the order of coming, one at a time. A Retry-After closes it. Whether or not one
came, the gate opens at a pace that is halved by refusals and grows with answers (AIMD, RFC
5681 §3.1 with requests for segments), until it is so fast that nothing is held back any more
and the gate is gone. A host that never refused costs one look into a dict.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_SLICE_S = 0.1  # a limited transfer asks for so much time's worth of bytes at once

_ROUNDING_S = 1e-6  # what is left of a wait by the clock's rounding is none
_FIRST_STEP_SHARE = 0.25  # of the first backoff: four requests a second, unless told otherwise
_LEAST_FIRST_STEP_S = 0.01
_OPEN_STEP_S = 0.001  # a gate that lets a thousand a second through holds nobody back
_SLOWER = 2.0  # each refusal, but for those of requests that were on their way already
_FASTER = 1.5  # each answer, up to the pace that is believed to be safe
_PROBING = 1.05  # each answer, beyond it
_SAFE_SHARE = 1.3  # the safe pace is so much slower than the one that was refused
# Without one answer between them, going slower is not what the host asks for: it is down.
_MOST_IN_A_ROW = 12
# How far refusals slow the pace down, in first steps: where nothing was answered yet, and
# where something was, which shows that the host counts requests.
_SLOWEST_UNANSWERED, _SLOWEST = 16, 64


class Pause:
    """A time until which one host is to be left alone."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ends_at_s = 0.0

    @property
    def left_s(self) -> float:
        """Return for how many more seconds it lasts; 0 where there is none."""
        return max(0.0, self._ends_at_s - self._clock())

    def ask(self, delay_s: float) -> None:
        """Let it last for `delay_s` seconds from now, or longer where it does already."""
        self._ends_at_s = max(self._ends_at_s, self._clock() + delay_s)

    def end(self) -> None:
        """Let through who comes from now on; who waits already stays until the time it was told."""
        self._ends_at_s = 0.0

    async def passed(self) -> None:
        """Return once it is over."""
        # A time, not an event: it may be made longer while we sleep.
        while (wait_s := self.left_s) > _ROUNDING_S:  # noqa: ASYNC110
            await asyncio.sleep(wait_s)


class Gates:
    """One gate for each host that answered 429 or 503, for everybody who talks to it.

    `delay_s`: the backoff after a first failure, which the first pace is made from.
    `longest_s`: a longer Retry-After is not waited for, and may be of one file alone; it
    slows everybody down like any other refusal, but closes no gate.
    """

    def __init__(
        self, clock: Callable[[], float], *, delay_s: float = 1.0, longest_s: float = 600.0
    ) -> None:
        self.clock = clock
        self._first_step_s = max(delay_s * _FIRST_STEP_SHARE, _LEAST_FIRST_STEP_S)
        self._longest_s = longest_s
        self._gates: dict[str, _Gate] = {}

    def is_clear(self, host: str) -> bool:
        """Return whether nobody has to wait for `host`."""
        return host not in self._gates

    def is_held(self, host: str) -> bool:
        """Return whether `host` asked to be left alone until a time that has not come."""
        gate = self._gates.get(host)
        return gate is not None and gate.pause.left_s > 0

    async def passed(self, host: str) -> None:
        """Return once the gate of `host` lets one more request through."""
        gate = self._gates.get(host)
        if gate is not None:
            await gate.passed()

    def is_obeyed(self, asked_s: float) -> bool:
        """Return whether a Retry-After of so many seconds is waited for."""
        return asked_s <= self._longest_s

    def hold(self, host: str, delay_s: float) -> None:
        """Let nobody through to `host` for `delay_s` seconds from now."""
        self._gate(host).pause.ask(delay_s)

    def refused(self, host: str, sent_at_s: float, *, asked_s: float, since_s: float) -> bool:
        """Slow down for `host`, which refused a request that was sent at `sent_at_s`.

        `asked_s`: what its Retry-After says, 0 without one. Returns whether the host took
        another request after `since_s`: it is busy, not down.
        """
        gate = self._gate(host)
        gate.slow_down(sent_at_s)
        if self.is_obeyed(asked_s):
            self.hold(host, asked_s)
        return gate.answered_at_s > since_s

    def answered(self, host: str, sent_at_s: float) -> None:
        """Go faster for `host`, which took a request that was sent at `sent_at_s`."""
        gate = self._gates.get(host)
        if gate is not None and gate.speed_up(sent_at_s):
            del self._gates[host]

    def _gate(self, host: str) -> _Gate:
        if host not in self._gates:
            self._gates[host] = _Gate(self.clock, self._first_step_s)
        return self._gates[host]


class Visit:
    """One request and whatever redirects it meets, as the gates see them.

    `wait` awaits a turn at a gate; `host` is where the latest request went.
    """

    __slots__ = ("_gates", "_wait", "host", "sent_at_s")

    def __init__(self, gates: Gates, wait: Callable[[Awaitable[None]], Awaitable[None]]) -> None:
        self._gates = gates
        self._wait = wait
        self.host = ""
        self.sent_at_s = 0.0

    async def ask(self, host: str) -> None:
        """Return when the next request, to `host`, may be sent."""
        gates = self._gates
        if self.host:
            self.answered()  # by a redirect
        if not gates.is_clear(host):
            await self._wait(gates.passed(host))
        self.host = host
        self.sent_at_s = gates.clock()

    def answered(self) -> None:
        """Note that the host took the request."""
        self._gates.answered(self.host, self.sent_at_s)

    def refused(self, asked_s: float, *, since_s: float | None = None) -> bool:
        """Note that it did not, as `Gates.refused` does; `since_s` None: since it was sent."""
        sent_at_s = self.sent_at_s
        since_s = sent_at_s if since_s is None else since_s
        return self._gates.refused(self.host, sent_at_s, asked_s=asked_s, since_s=since_s)


class _Gate:
    """The gate of one host. `step_s`: the least time between two requests."""

    def __init__(self, clock: Callable[[], float], first_step_s: float) -> None:
        self._clock = clock
        self._first_step_s = first_step_s
        self._line = asyncio.Lock()  # which is fair: first come, first served
        self._step_s = first_step_s
        self._safe_step_s = 0.0  # none is known
        self._passed_at_s = self._slowed_at_s = clock()
        self._in_a_row = 0  # refusals since the last answer
        self.pause = Pause(clock)
        self.answered_at_s = float("-inf")

    async def passed(self) -> None:
        """Return when it is this caller's turn."""
        async with self._line:
            # A time, not an event: a later refusal may have moved it on while we slept.
            while (wait_s := self._left_s()) > _ROUNDING_S:  # noqa: ASYNC110
                await asyncio.sleep(wait_s)
            self._passed_at_s = self._clock()

    def _left_s(self) -> float:
        return max(self._passed_at_s + self._step_s - self._clock(), self.pause.left_s)

    def slow_down(self, sent_at_s: float) -> None:
        """Halve the pace, once for all requests that were on their way together."""
        if sent_at_s < self._slowed_at_s:
            return
        if not self._in_a_row:
            self._safe_step_s = self._step_s * _SAFE_SHARE
        self._in_a_row += 1
        self._slowed_at_s = self._passed_at_s = self._clock()
        if self._in_a_row > _MOST_IN_A_ROW:
            self._step_s = self._first_step_s
            return
        was_answered = self.answered_at_s > float("-inf")
        slowest = _SLOWEST if was_answered else _SLOWEST_UNANSWERED
        self._step_s = min(self._step_s * _SLOWER, self._first_step_s * slowest)

    def speed_up(self, sent_at_s: float) -> bool:
        """Quicken the pace; return whether the gate may go."""
        self.answered_at_s = self._clock()
        if sent_at_s < self._slowed_at_s:
            return False
        self._in_a_row = 0
        if self._step_s > self._safe_step_s:
            self._step_s = max(self._step_s / _FASTER, self._safe_step_s)
        else:
            self._step_s /= _PROBING
        return self._step_s < _OPEN_STEP_S and not self._line.locked()


class Limiter:
    """`--limit-rate`: bytes a second over all transfers, even and without bursts.

    Each taker books the next free stretch of time, so the sum never exceeds the rate, and
    a tenth of a second is all that can be taken at once.
    """

    def __init__(self, rate_bytes_s: float | None, clock: Callable[[], float]) -> None:
        self._rate_bytes_s = rate_bytes_s
        self._clock = clock
        self._free_at_s = 0.0

    @property
    def is_set(self) -> bool:
        """Return whether there is a limit at all."""
        return self._rate_bytes_s is not None

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
