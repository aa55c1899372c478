"""A job's event stream, however its bytes are cut."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetcher.core.sse import (
    LONGEST_LINE_BYTES,
    Done,
    Errored,
    EventParser,
    Processing,
    Progress,
    Unknown,
)


def parse(stream: bytes) -> list[Progress]:
    """Return what a stream says that comes in one piece."""
    return EventParser().feed(stream)


def said(**message: object) -> Progress:
    """Return what one message says."""
    (value,) = parse(f"data: {json.dumps(message)}\n\n".encode())
    return value


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"stage": "processing", "pct": 40}, Processing(40.0)),
        ({"stage": "processing", "pct": 7.5, "message": "cleaning"}, Processing(7.5, "cleaning")),
        ({"stage": "processing", "pct": -3}, Processing(0.0)),
        ({"stage": "processing", "pct": 10**400}, Processing(100.0)),
        ({"stage": "processing", "pct": float("inf")}, Processing(100.0)),
        ({"stage": "processing", "pct": float("nan")}, Processing(None)),
        ({"stage": "processing", "pct": "40"}, Processing(None)),
        ({"stage": "processing", "pct": True}, Processing(None)),
        ({"stage": "processing"}, Processing(None)),
        ({"stage": "processing", "message": 5}, Processing(None)),
        ({"stage": "done", "url": "https://x/y", "denoiseId": "a"}, Done("https://x/y", "a")),
        ({"stage": "done", "url": "https://x/y"}, Done("https://x/y")),
        ({"stage": "error", "message": "too noisy"}, Errored("too noisy")),
        ({"stage": "error", "message": "x\ud800"}, Errored("x\ufffd")),
        ({"stage": "error"}, Errored(None)),
        ({"stage": "done"}, Unknown("done without a url")),
        ({"stage": "done", "url": ""}, Unknown("done without a url")),
        ({"stage": "queued\x1b"}, Unknown("a stage called 'queued\\x1b'")),
        ({"stage": ["a"]}, Unknown("a stage called ['a']")),
        ({}, Unknown("a stage called None")),
    ],
)
def test_a_message_means(message: dict[str, object], expected: Progress) -> None:
    assert said(**message) == expected


@pytest.mark.parametrize("data", ["", "<html>", "[1]", "null", "5", "{", "[" * 5000, "\\ud800"])
def test_what_is_no_message_is_unknown(data: str) -> None:
    (value,) = parse(f"data: {data}\n\n".encode())
    assert isinstance(value, Unknown)
    assert value.reason.isprintable()


ONE = b'data: {"stage":"error"}'


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_all_line_ends_are_understood(end: bytes) -> None:
    assert parse((ONE + end + end) * 2) == [Errored(), Errored()]


@pytest.mark.parametrize(
    "stream",
    [
        b"\xef\xbb\xbf" + ONE + b"\n\n",
        b": a comment\n\n" + ONE + b"\n\n",
        b"event: x\nid: 5\nretry: 9\n" + ONE + b"\n\n",
        b'data:{"stage":\ndata:"error"}\n\n',
        b"\n\n\n" + ONE + b"\n\n\n",
        b"data\n" + ONE + b"\n\n",
    ],
    ids=["bom", "comment", "other fields", "two data lines", "blank lines", "data without value"],
)
def test_the_grammar_of_event_streams(stream: bytes) -> None:
    assert parse(stream) == [Errored()]


def test_a_message_without_its_blank_line_is_not_dispatched() -> None:
    assert parse(ONE + b"\n") == []


def test_a_line_that_is_too_long_costs_its_message_alone() -> None:
    stream = b"data: " + b"x" * (2 * LONGEST_LINE_BYTES) + b"\n\n" + ONE + b"\n\n"
    assert parse(stream) == [Unknown("a message that is too long"), Errored()]


def test_many_lines_of_one_message_are_bounded_too() -> None:
    stream = b"data: 0123456789\n" * LONGEST_LINE_BYTES + b"\n" + ONE + b"\n\n"
    assert parse(stream) == [Unknown("a message that is too long"), Errored()]


STREAM = (
    b"\xef\xbb\xbf: hello\r\n\r\n"
    b'data: {"stage":"processing","pct":1,"message":"\xd8\xaa"}\r\n\r\n'
    b'data: {"stage":\rdata: "error"}\r\r'
    b"junk\n\ndata: junk\n\n"
    b'data: {"stage":"done","url":"https://x/y"}\n\n'
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_cuts_change_nothing(cuts: list[int]) -> None:
    parser = EventParser()
    edges = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[start:end] for start, end in pairwise(edges)]
    found = [value for piece in pieces for value in parser.feed(piece)]
    assert found == parse(STREAM)


def test_byte_by_byte_is_the_same() -> None:
    parser = EventParser()
    found = [value for byte in STREAM for value in parser.feed(bytes([byte]))]
    assert found == [
        Processing(1.0, "ت"),
        Errored(),
        Unknown("a message that is not JSON"),
        Done("https://x/y"),
    ]


@given(st.binary(max_size=300))
def test_any_bytes_are_survived(stream: bytes) -> None:
    for value in parse(stream + b"\n\n"):
        assert isinstance(value, Processing | Done | Errored | Unknown)
