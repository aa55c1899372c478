"""Foreign text made safe to show and to measure: bars, tables, messages, names.

Owns which characters never reach a person or a name, and how wide and how long text is.
Text in, text out; must not know where it is shown. wcwidth (40 ms) is imported only when
text that is not ASCII is measured or cut.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import Final

# Fragments of regular-expression character classes, shared with `names`.
#
# Characters that are invisible and change or hide what stands around them: soft hyphen,
# marks, embeddings, overrides and isolates of UAX #9, zero-width space, word joiner,
# invisible operators, byte order mark, annotations, tags. ZWNJ and ZWJ are not among
# them: Persian and emoji are spelled with them.
INVISIBLE: Final = (
    "\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0001\U000e0020-\U000e007f"
)
# Whitespace that breaks a line or a table.
BREAKS: Final = "\t-\r\u0085\u2028\u2029"
# C0, DEL, C1, lone surrogates, and the noncharacters of every plane.
UNPRINTABLE: Final = "\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef" + "".join(
    chr(plane << 16 | 0xFFFE) + chr(plane << 16 | 0xFFFF) for plane in range(17)
)

# Compiled when they are first needed, which in most runs is never.
INVISIBLES: Final = f"[{INVISIBLE}]+"
LINE_BREAKS: Final = f"[{BREAKS}]+"
# Blocks with right-to-left letters: Hebrew to Arabic Extended-A, presentation forms, and
# the right-to-left parts of plane 1 (DerivedBidiClass.txt, R and AL).
_RIGHT_TO_LEFT: Final = (
    "[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]"
)
_FIRST_STRONG_ISOLATE: Final = "\u2068"
_POP_ISOLATE: Final = "\u2069"
_ELLIPSIS: Final = "…"


def printable(text: str) -> str:
    """Return `text` as one line that can do nothing to a terminal.

    Line breaks and tabs become one space, other control characters (so escape sequences
    too), lone surrogates and noncharacters U+FFFD; bidirectional controls and other
    invisible characters are removed. Letters of every script, emoji and the joiners that
    they need stay as they are. Doing it twice changes nothing more.
    """
    if text.isprintable():
        return text
    text = re.sub(LINE_BREAKS, " ", re.sub(INVISIBLES, "", text))
    return re.sub(f"[{UNPRINTABLE}]", "\ufffd", text)


def isolate(text: str) -> str:
    """Return `text` between FSI and PDI (UAX #9 §2.4) where it holds right-to-left letters.

    Numbers and columns beside it then stay in place. `text` is `printable` and already
    cut by `fit`; text without such letters is returned as it is.
    """
    if text.isascii() or re.search(_RIGHT_TO_LEFT, text) is None:
        return text
    return f"{_FIRST_STRONG_ISOLATE}{text}{_POP_ISOLATE}"


def width(text: str) -> int:
    """Return how many terminal columns `text` takes; what is not printable takes none."""
    if _is_plain(text):
        return len(text)
    import wcwidth  # noqa: PLC0415 - lazy: 40 ms that plain text need not pay

    return wcwidth.width(text, control_codes="ignore")


def fit(text: str, columns: int) -> str:
    """Return `text` cut to at most `columns` terminal columns, an ellipsis at the cut.

    Cuts between grapheme clusters (UAX #29). `columns` below 1 gives an empty string.
    """
    if width(text) <= columns:
        return text
    if columns < 1:
        return ""
    room = columns - 1  # the ellipsis takes one
    if _is_plain(text):
        return text[:room].rstrip() + _ELLIPSIS
    from wcwidth import iter_graphemes  # noqa: PLC0415 - lazy: 40 ms

    kept: list[str] = []
    for cluster in iter_graphemes(text):
        room -= width(cluster)
        if room < 0:
            break
        kept.append(cluster)
    return "".join(kept).rstrip() + _ELLIPSIS


def clip(text: str, clusters: int) -> str:
    """Return the first `clusters` grapheme clusters (UAX #29) of `text`."""
    if len(text) <= clusters:
        return text
    if text.isascii():
        return text[:clusters]
    from wcwidth import iter_graphemes  # noqa: PLC0415 - lazy: 40 ms

    return "".join(islice(iter_graphemes(text), clusters))


def clip_bytes(text: str, limit_bytes: int) -> str:
    """Return the beginning of `text` that takes at most `limit_bytes` bytes of UTF-8.

    Cuts between grapheme clusters (UAX #29), except where the very first one is longer
    than the limit (a letter under hundreds of combining marks): that one is cut between
    characters. `text` holds no lone surrogates.
    """
    encoded = text.encode()
    if len(encoded) <= limit_bytes:
        return text
    if text.isascii():
        return text[: max(limit_bytes, 0)]
    from wcwidth import iter_graphemes  # noqa: PLC0415 - lazy: 40 ms

    end_bytes = 0
    for cluster in iter_graphemes(text):
        cluster_bytes = len(cluster.encode())
        if end_bytes + cluster_bytes > limit_bytes:
            break
        end_bytes += cluster_bytes
    return encoded[: end_bytes or max(limit_bytes, 0)].decode(errors="ignore")


def _is_plain(text: str) -> bool:
    """Tell whether every character of `text` takes one column."""
    return text.isascii() and text.isprintable()
