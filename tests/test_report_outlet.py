"""What reaches a stream, whatever becomes of the stream."""

from __future__ import annotations

import errno
import io
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import pytest

from fetcher.report.outlet import AFTER_STOP_S, READERS_BY_S, WAITING_LIMIT_BYTES, Outlet, Patience

if TYPE_CHECKING:
    from collections.abc import Iterator


class Pipe:
    """An open pipe: `writer` is a text stream into it."""

    def __init__(self) -> None:
        self.reader, descriptor = os.pipe()
        self.writer: TextIO = os.fdopen(descriptor, "w", encoding="utf-8")

    def read_available(self) -> bytes:
        os.set_blocking(self.reader, False)
        parts = []
        while True:
            try:
                part = os.read(self.reader, 65536)
            except BlockingIOError:
                break
            if not part:
                break
            parts.append(part)
        os.set_blocking(self.reader, True)
        return b"".join(parts)

    def stop_reading(self) -> None:
        if self.reader >= 0:
            os.close(self.reader)
            self.reader = -1


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    one = Pipe()
    yield one
    one.stop_reading()
    one.writer.close()


def test_a_line_is_there_as_soon_as_it_is_written(pipe: Pipe) -> None:
    Outlet(pipe.writer).write_line("مرحبا")
    assert "مرحبا\n".encode() == pipe.read_available()


def test_what_was_written_to_the_stream_before_goes_first(pipe: Pipe) -> None:
    pipe.writer.write("before\n")
    Outlet(pipe.writer).write_line("after")
    assert pipe.read_available() == b"before\nafter\n"


def test_a_reader_that_does_not_read_holds_nobody_up(pipe: Pipe) -> None:
    outlet = Outlet(pipe.writer)
    lines = [f"{number:06d} {'x' * 100}" for number in range(5000)]
    for line in lines:  # eight times what a pipe holds
        outlet.write_line(line)
    assert outlet.waiting_bytes > 0
    got = b""
    while not outlet.pump():
        got += pipe.read_available()
    got += pipe.read_available()
    assert "".join(f"{line}\n" for line in lines).encode() == got


def test_waiting_for_a_reader_ends_when_patience_does(pipe: Pipe) -> None:
    outlet = Outlet(pipe.writer)
    outlet.write("x" * 1_000_000)
    assert not outlet.pump(0.05)


def test_a_slow_reader_gets_everything_in_the_end(pipe: Pipe) -> None:
    outlet = Outlet(pipe.writer)
    outlet.write("x" * 1_000_000)
    got = bytearray()

    def read() -> None:
        while len(got) < 1_000_000:
            got.extend(os.read(pipe.reader, 65536))

    reader = threading.Thread(target=read)
    reader.start()
    assert outlet.drain()
    reader.join()
    assert len(got) == 1_000_000


def test_beyond_the_limit_the_reader_sets_the_pace(pipe: Pipe) -> None:
    outlet = Outlet(pipe.writer)
    total = WAITING_LIMIT_BYTES + 1_000_000
    got = bytearray()

    def read() -> None:
        while len(got) < total:
            got.extend(os.read(pipe.reader, 1 << 20))

    reader = threading.Thread(target=read)
    reader.start()
    outlet.write("x" * total)
    assert outlet.waiting_bytes == 0
    reader.join()


def test_after_a_stop_readers_that_do_not_read_have_a_second_together(pipe: Pipe) -> None:
    patience = Patience(time.monotonic)
    outlets = [Outlet(pipe.writer, patience=patience) for _ in range(2)]
    for outlet in outlets:
        outlet.write("x" * 100_000)
    began_s = time.monotonic()
    assert [outlet.drain() for outlet in outlets] == [False, False]
    assert AFTER_STOP_S <= time.monotonic() - began_s < 2 * AFTER_STOP_S


def test_readers_have_what_the_stop_has_left(pipe: Pipe) -> None:
    began_s = time.monotonic()
    outlet = Outlet(pipe.writer, patience=Patience(lambda: began_s + 0.2 - READERS_BY_S))
    outlet.write("x" * 100_000)
    assert not outlet.drain()
    assert 0.2 <= time.monotonic() - began_s < 0.2 + AFTER_STOP_S / 2


def test_a_stop_ends_the_waiting_of_a_write_beyond_the_limit(pipe: Pipe) -> None:
    asked = threading.Event()
    outlet = Outlet(pipe.writer, patience=Patience(lambda: 0.0 if asked.is_set() else None))
    stop = threading.Timer(0.2, asked.set)
    stop.start()
    outlet.write("x" * (WAITING_LIMIT_BYTES + 1_000_000))
    assert asked.is_set()
    assert outlet.waiting_bytes > WAITING_LIMIT_BYTES


def test_a_non_blocking_stream_loses_nothing(pipe: Pipe) -> None:
    os.set_blocking(pipe.writer.fileno(), False)
    outlet = Outlet(pipe.writer)
    outlet.write("x" * 300_000)
    got = b""
    while not outlet.pump():
        got += pipe.read_available()
    got += pipe.read_available()
    assert len(got) == 300_000


def test_a_reader_that_has_gone_is_told_once(pipe: Pipe) -> None:
    told: list[OSError] = []
    outlet = Outlet(pipe.writer, on_lost=told.append)
    pipe.stop_reading()
    outlet.write_line("one")
    outlet.write_line("two")
    assert [type(error) for error in told] == [BrokenPipeError]
    assert outlet.lost is told[0]
    assert outlet.waiting_bytes == 0


@pytest.fixture
def terminal() -> Iterator[tuple[int, TextIO]]:
    """Give the other end of a terminal, and a stream into the terminal."""
    main, side = os.openpty()
    with os.fdopen(side, "w", encoding="utf-8") as stream:
        yield main, stream
    os.close(main)


def test_a_terminal_whose_other_end_does_not_read_holds_nobody_up(
    terminal: tuple[int, TextIO],
) -> None:
    main, stream = terminal
    outlet = Outlet(stream)
    lines = [f"{number:03d} {'x' * 100}" for number in range(500)]
    for line in lines:  # twelve times what a terminal holds
        outlet.write_line(line)
    assert outlet.waiting_bytes > 0
    got = b""
    while len(got) < sum(len(line) + 2 for line in lines):
        outlet.pump()
        got += os.read(main, 65536)
    assert lines == got.decode().split("\r\n")[:-1]
    outlet.close()


def test_a_terminal_stays_as_it_was_for_those_who_share_it(terminal: tuple[int, TextIO]) -> None:
    _, stream = terminal
    outlet = Outlet(stream)
    outlet.write_line("one")
    assert os.get_blocking(stream.fileno())
    outlet.close()
    outlet.write_line("two")
    assert outlet.lost is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told_once() -> None:
    told: list[OSError] = []
    with Path("/dev/full").open("w") as full:
        outlet = Outlet(full, on_lost=told.append)
        outlet.write_line("one")
        outlet.write_line("two")
    assert [error.errno for error in told] == [errno.ENOSPC]


def test_a_stream_that_is_not_there_swallows_everything() -> None:
    outlet = Outlet(None)
    outlet.write_line("one")
    assert outlet.drain()
    assert outlet.lost is None


def test_a_closed_stream_is_lost_and_raises_nothing() -> None:
    stream = io.StringIO()
    stream.close()
    outlet = Outlet(stream)
    outlet.write_line("one")
    assert isinstance(outlet.lost, BrokenPipeError)


def test_text_goes_to_a_stream_in_memory() -> None:
    stream = io.StringIO()
    Outlet(stream).write_line("one")
    assert stream.getvalue() == "one\n"


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("ascii", rb"\u0645 \ud800" + b"\n"), ("utf-8", "م ".encode() + rb"\ud800" + b"\n")],
)
def test_what_an_encoding_cannot_hold_is_escaped(encoding: str, expected: bytes) -> None:
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding=encoding)
    Outlet(stream).write_line("م \ud800")
    assert expected == buffer.getvalue()


def test_a_stream_without_a_terminal_counts_as_80_by_24(pipe: Pipe) -> None:
    assert Outlet(pipe.writer).size == (80, 24)
    assert Outlet(None).size == (80, 24)
