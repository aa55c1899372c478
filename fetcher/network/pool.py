"""The connections of one session, kept for its next request to the same host.

Owns which of them may be used again. aiohttp asks that when an answer ends, not when the
next request is sent: what arrives in between, unasked, would be taken for the answer to it.
curl drops such a connection as well. What arrives in the very moment of sending cannot be
told from an answer by anybody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import aiohttp

if TYPE_CHECKING:
    from aiohttp.connector import Connection


class Pool(aiohttp.TCPConnector):
    """aiohttp's connector, but for connections on which something came while they were idle."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._in_use_before: WeakSet[object] = WeakSet()

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Any],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's own signature
    ) -> Connection:
        """Return a connection on which nothing is unread, a kept one or a new one.

        A new one is taken as it is: a host that is full may answer before it is asked.
        """
        while True:
            connection = await super().connect(req, traces, timeout)
            handler = connection.protocol
            if handler not in self._in_use_before:
                self._in_use_before.add(handler)
                return connection
            if not getattr(handler, "should_close", False):
                return connection
            if connection.transport is not None:
                connection.transport.abort()
            connection.close()
