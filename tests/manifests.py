"""What the tests of the reading commands share: a manifest with chosen rows, a place to run in."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import TYPE_CHECKING, Any

from fetcher.cli import run
from fetcher.commands import Environment
from fetcher.core.filters import Rules
from fetcher.manifest.files import Stored
from fetcher.manifest.listing import Intake
from fetcher.manifest.store import Store
from fetcher.models import Job, JobId, State, Status, Variant

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NOW = datetime(2025, 6, 1, 12, tzinfo=UTC)
SHA256 = "ab" * 32


def job(number: int, file_name: str = "audio.wav", **fields: Any) -> Job:
    """Return a finished job; a higher number is a newer one. Its short id is its number."""
    at = NOW + timedelta(minutes=number)
    usual: dict[str, Any] = {
        "id": JobId(f"{number:08d}-0000-4000-8000-000000000000"),
        "status": Status.SUCCESS,
        "file_name": file_name,
        "audio_url": f"https://files.example/{number}.wav?signature=secret",
        "created_at": at,
        "updated_at": at + timedelta(seconds=30),
        "source_type": "audio",
        "audio_format": "wav",
        "audio_duration_s": 61.5,
        "audio_size_bytes": 1000,
        "user_id": "user",
        "transaction_id": f"tx_{number}",
    }
    return Job(**(usual | fields))


def rejected(number: int, error: str | None, file_name: str = "audio.wav", **fields: Any) -> Job:
    """Return a job that the service failed."""
    return job(
        number, file_name, status=Status.FAILED, error=error, **({"audio_url": None} | fields)
    )


@dataclass(slots=True)
class Shelf:
    """A destination whose manifest holds what was added, and a place to run commands in."""

    dest: Path
    out: StringIO = field(default_factory=StringIO)
    err: StringIO = field(default_factory=StringIO)
    _rows: dict[tuple[JobId, Variant], int] = field(default_factory=dict)

    @property
    def manifest(self) -> Path:
        """The manifest's file."""
        return self.dest / ".fetcher" / "manifest.db"

    def add(self, *jobs: Job, originals: bool = False) -> None:
        """Record jobs as a listing does."""
        self.manifest.parent.mkdir(parents=True, exist_ok=True)
        with closing(Store(self.manifest)) as store:
            intake = Intake(Rules(), originals, 0, 0)
            for one in store.absorb(jobs, intake, {}).listed:
                self._rows[one.job.id, Variant.DENOISED] = one.seq
            for _, entry in store.take(0, 100_000):
                self._rows[entry.job.id, entry.variant] = entry.seq

    def complete(
        self,
        job: Job,
        path: str,
        *,
        variant: Variant = Variant.DENOISED,
        bytes_stored: int = 1000,
        sha256: str = SHA256,
    ) -> None:
        """Record that a file of a job is on disk."""
        stored = Stored(self._rows[job.id, variant], path, path, bytes_stored, sha256, NOW)
        with closing(Store(self.manifest)) as store:
            store.complete([stored])

    def fail(self, job: Job, reason: str, attempts: int = 3) -> None:
        """Record that a download was given up."""
        with closing(Store(self.manifest)) as store:
            store.fail(self._rows[job.id, Variant.DENOISED], reason, attempts)

    def set_state(self, job: Job, state: State) -> None:
        """Record a state that has no other facts."""
        with closing(Store(self.manifest)) as store:
            store.set_state([self._rows[job.id, Variant.DENOISED]], state)

    def put(self, **facts: str) -> None:
        """Record facts about the whole manifest."""
        with closing(Store(self.manifest)) as store:
            store.put(facts)

    # ---- running -----------------------------------------------------------------------

    def run(
        self, *argv: str, environ: Mapping[str, str] | None = None, out: StringIO | None = None
    ) -> int:
        """Run a command on this destination; what it writes replaces what the last one wrote."""
        self.out, self.err = out or StringIO(), StringIO()
        (self.dest.parent / "user").mkdir(exist_ok=True)
        env = Environment(self.out, self.err, {}, self.dest.parent, self.dest.parent / "user")
        return run([*argv, "-d", str(self.dest)], env._replace(environ=environ or {}))

    def lines(self, *argv: str) -> list[str]:
        """Return what a command that succeeds writes to stdout."""
        assert (self.run(*argv), self.err.getvalue()) == (0, "")
        return self.out.getvalue().splitlines()

    def objects(self, *argv: str) -> list[dict[str, Any]]:
        """Return the JSON objects that a command that succeeds writes, one a line."""
        return [json.loads(line) for line in self.lines(*argv)]
