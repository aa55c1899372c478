"""The output template's language: what may stand between braces, and what is refused.

Owns parsing and its messages; `layout` fills the components in. Everything that can be
wrong with a template is found here, before anything is asked of the API.
"""

from __future__ import annotations

import re
from typing import Final

from fetcher.core import names
from fetcher.core.text import printable
from fetcher.errors import UsageError
from fetcher.frozen import frozen

PLACEHOLDERS: Final = (
    *("file_name", "stem", "ext", "id", "short_id", "created", "updated"),
    *("source_type", "audio_format", "user_id"),
)
IDS: Final = frozenset(("id", "short_id"))
DATES: Final = frozenset(("created", "updated"))
DIRECTIVE: Final = re.compile(r"%(.?)", re.DOTALL)
"""One directive of a date's format; what stands between them is literal."""

# Beside ids, an extension and dates in one component, so that some text always fits.
_LITERAL_LIMIT_BYTES: Final = 100
# What strftime knows on every platform: C99 §7.27.3.5 without the locale's %c %x %X %r,
# and Python's %f.
_DIRECTIVES: Final = frozenset("aAbBdDeFgGhHIjmMpRSTuUVwWyYzZf%")
_PRECISION = re.compile(r"\.([1-9][0-9]{0,2})")
_TOKEN = re.compile(r"(\{\{|\}\})|\{([^{}]*)\}|([{}])|([^{}]+)")
_ABSOLUTE = re.compile(r"[/~]|[A-Za-z]:")


@frozen
class Field:
    """A placeholder. `spec`: a date's format; `clusters`: what a text is cut to."""

    name: str
    spec: str = ""
    clusters: int | None = None


Part = str | Field
Component = tuple[Part, ...]


def parse(template: str) -> tuple[Component, ...]:
    """Return the components that `template` spells, its literal text cleaned.

    A `/` parts components, also within a date's format. Raises `UsageError` that names
    the wrong part and the nearest right word; see `layout.Template.parse`.
    """
    _check_root(template)
    components = tuple(_merge(parts) for parts in _split(_tokens(template)))
    for parts in components:
        _check_component(template, parts)
    if not any(isinstance(part, Field) and part.name in IDS for c in components for part in c):
        raise _wrong(template, "cannot tell records apart: it needs {short_id} or {id}")
    return components


def _wrong(template: str, why: str) -> UsageError:
    return UsageError(printable(f"output template '{template}' {why}"))


def _check_root(template: str) -> None:
    if not template:
        raise _wrong(template, "is empty")
    if _ABSOLUTE.match(template):
        raise _wrong(template, "leads out of the destination: it must be a path below it")
    if "\\" in template:
        raise _wrong(template, "has a backslash: write / between folders, on Windows too")


def _tokens(template: str) -> list[Part]:
    """Return the literals and placeholders of a template, in order."""
    tokens: list[Part] = []
    for match in _TOKEN.finditer(template):
        doubled, inner, stray, literal = match.groups()
        if stray:
            why = f"has a {stray} without its partner at character {match.start() + 1}"
            raise _wrong(template, f"{why}: write {stray * 2} for the character itself")
        if inner is None:
            tokens.append(doubled[0] if doubled else literal)
        else:
            tokens += _fields(template, inner)
    return tokens


def _fields(template: str, inner: str) -> list[Part]:
    """Return what `{inner}` stands for: one field, or a date's fields with `/` between."""
    name, _, spec = inner.partition(":")
    if name not in PLACEHOLDERS:
        raise _wrong(template, f"has an unknown placeholder {{{inner}}}{_nearest(name)}")
    if name in DATES and spec:
        _check_date_format(template, inner, spec)
        parts: list[Part] = []
        for at, piece in enumerate(spec.split("/")):
            parts += ["/"] if at else []
            parts += [Field(name, spec=piece)] if piece else []
        return parts
    if not spec:
        return [Field(name)]
    precision = _PRECISION.fullmatch(spec)
    if name in IDS or name == "ext":
        raise _wrong(template, f"has a format in {{{inner}}}: {{{name}}} takes none")
    if precision is None:
        raise _wrong(template, f"has a wrong format in {{{inner}}}: only {{{name}:.40}} and such")
    return [Field(name, clusters=int(precision[1]))]


def _nearest(name: str) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - lazy: only a wrong template pays

    word = re.split(r"[.\[!]", name.strip())[0].lower()
    near = get_close_matches(word, PLACEHOLDERS, n=1)
    if near:
        return f": did you mean {{{near[0]}}}?"
    return ": there are " + " ".join(f"{{{known}}}" for known in PLACEHOLDERS)


def _check_date_format(template: str, inner: str, spec: str) -> None:
    directives = DIRECTIVE.findall(spec)
    if not directives:
        raise _wrong(template, f"has a wrong format in {{{inner}}}: a date takes %Y-%m-%d and such")
    for directive in directives:
        if directive not in _DIRECTIVES:
            raise _wrong(template, f"has an unknown date format %{directive} in {{{inner}}}")


def _split(tokens: list[Part]) -> list[list[Part]]:
    components: list[list[Part]] = [[]]
    for token in tokens:
        if isinstance(token, Field):
            components[-1].append(token)
            continue
        first, *others = token.split("/")
        components[-1].append(first)
        components += [[other] for other in others]
    return components


def _merge(parts: list[Part]) -> Component:
    """Return `parts` with neighbouring literals joined and cleaned, empty ones left out."""
    merged: list[Part] = []
    literal = ""
    for part in (*parts, None):
        if isinstance(part, str):
            literal += part
            continue
        if literal:
            merged.append(names.clean(literal))
            literal = ""
        if part is not None:
            merged.append(part)
    return tuple(merged)


def _check_component(template: str, parts: Component) -> None:
    """Refuse a component that is no name, fetcher's own folder, or too long to fill in."""
    literal = "".join(part for part in parts if isinstance(part, str))
    if len(literal.encode()) > _LITERAL_LIMIT_BYTES:
        why = f"has more than {_LITERAL_LIMIT_BYTES} bytes of fixed text in one name"
        raise _wrong(template, why)
    if any(isinstance(part, Field) for part in parts):
        return
    if literal in (".", ".."):
        raise _wrong(template, f"has '{literal}' as a folder: paths only go down")
    if not names.trim(literal).strip():
        raise _wrong(template, "has an empty name: a / at its end, or two in a row")
    if names.is_state_folder(literal):
        raise _wrong(template, f"leads into {names.STATE_FOLDER}, which is fetcher's own")
