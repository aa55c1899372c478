"""Which extension the audio that came gets, by its URL, its type or its first bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetcher.core.layout import (
    KNOWN_EXTENSIONS,
    choose_extension,
    extension_of_bytes,
    extension_of_type,
    extension_of_url,
)
from fetcher.models import Variant

WAV = b"RIFF\x24\x00\x00\x00WAVEfmt "
EBML = b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\x82"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://cdn.example/a/b.wav", ".wav"),
        ("https://cdn.example/a/B.WAV?X-Signature=x.mp3&y=/z.flac", ".wav"),
        ("https://cdn.example/a.mp3#t=1.ogg", ".mp3"),
        ("https://cdn.example/%D8%B5%D9%88%D8%AA%2Em4a", ".m4a"),
        ("https://cdn.example/a.tar.opus", ".opus"),
        ("https://cdn.example/a.wav;v=2", ".wav"),
        ("https://cdn.example/meeting.mp4", None),
        ("https://cdn.example/meeting.webm", None),
        ("https://cdn.example/a.exe", None),
        ("https://cdn.example/a.wav/", None),
        ("https://cdn.example/a.wav/content", None),
        ("https://cdn.example/wav", None),
        ("https://cdn.wav", None),
        ("https://[::1/a.wav", None),
        ("", None),
    ],
)
def test_url_tells_by_its_path_alone(url: str, expected: str | None) -> None:
    assert extension_of_url(url) == expected


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.webm", "a.avi", "a.m4v"])
def test_only_an_original_may_be_a_video_by_its_url(name: str) -> None:
    url = f"https://cdn.example/{name}"
    assert extension_of_url(url) is None
    assert extension_of_url(url, variant=Variant.ORIGINAL) == name[1:]


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("audio/mp4", ".m4a"),
        ("audio/x-m4a", ".m4a"),
        ("Audio/MPEG", ".mp3"),
        ("audio/wav", ".wav"),
        ("audio/x-wav", ".wav"),
        ("audio/wave", ".wav"),
        ("audio/vnd.wave; codec=1", ".wav"),
        ("audio/flac", ".flac"),
        ("audio/ogg", ".ogg"),
        ('audio/ogg; codecs="opus"', ".opus"),
        ("application/ogg", ".ogg"),
        ("audio/opus", ".opus"),
        ("audio/aac", ".aac"),
        ("audio/x-aiff", ".aiff"),
        ("audio/webm;codecs=opus", ".webm"),
        ("audio/amr", ".amr"),
        ("application/mp4", ".m4a"),
        ("video/mp4", None),
        ("application/octet-stream", None),
        ("application/wav", None),
        ("text/html", None),
        ("audio/", None),
        ("nonsense", None),
        ("", None),
        (None, None),
    ],
)
def test_content_type_tells_without_its_parameters(
    content_type: str | None, expected: str | None
) -> None:
    assert extension_of_type(content_type) == expected


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("video/mp4", ".mp4"),
        ("application/mp4", ".mp4"),
        ("video/quicktime", ".mov"),
        ("video/webm", ".webm"),
        ("video/x-matroska", ".mkv"),
        ("video/x-msvideo", ".avi"),
        ("audio/mp4", ".m4a"),
    ],
)
def test_type_of_an_original_may_be_video(content_type: str, expected: str) -> None:
    assert extension_of_type(content_type, variant=Variant.ORIGINAL) == expected


@pytest.mark.parametrize(
    ("first_bytes", "expected"),
    [
        pytest.param(WAV, ".wav", id="wav"),
        pytest.param(b"RF64\xff\xff\xff\xffWAVEds64", ".wav", id="rf64"),
        pytest.param(b"ID3\x04\x00\x00", ".mp3", id="id3"),
        pytest.param(b"\xff\xfb\x90\x64", ".mp3", id="mpeg-1-layer-3"),
        pytest.param(b"\xff\xf3\x48\xc4", ".mp3", id="mpeg-2-layer-3"),
        pytest.param(b"\xff\xfd\x80\x04", ".mp2", id="layer-2"),
        pytest.param(b"\xff\xf1\x50\x80", ".aac", id="adts"),
        pytest.param(b"\xff\xf9\x50\x80", ".aac", id="adts-mpeg-2"),
        pytest.param(b"fLaC\x00\x00\x00\x22", ".flac", id="flac"),
        pytest.param(b"OggS\x00\x02" + bytes(22) + b"\x01vorbis", ".ogg", id="vorbis"),
        pytest.param(b"OggS\x00\x02" + bytes(22) + b"OpusHead", ".opus", id="opus"),
        pytest.param(b"\x00\x00\x00\x20ftypM4A \x00\x00", ".m4a", id="m4a"),
        pytest.param(b"\x00\x00\x00\x20ftypisom\x00\x00", ".m4a", id="mp4"),
        pytest.param(b"FORM\x00\x00\x10\x00AIFFCOMM", ".aiff", id="aiff"),
        pytest.param(EBML + b"\x84webm", ".webm", id="webm"),
        pytest.param(EBML + b"\x88matroska", ".mka", id="matroska"),
        pytest.param(b"#!AMR\n<", ".amr", id="amr"),
        pytest.param(b"#!AMR-WB\n", ".awb", id="amr-wb"),
        pytest.param(b"RIFF\x24\x00\x00\x00AVI LIST", None, id="avi"),
        pytest.param(b"RIFF\x24\x00\x00\x00WEBPVP8 ", None, id="a-picture"),
        pytest.param(b"<!DOCTYPE html>", None, id="page"),
        pytest.param(b"\xff\xfe<\x00h\x00", None, id="utf-16-page"),
        pytest.param(b"\xff\xd8\xff\xe0", None, id="jpeg"),
        pytest.param(b"\xff\xff\xff\xff", None, id="ones"),
        pytest.param(b"\xff", None, id="one-byte"),
        pytest.param(b"", None, id="nothing"),
    ],
)
def test_first_bytes_tell(first_bytes: bytes, expected: str | None) -> None:
    assert extension_of_bytes(first_bytes) == expected


@pytest.mark.parametrize(
    ("first_bytes", "expected"),
    [
        (b"\x00\x00\x00\x20ftypisom\x00\x00", ".mp4"),
        (b"\x00\x00\x00\x14ftypqt  \x00\x00", ".mov"),
        (b"\x00\x00\x00\x20ftypM4A \x00\x00", ".m4a"),
        (b"RIFF\x24\x00\x00\x00AVI LIST", ".avi"),
        (EBML + b"\x88matroska", ".mkv"),
        (WAV, ".wav"),
    ],
    ids=["mp4", "mov", "m4a", "avi", "mkv", "wav"],
)
def test_first_bytes_of_an_original_may_be_video(first_bytes: bytes, expected: str) -> None:
    assert extension_of_bytes(first_bytes, variant=Variant.ORIGINAL) == expected


@pytest.mark.parametrize(
    ("url", "content_type", "first_bytes", "expected"),
    [
        pytest.param("https://h/a.mp3", "audio/wav", WAV, ".mp3", id="url-before-type"),
        pytest.param("https://h/a.mp4", "audio/mp4", WAV, ".m4a", id="type-before-bytes"),
        pytest.param("https://h/a", "application/octet-stream", WAV, ".wav", id="bytes-last"),
        pytest.param("https://h/a", None, b"\x00\x01", ".audio", id="nothing-tells"),
    ],
)
def test_url_goes_before_type_before_bytes(
    url: str, content_type: str | None, first_bytes: bytes, expected: str
) -> None:
    assert choose_extension(url, content_type, first_bytes) == expected


@given(st.text(), st.text(), st.binary(max_size=80), st.sampled_from(Variant))
def test_whatever_comes_the_extension_is_a_known_one(
    url: str, content_type: str, first_bytes: bytes, variant: Variant
) -> None:
    chosen = choose_extension(url, content_type, first_bytes, variant=variant)
    assert chosen in KNOWN_EXTENSIONS
