"""The record beside the file: what stands in it, and what it never replaces."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from fetcher.events import Event, Notice
from fetcher.files.places import Places
from fetcher.models import Entry, Job, JobId, State, Status, Variant
from fetcher.runs.companions import Companions
from fetcher.runs.desk import Done
from fetcher.runs.records import encoded, record_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

JOB = Job(
    id=JobId("0b5e2f9a-1111-4222-8333-444455556666"),
    status=Status.SUCCESS,
    file_name="مقابلة.wav",
    audio_url="https://user:word@files.example/x.wav?X-Signature=secret#part",
    original_audio_url="https://files.example/y.mp4?X-Signature=secret",
    created_at=datetime(2025, 1, 31, 18, 30, 0, 123_000, tzinfo=UTC),
    updated_at=datetime(2025, 1, 31, 18, 31, tzinfo=UTC),
    source_type="video",
    audio_format="mp4",
    audio_duration_s=2.5,
    audio_size_bytes=1234,
    user_id="user-1",
    transaction_id="tx-1",
)
PATH = "مقابلة/مقابلة.0b5e2f9a.wav"


class Desk:
    """A destination with the file in place, and what was told."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "dest"
        self.partial = self.root / ".fetcher/partial"
        self.partial.mkdir(parents=True)
        self.events: list[Event] = []
        self.sent: dict[JobId, bytes] = {}
        self.record = self.root / f"{PATH}.json"
        (self.root / PATH).parent.mkdir()
        (self.root / PATH).write_bytes(b"RIFF")

    async def known(self, ids: Sequence[JobId]) -> dict[JobId, bytes]:
        return {one: self.sent[one] for one in ids if one in self.sent}

    async def write(self, *files: Done) -> None:
        companions = Companions(Places(self.root), self.partial, self.events.append, self.known)
        await companions.write(files or [done()])
        assert list(self.partial.iterdir()) == []

    @property
    def warnings(self) -> list[str]:
        return [event.message for event in self.events if isinstance(event, Notice)]


def done(path: str = PATH, variant: Variant = Variant.DENOISED, **changes: Any) -> Done:
    entry = Entry(1, JOB._replace(**changes), variant, State.COMPLETE)
    return Done(entry, path, 4, "ab" * 32)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


async def test_the_record_is_written_as_it_was_sent(desk: Desk) -> None:
    desk.sent[JOB.id] = encoded({"id": JOB.id, "status": "success", "language": "ar"})
    await desk.write()
    assert desk.record.read_bytes() == desk.sent[JOB.id]


async def test_a_record_that_is_not_known_has_every_field_under_the_api_s_name(desk: Desk) -> None:
    await desk.write()
    assert json.loads(desk.record.read_text("utf-8")) == {
        "id": "0b5e2f9a-1111-4222-8333-444455556666",
        "user_id": "user-1",
        "transaction_id": "tx-1",
        "audio_url": "https://files.example/x.wav",
        "original_audio_url": "https://files.example/y.mp4",
        "file_name": "مقابلة.wav",
        "audio_duration": 2.5,
        "audio_size": 1234,
        "audio_format": "mp4",
        "source_type": "video",
        "status": "success",
        "error": None,
        "created_at": "2025-01-31T18:30:00.123000Z",
        "updated_at": "2025-01-31T18:31:00Z",
    }
    assert desk.events == []


async def test_the_record_is_readable_text(desk: Desk) -> None:
    await desk.write()
    lines = desk.record.read_text("utf-8").splitlines(keepends=True)
    assert len(lines) == 16
    assert lines[-1] == "}\n"
    assert "مقابلة.wav" in "".join(lines)


def test_what_a_record_lacks_is_null() -> None:
    record = record_of(Job(JobId("x"), Status.SUCCESS))
    assert {name for name, value in record.items() if value is None} == {
        *("transaction_id", "audio_url", "original_audio_url", "audio_duration", "audio_size"),
        *("error", "created_at", "updated_at"),
    }


async def test_text_that_utf_8_cannot_hold_is_escaped(desk: Desk) -> None:
    await desk.write(done(file_name="a\ud800\0b"))
    assert json.loads(desk.record.read_bytes())["file_name"] == "a\ud800\0b"


async def test_original_and_result_have_records_of_their_own(desk: Desk) -> None:
    original = PATH.replace(".wav", ".original.mp4")
    await desk.write(done(), done(original, Variant.ORIGINAL))
    assert desk.record.exists()
    assert (desk.root / f"{original}.json").exists()


async def test_many_records_are_written_at_once(desk: Desk) -> None:
    files = [done(f"a/{n}.wav", id=JobId(f"job-{n}")) for n in range(64)]
    await desk.write(*files)
    written = {path.name: json.loads(path.read_text())["id"] for path in desk.root.glob("a/*")}
    assert written == {f"{n}.wav.json": f"job-{n}" for n in range(64)}


async def test_an_older_record_of_the_same_job_is_replaced(desk: Desk) -> None:
    await desk.write(done(status=Status.PENDING))
    desk.sent[JOB.id] = encoded({"id": JOB.id, "status": "success"})
    await desk.write()
    assert json.loads(desk.record.read_text())["status"] == "success"
    assert desk.events == []


async def test_a_record_that_was_sent_is_not_replaced_by_less(desk: Desk) -> None:
    desk.sent[JOB.id] = encoded({"id": JOB.id, "status": "success", "language": "ar"})
    await desk.write()
    before = desk.record.read_bytes()
    desk.sent.clear()
    await desk.write()
    assert (desk.record.read_bytes(), desk.events) == (before, [])


async def test_the_same_record_is_left_untouched(desk: Desk) -> None:
    await desk.write()
    before = desk.record.stat()
    await desk.write()
    assert desk.record.stat() == before


async def test_an_older_record_is_replaced_where_the_api_has_new_fields(desk: Desk) -> None:
    desk.sent[JOB.id] = encoded(record_of(JOB))
    await desk.write()
    desk.sent[JOB.id] = encoded(record_of(JOB) | {"language": "ar"})
    await desk.write()
    assert (desk.record.read_bytes(), desk.events) == (desk.sent[JOB.id], [])


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(json.dumps(record_of(JOB)).encode(), id="written otherwise"),
        pytest.param(encoded(record_of(JOB) | {"note": "mine"}), id="a field of mine"),
        pytest.param(encoded({"id": JOB.id}), id="an id alone"),
        pytest.param(encoded({"id": JOB.id, "transcript": "mine"}), id="another thing"),
    ],
)
async def test_a_file_about_the_job_that_is_no_record_is_left_alone(
    desk: Desk, content: bytes
) -> None:
    desk.record.write_bytes(content)
    desk.sent[JOB.id] = encoded(record_of(JOB) | {"status": "success", "language": "ar"})
    await desk.write()
    assert desk.record.read_bytes() == content
    assert len(desk.warnings) == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"notes of mine", b'{"id": "another job"}', b"[1]", b'{"id": ', b"[" * 100_000],
    ids=["empty", "text", "another job", "a list", "broken", "deep"],
)
async def test_a_foreign_file_is_left_alone(desk: Desk, content: bytes) -> None:
    desk.record.write_bytes(content)
    await desk.write()
    assert desk.record.read_bytes() == content
    assert len(desk.warnings) == 1


async def test_a_huge_foreign_file_is_not_read(desk: Desk) -> None:
    desk.record.write_bytes(b'{"id": "0b5e2f9a-1111-4222-8333-444455556666"}' + b" " * (1 << 20))
    await desk.write()
    assert desk.record.stat().st_size > 1 << 20
    assert len(desk.warnings) == 1


async def test_a_link_is_neither_followed_nor_replaced(desk: Desk, tmp_path: Path) -> None:
    ours = tmp_path / "elsewhere.json"
    ours.write_text('{"id": "0b5e2f9a-1111-4222-8333-444455556666"}')
    desk.record.symlink_to(ours)
    await desk.write()
    assert desk.record.is_symlink()
    assert ours.read_text() == '{"id": "0b5e2f9a-1111-4222-8333-444455556666"}'
    assert len(desk.warnings) == 1


async def test_a_folder_that_leads_out_is_not_written_to(desk: Desk, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.wav.json").write_text(f'{{"id": "{JOB.id}"}}')
    (desk.root / "link").symlink_to(outside)
    await desk.write(done("link/a.wav"), done("link/b.wav", id=JobId("other")))
    assert [path.name for path in outside.iterdir()] == ["a.wav.json"]
    assert (outside / "a.wav.json").read_text() == f'{{"id": "{JOB.id}"}}'
    assert len(desk.warnings) == 2


@pytest.mark.parametrize("kind", ["folder", "pipe"])
async def test_what_is_no_file_is_left_alone(desk: Desk, kind: str) -> None:
    if kind == "folder":
        desk.record.mkdir()
    else:
        os.mkfifo(desk.record)
    await desk.write()
    assert not desk.record.is_file()
    assert len(desk.warnings) == 1


async def test_a_name_too_long_for_the_disk_is_only_told(desk: Desk) -> None:
    await desk.write(done("x" * 254))
    assert len(desk.warnings) == 1


async def test_a_missing_folder_for_unfinished_files_is_only_told(desk: Desk) -> None:
    companions = Companions(Places(desk.root), desk.root / "none", desk.events.append, desk.known)
    await companions.write([done()])
    assert not desk.record.exists()
    assert len(desk.warnings) == 1


async def test_a_record_is_not_written_through_a_link_where_it_is_made(desk: Desk) -> None:
    victim = desk.root / "victim"
    victim.write_bytes(b"mine")
    (desk.partial / f"{JOB.id}.denoised.json").symlink_to(victim)
    await desk.write()
    assert victim.read_bytes() == b"mine"
    assert desk.events == []
    assert not desk.record.is_symlink()
    assert desk.record.stat().st_mode & 0o777 == (desk.root / PATH).stat().st_mode & 0o777
