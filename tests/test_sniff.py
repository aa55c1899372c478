"""Pages are told from audio, and cut WAVs from whole ones."""

from __future__ import annotations

import io
import random
import wave

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetcher.core.sniff import PEEK_BYTES, foreign_page, wav_shortfall

NOISE = random.Random(7).randbytes(2000)
UNKNOWN = 0xFFFFFFFF


@pytest.mark.parametrize(
    "data",
    [
        b"<!DOCTYPE html><html><body>Sign in</body></html>",
        b"<!doctype html>",
        b"<html>",
        b"<html",
        b"\r\n\t  <HTML lang='ar'>",
        b"\xef\xbb\xbf<html>",
        b"\xef\xbb\xbf \n<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
        b"<Error><Code>ExpiredToken</Code></Error>",
        b"<!-- maintenance --><p>back soon</p>",
        "<html>غير متاح</html>".encode(),
        "<html>غير متاح</html>".encode("cp1256"),
        "<html>no</html>".encode("utf-16"),
        b"\xfe\xff" + "<html>no</html>".encode("utf-16-be"),
        b'{"errorCode": "40101", "errorMessage": "no"}',
        b'\n{\n  "message": "Unauthorized"\n}',
        '{"message": "no"}'.encode("utf-16"),
        b"{}",
        b"{",
        b"[]",
        b'[{"id": 1}]',
        b"null",
        b'"not found"\n',
        b"403",
        b" -1.5e+3\r\n",
        b" ",
        b"\r\n\t\f " * 14_000,
        "\n \n".encode("utf-16"),
        b"<html>" + b"x" * 2000 + b"\x00",
        b"\r\n" * 600 + b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        b" " * 1100 + b'{"statusCode":404}',
        b"\n" * 20_000 + b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
        "<html><body>404</body></html>".encode("utf-16-le"),
        "<html><body>غير متاح</body></html>".encode("utf-16-be"),
        ("\r\n" * 600 + '{"statusCode":404}').encode("utf-16-le"),
        (" " * 1100 + "<!DOCTYPE html><html>").encode("utf-16-be"),
        "<html>\U0001f600".encode("utf-16-le")[:-2],
    ],
)
@pytest.mark.parametrize("content_type", ["audio/wav", "application/octet-stream", "", "text/html"])
def test_a_page_is_no_audio_whatever_its_type(data: bytes, content_type: str) -> None:
    assert foreign_page(data, content_type) is not None


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"RIFF\x24\0\0\0WAVEfmt ", id="wav"),
        pytest.param(b"RF64\xff\xff\xff\xffWAVEds64", id="rf64"),
        pytest.param(b"ID3\x04\0\0\0\0\0\0", id="mp3 with tag"),
        pytest.param(b"\xff\xfb\x90\x64\0\0", id="mp3"),
        pytest.param(b"\xff\xf3\x40\xc4\0\0", id="mp3, version 2"),
        pytest.param(b"\xff\xf1\x50\x80\0\0", id="aac"),
        pytest.param(b"\xff\xf9\x4c\x80\0\0", id="aac, version 2"),
        pytest.param(b"fLaC\0\0\0\x22", id="flac"),
        pytest.param(b"OggS\0\x02", id="ogg"),
        pytest.param(b"\0\0\0\x20ftypM4A ", id="m4a"),
        pytest.param(b"\x1a\x45\xdf\xa3\x01", id="webm"),
        pytest.param(b"FORM\0\0\0\0AIFF", id="aiff"),
        pytest.param(b"#!AMR\n<", id="amr"),
    ],
)
@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "text/html", "application/json", "application/xml", "binary/octet-stream", ""],
)
def test_known_audio_is_audio_whatever_its_type(data: bytes, content_type: str) -> None:
    assert foreign_page(data, content_type) is None


@pytest.mark.parametrize(
    "content_type",
    [
        "text/html",
        "Text/HTML; charset=utf-8",
        "application/json",
        "application/problem+json; charset=utf-8",
        "application/xml",
        "application/xhtml+xml",
        "text/xml",
    ],
)
@pytest.mark.parametrize("data", [NOISE, b"plain words"], ids=["noise", "words"])
def test_unknown_bytes_under_a_pages_type_are_a_page(data: bytes, content_type: str) -> None:
    assert foreign_page(data, content_type) is not None


@pytest.mark.parametrize("content_type", ["audio/wav", "application/octet-stream", "", "video/mp4"])
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(NOISE, id="noise"),
        pytest.param(b"x" * 3000, id="printable"),
        pytest.param(b"{" + NOISE, id="noise that begins with a brace"),
        pytest.param(b'{"' + NOISE, id="noise that begins as JSON"),
        pytest.param(b"<html>" + NOISE, id="noise that begins as HTML"),
        pytest.param(b"[" + bytes(100), id="zeros after a bracket"),
        pytest.param(b"{curly", id="a brace before a word"),
        pytest.param(b"<3 <3 <3", id="an angle before a digit"),
        pytest.param(b"\xff\xfe" + NOISE, id="noise that begins with a byte order mark"),
        pytest.param(b" " * 1100 + NOISE, id="noise behind blanks"),
        pytest.param(b"403 " + NOISE, id="noise that begins with a number"),
        pytest.param("<html>".encode("utf-16-le") + NOISE, id="noise that begins as UTF-16"),
        pytest.param(b"<\0!\0" + bytes(range(256)) * 8, id="samples that begin as UTF-16"),
        pytest.param(b"<\0h\0\0\xd8a\0" * 300, id="samples that are no characters"),
    ],
)
def test_unknown_bytes_that_read_like_no_page_pass(data: bytes, content_type: str) -> None:
    assert foreign_page(data, content_type) is None


def test_text_is_no_audio_under_a_text_type_only() -> None:
    assert foreign_page(b"Access denied", "text/plain") is not None
    assert foreign_page(b"Access denied", "audio/mpeg") is None
    assert foreign_page(NOISE, "text/plain") is None


@given(st.binary(max_size=2000), st.text(max_size=40))
def test_no_bytes_make_judging_fail(data: bytes, content_type: str) -> None:
    reason = foreign_page(data, content_type)
    assert reason is None or reason
    wav_shortfall(data, len(data))


# ---- WAV ---------------------------------------------------------------------------------


def chunk(name: bytes, body: bytes, size: int | None = None) -> bytes:
    said = len(body) if size is None else size
    return name + said.to_bytes(4, "little") + body + b"\0" * (len(body) % 2)


def riff(*chunks: bytes, size: int | None = None, mark: bytes = b"RIFF") -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return mark + (len(body) if size is None else size).to_bytes(4, "little") + body


FMT = chunk(b"fmt ", bytes(16))
DATA = chunk(b"data", bytes(1000))
JUNK = chunk(b"JUNK", bytes(27))
LIST = chunk(b"LIST", bytes(300))


def pcm(frames: int) -> bytes:
    stream = io.BytesIO()
    with wave.open(stream, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        out.writeframes(bytes(2 * frames))
    return stream.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(pcm(500), id="plain"),
        pytest.param(pcm(0), id="no samples"),
        pytest.param(riff(JUNK, FMT, LIST, DATA, LIST), id="chunks around"),
        pytest.param(riff(FMT, chunk(b"data", bytes(999))), id="odd, padded"),
        pytest.param(riff(FMT, chunk(b"data", bytes(999)))[:-1], id="pad byte counted, missing"),
        pytest.param(riff(FMT, DATA, size=UNKNOWN), id="streamed RIFF size"),
        pytest.param(riff(FMT, DATA, size=0), id="no RIFF size"),
        pytest.param(riff(FMT, chunk(b"data", bytes(9), UNKNOWN), size=UNKNOWN), id="streamed"),
        pytest.param(riff(FMT, chunk(b"data", bytes(9), 0), size=36), id="sizes never filled in"),
        pytest.param(
            riff(FMT, chunk(b"data", bytes(9), 0x7FFFF000), size=0x7FFFF024), id="SoX, streamed"
        ),
        pytest.param(riff(FMT, DATA, size=UNKNOWN, mark=b"RF64"), id="RF64"),
        pytest.param(riff(FMT, DATA, size=9999, mark=b"BW64"), id="BW64"),
        pytest.param(riff(FMT, DATA) + bytes(77), id="bytes beyond the end"),
        pytest.param(b"RIFF\xff\xff\0\0AVI LIST", id="another RIFF"),
        pytest.param(b"fLaC" + bytes(50), id="no RIFF"),
        pytest.param(b"", id="empty"),
    ],
)
def test_a_whole_wav_is_no_damage(data: bytes) -> None:
    assert wav_shortfall(data[:PEEK_BYTES], len(data)) is None


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(pcm(500)[:-1], id="last byte missing"),
        pytest.param(pcm(500)[:60], id="samples missing"),
        pytest.param(pcm(500)[:40], id="cut before the samples"),
        pytest.param(pcm(500)[:9], id="cut in the header"),
        pytest.param(b"RIFF", id="cut after its mark"),
        pytest.param(riff(FMT, DATA, LIST)[:-200], id="cut behind the samples"),
        pytest.param(riff(FMT, DATA, size=UNKNOWN)[:-9], id="streamed RIFF size, samples known"),
        pytest.param(
            riff(FMT, chunk(b"data", bytes(9), UNKNOWN), size=5000), id="RIFF size known alone"
        ),
        pytest.param(riff(JUNK, LIST, FMT, DATA)[:-9], id="chunks before the samples"),
        pytest.param(riff(JUNK, FMT, DATA, size=0)[:-9], id="odd chunk before the samples"),
    ],
)
def test_a_wav_shorter_than_it_says_is_damage(data: bytes) -> None:
    assert wav_shortfall(data[:PEEK_BYTES], len(data)) is not None


def test_riffs_size_is_judged_where_the_samples_chunk_is_out_of_sight() -> None:
    data = riff(FMT, chunk(b"LIST", bytes(PEEK_BYTES)), DATA)
    assert wav_shortfall(data[:PEEK_BYTES], len(data)) is None
    assert wav_shortfall(data[:PEEK_BYTES], len(data) - 1) is not None


def test_big_endian_sizes_are_read_as_such() -> None:
    data = b"RIFX" + (100).to_bytes(4, "big") + b"WAVE" + bytes(96)
    assert wav_shortfall(data, 108) is None
    assert wav_shortfall(data[:90], 90) is not None


@given(st.integers(0, 3000), st.integers(1, 3000))
def test_every_cut_of_a_wav_is_seen(frames: int, missing: int) -> None:
    data = pcm(frames)
    cut = data[: max(4, len(data) - missing)]
    assert wav_shortfall(data, len(data)) is None
    assert wav_shortfall(cut, len(cut)) is not None
