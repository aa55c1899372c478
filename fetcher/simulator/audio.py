"""Playable audio made by the program: a melody (clean) and the same melody in noise.

Owns the samples and the WAV header; no numpy, no files. The same salt gives the same bytes.
"""

from __future__ import annotations

import math
import random
import struct
import sys
from array import array
from functools import cache, lru_cache

RATE_HZ = 16_000
HEADER_BYTES = 44
_TABLE_BITS = 10  # 1,024 points of one sine period: 60 dB below the tone is enough here
_NOTE_S = 0.2
_PENTATONIC = (0, 2, 4, 7, 9, 12, 14, 16)  # semitones: any order of these sounds like a tune
_PEAK = 18_000
_NOISE_SHIFT = 3  # noise of +-4,096 beside a tone of +-18,000: audible, and never clips


def wav_header(data_bytes: int, rate_hz: int = RATE_HZ) -> bytes:
    """Return the 44 bytes that open a 16-bit mono PCM WAV of so many bytes of samples."""
    size = min(data_bytes, 0xFFFF_FFFF - 36)
    return b"".join(
        (
            struct.pack("<4sI4s", b"RIFF", size + 36, b"WAVE"),
            struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate_hz, 2 * rate_hz, 2, 16),
            struct.pack("<4sI", b"data", size),
        )
    )


def wav_size(duration_s: float) -> int:
    """Return the bytes of a WAV that `make_pair` makes of so many seconds."""
    return HEADER_BYTES + 2 * round(duration_s * RATE_HZ)


def wav_duration_s(content_bytes: int) -> float:
    """Return the seconds that a 16-bit mono WAV of so many bytes in all plays."""
    return max(0, content_bytes - HEADER_BYTES) / (2 * RATE_HZ)


@lru_cache(maxsize=32)
def make_pair(salt: str, duration_s: float) -> tuple[bytes, bytes]:
    """Return (noisy, clean): two WAVs of equal length, different for every `salt`."""
    total = round(duration_s * RATE_HZ)
    rng = random.Random(salt)  # noqa: S311 - a tune, not a secret
    base_hz = rng.uniform(180.0, 300.0)
    clean = array("h")
    while len(clean) < total:
        clean.extend(_note(base_hz * 2 ** (rng.choice(_PENTATONIC) / 12)))
    del clean[total:]
    noise = array("h", rng.randbytes(2 * total))
    noisy = array("h", [c + (n >> _NOISE_SHIFT) for c, n in zip(clean, noise, strict=True)])
    return _wav(noisy), _wav(clean)


def _wav(samples: array[int]) -> bytes:
    if sys.byteorder == "big":
        samples.byteswap()
    data = samples.tobytes()
    return wav_header(len(data)) + data


def _note(frequency_hz: float) -> array[int]:
    table, envelope = _sine(), _envelope()
    mask = len(table) - 1
    step = int(frequency_hz / RATE_HZ * len(table) * 65_536)
    return array("h", [table[(i * step >> 16) & mask] * e >> 15 for i, e in enumerate(envelope)])


@cache
def _sine() -> list[int]:
    points = 1 << _TABLE_BITS
    return [round(_PEAK * math.sin(2 * math.pi * i / points)) for i in range(points)]


@cache
def _envelope() -> list[int]:
    """Return one note's loudness in 1/32768: quick attack, slow decay, silent at its ends."""
    count = round(_NOTE_S * RATE_HZ)
    attack = count // 20
    rise = [32_767 * i // attack for i in range(attack)]
    fall = count - attack
    return rise + [32_767 * (fall - i) ** 2 // fall**2 for i in range(fall)]
