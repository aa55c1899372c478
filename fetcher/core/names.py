"""One component of a path out of foreign text: valid on Linux, macOS and Windows, readable.

Owns which characters and names a file or folder may have, the stem of a `file_name`, and
the form of an id in a name. Knows nothing of templates, folders or what is on disk.
Every rule depends on the text alone, so that the same record gives the same name always.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Final
from unicodedata import category, normalize

from fetcher.core.extensions import KNOWN_EXTENSIONS
from fetcher.core.text import INVISIBLE, INVISIBLES, LINE_BREAKS, UNPRINTABLE, clip_bytes

LIMIT_BYTES: Final = 255
"""What a component may take in UTF-8: ext4, XFS and APFS; NTFS counts fewer units."""
STATE_FOLDER: Final = ".fetcher"
UNTITLED: Final = "untitled"
SHORT_ID_CHARACTERS: Final = 8

_ID_LIMIT_BYTES: Final = 200
_CHANGED_ID_LIMIT_BYTES: Final = 60
_DIGEST_CHARACTERS: Final = 16

# What Windows refuses in a name (learn.microsoft.com, "Naming Files, Paths, and
# Namespaces"), both separators.
_FORBIDDEN = re.compile(r'[<>:"/\\|?*]')
# Device names of Windows, with any extension and in any case; the superscript digits count
# as digits (same page). CLOCK$, CONIN$ and CONOUT$ are of older releases.
_RESERVED = re.compile(
    r"(?:con|prn|aux|nul|clock\$|conin\$|conout\$|(?:com|lpt)[0-9¹²³]) *(?:\.|$)", re.IGNORECASE
)
# What NTFS may call `.fetcher` beside its name (8.3 names), as git~1 is to .git.
_SHORT_STATE_FOLDER = re.compile(r"fetche~[0-9]+", re.IGNORECASE)
# A suffix that is an extension and not a part of the name: "1.5" and "v. Smith" are none.
_EXTENSION = re.compile(r"\.(?=[0-9]*[A-Za-z])[A-Za-z0-9]{1,8}")
_MEDIA = frozenset(KNOWN_EXTENSIONS)
# HFS+ ignores joiners too when it compares names (TN1150).
_JOINERS: Final = "\u200c\u200d"
_IGNORED: Final = f"[{INVISIBLE}{_JOINERS}]+"
# Dots and every kind of space: Windows drops the ASCII ones at the end of a name.
_TRAILING: Final = (
    ". \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u202f\u205f\u3000"
)
# Far more than fits into a name. NFC takes the square of a run of marks: 1.8 s for 60,000.
_LONGEST_END = 8192
_CLEAN_ID = re.compile(rf"[a-z0-9][a-z0-9_-]{{0,{_ID_LIMIT_BYTES - 1}}}")
_CLEAN_HEAD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def clean(text: str) -> str:
    """Return `text` in NFC without a character that some platform refuses or hides.

    Separators, characters that Windows reserves, control characters, lone surrogates and
    noncharacters become `_`, line breaks and tabs a space; bidirectional controls and
    other invisible characters are removed.
    """
    if not text.isprintable():
        text = re.sub(LINE_BREAKS, " ", re.sub(INVISIBLES, "", text))
        text = re.sub(f"[{UNPRINTABLE}]", "_", text)
    text = _FORBIDDEN.sub("_", text)
    return text if text.isascii() else normalize("NFC", text)


def scrub(text: str) -> str:
    """Return foreign `text`, cleaned and without whitespace at its ends, as part of a name.

    A combining mark at the start gets a `_` to stand on, so that it cannot change the
    letter of an id that it is put behind. Of endless text both ends are looked at.
    """
    if len(text) > 2 * _LONGEST_END:
        text = text[:_LONGEST_END] + text[-_LONGEST_END:]
    text = clean(text).strip()
    if text.isascii():
        return text
    return f"_{text}" if category(text[0]).startswith("M") else text


def trim(text: str) -> str:
    """Return cleaned `text` without its trailing dots and spaces; empty if only joiners stay."""
    text = text.rstrip(_TRAILING)
    return text if text.isascii() or not re.fullmatch(_IGNORED, text) else ""


def bared(text: str) -> str:
    """Return cleaned `text` without the dots, spaces and joiners in front of it."""
    return text.lstrip(_TRAILING + _JOINERS)


def component(text: str, *, hidden: bool = False) -> str:
    """Return cleaned `text` as a valid name for a file or folder, of any length.

    Leading dots become one `_` (with `hidden`, they are the user's own and stay), and so
    does a leading `-` or `~`, which shells and commands read as something else. Device
    names of Windows and whatever a file system may take for `.fetcher` get a `_` in
    front. Where nothing is left, the name is `untitled`.
    """
    name = trim(text).lstrip()
    if not name:
        return UNTITLED
    if not name.isascii():
        name = normalize("NFC", name)
    if name[0] == "." and not hidden:
        bare = name.lstrip(".")
        name = f"_.{bare}" if f".{bare}" in _MEDIA else f"_{bare}"
    elif name[0] in "-~":
        name = "_" + name[1:]
    if is_device(name) or is_state_folder(name):
        name = "_" + name.lstrip(".")
    return name


def is_device(name: str) -> bool:
    """Tell whether Windows would take the component `name` for a device."""
    return _RESERVED.match(name) is not None


def is_state_folder(name: str) -> bool:
    """Tell whether some file system would take the component `name` for `.fetcher`."""
    if name[:1] not in ".fF" and name.isascii():
        return False
    return path_key(trim(name)) == STATE_FOLDER or bool(_SHORT_STATE_FOLDER.fullmatch(name))


def path_key(path: str) -> str:
    """Return a text that is equal for paths which some file system takes for the same.

    Canonical caseless matching (Unicode §3.13, D145) without the characters that HFS+
    ignores: it covers file systems that fold case or normalise (APFS, HFS+, NTFS). The
    key of a key is itself.
    """
    if path.isascii():
        return path.lower()
    return normalize("NFD", normalize("NFD", re.sub(_IGNORED, "", path)).casefold())


def stem(file_name: str, audio_format: str = "") -> str:
    """Return `file_name` without its extension, fit for names; `untitled` if none is left."""
    return split_extension(trim(scrub(file_name)), audio_format)[0] or UNTITLED


def split_extension(name: str, audio_format: str = "") -> tuple[str, str]:
    """Return the trimmed stem of a scrubbed `name` and its extension with the dot, or none.

    The extension is what follows the last dot if that is `audio_format`, or 1 to 8 ASCII
    letters and digits with at least one letter: `Mr. Smith 1.5` has none. Neither has
    `.notes`, but `.wav` is nothing else.
    """
    at = name.rfind(".")
    if at < 0:
        return name, ""
    suffix = name[at:]
    is_format = suffix[1:].lower() == audio_format.lower() != "" or suffix.lower() in _MEDIA
    if is_format or (at > 0 and _EXTENSION.fullmatch(suffix)):
        return trim(name[:at]), suffix
    return name, ""


def whole_id(job_id: str) -> str:
    """Return `job_id` as it stands in names: different for different ids, case aside.

    UUIDs, and ids of `a-z`, digits, `-` and `_` up to 200 characters, stay as they are. Any
    other id is scrubbed, cut, and ends in `~` and 16 digits of its SHA-256: one in capitals
    too, since file systems that fold case take two that differ in it alone for one name.
    """
    return job_id if _CLEAN_ID.fullmatch(job_id) else _changed(job_id, job_id)


def longer_id(job_id: str) -> str:
    """Return `job_id` in full, for where its short form stands in another one's name.

    A digest follows where it is no longer than that form.
    """
    whole = whole_id(job_id)
    return whole if len(whole) > SHORT_ID_CHARACTERS else _changed(job_id, job_id)


def short_id(job_id: str) -> str:
    """Return the first 8 characters of `job_id`, fit for names. Ids may share it."""
    head = job_id[:SHORT_ID_CHARACTERS]
    return head if _CLEAN_HEAD.fullmatch(head) else _changed(head, job_id)


def digest(text: str) -> str:
    """Return `~` and 16 hexadecimal digits that stand for `text` in a name."""
    # surrogatepass: a lone surrogate is one more thing that tells two texts apart.
    return "~" + sha256(text.encode(errors="surrogatepass")).hexdigest()[:_DIGEST_CHARACTERS]


def _changed(shown: str, job_id: str) -> str:
    return clip_bytes(scrub(shown), _CHANGED_ID_LIMIT_BYTES) + digest(job_id)
