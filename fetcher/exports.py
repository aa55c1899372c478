"""The manifest in the forms that other programs read.

Owns the fields of an exported file (contract 6) and how JSON, CSV, Kaldi, NeMo and Hugging
Face want them. Text in, lines out, streaming; writes no file and knows no command. Links
are never among the fields: they carry signatures, and expire.
"""

from __future__ import annotations

import csv
import shlex
from io import StringIO
from itertools import chain
from typing import TYPE_CHECKING, Any

from fetcher.core.names import whole_id
from fetcher.frozen import frozen
from fetcher.models import State, Variant
from fetcher.report.jsonl import dumps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from fetcher.manifest.reader import Reader
    from fetcher.models import Entry

FIELDS = (
    "id",
    "variant",
    "file_name",
    "status",
    "state",
    "path",
    "bytes",
    "sha256",
    "created_at",
    "updated_at",
    "attempts",
    "last_error",
    "completed_at",
    "bytes_total",
    "error",
    "source_type",
    "audio_format",
    "audio_duration",
    "audio_size",
    "user_id",
    "transaction_id",
)
# What makes a spreadsheet take a cell for a formula (OWASP, "CSV Injection").
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_STORED_AT_ONCE = 500


def facts(entry: Entry) -> dict[str, Any]:
    """Return what is known of a file, by the names of FIELDS, ready for JSON."""
    job = entry.job
    return {
        "id": job.id,
        "variant": str(entry.variant),
        "file_name": job.file_name,
        "status": str(job.status),
        "state": str(entry.state),
        "path": entry.path,
        "bytes": entry.bytes_stored,
        "sha256": entry.sha256,
        "created_at": moment(job.created_at),
        "updated_at": moment(job.updated_at),
        "attempts": entry.attempts,
        "last_error": entry.last_error,
        "completed_at": moment(entry.completed_at),
        "bytes_total": entry.bytes_total,
        "error": job.error,
        "source_type": job.source_type,
        "audio_format": job.audio_format,
        "audio_duration": job.audio_duration_s,
        "audio_size": job.audio_size_bytes,
        "user_id": job.user_id,
        "transaction_id": job.transaction_id,
    }


def moment(at: datetime | None) -> str | None:
    """Return an aware UTC time as ISO 8601: to the millisecond, finer only where it is."""
    if at is None:
        return None
    timespec = "microseconds" if at.microsecond % 1000 else "milliseconds"
    return at.isoformat(timespec=timespec).removesuffix("+00:00") + "Z"


# ---- for programs and spreadsheets -------------------------------------------------------


def json_array(entries: Iterable[Entry]) -> Iterator[str]:
    """Yield a JSON array, one element a line."""
    before = "[\n"
    for entry in entries:
        yield f"{before}{dumps(facts(entry))}"
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"


def json_lines(entries: Iterable[Entry]) -> Iterator[str]:
    """Yield one JSON object a line."""
    for entry in entries:
        yield f"{dumps(facts(entry))}\n"


def csv_lines(entries: Iterable[Entry]) -> Iterator[str]:
    """Yield CSV with a line of titles, safe for spreadsheets: see `spreadsheet`."""
    return table_lines(FIELDS, (map(spreadsheet, facts(entry).values()) for entry in entries))


def spreadsheet(value: object) -> object:
    """Return `value`, text that a spreadsheet would take for a formula behind a `'`."""
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


def table_lines(titles: Sequence[str], rows: Iterable[Iterable[object]]) -> Iterator[str]:
    """Yield CSV as RFC 4180 has it but for the line ends, which are those of Unix."""
    buffer = StringIO(newline="")
    writer = csv.writer(buffer)  # its line end has it quote cells with \r, not only with \n
    for row in chain([titles], rows):
        writer.writerow(row)
        yield buffer.getvalue().removesuffix("\r\n") + "\n"
        buffer.seek(0)
        buffer.truncate()


# ---- for speech work ---------------------------------------------------------------------


@frozen
class Recording:
    """One job's clean file and, where `--originals` brought it, the upload beside it."""

    clean: Entry
    original: Entry | None = None


def recordings(reader: Reader) -> Iterator[Recording]:
    """Yield what is complete, ordered by id."""
    clean: Entry | None = None
    for entry in _stored(reader):
        if entry.variant is Variant.ORIGINAL:
            if clean is not None and clean.job.id == entry.job.id:
                yield Recording(clean, entry)
                clean = None
            continue
        if clean is not None:
            yield Recording(clean)
        clean = entry
    if clean is not None:
        yield Recording(clean)


def _stored(reader: Reader) -> Iterator[Entry]:
    last = ("", "")
    while some := reader.stored(last, _STORED_AT_ONCE):
        last = (some[-1].job.id, str(some[-1].variant))
        yield from (entry for entry in some if entry.state is State.COMPLETE)


@frozen
class Speech:
    """Recordings of the files under `root` (absolute).

    `measure` returns the length in seconds of a file whose record does not say it, None
    where that cannot be told.
    """

    root: Path
    measure: Callable[[Path], float | None]

    def nemo(self, found: Iterable[Recording]) -> Iterator[str]:
        """Yield a NeMo manifest; with an original, `noisy_filepath` and `clean_filepath` too."""
        for one in found:
            path = self._path(one.clean)
            line = {"audio_filepath": path, "duration": self._seconds(one.clean), "text": ""}
            if one.original is not None:
                line |= {"noisy_filepath": self._path(one.original), "clean_filepath": path}
            yield f"{dumps(line)}\n"

    def kaldi(self, one: Recording) -> dict[str, str]:
        """Return the line of each file of a Kaldi data folder for one recording.

        `original.scp` has the key of `wav.scp`, which makes the pair.
        """
        key = "_".join(whole_id(one.clean.job.id).split())
        files = {
            "wav.scp": f"{key} {self._wav(one.clean)}\n",
            "utt2spk": f"{key} {key}\n",
            "spk2utt": f"{key} {key}\n",
        }
        seconds = self._seconds(one.clean)
        if seconds is not None:
            files["utt2dur"] = f"{key} {seconds:.3f}\n"
        if one.original is not None:
            files["original.scp"] = f"{key} {self._wav(one.original)}\n"
        return files

    def audiofolder(
        self, found: Iterable[Recording], *, prefix: str, with_originals: bool
    ) -> Iterator[str]:
        """Yield the metadata.csv of a Hugging Face audiofolder.

        `prefix` leads from its folder to DIR. A column whose name ends in `file_name` is a
        path, so the submitted name is `name`.
        """
        titles = ["file_name", "id", "name", "duration", "created_at", "sha256"]
        if with_originals:
            titles.insert(1, "original_file_name")
        return table_lines(titles, (self._metadata(one, titles, prefix) for one in found))

    def _metadata(self, one: Recording, titles: Sequence[str], prefix: str) -> list[object]:
        job = one.clean.job
        original = one.original.path if one.original else None
        values = {
            "file_name": f"{prefix}{one.clean.path}",
            "original_file_name": f"{prefix}{original}" if original else None,
            "id": job.id,
            "name": job.file_name,
            "duration": self._seconds(one.clean),
            "created_at": moment(job.created_at),
            "sha256": one.clean.sha256,
        }
        return [values[title] for title in titles]

    def _path(self, entry: Entry) -> str:
        return str(self.root / (entry.path or ""))

    def _seconds(self, entry: Entry) -> float | None:
        said = entry.job.audio_duration_s
        return said if said is not None else self.measure(self.root / (entry.path or ""))

    def _wav(self, entry: Entry) -> str:
        """Return how Kaldi gets WAV: the file itself, or what ffmpeg makes of another kind."""
        path = self._path(entry)
        if path.lower().endswith(".wav"):
            return path
        return f"ffmpeg -v 8 -i {shlex.quote(path)} -f wav -acodec pcm_s16le - |"
