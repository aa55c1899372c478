"""Names to addresses, on threads that nobody waits for.

A lookup can hang for half a minute when the network is away, and a thread cannot be
stopped. asyncio and the interpreter wait for their own threads before they end; a run that
is asked to stop has five seconds (contract 5.8). So each lookup has a daemon thread, which
ends with the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import TYPE_CHECKING

from aiohttp.abc import AbstractResolver, ResolveResult

if TYPE_CHECKING:
    from collections.abc import Callable

_NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


class Resolver(AbstractResolver):
    """Asks the system, as aiohttp's own resolver does; aiohttp keeps the answers."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of `host`. Raises OSError."""
        return await _on_daemon_thread(lambda: _look_up(host, port, family))

    async def close(self) -> None:
        """Do nothing: nothing is held."""


def _look_up(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    found = socket.getaddrinfo(
        host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
    )
    return [
        ResolveResult(
            hostname=host,
            host=_numeric(*address),
            port=port,
            family=kind,
            proto=protocol,
            flags=_NUMERIC,
        )
        for kind, _, protocol, _, address in found
    ]


def _numeric(host: str | int, port: int | bytes, flow: int = 0, scope: int = 0) -> str:
    """Return the address as text, with the interface of a link-local one (RFC 4007 §11)."""
    if not scope:
        return str(host)
    flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    return socket.getnameinfo((str(host), int(port), flow, scope), flags)[0]


async def _on_daemon_thread(call: Callable[[], list[ResolveResult]]) -> list[ResolveResult]:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[list[ResolveResult]] = loop.create_future()

    def settle(found: list[ResolveResult] | OSError) -> None:
        if future.done():  # nobody waits any more
            return
        if isinstance(found, OSError):
            future.set_exception(found)
        else:
            future.set_result(found)

    def work() -> None:
        try:
            found: list[ResolveResult] | OSError = call()
        except OSError as error:
            found = error
        except UnicodeError:  # a name with an empty or an overlong label
            found = socket.gaierror(socket.EAI_NONAME, "the name is none")
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, found)

    threading.Thread(target=work, name="lookup", daemon=True).start()
    return await future
