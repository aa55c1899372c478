"""Where a job's file goes: a template and a record make one relative path.

Owns how a template is filled in and bounded in bytes. Pure: it does not know what is on
disk or in the manifest; whoever finds a path taken asks for the one with the whole id.
What one name may hold is the business of `names`, what a template may say that of
`template`, and which extension came that of `extensions`, whose functions are offered here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fetcher.core import names
from fetcher.core.extensions import (
    AUDIO_EXTENSIONS,
    FALLBACK_EXTENSION,
    KNOWN_EXTENSIONS,
    VIDEO_EXTENSIONS,
    choose_extension,
    extension_of_bytes,
    extension_of_type,
    extension_of_url,
)
from fetcher.core.names import path_key
from fetcher.core.template import DATES, DIRECTIVE, IDS, PLACEHOLDERS, Component, Field, parse
from fetcher.core.text import clip, clip_bytes
from fetcher.frozen import frozen
from fetcher.models import Variant

if TYPE_CHECKING:
    from datetime import datetime

    from fetcher.models import Job

__all__ = [
    "AUDIO_EXTENSIONS",
    "DEFAULT_TEMPLATE",
    "FALLBACK_EXTENSION",
    "FILE_LIMIT_BYTES",
    "KNOWN_EXTENSIONS",
    "PLACEHOLDERS",
    "VIDEO_EXTENSIONS",
    "Template",
    "choose_extension",
    "companion",
    "extension_of_bytes",
    "extension_of_type",
    "extension_of_url",
    "path_key",
]

DEFAULT_TEMPLATE: Final = "{stem}/{stem}.{short_id}{ext}"
FILE_LIMIT_BYTES: Final = 240
"""What the last component may take: `.original` and `.json` still fit behind it."""

# What may be cut: text of any length. Ids, extensions and dates are short and stay whole.
_FIXED: Final = IDS | DATES | {"ext"}
_UNDATED: Final = "undated"
_UNKNOWN: Final = "unknown"
# ISO 8601 but for the colons, which Windows refuses.
_DATE_FORMAT: Final = "%Y-%m-%dT%H-%M-%SZ"
_ORIGINAL_MARK: Final = ".original"


@frozen
class Template:
    """A checked output template; `text` is what the user wrote."""

    text: str
    components: tuple[Component, ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Return the template that `text` spells.

        Raises `UsageError`, which names the wrong part and the nearest right word: for an
        unbalanced brace, an unknown placeholder, a format that the placeholder does not
        take, neither `{id}` nor `{short_id}` (two records would share a path), and a path
        that leads out of DIR, into `.fetcher`, or has an empty name in it.
        """
        return cls(text, parse(text))

    def render(
        self,
        job: Job,
        ext: str,
        *,
        variant: Variant = Variant.DENOISED,
        whole_id: bool = False,
    ) -> str:
        """Return the path of the job's file relative to DIR, with `/` between components.

        `ext` has its dot, or is empty. With `whole_id` the whole id stands in place of
        `{short_id}`, with a digest behind one that is no longer. ORIGINAL stands beside the
        denoised file, `.original` before the extension. The same arguments give the same path
        always; every component is valid on Linux, macOS and Windows, in NFC and at most 255
        bytes of UTF-8, the last one 240 (249 with `.original`). One that is too long loses
        text, never an id or `ext`.
        """
        values = _Values(job, ext, whole_id=whole_id)
        *folders, file = self.components
        path = [_compose(parts, values, names.LIMIT_BYTES) for parts in folders]
        name = _compose(file, values, FILE_LIMIT_BYTES)
        path.append(_mark_original(name, ext) if variant is Variant.ORIGINAL else name)
        return "/".join(path)


def companion(path: str, suffix: str) -> str:
    """Return the path of what belongs to the file at `path`: `.json` for its record.

    The suffix, dot included and at most 6 bytes, goes behind the whole name, so that
    `a.mp3` and `a.wav` have companions of their own.
    """
    return path + suffix


class _Values:
    """What each placeholder stands for in one path, worked out once."""

    __slots__ = ("_ext", "_job", "_seen", "_whole_id")

    def __init__(self, job: Job, ext: str, *, whole_id: bool) -> None:
        self._job = job
        self._ext = ext
        self._whole_id = whole_id
        self._seen: dict[Field, str] = {}

    def __getitem__(self, field: Field) -> str:
        value = self._seen.get(field)
        if value is None:
            value = self._fixed(field) if field.name in _FIXED else self._text(field)
            self._seen[field] = value
        return value

    def _fixed(self, field: Field) -> str:
        match field.name:
            case "id":
                return names.whole_id(self._job.id)
            case "short_id":
                form = names.longer_id if self._whole_id else names.short_id
                return form(self._job.id)
            case "ext":
                return names.clean(self._ext)
            case "created":
                return _date(self._job.created_at, field.spec)
            case _:
                return _date(self._job.updated_at, field.spec)

    def _text(self, field: Field) -> str:
        job = self._job
        match field.name:
            case "stem":
                value = names.stem(job.file_name, job.audio_format)
            case "file_name":
                value = names.trim(names.scrub(job.file_name)) or names.UNTITLED
            case name:
                value = names.scrub(getattr(job, name)) or _UNKNOWN
        return value if field.clusters is None else names.trim(clip(value, field.clusters))


def _date(at: datetime | None, spec: str) -> str:
    """Return the date as `spec` says; directives go to strftime alone, one by one."""
    if at is None:
        return _UNDATED
    return names.clean(DIRECTIVE.sub(lambda match: at.strftime(match[0]), spec or _DATE_FORMAT))


def _compose(parts: Component, values: _Values, limit_bytes: int) -> str:
    """Return the component that `parts` spell, at most `limit_bytes` long."""
    pieces = [part if isinstance(part, str) else values[part] for part in parts]
    name = _join(parts, pieces)
    if _excess(name, limit_bytes) <= 0:
        return name
    return _shorten(parts, pieces, limit_bytes)


def _join(parts: Component, pieces: list[str]) -> str:
    is_hidden = isinstance(parts[0], str) and parts[0].startswith(".")
    return names.component("".join(pieces), hidden=is_hidden)


def _excess(name: str, limit_bytes: int) -> int:
    return (len(name) if name.isascii() else len(name.encode())) - limit_bytes


def _shorten(parts: Component, pieces: list[str], limit_bytes: int) -> str:
    """Return the component with its text cut until it fits.

    Joining can change a length (normalisation, a `_` in front), so what is spare is tried.
    Where ids alone are too long (three of 200 characters), the cut name ends in a digest.
    """
    texts = [at for at, part in enumerate(parts) if isinstance(part, Field) and _is_text(part)]
    sizes = [len(pieces[at].encode()) for at in texts]
    fixed_bytes = len("".join(pieces).encode()) - sum(sizes)
    spare_bytes = limit_bytes - fixed_bytes
    while spare_bytes >= 0:
        cut = list(pieces)
        for at, share_bytes in zip(texts, _shares(sizes, spare_bytes), strict=True):
            cut[at] = _cut(parts[at], pieces[at], share_bytes)
        name = _join(parts, cut)
        excess = _excess(name, limit_bytes)
        if excess <= 0:
            return name
        spare_bytes -= excess
    name = "".join(pieces)
    mark = names.digest(name)
    return names.component(clip_bytes(name, limit_bytes - len(mark) - 1) + mark)


def _is_text(part: Field) -> bool:
    return part.name not in _FIXED


def _shares(sizes: list[int], spare_bytes: int) -> list[int]:
    """Return how much of each text may stay: short ones whole, long ones alike."""
    shares = [0] * len(sizes)
    for taken, at in enumerate(sorted(range(len(sizes)), key=sizes.__getitem__)):
        shares[at] = min(sizes[at], spare_bytes // (len(sizes) - taken))
        spare_bytes -= shares[at]
    return shares


def _cut(part: str | Field, text: str, share_bytes: int) -> str:
    """Return `text` cut to `share_bytes`; a file name keeps its extension."""
    if isinstance(part, Field) and part.name == "file_name":
        text, extension = names.split_extension(text)
        kept = clip_bytes(text, share_bytes - len(extension))
        return names.trim(kept) + extension if kept else ""
    kept = names.trim(clip_bytes(text, share_bytes))
    return kept if names.bared(kept) else clip_bytes(names.bared(text), share_bytes)


def _mark_original(name: str, ext: str) -> str:
    """Return `name` with `.original` before its extension, at its end where it has none."""
    if not (ext and name.endswith(ext)):
        suffix = "." + name.rpartition(".")[2]
        ext = suffix if suffix.lower() in KNOWN_EXTENSIONS and "." in name else ""
    return name[: len(name) - len(ext)] + _ORIGINAL_MARK + ext
