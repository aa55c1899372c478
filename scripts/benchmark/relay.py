"""A distant or a counted origin: a TCP relay that delays both ways, as a process of its own.

`python -m benchmark.relay PORT ONE_WAY_S COUNT_FILE` prints the port it listens on and passes
connections on to PORT. What a client sends first waits for a round trip more, as it would for
the handshake. Per connection and direction at most `WINDOW_BYTES` are under way, as with a
TCP window. The bytes that went to clients are counted in COUNT_FILE (8 bytes, native order).
"""

from __future__ import annotations

import asyncio
import gc
import mmap
import struct
import sys
from collections import deque
from pathlib import Path
from typing import cast

WINDOW_BYTES = 2**19
_COUNT = struct.Struct("Q")


class Counter:
    """A number that another process reads from a file."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(_COUNT.size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _COUNT.size)
        self._value = 0

    def add(self, count: int) -> None:
        """Count `count` more."""
        self._value += count
        _COUNT.pack_into(self._map, 0, self._value)


def read_count(path: Path) -> int:
    """Return the bytes that went to clients so far."""
    return int(_COUNT.unpack(path.read_bytes())[0])


class Side(asyncio.Protocol):
    """One end of a relayed connection: what it receives, its peer sends a while later."""

    def __init__(self, delay_s: float, counter: Counter | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.peer: Side | None = None
        self.transport: asyncio.Transport | None = None
        self.not_before = 0.0
        self._delay_s = delay_s
        self._counter = counter
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._waiting_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._peer_is_full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=2**20)

    def data_received(self, data: bytes) -> None:
        """Hand `data` to the peer once it would have arrived there."""
        self._waiting_bytes += len(data)
        self._later(data)
        self._balance()

    def eof_received(self) -> bool:
        """Pass the end on, in its turn, and keep the other direction open."""
        self._later(b"")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.transport = None
        self._later(b"")

    def pause_writing(self) -> None:
        self._tell_peer(full=True)

    def resume_writing(self) -> None:
        self._tell_peer(full=False)

    def flush(self) -> None:
        """Send on what is due; nothing before the peer is connected."""
        self._timer = None
        while self._waiting and self.peer is not None:
            due_at, data = self._waiting[0]
            if due_at > self.loop.time():
                self._timer = self.loop.call_at(due_at, self.flush)
                return
            self._waiting.popleft()
            self._waiting_bytes -= len(data)
            self._send(data)

    def _later(self, data: bytes) -> None:
        due_at = max(self.loop.time(), self.not_before) + self._delay_s
        self._waiting.append((due_at, data))
        if self._timer is None:
            self.flush()

    def _send(self, data: bytes) -> None:
        out = self.peer.transport if self.peer is not None else None
        if out is None:
            return
        if not data:
            out.close()
            return
        out.write(data)
        if self._counter is not None:
            self._counter.add(len(data))
        self._balance()

    def _tell_peer(self, *, full: bool) -> None:
        if self.peer is not None:
            self.peer._peer_is_full = full  # noqa: SLF001 - of its own class
            self.peer._balance()  # noqa: SLF001

    def _balance(self) -> None:
        """Read on only while neither the window nor the peer's buffer is full."""
        if self.transport is None:
            return
        if self._peer_is_full or self._waiting_bytes > WINDOW_BYTES:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()


async def serve(port: int, delay_s: float, counter: Counter) -> None:
    """Relay connections until cancelled."""
    loop = asyncio.get_running_loop()
    dialling: set[asyncio.Task[None]] = set()

    async def dial(client: Side) -> None:
        server = Side(delay_s, counter)
        server.peer = client
        await loop.create_connection(lambda: server, "127.0.0.1", port)
        client.peer = server
        client.flush()

    def accept() -> Side:
        client = Side(delay_s)
        client.not_before = loop.time() + 2 * delay_s
        task = loop.create_task(dial(client))
        dialling.add(task)
        task.add_done_callback(dialling.discard)
        return client

    listener = await loop.create_server(accept, "127.0.0.1", 0, backlog=512)
    print(listener.sockets[0].getsockname()[1], flush=True)
    await listener.serve_forever()


if __name__ == "__main__":
    gc.freeze()
    _, _port, _delay_s, _count = sys.argv
    asyncio.run(serve(int(_port), float(_delay_s), Counter(Path(_count))))
