"""The history for a benchmark: records made on demand, served by a process of its own.

`python -m benchmark.listing SPEC` (JSON, see `Spec`) prints the port it listens on. It answers
`GET /api/v1/denoise?offset&limit` as the API's reference says and nothing else; record k is
the k-th oldest, its audio is `BASE_URL/00000k.wav`. A bare protocol, since the server's CPU is
taken from the two cores that are measured.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

_SCATTER = 0x9E3779B1  # odd, so that k -> first 8 hex digits is one to one: short ids differ
_FIRST_AT = datetime(2024, 1, 1, tzinfo=UTC)
_REFUSED = b'{"statusCode":404,"message":"Not found"}'


@dataclass(frozen=True, slots=True)
class Spec:
    """An account: `records` finished jobs, each `size_bytes`, but for those `pending`."""

    records: int
    size_bytes: int
    base_url: str
    pending: tuple[int, ...] = ()

    def text(self) -> str:
        """Return the specification as the process takes it."""
        return json.dumps(asdict(self))

    @staticmethod
    def read(text: str) -> Spec:
        """Return what `text` wrote."""
        fields = json.loads(text)
        return Spec(**{**fields, "pending": tuple(fields["pending"])})


def file_name(number: int) -> str:
    """Return the name of the audio of record `number`."""
    return f"{number:06d}.wav"


def record(spec: Spec, number: int) -> bytes:
    """Return the JSON of one record."""
    short = f"{number * _SCATTER & 0xFFFF_FFFF:08x}"
    job_id = f"{short}-be7c-4000-8000-{number:012x}"
    at = (_FIRST_AT + timedelta(seconds=number)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    url = f"{spec.base_url}/{file_name(number)}"
    pending = number in spec.pending
    return (
        f'{{"id":"{job_id}","user_id":"6f9d1c52-7a3e-4b8f-9a1d-2c5e8b7f4a10",'
        f'"transaction_id":"tx_{short}","audio_url":{"null" if pending else quoted(url)},'
        f'"original_audio_url":"{url}?original","file_name":"audio.wav",'
        f'"audio_duration":{spec.size_bytes / 192_000:.3f},"audio_size":{spec.size_bytes},'
        f'"audio_format":"wav","source_type":"audio",'
        f'"status":"{"pending" if pending else "success"}","error":null,'
        f'"created_at":"{at}","updated_at":"{at}"}}'
    ).encode()


def quoted(url: str) -> str:
    """Return a URL without special characters as a JSON string."""
    return f'"{url}"'


def page(spec: Spec, target: str) -> bytes | None:
    """Return the JSON of the page that `target` asks for, newest first; None for a 404."""
    parts = urlsplit(target)
    if parts.path != "/api/v1/denoise":
        return None
    query = parse_qs(parts.query)
    offset = int(query.get("offset", ["0"])[0])
    limit = int(query.get("limit", [str(spec.records)])[0])
    newest = spec.records - 1 - offset
    numbers = range(newest, max(-1, newest - limit), -1)
    return b"[" + b",".join([record(spec, number) for number in numbers]) + b"]"


class Connection(asyncio.Protocol):
    """One kept-alive connection; requests without a body, answered in order."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._seen = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every request whose head is complete."""
        self._seen += data
        while b"\r\n\r\n" in self._seen and self._transport is not None:
            head, _, self._seen = self._seen.partition(b"\r\n\r\n")
            target = head.split(b" ", 2)[1].decode("ascii")
            body = page(self._spec, target)
            status = "404 Not Found" if body is None else "200 OK"
            body = _REFUSED if body is None else body
            answer = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
            self._transport.write(f"{answer}Content-Length: {len(body)}\r\n\r\n".encode() + body)


async def serve(spec: Spec) -> None:
    """Serve the account until cancelled."""
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: Connection(spec), "127.0.0.1", 0)
    print(listener.sockets[0].getsockname()[1], flush=True)
    await listener.serve_forever()


if __name__ == "__main__":
    gc.freeze()
    asyncio.run(serve(Spec.read(sys.argv[1])))
