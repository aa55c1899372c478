"""Undoing a Content-Encoding, however the body is cut into pieces."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest

from fetcher.core.decoding import Decoder
from fetcher.errors import ContentError, ShortBodyError

PLAIN = bytes(range(256)) * 9000
RAW_DEFLATE = zlib.compress(PLAIN)[2:-4]


def decode(encoding: str, body: bytes, step: int) -> bytes:
    decoder = Decoder(encoding)
    out = b"".join(
        piece for at in range(0, len(body), step) for piece in decoder.feed(body[at : at + step])
    )
    decoder.finish()
    return out


@pytest.mark.parametrize("step", [1, 7, 4096, 1 << 22])
@pytest.mark.parametrize(
    ("encoding", "body", "plain"),
    [
        pytest.param("gzip", gzip.compress(PLAIN), PLAIN, id="gzip"),
        pytest.param("gzip", gzip.compress(b"a") + gzip.compress(b"b"), b"ab", id="two-members"),
        pytest.param("gzip", gzip.compress(b"a") + bytes(9), b"a", id="padding-behind"),
        pytest.param("deflate", zlib.compress(PLAIN), PLAIN, id="zlib"),
        pytest.param("deflate", RAW_DEFLATE, PLAIN, id="raw-deflate"),
        pytest.param("gzip", gzip.compress(bytes(4 << 20)), bytes(4 << 20), id="bomb"),
    ],
)
def test_a_body_decodes_to_what_was_encoded(
    encoding: str, body: bytes, plain: bytes, step: int
) -> None:
    assert decode(encoding, body, step) == plain


def test_no_piece_is_larger_than_a_megabyte() -> None:
    pieces = list(Decoder("gzip").feed(gzip.compress(bytes(5 << 20))))
    assert max(map(len, pieces)) <= 1 << 20


@pytest.mark.parametrize("cut", [1, 9, 100])
def test_a_cut_body_is_short(cut: int) -> None:
    with pytest.raises(ShortBodyError):
        decode("gzip", gzip.compress(PLAIN)[:-cut], 4096)


def test_a_cut_second_member_is_short() -> None:
    with pytest.raises(ShortBodyError):
        decode("gzip", gzip.compress(b"a") + gzip.compress(b"b")[:-3], 4096)


@pytest.mark.parametrize("padding", [bytes(1 << 20), b"\x1f" + bytes(1 << 20)], ids=["0", "0x1f"])
def test_padding_behind_the_end_is_not_kept(padding: bytes) -> None:
    decoder = Decoder("gzip")
    assert list(decoder.feed(gzip.compress(b"a"))) == [b"a"]
    tracemalloc.start()
    try:
        for _ in range(16):
            assert not list(decoder.feed(padding))
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept_bytes < len(padding)
    decoder.finish()


def test_garbage_is_damage() -> None:
    with pytest.raises(ContentError):
        decode("gzip", b"RIFF is not gzip at all", 4096)
