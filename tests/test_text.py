"""What a person may be shown, how wide it is, and where it is cut."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetcher.core.text import clip, clip_bytes, fit, isolate, printable, width

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
ACUTE_E = "e\u0301"
ANY_TEXT = st.text(st.characters())  # lone surrogates included
# The first use of wcwidth imports it: no deadline for that one example.
patient = settings(deadline=None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("audio.wav", "audio.wav", id="plain"),
        pytest.param("مقابلة ١٢.wav", "مقابلة ١٢.wav", id="arabic"),
        pytest.param("می\u200cخواهم", "می\u200cخواهم", id="persian-joiner"),
        pytest.param("\u06dd آية", "\u06dd آية", id="visible-format-character"),
        pytest.param(f"{FAMILY}!", f"{FAMILY}!", id="emoji"),
        pytest.param("\x1b[31mred\x1b[0m", "\ufffd[31mred\ufffd[0m", id="escape"),
        pytest.param("a\x9b2Jb", "a\ufffd2Jb", id="c1-escape"),
        pytest.param("a\x00b\x07\x7f", "a\ufffdb\ufffd\ufffd", id="nul-bell-delete"),
        pytest.param("a\r\nb\tc", "a b c", id="line-break-and-tab"),
        pytest.param("a\u2028b\u2029c\u0085d", "a b c d", id="unicode-line-breaks"),
        pytest.param("\u202egpj.exe\u202c", "gpj.exe", id="override"),
        pytest.param("\u2066a\u2069\u200f\u200e\u061c", "a", id="isolates-and-marks"),
        pytest.param("a\u200bb\ufeffc\u2060d", "abcd", id="invisible"),
        pytest.param("a\U000e0041b", "ab", id="tag"),
        pytest.param("a\ud83db", "a\ufffdb", id="lone-surrogate"),
        pytest.param("a\uffffb\U0001fffe", "a\ufffdb\ufffd", id="noncharacter"),
        pytest.param("", "", id="nothing"),
    ],
)
def test_printable_keeps_letters_and_disarms_the_rest(text: str, expected: str) -> None:
    assert printable(text) == expected


@given(ANY_TEXT)
def test_printable_is_one_encodable_line_and_stable(text: str) -> None:
    shown = printable(text)
    assert shown.encode().decode() == shown
    assert len(shown.splitlines()) <= 1
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in shown)
    assert printable(shown) == shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("audio 1.wav", "audio 1.wav", id="latin"),
        pytest.param("日本語", "日本語", id="cjk"),
        pytest.param("صوت 1.wav", "\u2068صوت 1.wav\u2069", id="arabic"),
        pytest.param("take 2 קול", "\u2068take 2 קול\u2069", id="hebrew-within-latin"),
        pytest.param("\U0001e900", "\u2068\U0001e900\u2069", id="adlam"),
    ],
)
def test_only_right_to_left_text_is_isolated(text: str, expected: str) -> None:
    assert isolate(text) == expected


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("", 0),
        ("audio.wav", 9),
        ("صوت", 3),
        ("\u2068صوت\u2069", 3),
        ("日本", 4),
        (ACUTE_E, 1),
        (FAMILY, 2),
        ("a\x07b", 2),
    ],
    ids=["nothing", "ascii", "arabic", "isolated", "cjk", "combining", "emoji", "control"],
)
def test_width_counts_columns(text: str, columns: int) -> None:
    assert width(text) == columns


@pytest.mark.parametrize(
    ("text", "columns", "expected"),
    [
        pytest.param("audio.wav", 9, "audio.wav", id="fits"),
        pytest.param("audio.wav", 8, "audio.w…", id="one-too-long"),
        pytest.param("two words", 5, "two…", id="no-space-before-the-ellipsis"),
        pytest.param("日本語", 5, "日本…", id="wide"),
        pytest.param("日本語", 4, "日…", id="half-a-wide-one-is-none"),
        pytest.param(ACUTE_E * 3, 2, f"{ACUTE_E}…", id="combining"),
        pytest.param(FAMILY * 3, 4, f"{FAMILY}…", id="emoji"),
        pytest.param("audio", 1, "…", id="one-column"),
        pytest.param("audio", 0, "", id="no-column"),
        pytest.param("audio", -3, "", id="less-than-none"),
    ],
)
def test_fit_cuts_between_clusters(text: str, columns: int, expected: str) -> None:
    assert fit(text, columns) == expected


@patient
@given(ANY_TEXT.map(printable), st.integers(0, 30))
def test_fit_is_never_wider_than_asked(text: str, columns: int) -> None:
    assert width(fit(text, columns)) <= columns


@pytest.mark.parametrize(
    ("text", "clusters", "expected"),
    [
        ("audio", 3, "aud"),
        ("audio", 9, "audio"),
        (ACUTE_E * 3, 2, ACUTE_E * 2),
        (FAMILY * 2, 1, FAMILY),
    ],
)
def test_clip_counts_clusters(text: str, clusters: int, expected: str) -> None:
    assert clip(text, clusters) == expected


@pytest.mark.parametrize(
    ("text", "limit_bytes", "expected"),
    [
        pytest.param("audio", 5, "audio", id="fits"),
        pytest.param("audio", 3, "aud", id="ascii"),
        pytest.param("صوت", 5, "صو", id="two-bytes-a-letter"),
        pytest.param(ACUTE_E * 2, 5, ACUTE_E, id="combining"),
        pytest.param(FAMILY * 2, 35, FAMILY, id="emoji"),
        pytest.param("a" + "\u0301" * 9, 6, "a\u0301\u0301", id="one-endless-cluster"),
        pytest.param("صوت", 1, "", id="no-room-for-one-letter"),
        pytest.param("audio", -1, "", id="no-room-ascii"),
        pytest.param("صوت", -1, "", id="no-room-arabic"),
    ],
)
def test_clip_bytes_counts_utf8(text: str, limit_bytes: int, expected: str) -> None:
    assert clip_bytes(text, limit_bytes) == expected


def test_plain_text_does_not_import_wcwidth() -> None:
    program = (
        "import sys; from fetcher.core import text;"
        "text.fit('audio.wav' * 9, 20), text.clip_bytes('a' * 999, 9), text.printable('صوت');"
        "sys.exit('wcwidth' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
