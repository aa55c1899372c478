"""The extension of the audio that came: from its URL, its Content-Type or its first bytes.

Owns which extensions are known and what stands for them. Never looks at `file_name`, which
names the upload and not the result.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

from fetcher.models import Variant

AUDIO_EXTENSIONS: Final = (
    *(".wav", ".mp3", ".m4a", ".flac", ".ogg", ".opus", ".aac", ".oga", ".weba", ".mka"),
    *(".aiff", ".aif", ".aifc", ".m4b", ".amr", ".awb", ".wma", ".caf", ".au", ".mp2"),
    *(".ac3", ".eac3", ".wave", ".3gp", ".3ga", ".spx"),
)
"""What counts as an audio extension in a URL, the commonest first."""
VIDEO_EXTENSIONS: Final = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
"""The video files that the service takes: an original may be one, a result never is."""
FALLBACK_EXTENSION: Final = ".audio"
KNOWN_EXTENSIONS: Final = (*AUDIO_EXTENSIONS, *VIDEO_EXTENSIONS, FALLBACK_EXTENSION)
"""Every extension that `choose_extension` can return."""

_PATH: Final = re.compile(r"[^:/?#]+://[^][/?#]*(?:\[[^][/?#]*][^][/?#]*)?(?![^/?#])([^?#]*)")
_BY_URL: Final = {
    Variant.DENOISED: frozenset(AUDIO_EXTENSIONS),
    Variant.ORIGINAL: frozenset(AUDIO_EXTENSIONS + VIDEO_EXTENSIONS),
}
# IANA media types and the unregistered ones that servers send for the same formats.
_AUDIO_TYPES: Final = {
    **dict.fromkeys(("wav", "x-wav", "wave", "vnd.wave", "x-pn-wav"), ".wav"),
    **dict.fromkeys(("mpeg", "mp3", "x-mp3", "x-mpeg", "mpeg3", "x-mpeg-3", "mpg"), ".mp3"),
    **dict.fromkeys(("mp4", "m4a", "x-m4a", "x-mp4", "mp4a-latm"), ".m4a"),
    **dict.fromkeys(("flac", "x-flac"), ".flac"),
    **dict.fromkeys(("ogg", "x-ogg", "vorbis"), ".ogg"),
    **dict.fromkeys(("opus", "x-opus"), ".opus"),
    **dict.fromkeys(("aac", "x-aac", "aacp", "x-hx-aac-adts", "vnd.dlna.adts"), ".aac"),
    **dict.fromkeys(("aiff", "x-aiff"), ".aiff"),
    **dict.fromkeys(("x-m4b", "m4b"), ".m4b"),
    **dict.fromkeys(("basic", "x-au"), ".au"),
    **dict.fromkeys(("x-matroska", "matroska"), ".mka"),
    **dict.fromkeys(("amr", "x-amr"), ".amr"),
    "amr-wb": ".awb",
    "webm": ".webm",
    "x-ms-wma": ".wma",
    "x-caf": ".caf",
    "ac3": ".ac3",
    "eac3": ".eac3",
    "3gpp": ".3gp",
}
_VIDEO_TYPES: Final = {
    "mp4": ".mp4",
    "x-m4v": ".m4v",
    "quicktime": ".mov",
    "webm": ".webm",
    **dict.fromkeys(("x-matroska", "matroska"), ".mkv"),
    **dict.fromkeys(("x-msvideo", "avi", "vnd.avi", "msvideo"), ".avi"),
}
_FIRST_BYTES: Final = (
    (b"ID3", ".mp3"),
    (b"fLaC", ".flac"),
    (b"#!AMR-WB", ".awb"),
    (b"#!AMR", ".amr"),
    (b"caff", ".caf"),
    (b".snd", ".au"),
    (b"ADIF", ".aac"),
    (b"\x0b\x77", ".ac3"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", ".wma"),
)
# Containers: what they hold stands within so many bytes of their start.
_HEAD_BYTES: Final = 64
# ISO BMFF brands (mp4ra.org) whose files have an extension of their own.
_BRANDS: Final = {b"M4A ": ".m4a", b"M4B ": ".m4b"}
_VIDEO_BRANDS: Final = {b"qt  ": ".mov", b"M4V ": ".m4v"}
# MPEG audio frame header (ISO 11172-3 §2.4.2.3): the layer's two bits.
_MPEG_LAYERS: Final = {0b01: ".mp3", 0b10: ".mp2"}


def choose_extension(
    url: str,
    content_type: str | None,
    first_bytes: bytes,
    *,
    variant: Variant = Variant.DENOISED,
) -> str:
    """Return the extension of the audio that came, with its dot and in lower case.

    The URL's path decides where it ends in a known audio extension, else `content_type`,
    else `first_bytes` (64 are enough); `.audio` where none of them tells. An ORIGINAL may
    be a video file as well, a denoised result never is.
    """
    return (
        extension_of_url(url, variant=variant)
        or extension_of_type(content_type, variant=variant)
        or extension_of_bytes(first_bytes, variant=variant)
        or FALLBACK_EXTENSION
    )


def extension_of_url(url: str, *, variant: Variant = Variant.DENOISED) -> str | None:
    """Return the known extension that the path of `url` ends in, None where it has none.

    The path is percent-decoded; its query, fragment and `;parameters` are no part of it.
    """
    path = _PATH.match(url)
    if path is None:  # not a URL at all: some other sign has to tell
        return None
    last = unquote(path[1].rpartition("/")[2].partition(";")[0])
    suffix = "." + last.rpartition(".")[2].lower()
    return suffix if "." in last and suffix in _BY_URL[variant] else None


def extension_of_type(
    content_type: str | None, *, variant: Variant = Variant.DENOISED
) -> str | None:
    """Return the extension for a Content-Type, None where that names no known format.

    Case and parameters do not matter, but for `codecs=opus` in Ogg (RFC 7845 §9).
    """
    media_type, _, parameters = (content_type or "").lower().partition(";")
    kind, _, name = media_type.strip().partition("/")
    if kind == "video" and variant is Variant.ORIGINAL:
        return _VIDEO_TYPES.get(name)
    if kind not in ("audio", "application"):
        return None
    if kind == "application" and name not in ("ogg", "x-ogg", "mp4"):
        return None
    if kind == "application" and name == "mp4" and variant is Variant.ORIGINAL:
        return ".mp4"
    extension = _AUDIO_TYPES.get(name)
    return ".opus" if extension == ".ogg" and "opus" in parameters else extension


def extension_of_bytes(first_bytes: bytes, *, variant: Variant = Variant.DENOISED) -> str | None:
    """Return the extension for the format that `first_bytes` begin, None if unknown.

    64 bytes are enough. Raw AAC, MP3 and MP2 are known by one frame header alone.
    """
    for magic, extension in _FIRST_BYTES:
        if first_bytes.startswith(magic):
            return extension
    return (
        _of_chunks(first_bytes, variant)
        or _of_container(first_bytes, variant)
        or _of_frame(first_bytes)
    )


def _of_chunks(first_bytes: bytes, variant: Variant) -> str | None:
    """Tell RIFF, RF64 (EBU Tech 3306) and FORM files apart by the kind at byte 8."""
    outer, kind = first_bytes[:4], first_bytes[8:12]
    if outer in (b"RIFF", b"RF64", b"BW64") and kind == b"WAVE":
        return ".wav"
    if outer == b"RIFF" and kind == b"AVI " and variant is Variant.ORIGINAL:
        return ".avi"
    if outer == b"FORM" and kind in (b"AIFF", b"AIFC"):
        return ".aiff"
    return None


def _of_container(first_bytes: bytes, variant: Variant) -> str | None:
    """Tell Ogg, ISO BMFF and Matroska files apart by what their first bytes name."""
    head = first_bytes[:_HEAD_BYTES]
    is_original = variant is Variant.ORIGINAL
    if head.startswith(b"OggS"):
        return ".opus" if b"OpusHead" in head else ".ogg"
    if head[4:8] == b"ftyp":
        brands = _BRANDS | _VIDEO_BRANDS if is_original else _BRANDS
        return brands.get(head[8:12], ".mp4" if is_original else ".m4a")
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        if b"webm" in head:
            return ".webm"
        return ".mkv" if is_original else ".mka"
    return None


def _of_frame(first_bytes: bytes) -> str | None:
    """Tell ADTS (ISO 13818-7 §6.2) and MPEG audio by the header of the first frame."""
    if len(first_bytes) < 3 or first_bytes[0] != 0xFF:
        return None
    second, third = first_bytes[1], first_bytes[2]
    if second & 0xF6 == 0xF0:
        return ".aac"
    is_frame = second & 0xE0 == 0xE0 and third & 0xF0 != 0xF0 and third & 0x0C != 0x0C
    return _MPEG_LAYERS.get(second >> 1 & 0b11) if is_frame else None
