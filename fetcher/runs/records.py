"""Records as the API sent them, for `--write-record`: every field, links without signatures.

A record is kept as the JSON text that is written in the end, so that a million of
them pass through without being understood.
"""

from __future__ import annotations

import json
from typing import Any

from fetcher.configuration.values import show_time
from fetcher.core.wire import elements
from fetcher.errors import bare_url
from fetcher.models import Job, JobId, Status

_LINKS = ("audio_url", "original_audio_url")


def sent_in(body: bytes) -> dict[JobId, bytes]:
    """Return the record of each job of a page that could be read, as it is to be written.

    Of a job that stands twice, the record that is further along. What JSON cannot say (a
    number without end) or what is nested too deeply has none.
    """
    found: dict[JobId, dict[str, Any]] = {}
    for element in elements(body):
        job_id = element.get("id") if isinstance(element, dict) else None
        if isinstance(job_id, str):
            before = found.get(JobId(job_id))
            if before is None or before.get("status") != Status.SUCCESS:
                found[JobId(job_id)] = element
    texts: dict[JobId, bytes] = {}
    for job_id, record in found.items():
        try:
            texts[job_id] = encoded(_without_signatures(record))
        except (ValueError, RecursionError):
            continue
    return texts


def brought_up(text: bytes, job: Job) -> bytes:
    """Return the record of a finished job that was still pending when it was listed.

    Its event stream has told the rest: that it is done, and where the audio is.
    """
    record = json.loads(text)
    if record.get("status") == job.status:
        return text
    news = {"status": str(job.status), "audio_url": job.audio_url, "error": job.error}
    return encoded(_without_signatures(record | news))


def record_of(job: Job) -> dict[str, Any]:
    """Return what is known of a job under the API's names, where its record is not."""
    return {
        "id": job.id,
        "user_id": job.user_id,
        "transaction_id": job.transaction_id,
        "audio_url": _link(job.audio_url),
        "original_audio_url": _link(job.original_audio_url),
        "file_name": job.file_name,
        "audio_duration": job.audio_duration_s,
        "audio_size": job.audio_size_bytes,
        "audio_format": job.audio_format,
        "source_type": job.source_type,
        "status": str(job.status),
        "error": job.error,
        "created_at": show_time(job.created_at) or None,
        "updated_at": show_time(job.updated_at) or None,
    }


def is_record(text: bytes, job_id: JobId) -> bool:
    """Return whether that is JSON of this very job, written exactly as it is here.

    Raises ValueError, RecursionError for what is no JSON, or cannot be written.
    """
    record = json.loads(text)
    return isinstance(record, dict) and record.get("id") == job_id and encoded(record) == text


def may_succeed(fresh: bytes, older: bytes) -> bool:
    """Return whether one record may take the place of another: by the fields of both.

    Of those that a job has by name the older one lacks none that the fresh one has, and it has
    no others that the fresh one lacks: somebody else's notes on a job would, and they would be
    lost. Takes what `is_record` is true of.
    """
    has, had = set(json.loads(fresh)), set(json.loads(older))
    names = set(record_of(Job(JobId(""), Status.PENDING)))
    return has & names <= had <= has | names


def encoded(record: dict[str, Any]) -> bytes:
    """Return readable JSON in UTF-8; escaped throughout where that cannot hold the text.

    Raises ValueError, RecursionError.
    """
    text = json.dumps(record, ensure_ascii=False, indent=2, allow_nan=False)
    try:
        return f"{text}\n".encode()
    except UnicodeEncodeError:
        return f"{json.dumps(record, indent=2, allow_nan=False)}\n".encode()


def _without_signatures(record: dict[str, Any]) -> dict[str, Any]:
    links = {name: _unsigned(record[name]) for name in _LINKS if isinstance(record.get(name), str)}
    return record | links


def _unsigned(url: str) -> str:
    """Return the link without its query, and without a user and password if it has any."""
    text = url.partition("?")[0]
    return bare_url(text) if "@" in text else text


def _link(url: str | None) -> str | None:
    return None if url is None else bare_url(url)
