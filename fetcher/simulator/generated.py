"""Records that are computed when asked for: a million of them cost no memory to speak of.

Owns the arithmetic from rank to id, times and JSON; rank 0 is the newest. Jobs that a
script changes are kept as ordinary ones.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import TYPE_CHECKING

from fetcher.simulator.audio import wav_duration_s
from fetcher.simulator.clock import iso
from fetcher.simulator.content import Filler
from fetcher.simulator.history import SimJob
from fetcher.simulator.record import USER_ID, row_bytes

if TYPE_CHECKING:
    from collections.abc import Collection

    from fetcher.simulator.links import Links
    from fetcher.simulator.serving import Serving

_SCATTER = 0x9E3779B1  # odd, so rank -> first 8 hex digits is one to one: short ids differ
_ID = re.compile(r"([0-9a-f]{8})-5eed-4000-8000-([0-9a-f]{12})")
_STEP_S = 30.0
_BLOCK = 500
_CACHED_BLOCKS = 200  # of 500 records at 650 bytes: at most 65 MB


class Generated:
    """`count` jobs of one size, older than every job that was added by hand."""

    def __init__(self, count: int, size_bytes: int, newest_at: float) -> None:
        self.count = count
        self._size_bytes = size_bytes
        self._newest_at = newest_at
        self._pending: frozenset[int] = frozenset()
        self._kept: dict[int, SimJob] = {}
        self._blocks: OrderedDict[tuple[object, ...], bytes] = OrderedDict()

    def set_pending(self, ranks: Collection[int]) -> None:
        """Let the jobs of these ranks be pending."""
        self._pending = frozenset(ranks)

    def id(self, rank: int) -> str:
        """Return the id of the job at `rank`."""
        return f"{rank * _SCATTER & 0xFFFF_FFFF:08x}-5eed-4000-8000-{rank:012x}"

    def find(self, job_id: str) -> SimJob | None:
        """Return the job with that id, None where it is not one of these."""
        match = _ID.fullmatch(job_id)
        rank = int(match[2], 16) if match else self.count
        if rank >= self.count or self.id(rank) != job_id:
            return None
        if rank in self._pending:  # someone may follow it and wait for its change
            return self._kept.setdefault(rank, self._job(rank))
        return self._kept.get(rank) or self._job(rank)

    def keep(self, job_id: str) -> SimJob | None:
        """Return the job with that id, kept from now on with what is changed of it."""
        job = self.find(job_id)
        if job is not None:
            self._kept[int(job_id[-12:], 16)] = job
            self._blocks.clear()
        return job

    def page(self, start: int, stop: int, links: Links, serving: Serving) -> bytes:
        """Return the JSON of the records from rank `start` up to `stop`, comma-separated."""
        parts = []
        while start < min(stop, self.count):
            end = min(stop, self.count, start - start % _BLOCK + _BLOCK)
            parts.append(self._block(start, end, links, serving))
            start = end
        return b",".join(parts)

    def _block(self, start: int, stop: int, links: Links, serving: Serving) -> bytes:
        key = (start, stop, links.window(), serving)
        block = self._blocks.get(key)
        if block is None:
            rows = (self._row(rank, links, serving) for rank in range(start, stop))
            block = self._blocks[key] = b",".join(rows)
            if len(self._blocks) > _CACHED_BLOCKS:
                self._blocks.popitem(last=False)
        else:
            self._blocks.move_to_end(key)
        return block

    def _row(self, rank: int, links: Links, serving: Serving) -> bytes:
        if rank in self._kept or rank in self._pending or not serving.signed:
            job = self._kept.get(rank) or self._job(rank)
            return row_bytes(job, links, serving)
        job_id = self.id(rank)
        at = iso(self._newest_at - rank * _STEP_S)
        extension = ".wav" if serving.extension is None else serving.extension
        audio = links.url(job_id, "audio", extension, epoch=0)
        original = links.url(job_id, "original", ".wav", epoch=0)
        # By hand: json.dumps of a dict costs four times as much, and nothing here needs escapes.
        return (
            f'{{"id":"{job_id}","user_id":"{USER_ID}","transaction_id":"tx_{job_id[:8]}",'
            f'"audio_url":"{audio}","original_audio_url":"{original}",'
            f'"file_name":"audio.wav","audio_duration":{wav_duration_s(self._size_bytes)},'
            f'"audio_size":{self._size_bytes},"audio_format":"wav","source_type":"audio",'
            f'"status":"success","error":null,"created_at":"{at}","updated_at":"{at}"}}'
        ).encode()

    def _job(self, rank: int) -> SimJob:
        job_id, at = self.id(rank), self._newest_at - rank * _STEP_S
        return SimJob(
            id=job_id,
            created_at=at,
            updated_at=at,
            source=Filler(self._size_bytes, job_id + ":source"),
            result=Filler(self._size_bytes, job_id),
            audio_duration_s=wav_duration_s(self._size_bytes),
            status="pending" if rank in self._pending else "success",
        )
