"""How long the audio of a file is, and whether that fits the record (`--check-duration`).

The only importer of mutagen. A WAV is judged by its own header, which costs a thirtieth of
opening it with mutagen; everything else by mutagen.
"""

from __future__ import annotations

import io
import math
import struct
from typing import TYPE_CHECKING

from fetcher.core.sniff import is_streamed

if TYPE_CHECKING:
    from pathlib import Path

_LEAST_OFF_S = 1.0  # contract 2: off by more than 1 s and 2 %
_LEAST_OFF_SHARE = 0.02
_CHUNK_HEADER_BYTES = 8
_FMT_BYTES = 16


def misfit(actual_s: float | None, announced_s: float | None) -> str | None:
    """Return why a length of `actual_s` is suspect beside `audio_duration`, None if it is not."""
    if actual_s is None or announced_s is None:
        return None
    off_s = abs(actual_s - announced_s)
    if off_s <= _LEAST_OFF_S or off_s <= _LEAST_OFF_SHARE * announced_s:
        return None
    return f"the audio is {actual_s:.1f} s long, the record says {announced_s:.1f} s"


def duration_s(source: bytes | Path) -> float | None:
    """Return the length of the audio in seconds, None where it cannot be told.

    Blocking: a path is opened and read.
    """
    import mutagen  # noqa: PLC0415 - paid only by files that need it

    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        audio = mutagen.File(file, options=_formats())
        length_s = 0.0 if audio is None else float(audio.info.length)
    except Exception:  # noqa: BLE001 - a foreign parser of foreign bytes raises anything at all
        return None
    return length_s if length_s > 0 and math.isfinite(length_s) else None


def _formats() -> list[object]:
    """Return the formats that are measured.

    Not all that mutagen has: a damaged Musepack header, for one, keeps it busy for ever.
    """
    from mutagen import aac, aiff, flac, mp3, mp4, oggflac, oggopus, oggspeex, oggvorbis, wave  # noqa: PLC0415 - as above

    ogg = [oggflac.OggFLAC, oggopus.OggOpus, oggspeex.OggSpeex, oggvorbis.OggVorbis]
    return [aac.AAC, aiff.AIFF, flac.FLAC, mp3.MP3, mp4.MP4, wave.WAVE, *ogg]


def wav_duration_s(first_bytes: bytes, length_bytes: int) -> float | None:
    """Return the length of a plain RIFF WAVE file of `length_bytes`, None of any other.

    None, too, where its samples begin behind `first_bytes`.
    """
    if first_bytes[:4] != b"RIFF" or first_bytes[8:12] != b"WAVE":
        return None
    at, bytes_per_s = 12, 0
    while at + _CHUNK_HEADER_BYTES <= len(first_bytes):
        name = first_bytes[at : at + 4]
        (size,) = struct.unpack_from("<I", first_bytes, at + 4)
        at += _CHUNK_HEADER_BYTES
        if name == b"fmt " and at + _FMT_BYTES <= len(first_bytes):
            (bytes_per_s,) = struct.unpack_from("<I", first_bytes, at + 8)
        if name == b"data":
            held = length_bytes - at
            if not bytes_per_s:
                return None
            return (held if is_streamed(size) else min(size, held)) / bytes_per_s
        at += size + size % 2
    return None
