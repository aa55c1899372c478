"""The log of requests that tests ask questions of.

Owns the records and nothing else; the oldest are dropped beyond `LIMIT`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fetcher.simulator.faults import Kind

LIMIT = 100_000  # about 100 MB: a simulator that runs for days must not grow without end


@dataclass(frozen=True, slots=True)
class SimRequest:
    """One request and, once it is over, its answer.

    `at_s`: real seconds since the simulator was made. `target`: path and query byte for byte
    as they came. `headers` have lower-case names. `client_port` tells connections apart.
    `status` is 0 where no answer was sent (yet); `body_bytes` counts the body as sent, without
    its framing.
    """

    number: int
    at_s: float
    origin: Literal["api", "host"]
    kind: Kind
    job: str | None
    method: str
    target: str
    headers: Mapping[str, str]
    client_port: int = 0
    status: int = 0
    body_bytes: int = 0

    @property
    def range(self) -> str | None:
        """The Range that was asked for, None where the whole was."""
        return self.headers.get("range")


class RequestLog:
    """Requests in the order in which they came."""

    def __init__(self) -> None:
        self._requests: dict[int, SimRequest] = {}

    def add(self, request: SimRequest) -> None:
        """Record a request that has just come."""
        self._requests[request.number] = request
        if len(self._requests) > LIMIT:
            del self._requests[next(iter(self._requests))]

    def end(self, number: int, *, status: int, body_bytes: int) -> None:
        """Record how the answer to request `number` ended."""
        request = self._requests.get(number)
        if request is not None:
            self._requests[number] = replace(request, status=status, body_bytes=body_bytes)

    def clear(self) -> None:
        """Forget all requests."""
        self._requests.clear()

    def all(self) -> list[SimRequest]:
        """Return every request."""
        return list(self._requests.values())

    def of(self, *kinds: Kind, job: str | None = None) -> list[SimRequest]:
        """Return the requests of these kinds, of one job or of all."""
        return [r for r in self._requests.values() if r.kind in kinds and job in (None, r.job)]
