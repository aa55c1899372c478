"""How a job looks to a client: its record in the list, as the API's reference has it.

Owns field names and their text; knows nothing of HTTP.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import TYPE_CHECKING

from fetcher.simulator.clock import iso
from fetcher.simulator.history import OMIT, RawRow, Row, SimJob

if TYPE_CHECKING:
    from fetcher.simulator.links import Links, Part
    from fetcher.simulator.serving import Serving

VIDEO = frozenset(("mp4", "mov", "mkv", "webm", "avi", "m4v"))
USER_ID = "6f9d1c52-7a3e-4b8f-9a1d-2c5e8b7f4a10"


def make_id(seed: int, number: int) -> str:
    """Return the UUID of the job that was added as number so-and-so."""
    data = hashlib.blake2b(f"{seed}:{number}".encode(), digest_size=16).digest()
    return str(uuid.UUID(bytes=data, version=4))


def audio_format(file_name: str) -> str:
    """Return the lower-cased extension of an upload's name; `wav` where it has none."""
    _, dot, extension = file_name.rpartition(".")
    plain = extension.isascii() and extension.isalnum() and len(extension) <= 5
    return extension.lower() if dot and plain else "wav"


def link(job: SimJob, part: Part, links: Links, serving: Serving) -> str:
    """Return a fresh link to a job's clean result or to its upload."""
    extension = serving.extension
    if part == "original":
        extension = "." + audio_format(job.file_name)
    elif extension is None:
        extension = ".wav"
    return links.url(job.id, part, extension, epoch=job.link_epoch if serving.signed else None)


def record(job: SimJob, links: Links, serving: Serving) -> dict[str, object]:
    """Return the record of a job, overrides applied."""
    kind = audio_format(job.file_name)
    fields: dict[str, object] = {
        "id": job.id,
        "user_id": USER_ID,
        "transaction_id": "tx_" + job.id[:8] if job.status == "success" else None,
        "audio_url": link(job, "audio", links, serving) if job.status == "success" else None,
        "original_audio_url": link(job, "original", links, serving),
        "file_name": job.file_name,
        "audio_duration": job.audio_duration_s,
        "audio_size": job.source.size_bytes,
        "audio_format": kind,
        "source_type": "video" if kind in VIDEO else "audio",
        "status": job.status,
        "error": job.error,
        "created_at": iso(job.created_at),
        "updated_at": iso(job.updated_at),
    }
    fields.update(job.overrides)
    return {name: value for name, value in fields.items() if value is not OMIT}


def row_bytes(row: Row, links: Links, serving: Serving) -> bytes:
    """Return one element of the list as JSON (or, for raw bytes, as whatever they are)."""
    if isinstance(row, RawRow):
        return row.value if isinstance(row.value, bytes) else to_json(row.value)
    return to_json(record(row, links, row.serving or serving))


def to_json(value: object) -> bytes:
    """Return JSON in UTF-8; escaped throughout where the text holds lone surrogates."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode("ascii")
