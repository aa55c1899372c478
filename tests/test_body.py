"""How a body comes off the wire: whole, cut, stalled or slowly, and what its connection does."""

from __future__ import annotations

import asyncio
import gc
import gzip
import random
import socket
import ssl
import struct
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from raw_server import Answer, RawServer, Request, always, answer

from fetcher.errors import ConnectionFailedError, ShortBodyError, TransferError
from fetcher.memory import is_aligned
from fetcher.network.certificates import trusted
from fetcher.network.client import Host
from fetcher.network.intake import BUFFER_BYTES, Memory, take_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from fetcher.network.body import Body

LARGE = random.Random(7).randbytes(3 * BUFFER_BYTES + 17)
TLS = Path(__file__).parent / "data" / "tls"
KINDS = ["plain", "chunked", "until close"]


def response(kind: str, body: bytes, *, cut: int | None = None) -> tuple[bytes, bytes]:
    """Return head and encoded body; `cut`: so many bytes of it are sent."""
    sent = body if cut is None else body[:cut]
    match kind:
        case "plain":
            return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode(), sent
        case "chunked":
            top = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            pieces = f"{len(body):x}\r\n".encode() + sent + (b"\r\n" if cut is None else b"")
            return top, (pieces if body else b"") + (b"0\r\n\r\n" if cut is None else b"")
        case _:
            return b"HTTP/1.0 200 OK\r\n\r\n", sent


def in_pieces(head: bytes, body: bytes, piece_bytes: int, *, then: str = "keep") -> Answer:
    """Write head and body in pieces, each of them sent before the next; then close or hang."""

    async def reply(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        for start in range(0, len(body), piece_bytes):
            writer.write(body[start : start + piece_bytes])
            await writer.drain()
        if then == "close":
            writer.close()
        elif then == "hang":
            await asyncio.Event().wait()

    return reply


@asynccontextmanager
async def opened(reply: Answer, *, timeout_s: float = 30) -> AsyncIterator[Body]:
    """Give the body that a server answers with."""
    async with (
        RawServer(reply) as server,
        Host(timeout_s=timeout_s) as host,
        host.open(f"{server.origin}/a", {}) as body,
    ):
        yield body


async def read_all(body: Body, max_bytes: int = BUFFER_BYTES) -> bytes:
    """Return what can be read, copied as it must be."""
    parts = bytearray()
    while piece := await body.chunk(max_bytes):
        assert len(piece) <= max_bytes
        parts += piece
    return bytes(parts)


async def read_until_fault(body: Body) -> tuple[bytes, TransferError]:
    """Return what came before the fault, and the fault."""
    parts = bytearray()
    try:
        while piece := await body.chunk():
            parts += piece
    except TransferError as fault:
        return bytes(parts), fault
    pytest.fail("the body ended without a fault")


@pytest.mark.parametrize("piece_bytes", [1 << 14, (1 << 20) + 1, 1 << 24])
@pytest.mark.parametrize(
    "length",
    [0, 1, 1000, (1 << 18), (1 << 18) + 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, len(LARGE)],
)
@pytest.mark.parametrize("kind", KINDS)
async def test_every_byte_arrives(kind: str, length: int, piece_bytes: int) -> None:
    head, encoded = response(kind, LARGE[:length])
    then = "close" if kind == "until close" else "keep"
    async with opened(in_pieces(head, encoded, piece_bytes, then=then)) as body:
        assert await read_all(body) == LARGE[:length]
        assert not await body.chunk()


@pytest.mark.parametrize("max_bytes", [999, 65_536, 10 * BUFFER_BYTES])
@pytest.mark.parametrize("kind", KINDS)
async def test_pieces_are_never_larger_than_asked_for(kind: str, max_bytes: int) -> None:
    head, encoded = response(kind, LARGE)
    then = "close" if kind == "until close" else "keep"
    async with opened(in_pieces(head, encoded, 1 << 18, then=then)) as body:
        assert await read_all(body, max_bytes) == LARGE


@pytest.mark.parametrize("cut", [0, 1, 100_000, 1 << 20, len(LARGE) - 1])
@pytest.mark.parametrize("kind", ["plain", "chunked"])
async def test_a_cut_body_gives_what_came_and_then_raises(kind: str, cut: int) -> None:
    head, encoded = response(kind, LARGE, cut=cut)
    async with opened(in_pieces(head, encoded, 1 << 17, then="close")) as body:
        came, fault = await read_until_fault(body)
        assert came == LARGE[:cut]
        assert isinstance(fault, ShortBodyError)
        with pytest.raises(ShortBodyError):
            await body.chunk()


async def test_a_cut_small_body_gives_what_came_and_then_raises() -> None:
    async with opened(in_pieces(answer(length=1000), b"x" * 600, 600, then="close")) as body:
        came, fault = await read_until_fault(body)
        assert came == b"x" * 600
        assert isinstance(fault, ShortBodyError)


@pytest.mark.parametrize("kind", ["plain", "chunked"])
async def test_a_body_cut_while_nobody_read_is_handed_out_first(kind: str) -> None:
    cut = 300_000
    head, encoded = response(kind, LARGE, cut=cut)
    async with (
        RawServer(in_pieces(head, encoded, cut + 10, then="close")) as server,
        Host() as host,
        host.open(f"{server.origin}/a", {}) as body,
    ):
        await server.until(lambda server: server.open_connections == 0)
        await asyncio.sleep(0.02)  # its end has arrived here too
        came, _ = await read_until_fault(body)
        assert came == LARGE[:cut]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [5_000, 500_000])
async def test_a_stalled_body_gives_what_came_and_then_fails(kind: str, length: int) -> None:
    head, encoded = response(kind, LARGE, cut=length)
    async with opened(in_pieces(head, encoded, 1 << 20, then="hang"), timeout_s=0.2) as body:
        came, fault = await read_until_fault(body)
        assert came == LARGE[:length]
        assert isinstance(fault, ConnectionFailedError)
        assert not fault.permanent


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BROKEN = {
    "no size": b"ZZ\r\n",
    "a page": b"<html>gone</html>",
    "too large a size": b"F" * 20 + b"\r\n",
    "no end of line": b"1\r\nx5\r\n",
    "another answer": b"HTTP/1.1 502 Bad Gateway\r\n\r\n",
}


@pytest.mark.parametrize("garbage", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("before", [b"", b"5\r\naudio\r\n"], ids=["first", "later"])
async def test_framing_that_breaks_while_a_read_waits_fails_at_once(
    before: bytes, garbage: bytes
) -> None:
    is_waited_for = asyncio.Event()

    async def reply(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + before)
        await is_waited_for.wait()
        writer.write(garbage)

    async with asyncio.timeout(10), opened(reply) as body:
        assert bytes(await body.chunk(5) if before else b"") in before
        reading = asyncio.create_task(read_until_fault(body))
        await asyncio.sleep(0)
        is_waited_for.set()
        came, fault = await reading
        assert came == (b"x" if garbage.startswith(b"1") else b"")
        assert isinstance(fault, ShortBodyError)


@pytest.mark.parametrize("garbage", BROKEN.values(), ids=BROKEN)
async def test_framing_that_broke_while_nobody_read_fails_after_what_came(garbage: bytes) -> None:
    is_open = asyncio.Event()

    async def reply(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED)
        await is_open.wait()
        writer.write(b"5\r\naudio\r\n" + garbage)

    async with RawServer(reply) as server, Host() as host, asyncio.timeout(10):
        async with host.open(f"{server.origin}/a", {}) as body:
            is_open.set()
            await server.until(lambda server: server.open_connections == 0)
            await asyncio.sleep(0)  # a turn in which nobody reads
            came, fault = await read_until_fault(body)
        assert came.removesuffix(b"x") == b"audio"
        assert isinstance(fault, ShortBodyError)


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection as a machine does that broke down."""
    at_once = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
    writer.transport.abort()


@pytest.mark.parametrize("length", [1000, 400_000])
@pytest.mark.parametrize("is_read", [True, False], ids=["while it is read", "while nobody reads"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_reset_is_no_end_of_a_body_without_a_length(
    version: str, is_read: bool, length: int
) -> None:
    is_open = asyncio.Event()

    async def reply(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/{version} 200 OK\r\nConnection: close\r\n\r\n".encode())
        writer.write(LARGE[:length])
        await writer.drain()
        await is_open.wait()
        reset(writer)

    async with (
        asyncio.timeout(10),
        RawServer(reply) as server,
        Host() as host,
        host.open(f"{server.origin}/a", {}) as body,
    ):
        early = bytes(await body.chunk(length)) if is_read else b""
        is_open.set()
        await server.until(lambda server: server.open_connections == 0)
        came, fault = await read_until_fault(body)
        assert LARGE[:length].startswith(early + came)
        assert isinstance(fault, ShortBodyError)
        assert str(fault) == "the connection broke before the body was complete"
        with pytest.raises(ShortBodyError):
            await body.chunk()


@pytest.fixture
def tls(monkeypatch: pytest.MonkeyPatch) -> Iterator[ssl.SSLContext]:
    """Give the context of a server that is trusted here."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "server.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(TLS / "ca.pem"))
    trusted.cache_clear()
    yield context
    trusted.cache_clear()


@pytest.mark.parametrize(
    ("length", "is_waited_for"), [(1000, False), (1000, True), (400_000, True)]
)
@pytest.mark.parametrize("has_alert", [True, False], ids=["with an alert", "without one"])
@pytest.mark.parametrize("kind", KINDS)
async def test_only_a_closing_alert_ends_a_body_without_a_length_over_tls(
    kind: str, has_alert: bool, length: int, is_waited_for: bool, tls: ssl.SSLContext
) -> None:
    has_come = asyncio.Event()
    if not is_waited_for:
        has_come.set()

    async def reply(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.writelines(response(kind, LARGE[:length]))
        await has_come.wait()
        if has_alert:
            writer.close()
        else:
            writer.get_extra_info("socket").shutdown(socket.SHUT_WR)

    async with (
        asyncio.timeout(10),
        RawServer(reply, tls) as server,
        Host() as host,
        host.open(f"{server.origin}/a", {}) as body,
    ):
        came = b""
        while len(came) < length:
            came += await body.chunk(length - len(came))
        has_come.set()
        assert came == LARGE[:length]
        if kind == "until close" and not has_alert:
            with pytest.raises(ShortBodyError, match="closing alert"):
                await body.chunk()
        else:
            assert not await body.chunk()


async def test_a_reset_behind_a_whole_body_is_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    is_over = asyncio.Event()

    async def reply(request: Request, writer: asyncio.StreamWriter) -> None:
        head, body = response("chunked", LARGE)
        writer.write(head + body)
        if request.connection == 1:
            await is_over.wait()
            reset(writer)

    async with RawServer(reply) as server, Host() as host:

        async def transfer() -> None:
            async with host.open(f"{server.origin}/a", {}) as body:
                assert await read_all(body) == LARGE
                assert not await body.chunk()

        await transfer()
        is_over.set()
        await server.until(lambda server: server.open_connections == 0)
        await asyncio.sleep(0.02)  # the reset has arrived here too
        await transfer()
        gc.collect()  # asyncio complains of a fault that nobody looked at
    assert "never retrieved" not in caplog.text


@pytest.mark.parametrize("kind", KINDS)
async def test_a_slow_body_is_handed_out_before_it_is_complete(kind: str) -> None:
    head, encoded = response(kind, LARGE, cut=10)
    async with opened(in_pieces(head, encoded, 1 << 20, then="hang"), timeout_s=2) as body:
        assert bytes(await body.chunk()) == LARGE[:10]


@pytest.mark.parametrize("kind", ["plain", "chunked"])
@pytest.mark.parametrize("length", [0, 1000, len(LARGE)])
async def test_the_connection_is_used_again(kind: str, length: int) -> None:
    head, encoded = response(kind, LARGE[:length])
    async with RawServer(in_pieces(head, encoded, 1 << 20)) as server, Host() as host:
        for _ in range(3):
            async with host.open(f"{server.origin}/a", {}) as body:
                assert await read_all(body) == LARGE[:length]
        assert server.connections == 1


async def test_large_and_small_bodies_take_turns_on_one_connection() -> None:
    async def reply(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(LARGE[: int(request.target[1:])]))

    async with RawServer(reply) as server, Host() as host:
        for length in (len(LARGE), 10, 1 << 20, 300_000, 0, len(LARGE)):
            async with host.open(f"{server.origin}/{length}", {}) as body:
                assert await read_all(body) == LARGE[:length]
        assert server.connections == 1


@pytest.mark.parametrize("length", [1000, len(LARGE)])
async def test_a_connection_that_the_server_closes_is_not_used_again(length: int) -> None:
    reply = always(answer(LARGE[:length], headers=("Connection: close",)))
    async with RawServer(reply) as server, Host() as host:
        for _ in range(2):
            async with host.open(f"{server.origin}/a", {}) as body:
                assert await read_all(body) == LARGE[:length]
        assert server.connections == 2


@pytest.mark.parametrize("unasked", [answer(b"unasked"), b"\x00" * 10])
@pytest.mark.parametrize("length", [1000, len(LARGE)])
async def test_what_comes_on_an_idle_connection_is_no_answer(length: int, unasked: bytes) -> None:
    """A host sends more after its answer; the next request goes over another connection."""
    is_idle, is_sent = asyncio.Event(), asyncio.Event()

    async def reply(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(LARGE[:length]))
        if request.target == "/first":
            await is_idle.wait()
            writer.write(unasked)
            is_sent.set()

    async with RawServer(reply) as server, RawServer(always(answer())) as other, Host() as host:
        async with host.open(f"{server.origin}/first", {}) as body:
            assert await read_all(body) == LARGE[:length]
        is_idle.set()
        await is_sent.wait()
        async with host.open(other.origin, {}):
            pass  # a whole turn of the network: what was sent has arrived
        async with host.open(f"{server.origin}/second", {}) as body:
            assert await read_all(body) == LARGE[:length]
        assert [request.connection for request in server.requests] == [1, 2]


async def test_an_answer_on_a_new_connection_may_come_before_the_request() -> None:
    """As of a host that is full, which does not wait to be asked."""
    is_over = asyncio.Event()

    async def full(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(status="503 Service Unavailable"))
        await reader.read()  # until the client goes
        writer.close()
        is_over.set()

    async with await asyncio.start_server(full, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with Host() as host, host.open(f"http://127.0.0.1:{port}/a", {}) as body:
            assert body.head.status == 503
        await is_over.wait()


@pytest.mark.parametrize("length", [1000, len(LARGE)])
async def test_a_kept_connection_that_died_costs_nothing(length: int) -> None:
    """The server closes after its answer, without saying so, as after an idle time."""

    async def reply(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(LARGE[:length]))
        await writer.drain()
        writer.close()

    async with RawServer(reply) as server, Host() as host:
        for _ in range(3):
            async with host.open(f"{server.origin}/a", {}) as body:
                assert await read_all(body) == LARGE[:length]


async def test_a_body_that_is_left_early_closes_its_connection() -> None:
    async with RawServer(always(answer(LARGE))) as server, Host() as host:
        async with host.open(f"{server.origin}/a", {}) as body:
            assert bytes(await body.chunk()) == LARGE[:BUFFER_BYTES]
        async with host.open(f"{server.origin}/b", {}) as body:
            assert await read_all(body) == LARGE
        assert [request.connection for request in server.requests] == [1, 2]
        await server.until(lambda server: server.open_connections == 1)


async def test_a_reader_that_is_cancelled_closes_its_connection() -> None:
    head, encoded = response("plain", LARGE, cut=400_000)
    async with RawServer(in_pieces(head, encoded, 1 << 20)) as server, Host() as host:

        async def transfer() -> None:
            async with host.open(f"{server.origin}/a", {}) as body:
                while True:
                    await body.chunk()

        task = asyncio.create_task(transfer())
        await server.until(lambda server: bool(server.requests))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.until(lambda server: server.open_connections == 0)


async def test_what_was_handed_out_stays_until_the_next_call() -> None:
    async with opened(always(answer(LARGE))) as body:
        first = await body.chunk()
        await asyncio.sleep(0.05)  # the rest arrives meanwhile
        assert bytes(first) == LARGE[: len(first)]


async def test_a_sender_is_slowed_down_to_its_reader() -> None:
    sent = 0

    async def reply(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {1 << 30}\r\n\r\n".encode())
        piece = bytes(1 << 18)
        for _ in range(1 << 12):
            writer.write(piece)
            await writer.drain()
            sent += len(piece)

    async with opened(reply) as body:
        await body.chunk()
        seen = -1
        while seen != sent:
            seen = sent
            await asyncio.sleep(0.05)
        assert sent < 64 << 20  # what kernel buffers hold, of a gigabyte


async def test_bytes_behind_the_body_never_answer_the_next_request() -> None:
    async def reply(request: Request, writer: asyncio.StreamWriter) -> None:
        surplus = answer(b"smuggled") if request.target == "/first" else b""
        writer.write(answer(LARGE) + surplus)

    async with RawServer(reply) as server, Host() as host:
        async with host.open(f"{server.origin}/first", {}) as body:
            assert await read_all(body) == LARGE
        await asyncio.sleep(0.02)
        async with host.open(f"{server.origin}/second", {}) as body:
            assert await read_all(body) == LARGE


async def test_many_bodies_at_once_stay_apart() -> None:
    async def reply(request: Request, writer: asyncio.StreamWriter) -> None:
        start = int(request.target[1:])
        writer.write(answer(LARGE[start:]))

    async with RawServer(reply) as server, Host() as host:

        async def transfer(start: int) -> bool:
            async with host.open(f"{server.origin}/{start}", {}) as body:
                return await read_all(body, 300_000) == LARGE[start:]

        assert all(await asyncio.gather(*(transfer(start) for start in range(40))))


async def test_an_encoded_body_comes_as_it_was_sent() -> None:
    packed = gzip.compress(LARGE)
    reply = always(answer(packed, headers=("Content-Encoding: gzip",)))
    async with opened(reply) as body:
        assert await read_all(body) == packed


def test_a_second_buffer_is_lent_only_while_there_are_enough() -> None:
    memory = Memory()
    firsts = [memory.take() for _ in range(40)]
    assert memory.take_second() is None
    for buffer in firsts:
        memory.give(buffer)
    again = memory.take_second()
    assert any(again is buffer for buffer in firsts)


async def test_every_piece_of_a_large_body_begins_where_a_page_does() -> None:
    async with opened(always(answer(LARGE))) as body:
        came, found = bytearray(), []
        while piece := await body.chunk(200_704):
            found.append(is_aligned(memoryview(piece)))
            came += piece
    assert bytes(came) == LARGE
    assert len(found) > 3
    assert all(found)


def connected(**names: Any) -> Any:
    """Return what looks like a response in the middle of a body."""
    handler = SimpleNamespace(
        is_connected=lambda: True,
        connection_lost=None,
        transport=None,
        _drop_timeout=None,
        _parser=None,
        _reading_paused=True,
    )
    content = SimpleNamespace(is_eof=lambda: False, exception=lambda: None, total_bytes=0)
    shape = {"content": content, "connection": SimpleNamespace(protocol=handler)} | names
    return SimpleNamespace(**shape)


@pytest.mark.parametrize(
    "response",
    [
        connected(connection=None),
        connected(connection=SimpleNamespace(protocol=SimpleNamespace())),
        connected(content=SimpleNamespace(is_eof=lambda: True)),
        connected(),
    ],
    ids=["connection gone", "inner names gone", "body here already", "sender slowed down"],
)
def test_the_ordinary_reader_stays_where_it_must(response: Any) -> None:
    assert take_over(response, 10**9, gap_s=30, memory=Memory()) is None
