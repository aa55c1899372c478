"""What the API sends, read into jobs: one page of the history at a time.

Owns leniency: a record stands or falls alone, a wrong field costs that field and is
reported, and only a body that is no page at all is an error. Pure: bytes in, values out.
A clean page takes the fast path, one pass of pydantic over the whole; anything else is
read again record by record, by the same definition of a record.
"""

import hashlib
import json
import math
import re
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any

from pydantic_core import CoreSchema, SchemaValidator, ValidationError, core_schema

from fetcher.errors import ContentError
from fetcher.frozen import frozen
from fetcher.models import Job, JobId, Status

_LONGEST_ID = 200
_DEEPEST = 64  # levels of nesting that are read; no field of the API needs more than three
_LONGEST_INT = 300  # digits; Python refuses more than 4,300, and no field needs 20
_MOST_SECONDS = 10 * 365 * 86_400.0
_MOST_BYTES = 2**63 - 1  # what SQLite holds
_BOM = b"\xef\xbb\xbf"

_HTTP_URL = re.compile(r"https?://[^/?#\s\x00-\x1f\x7f]+([/?#][^\x00-\x1f\x7f]*)?", re.IGNORECASE)
_SURROGATE = re.compile("[\ud800-\udfff]")
_STRUCTURE = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)
_STATUSES = {str(status): status for status in Status}


@frozen
class InvalidRecord:
    """A record that could not be understood, wholly or in part; `reason` names the fields.

    `id` is None where the record had none that can be used. `mark` is what a record that was
    left out has in common with its equals only, empty where its job is in the page; `index` is
    its place in the page, and `behind` says the same from the readable record before it, where
    there is one.
    """

    reason: str
    id: str | None = None
    file_name: str | None = None
    mark: str = ""
    index: int = 0
    behind: str = ""


@frozen
class Page:
    """One page of the history, newest first.

    `count` is the number of elements the server sent, malformed and repeated ones
    included: what the offset of the next page grows by. `body` is the page as it came, for
    whoever needs more of a record than its job; `offset` is where it was asked for.
    """

    jobs: list[Job] = field(default_factory=list)
    invalid: list[InvalidRecord] = field(default_factory=list)
    count: int = 0
    body: bytes = field(default=b"", repr=False, compare=False)
    offset: int = 0


@dataclass(slots=True)
class _Record:
    """One record as the API documents it; unknown fields are ignored."""

    id: str  # see _ID
    status: str
    file_name: str | None = None
    audio_url: str | None = None
    original_audio_url: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    source_type: str | None = None
    audio_format: str | None = None
    audio_duration: float | None = None
    audio_size: float | None = None
    user_id: str | None = None
    transaction_id: str | None = None
    error: str | None = None


def _or_none(schema: CoreSchema) -> CoreSchema:
    return core_schema.with_default_schema(core_schema.nullable_schema(schema), default=None)


_NAMES = tuple(item.name for item in fields(_Record))
_OF_TYPE: dict[object, CoreSchema] = {
    str: core_schema.str_schema(),
    str | None: _or_none(core_schema.str_schema()),
    float | None: _or_none(core_schema.float_schema()),
    datetime | None: _or_none(core_schema.datetime_schema()),
}
_ID = core_schema.str_schema(
    min_length=1, max_length=_LONGEST_ID, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$"
)
# Said to pydantic's core directly: `pydantic.TypeAdapter` would read it off the class, with
# 60 ms of CPU for imports and analysis at every start, a third of a run with nothing new.
_RECORD = core_schema.dataclass_schema(
    _Record,
    core_schema.dataclass_args_schema(
        "_Record",
        [
            core_schema.dataclass_field(
                item.name, _ID if item.name == "id" else _OF_TYPE[item.type]
            )
            for item in fields(_Record)
        ],
    ),
    list(_NAMES),
    slots=True,
)
_RECORDS = core_schema.list_schema(_RECORD)
_PAGE = SchemaValidator(_RECORDS)
# The other shape of a page: other endpoints of the service wrap their result so.
_ENVELOPE = SchemaValidator(
    core_schema.typed_dict_schema({"data": core_schema.typed_dict_field(_RECORDS)})
)
_ONE = SchemaValidator(_RECORD)


def parse_page(body: bytes) -> Page:
    """Return the jobs of a page, whatever single records hold.

    Accepts a JSON array, bare or under `data`. Raises ContentError, with a reason that may
    be printed, where the body is anything else: HTML, half a document, an object, nothing.
    A clean page of 1,000 costs about 7 us a record, any other about 23 us.
    """
    body = body.removeprefix(_BOM)
    try:
        if body.lstrip()[:1] == b"{":
            records = _ENVELOPE.validate_json(body, strict=True)["data"]
        else:
            records = _PAGE.validate_json(body, strict=True)
    except ValidationError:
        return _read_one_by_one(elements(body), body)
    page = Page(count=len(records), body=body)
    for record in records:
        _add(page, record, [])
    return page


def usable_url(text: str | None) -> str | None:
    """Return `text` where it is an absolute http or https URL, else None."""
    return text if text and _HTTP_URL.fullmatch(text) else None


# ---- one record --------------------------------------------------------------------------


def _add(page: Page, record: _Record, problems: list[str]) -> None:
    """Put the record's job into the page, and a report where there are problems."""
    status = _STATUSES.get(record.status)
    url = usable_url(record.audio_url)
    if status is None:
        problems = [*problems, f"status is {_short(record.status)}, kept as pending"]
        status = Status.PENDING
    elif status is Status.SUCCESS and url is None:
        problems = [*problems, "success without a usable audio_url, kept as pending"]
        status = Status.PENDING
    page.jobs.append(
        Job(
            JobId(record.id),
            status,
            record.file_name or "",
            url,
            usable_url(record.original_audio_url),
            _utc(record.created_at),
            _utc(record.updated_at),
            record.source_type or "",
            record.audio_format or "",
            _within(record.audio_duration, _MOST_SECONDS),
            _whole(record.audio_size),
            record.user_id or "",
            record.transaction_id,
            record.error,
        )
    )
    if problems:
        page.invalid.append(InvalidRecord("; ".join(problems), record.id, record.file_name))


def _utc(at: datetime | None) -> datetime | None:
    """Return an aware UTC time; one that came without a zone is UTC already."""
    if at is None:
        return None
    if at.tzinfo is None:
        return at.replace(tzinfo=UTC)
    try:
        return at.astimezone(UTC)
    except OverflowError:  # the first or last day that a datetime can say
        return None


def _within(number: float | None, most: float) -> float | None:
    """Return `number` where it is one from 0 to `most`."""
    return number if number is not None and 0 <= number <= most else None


def _whole(number: float | None) -> int | None:
    """Return a count of bytes, None where it is not one."""
    known = _within(number, _MOST_BYTES)
    return None if known is None else min(int(known), _MOST_BYTES)


def _short(value: object) -> str:
    """Return what a foreign value is, for a message: plain ASCII, bounded."""
    match value:
        case str():
            return ascii(value[:40])
        case None:
            return "missing"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case _:
            return "a list or an object"


# ---- the slow path -----------------------------------------------------------------------


def elements(body: bytes) -> list[Any]:
    """Return the elements of a page as they came. Raises ContentError."""
    value = _decode(body)
    if isinstance(value, dict):
        value = value.get("data")
        if not isinstance(value, list):
            raise ContentError("the answer is a JSON object without a list of records")
    if not isinstance(value, list):
        raise ContentError(f"the answer is JSON, but no list of records: it is {_short(value)}")
    return value


def _decode(body: bytes) -> Any:
    """Return the body's JSON value, broken UTF-8 and deep nesting notwithstanding."""
    text = body.decode("utf-8", "replace")
    if not text.strip():
        raise ContentError("the answer is empty")
    try:
        try:
            return json.loads(text, parse_int=_parse_int)
        except RecursionError:
            return json.loads(_pruned(text), parse_int=_parse_int)
    except ValueError:
        kind = "a web page" if text.lstrip().startswith("<") else "broken or unfinished JSON"
        raise ContentError(f"the answer is {kind}, not a list of records") from None


def _parse_int(digits: str) -> float:
    """Return the number; infinity for one too long to be meant."""
    return int(digits) if len(digits) <= _LONGEST_INT else math.inf


def _pruned(text: str) -> str:
    """Return the JSON text with `null` for whatever is nested too deeply to be read."""
    kept: list[str] = []
    start = depth = 0
    for token in _STRUCTURE.finditer(text):
        if token[0] in "[{":
            depth += 1
            if depth == _DEEPEST + 1:
                kept.append(text[start : token.start()])
        elif token[0] in "]}":
            if depth == _DEEPEST + 1:
                kept.append("null")
                start = token.end()
            depth -= 1
    kept.append(text[start:] if depth <= _DEEPEST else "")
    return "".join(kept)


def _read_one_by_one(found: list[Any], body: bytes) -> Page:
    """Return the page of elements of which at least one is not as documented."""
    page = Page(count=len(found), body=body)
    readable_at = -1
    for index, element in enumerate(found):
        bad = _read(page, element)
        if bad is None:
            readable_at = index
        else:
            since = index - readable_at
            behind = f"{since} {page.jobs[-1].id}" if page.jobs else ""
            page.invalid.append(replace(bad, mark=_mark(element), index=index, behind=behind))
    return page


def _read(page: Page, element: object) -> InvalidRecord | None:
    """Put the element's job into the page; return the report where it has none."""
    if not isinstance(element, dict):
        return InvalidRecord(f"a record is {_short(element)}")
    raw = {name: _plain(element[name]) for name in _NAMES if name in element}
    if raw.get("id") != element.get("id"):
        raw["id"] = None  # without its surrogates it would be the id of other records as well
    record, wrong = _understand(raw)
    problems = [f"{name} is {_short(element.get(name))}" for name in wrong]
    if record is None:
        job_id = None if "id" in wrong else _text(raw.get("id"))
        return InvalidRecord("; ".join(problems), job_id, _text(raw.get("file_name")))
    _add(page, record, problems)
    return None


def _mark(element: object) -> str:
    """Return what an element has in common with those that are equal to it."""
    try:
        text = json.dumps(element, sort_keys=True)
    except RecursionError:
        text = _short(element)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _text(value: object) -> str | None:
    """Return the value where it is text."""
    return value if isinstance(value, str) else None


def _plain(value: object) -> object:
    """Return the value without what no file, database or terminal can hold."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    return value if isinstance(value, int | float | None) else []


def _understand(raw: dict[str, object]) -> tuple[_Record | None, list[str]]:
    """Return the record without its wrong fields, and their names.

    The record is None where `id` or `status` is among them.
    """
    try:
        return _ONE.validate_json(json.dumps(raw), strict=True), []
    except ValidationError as error:
        found = {str(item["loc"][0]) for item in error.errors(include_url=False)}
    wrong = [name for name in _NAMES if name in found]
    if "id" in wrong or "status" in wrong:
        return None, wrong
    kept = {name: value for name, value in raw.items() if name not in found}
    return _ONE.validate_json(json.dumps(kept), strict=True), wrong
