"""The file host: links, ranges, validators, digests and redirects.

Owns what a request for a file is answered with; `sender` puts it on the wire. Rules of
ranges and If-Range are those of RFC 9110 §13.1.5 and §14.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.utils import formatdate
from typing import TYPE_CHECKING

from fetcher.simulator import links as link_shape
from fetcher.simulator.content import base64_text, digest, gzipped
from fetcher.simulator.sender import CHUNK_BYTES, Answer, Piece

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fetcher.simulator.content import Content
    from fetcher.simulator.faults import Fault
    from fetcher.simulator.history import SimJob
    from fetcher.simulator.links import Target
    from fetcher.simulator.serving import Serving

_ONE_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)
_REPR_NAMES = {"sha-256": "sha256", "sha-512": "sha512", "md5": "md5", "sha": "sha1"}


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes to answer with; `partial` is false for the whole, `valid` for a 416."""

    start: int
    stop: int
    partial: bool
    valid: bool = True


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the host and its second origin are reached."""

    host_url: str
    mirror_url: str


def judge_range(text: str | None, size_bytes: int) -> Span:
    """Return what a Range header asks for; the whole where it is none that we serve."""
    match = _ONE_RANGE.fullmatch(text.strip()) if text else None
    if match is None or match[0] == "bytes=-":
        return Span(0, size_bytes, partial=False)
    first, last = match[1], match[2]
    if first == "":
        start, stop = max(0, size_bytes - int(last)), size_bytes
    else:
        if last and int(last) < int(first):
            return Span(0, size_bytes, partial=False)
        start, stop = int(first), min(size_bytes, int(last) + 1) if last else size_bytes
    return Span(start, stop, partial=True, valid=start < stop)


def range_holds(if_range: str | None, headers: Mapping[str, str]) -> bool:
    """Say whether If-Range lets the Range count: only the same strong validator does."""
    if if_range is None:
        return True
    if if_range.startswith("W/"):
        return False
    if if_range.startswith('"'):
        return if_range == headers.get("ETag")
    return if_range == headers.get("Last-Modified")


def answer_file(
    job: SimJob, target: Target, serving: Serving, asked: Mapping[str, str], fault: Fault
) -> Answer:
    """Return the answer to a request for a job's audio whose link is in order."""
    content = job.result if target.part == "audio" else job.source
    if serving.gzip:
        content = gzipped(content)
    headers = _validators(job, target, content, serving)
    span = Span(0, content.size_bytes, partial=False)
    ranges = serving.ranges and not fault.ignore_range
    if ranges:
        headers["Accept-Ranges"] = "bytes"
        if range_holds(asked.get("if-range"), headers):
            span = judge_range(asked.get("range"), content.size_bytes)
    if not span.valid:
        headers["Content-Range"] = f"bytes */{content.size_bytes}"
        return Answer(416, headers)
    if serving.content_type is not None:
        headers["Content-Type"] = serving.content_type
    if serving.gzip:
        headers["Content-Encoding"] = "gzip"
    if span.partial:
        said = f"bytes {span.start}-{span.stop - 1}/{content.size_bytes}"
        headers["Content-Range"] = fault.content_range or said
    headers.update(_digests(content, span, serving, wrong=fault.digest == "wrong"))
    return Answer(
        206 if span.partial else 200,
        headers,
        _body(content, span),
        serving.length,
        serving.rate_bytes_s,
    )


def redirect(target: Target, serving: Serving, origin: Origin) -> Answer | None:
    """Return the next hop of a link that leads over redirects; None at its end."""
    loops = serving.redirect_to == "loop"
    if not serving.redirects or (target.hop >= len(serving.redirects) and not loops):
        return None
    status = serving.redirects[target.hop % len(serving.redirects)]
    hop = target.hop % 2 if loops else target.hop
    query = f"?{target.query}&hop={hop + 1}"
    match serving.redirect_to:
        case "relative":
            base = ""
        case "other":
            base = origin.mirror_url
        case _:
            base = origin.host_url
    return Answer(status, {"Location": base + target.path + query})


def error_page(status: int, code: str, message: str) -> Answer:
    """Return an error in XML, as object stores write it."""
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    )
    return Answer(status, {"Content-Type": "application/xml"}, text.encode())


def parse_target(target: str) -> Target | None:
    """Return what a request target asks for; None if it is no link of this host."""
    return link_shape.parse(target)


def _body(content: Content, span: Span) -> bytes | Piece:
    if span.stop - span.start <= CHUNK_BYTES:
        return content.read(span.start, span.stop)
    return Piece(content, span.start, span.stop)


def _validators(job: SimJob, target: Target, content: Content, serving: Serving) -> dict[str, str]:
    headers: dict[str, str] = {}
    tag = f'"{job.id[:8]}-{target.part[0]}{job.version:x}-{content.size_bytes:x}"'
    tag = tag.encode("ascii", "replace").decode()
    if serving.etag is not None:
        headers["ETag"] = tag if serving.etag == "strong" else "W/" + tag
    if serving.last_modified:
        headers["Last-Modified"] = formatdate(int(job.updated_at) + job.version, usegmt=True)
    return headers


def _digests(content: Content, span: Span, serving: Serving, *, wrong: bool) -> dict[str, str]:
    kinds = serving.digests or (("repr-digest",) if wrong else ())
    wrong = wrong or serving.digest_wrong
    headers: dict[str, str] = {}
    for kind in kinds:
        name, _, algorithm = kind.partition("=")
        headers.update(_digest(name, algorithm, content, span, wrong=wrong))
    return headers


def _digest(
    name: str, algorithm: str, content: Content, span: Span, *, wrong: bool
) -> dict[str, str]:
    """Return one digest header; Content-MD5 only with a whole body, as RFC 1864 means it."""

    def text(of: str, start: int, stop: int) -> str:
        value = digest(content, of, start, stop)
        return base64_text(bytes(b ^ 0xFF for b in value) if wrong else value)

    size = content.size_bytes
    match name:
        case "content-md5":
            return {} if span.partial else {"Content-MD5": text("md5", 0, size)}
        case "repr-digest" | "content-digest":
            label = algorithm or "sha-256"
            start, stop = (0, size) if name == "repr-digest" else (span.start, span.stop)
            header = "Repr-Digest" if name == "repr-digest" else "Content-Digest"
            return {header: f"{label}=:{text(_REPR_NAMES[label], start, stop)}:"}
        case "x-goog-hash":
            labels = (algorithm,) if algorithm else ("crc32c", "md5")
            value = ",".join(f"{label}={text(label, 0, size)}" for label in labels)
            return {"x-goog-hash": value}
        case _:
            raise ValueError(f"unknown digest {name!r}")
