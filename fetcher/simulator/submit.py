"""Submissions: an upload becomes a pending job that ends by itself.

Owns the reading of the multipart body and the limits of the API's reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import BodyPartReader, web

if TYPE_CHECKING:
    from aiohttp import MultipartReader

LIMIT_BYTES = 200 * 1024 * 1024


class TooLargeError(Exception):
    """The upload is larger than the API takes."""


async def read_upload(request: web.BaseRequest) -> tuple[str, bytes] | None:
    """Return (file name, content) of the field `audio`, None where the request has none.

    Raises TooLargeError beyond 200 MB.
    """
    if not request.content_type.startswith("multipart/"):
        return None
    try:
        return await _find_audio(await request.multipart())
    except ValueError:  # a body that is no multipart after all
        return None


async def _find_audio(reader: MultipartReader) -> tuple[str, bytes] | None:
    while (part := await reader.next()) is not None:
        if isinstance(part, BodyPartReader) and part.name == "audio":
            return part.filename or "audio.wav", await _read(part)
    return None


async def _read(part: BodyPartReader) -> bytes:
    data = bytearray()
    while chunk := await part.read_chunk(256 * 1024):
        data += chunk
        if len(data) > LIMIT_BYTES:
            raise TooLargeError
    return bytes(data)
