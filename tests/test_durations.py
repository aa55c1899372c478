"""How long audio is, told without trust in a single byte of it."""

from __future__ import annotations

import io
import struct
import time
import wave
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetcher.transfers.durations import duration_s, misfit, wav_duration_s

if TYPE_CHECKING:
    from pathlib import Path


def wav(seconds: float = 2.0, rate: int = 8000, channels: int = 1, width: int = 2) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(width)
        writer.setframerate(rate)
        writer.writeframes(bytes(round(seconds * rate) * channels * width))
    return out.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def riff(*chunks: bytes, size: int | None = None) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


FORMAT = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, 8000, 16_000, 2, 16))
SECOND = bytes(16_000)


def mp3(seconds: float) -> bytes:
    """Return silence: frames of MPEG-1 layer III, 128 kbit/s, 44.1 kHz."""
    return (b"\xff\xfb\x90\x64" + bytes(413)) * round(seconds * 44_100 / 1152)


def flac(seconds: float, rate: int = 44_100) -> bytes:
    """Return a STREAMINFO that says so; the length needs no frames."""
    packed = rate << 44 | 0 << 41 | 15 << 36 | round(seconds * rate)
    info = struct.pack(">HH", 4096, 4096) + bytes(6) + packed.to_bytes(8, "big") + bytes(16)
    return b"fLaC\x80" + len(info).to_bytes(3, "big") + info


def box(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", len(body) + 8, name) + body


def m4a(seconds: float) -> bytes:
    media = bytes(12) + struct.pack(">II", 1000, round(seconds * 1000)) + bytes(4)
    handler = bytes(8) + b"soun" + bytes(12)
    track = box(b"trak", box(b"mdia", box(b"mdhd", media) + box(b"hdlr", handler)))
    return box(b"ftyp", b"M4A \0\0\0\0") + box(b"moov", box(b"mvhd", bytes(100)) + track)


def page(serial: int, number: int, position: int, flags: int, packet: bytes) -> bytes:
    """Return one Ogg page (RFC 3533 §6); the checksum is left out, as readers here do."""
    header = struct.pack("<4sBBqIIIB", b"OggS", 0, flags, position, serial, number, 0, 1)
    return header + bytes([len(packet)]) + packet


def vorbis(seconds: float, rate: int = 44_100) -> bytes:
    head = b"\x01vorbis" + struct.pack("<IBIiiiBB", 0, 1, rate, 0, 128_000, 0, 0xB8, 1)
    comment = b"\x03vorbis" + struct.pack("<I", 1) + b"x" + struct.pack("<I", 0) + b"\x01"
    return (
        page(7, 0, 0, 2, head)
        + page(7, 1, 0, 0, comment)
        + page(7, 2, round(seconds * rate), 4, b"\0" * 20)
    )


KINDS = {"wav": wav(2.0), "mp3": mp3(2.0), "flac": flac(2.0), "m4a": m4a(2.0), "ogg": vorbis(2.0)}


# ---- what is measured --------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_large", [False, True], ids=["in memory", "on disk"])
def test_the_common_formats_are_measured(tmp_path: Path, kind: str, is_large: bool) -> None:
    source: bytes | Path = KINDS[kind]
    if is_large:
        source = tmp_path / "0f8fad5b.denoised.part"
        source.write_bytes(KINDS[kind])
    assert duration_s(source) == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize(
    ("content", "seconds"),
    [
        pytest.param(wav(0.25, 48_000, 2, 3), 0.25, id="24 bits, stereo"),
        pytest.param(riff(FORMAT, chunk(b"LIST", b"odd"), chunk(b"data", SECOND)), 1.0, id="LIST"),
        pytest.param(
            riff(FORMAT, chunk(b"data", SECOND), chunk(b"LIST", SECOND)), 1.0, id="behind"
        ),
        pytest.param(riff(FORMAT, b"data\xff\xff\xff\xff" + SECOND), 1.0, id="streamed, ones"),
        pytest.param(riff(FORMAT, b"data\0\0\0\0" + SECOND, size=0), 1.0, id="streamed, zeros"),
        pytest.param(riff(FORMAT, b"data\xdb\xff\xff\xff" + SECOND), 1.0, id="streamed, less"),
        pytest.param(riff(FORMAT, b"data\0\xf0\xff\x7f" + SECOND), 1.0, id="streamed by SoX"),
        pytest.param(riff(FORMAT, b"data\xff\xff\xff\x7f" + SECOND), 1.0, id="longer than it is"),
    ],
)
def test_a_wav_is_measured_by_its_own_header(content: bytes, seconds: float) -> None:
    assert wav_duration_s(content, len(content)) == pytest.approx(seconds)
    assert wav_duration_s(content[:100], len(content)) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"RIFF",
        b"RIFF\0\0\0\0WAVE",
        riff(chunk(b"data", SECOND)),
        riff(FORMAT),
        riff(chunk(b"fmt ", bytes(16)), chunk(b"data", SECOND)),
        b"<html></html>",
        b"\x00" * 1000,
        b"MPCK" + bytes(60),
        b"wvPK" + bytes(60),
    ],
    ids=range(10),
)
def test_what_cannot_be_told_is_not_guessed(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.part"
    path.write_bytes(content)
    assert wav_duration_s(content, len(content)) is None
    assert duration_s(content) is None
    assert duration_s(path) is None


def test_a_file_that_is_gone_or_no_file_has_no_length(tmp_path: Path) -> None:
    assert duration_s(tmp_path / "gone") is None
    assert duration_s(tmp_path) is None


# Damage on which mutagen 1.47 raises what it does not declare, or never comes back.
NASTY = {
    "musepack without end": b"MPCKG" + bytes(29) + bytes.fromhex("77c862419d0000"),
    "opus cut short": b"OggS\0\2" + bytes(8) + b"\1\0\0\0" + bytes(8) + b"\1\x08OpusHead\1\xbe",
    "boxes too deep": box(b"ftyp", b"M4A \0\0\0\0")
    + b"".join(struct.pack(">I4s", 160_000 - 8 * n, b"moov") for n in range(20_000)),
    "a box too large": struct.pack(">I4sQ", 1, b"\0\0\0\0", 2**63) + m4a(1.0),
    "no sampling rate": flac(1.0, rate=0),
    "endless AIFF": b"FORM\0\0\0\x40AIFFCOMM\0\0\0\x12\0\1\0\0\0\x10\0\x10\x7f\xff" + bytes(40),
}


@pytest.mark.parametrize("name", NASTY)
def test_hostile_audio_is_told_from_none_at_once(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.part"
    path.write_bytes(NASTY[name])
    began_s = time.monotonic()
    for source in (NASTY[name], path):
        seconds = duration_s(source)
        assert seconds is None or 0 < seconds < float("inf")
    assert time.monotonic() - began_s < 20


@settings(deadline=None, max_examples=150)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    changes=st.lists(
        st.tuples(st.floats(0, 1), st.binary(max_size=6), st.integers(0, 6)), max_size=5
    ),
    cut=st.none() | st.floats(0, 1),
)
def test_no_damage_is_an_error(
    kind: str, changes: list[tuple[float, bytes, int]], cut: float | None
) -> None:
    data = bytearray(KINDS[kind][:600])
    for where, fresh, gone in changes:
        at = int(where * len(data))
        data[at : at + gone] = fresh
    seconds = duration_s(bytes(data[: int(cut * len(data))] if cut is not None else data))
    assert seconds is None or 0 <= seconds < float("inf")


# ---- whether it fits ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("actual", "announced", "is_suspect"),
    [
        pytest.param(None, 10.0, False, id="not measured"),
        pytest.param(10.0, None, False, id="not announced"),
        pytest.param(10.0, 10.0, False, id="equal"),
        pytest.param(11.0, 10.0, False, id="a second more"),
        pytest.param(9.0, 10.0, False, id="a second less"),
        pytest.param(11.01, 10.0, True, id="more than a second and 2 %"),
        pytest.param(8.99, 10.0, True, id="less by more than both"),
        pytest.param(102.0, 100.0, False, id="2 % of a long one"),
        pytest.param(102.5, 100.0, True, id="more than 2 % of a long one"),
        pytest.param(97.9, 100.0, True, id="less than 2 % of a long one"),
        pytest.param(899.0, 900.0, False, id="a second of a quarter of an hour"),
        pytest.param(0.9, 0.0, False, id="short beside nothing"),
        pytest.param(1.1, 0.0, True, id="something beside nothing"),
        pytest.param(0.0, 5.0, True, id="nothing beside something"),
    ],
)
def test_off_by_more_than_a_second_and_two_percent_is_suspect(
    actual: float | None, announced: float | None, is_suspect: bool
) -> None:
    assert (misfit(actual, announced) is not None) is is_suspect
