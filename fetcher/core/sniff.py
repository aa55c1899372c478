"""What a file's first bytes are: audio, a page in place of audio, a WAV that was cut.

Pure: bytes and a Content-Type in, a reason out (None: nothing speaks against it). Knows no
lengths that a host announced and no digests (`proof` does).
"""

from __future__ import annotations

import re

PEEK_BYTES = 65536  # how much of a file's start the judges here want to see

# ---- a page in place of audio ------------------------------------------------------------

_PAGE_BYTES = 1024  # a page shows what it is within its first kilobyte that is not blank
_BLANK = b" \t\r\n\f"
# Controls that no text has; sound has them within a few samples.
_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")
_MARKUP = re.compile(r"<(?:!|\?xml|/?[a-z][a-z0-9:_-]*(?:[\s/>]|\Z))", re.IGNORECASE)
_JSON = re.compile(
    r'\{\s*(?:["}]|\Z)|\[\s*(?:[{\["\]0-9-]|true|false|null|\Z)'
    r'|(?:true|false|null|"[^"]*"|-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*\Z'
)
_PAGE_TYPE = re.compile(r"text/html|(?:application|text)/(?:[a-z0-9.+-]+\+)?(?:xml|json)")
_MAGIC = (
    (0, (b"RIFF", b"RIFX", b"RF64", b"BW64", b"riff")),
    (0, (b"ID3", b"fLaC", b"OggS", b"FORM", b"caff", b".snd", b"#!AMR", b"#!SILK", b"ADIF")),
    (0, (b"wvPK", b"MAC ", b"TTA1", b"DSD ", b"MPCK", b"MP+", b"Creative Voice File")),
    (0, (b"\x1a\x45\xdf\xa3", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11")),  # Matroska, ASF
    (4, (b"ftyp",)),
)


def foreign_page(first_bytes: bytes, content_type: str) -> str | None:
    """Return why these bytes are an HTML, XML, JSON or text page, None if they may be audio.

    What begins as known audio does is audio, whatever the header says; what reads as a page
    is one, whatever the header says; the header decides only for the rest.
    """
    if _is_audio(first_bytes):
        return None
    kind = content_type.partition(";")[0].strip().lower()
    text = _text(first_bytes)
    if text is not None:
        if first_bytes and not text:
            return "nothing but blanks came in place of audio"  # whatever stands behind them
        if _MARKUP.match(text):
            return "a page of HTML or XML came in place of audio"
        if _JSON.match(text):
            return "JSON came in place of audio"
        if kind.startswith("text/"):
            return f"text came in place of audio ({kind[:60]!r})"
    if _PAGE_TYPE.match(kind):
        return f"a page came in place of audio ({kind[:60]!r})"
    return None


def _is_audio(first_bytes: bytes) -> bool:
    """Tell whether the bytes begin as a known kind of audio file does."""
    if any(first_bytes.startswith(marks, offset) for offset, marks in _MAGIC):
        return True
    return len(first_bytes) >= 4 and (_is_mpeg(first_bytes) or _is_adts(first_bytes))


def _is_mpeg(first_bytes: bytes) -> bool:
    """Tell whether an MPEG audio frame of layer II or III begins here (ISO 11172-3 §2.4.1.3).

    Layer I is left out: its mark is also UTF-16's byte order mark.
    """
    version, layer = first_bytes[1] >> 3 & 3, first_bytes[1] >> 1 & 3
    bitrate, sampling_rate = first_bytes[2] >> 4, first_bytes[2] >> 2 & 3
    has_sync = first_bytes[0] == 0xFF and first_bytes[1] & 0xE0 == 0xE0
    return has_sync and version != 1 and layer in (1, 2) and bitrate != 15 and sampling_rate != 3


def _is_adts(first_bytes: bytes) -> bool:
    """Tell whether an AAC frame begins here: sync, layer 0, a sampling rate (ISO 13818-7 §6.2)."""
    has_sync = first_bytes[0] == 0xFF and first_bytes[1] & 0xF6 == 0xF0
    return has_sync and first_bytes[2] >> 2 & 15 < 13


def _text(data: bytes) -> str | None:
    """Return how `data` begins as text, behind what is blank; None if it is none.

    Any charset that keeps ASCII will do, and UTF-16, which a page need not announce: its
    first character is ASCII, so the byte beside it is 0.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        data = data.decode("utf-16", "replace").encode("utf-8", "replace")
    elif len(data) > 1 and (data[0] == 0) != (data[1] == 0):
        try:
            wide = data[: len(data) & ~1].decode("utf-16-be" if data[0] == 0 else "utf-16-le")
        except UnicodeDecodeError as error:
            if error.end < len(data) & ~1:  # not merely cut within a character
                return None
            wide = error.object[: error.start].decode(error.encoding)
        data = wide.encode()
    opening = data.removeprefix(b"\xef\xbb\xbf").lstrip(_BLANK)[:_PAGE_BYTES]
    return None if _BINARY.search(opening) else opening.decode("utf-8", "replace")


# ---- a WAV that was cut ------------------------------------------------------------------

# Sizes that a writer leaves when it cannot go back: 0, all ones (some less the header before
# the samples), and SoX's 0x7ffff000 (its wav.c) with and without that header.
_STREAMED = (range(1), range(0xFFFFFF00, 0x100000000), range(0x7FFFF000, 0x7FFFF100))


def is_streamed(size: int) -> bool:
    """Return whether a size in a RIFF header only says that its writer did not know it."""
    return any(size in sizes for sizes in _STREAMED)


def wav_shortfall(first_bytes: bytes, length_bytes: int) -> str | None:
    """Return why a WAV of `length_bytes` is shorter than its own header says, None if it is not.

    `first_bytes` is the file's start. Bytes beyond the announced end are no damage, nor is a
    pad byte that is counted but missing; RF64 and BW64 keep their sizes elsewhere.
    """
    openings = {mark[: len(first_bytes)] for mark in (b"RIFF", b"RIFX")}
    if not first_bytes or first_bytes[:4] not in openings:
        return None
    if len(first_bytes) < 12:
        return "the WAV was cut short: it ends within its header"
    if first_bytes[8:12] != b"WAVE":
        return None
    little = first_bytes.startswith(b"RIFF")
    data = _data_chunk(first_bytes, little=little)
    # A pad byte may be missing only where the samples' own size proves the rest.
    ends = [(_u32(first_bytes, 4, little=little), 8, 0 if data is None else 1)]
    if data is not None:
        ends.append((*data, 0))
    for size, offset, pad in ends:
        if not is_streamed(size) and offset + size > length_bytes + pad:
            said = offset + size
            return f"the WAV was cut short: its header says {said} bytes, it has {length_bytes}"
    return None


def _data_chunk(first_bytes: bytes, *, little: bool) -> tuple[int, int] | None:
    """Return (size, offset) in bytes of the samples, None if their chunk is not in sight."""
    at = 12
    while at + 8 <= len(first_bytes):
        size = _u32(first_bytes, at + 4, little=little)
        if first_bytes[at : at + 4] == b"data":
            return size, at + 8
        at += 8 + size + (size & 1)  # chunks are padded to even offsets
    return None


def _u32(data: bytes, at: int, *, little: bool) -> int:
    """Return the unsigned 32-bit number at offset `at`, of the byte order that RIFF or RIFX has."""
    return int.from_bytes(data[at : at + 4], "little" if little else "big")
