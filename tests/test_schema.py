"""Opening the manifest: what is damaged, foreign or newer is told and never touched."""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fetcher.core.filters import Rules
from fetcher.errors import ManifestError, StorageError
from fetcher.manifest import schema
from fetcher.manifest.listing import Intake
from fetcher.manifest.reader import Reader
from fetcher.manifest.store import Store
from fetcher.models import Job, JobId, Status

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

START = datetime(2025, 1, 1, tzinfo=UTC)
EVERYTHING = Intake(Rules(), originals=False, run_base=0, retry_base=0)


def jobs(first: int, count: int) -> list[Job]:
    return [
        Job(
            JobId(f"job-{n}"),
            Status.SUCCESS,
            file_name="talk.wav",
            audio_url=f"https://files.example/{n}.wav",
            created_at=START + timedelta(seconds=n),
            updated_at=START + timedelta(seconds=n),
        )
        for n in range(first, first + count)
    ]


def make(folder: Path, count: int = 50) -> Path:
    """Make a manifest of so many jobs."""
    path = folder / schema.FILE_NAME
    with closing(Store(path)) as store:
        store.absorb(jobs(0, count), EVERYTHING, {})
    return path


def contents(folder: Path) -> dict[str, bytes | str]:
    """Return everything in a folder: bytes of files, targets of links, kinds of the rest."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            found[path.name] = str(path.readlink())
        else:
            found[path.name] = path.read_bytes() if path.is_file() else "folder"
    return found


def read_all(path: Path) -> int:
    with Reader(path) as reader:
        reader.tallies()
        reader.look_up([JobId("job-1")])
        return sum(1 for _ in reader.entries())


def write_to(path: Path) -> None:
    with closing(Store(path)) as store:
        store.take(0, 100)
        store.absorb([*jobs(1, 1), *jobs(1000, 1)], EVERYTHING, {})


# ---- damage ------------------------------------------------------------------------------


def rewritten(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def work(path: Path) -> None:
        path.write_bytes(change(path.read_bytes()))

    return work


def altered(*statements: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with closing(sqlite3.connect(path)) as db:
            for statement in statements:
                db.execute(statement)
            db.commit()

    return change


def zeroed_page(data: bytes, number: int = 3) -> bytes:
    return data[: 4096 * number] + bytes(4096) + data[4096 * (number + 1) :]


DAMAGE = [
    pytest.param(rewritten(lambda _: b""), id="empty"),
    pytest.param(rewritten(lambda _: b"SQLite format"), id="shorter than the magic"),
    pytest.param(rewritten(lambda _: b"{}\n"), id="text"),
    pytest.param(rewritten(lambda _: b"<!DOCTYPE html><html>" * 99), id="a web page"),
    pytest.param(rewritten(lambda _: os.urandom(5000)), id="noise"),
    pytest.param(rewritten(lambda data: bytes(len(data))), id="zeros"),
    pytest.param(rewritten(lambda data: data[:100]), id="only its header"),
    pytest.param(rewritten(lambda data: data[:4096]), id="only its first page"),
    pytest.param(rewritten(lambda data: data[: len(data) // 2]), id="half of it"),
    pytest.param(rewritten(lambda data: data[:-1]), id="one byte short"),
    pytest.param(rewritten(zeroed_page), id="a zeroed page"),
    pytest.param(rewritten(lambda data: data[:16] + b"\xff" * 84 + data[100:]), id="bad header"),
    pytest.param(altered("PRAGMA application_id = 0"), id="another program's"),
    pytest.param(altered("DROP TABLE entry"), id="no rows"),
    pytest.param(altered("DROP TABLE meta", "DROP TABLE entry"), id="nothing in it"),
    pytest.param(altered("ALTER TABLE entry DROP COLUMN attempts"), id="a column less"),
    pytest.param(altered("UPDATE entry SET state = 'sleeping'"), id="an unknown state"),
    pytest.param(altered("UPDATE entry SET status = 'odd'"), id="an unknown status"),
    pytest.param(altered("UPDATE entry SET variant = 'odd'"), id="an unknown variant"),
    pytest.param(altered("UPDATE entry SET created_us = 'long ago'"), id="a time of letters"),
    pytest.param(altered("UPDATE entry SET updated_us = 9e18"), id="a time beyond all calendars"),
    pytest.param(altered("UPDATE entry SET file_name = CAST(x'ff' AS TEXT)"), id="no UTF-8"),
    pytest.param(altered(f"PRAGMA user_version = {schema.VERSION + 1}"), id="newer"),
]


@pytest.mark.parametrize("work", [read_all, write_to])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_manifest_is_told_by_name_and_left_as_it_is(
    tmp_path: Path, damage: Callable[[Path], None], work: Callable[[Path], object]
) -> None:
    path = make(tmp_path)
    damage(path)
    before = path.read_bytes()
    with pytest.raises(ManifestError) as caught:
        work(path)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 6
    assert contents(tmp_path) == {path.name: before}


def test_a_foreign_database_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / schema.FILE_NAME
    altered("CREATE TABLE songs (title)", "INSERT INTO songs VALUES ('x')")(path)
    before = contents(tmp_path)
    for work in (read_all, write_to):
        with pytest.raises(ManifestError, match="not written by fetcher"):
            work(path)
    assert contents(tmp_path) == before


def test_a_newer_manifest_asks_for_an_update_and_not_to_be_moved_away(tmp_path: Path) -> None:
    path = make(tmp_path)
    altered(f"PRAGMA user_version = {schema.VERSION + 1}")(path)
    with pytest.raises(ManifestError, match="newer") as caught:
        read_all(path)
    assert "mv " not in str(caught.value)


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    at=st.floats(0, 1), noise=st.binary(min_size=1, max_size=300), cut=st.none() | st.floats(0, 1)
)
@example(at=0.099609375, noise=b"\x80", cut=None)  # in the text of the schema
def test_no_damage_leads_to_anything_but_an_error_of_the_storage(
    tmp_path: Path, at: float, noise: bytes, cut: float | None
) -> None:
    folder = tmp_path / "sample"
    folder.mkdir(exist_ok=True)
    for leftover in folder.iterdir():
        leftover.unlink()
    path = make(folder, 20)
    data = bytearray(path.read_bytes())
    start = int(at * len(data))
    data[start : start + len(noise)] = noise
    path.write_bytes(data[: int(cut * len(data))] if cut is not None else data)
    for work in (read_all, write_to):
        try:
            work(path)
        except StorageError:
            continue


def test_text_that_is_not_utf8_is_damage(tmp_path: Path) -> None:
    path = make(tmp_path, 20)
    data = path.read_bytes()
    assert b"wav" in data
    path.write_bytes(data.replace(b".wav", b".w\x80v"))
    with pytest.raises(ManifestError, match="damaged"):
        read_all(path)


@pytest.mark.parametrize("work", [read_all, write_to])
def test_a_folder_in_the_place_of_the_manifest_is_told(
    tmp_path: Path, work: Callable[[Path], object]
) -> None:
    path = tmp_path / schema.FILE_NAME
    path.mkdir()
    with pytest.raises(StorageError):
        work(path)
    assert contents(tmp_path) == {path.name: "folder"}


@pytest.mark.parametrize("work", [read_all, write_to])
def test_a_named_pipe_in_its_place_is_told_at_once(
    tmp_path: Path, work: Callable[[Path], object]
) -> None:
    path = tmp_path / schema.FILE_NAME
    os.mkfifo(path)
    with pytest.raises(StorageError, match="no regular file"):
        work(path)


@pytest.mark.parametrize("work", [read_all, write_to])
def test_a_dangling_link_in_its_place_is_told_and_not_followed(
    tmp_path: Path, work: Callable[[Path], object]
) -> None:
    path = tmp_path / "state" / schema.FILE_NAME
    path.parent.mkdir()
    path.symlink_to(tmp_path / "elsewhere.db")
    with pytest.raises(StorageError):
        work(path)
    assert not (tmp_path / "elsewhere.db").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
@pytest.mark.parametrize("work", [read_all, write_to])
def test_a_manifest_that_nobody_may_read_is_told(
    tmp_path: Path, work: Callable[[Path], object]
) -> None:
    path = make(tmp_path)
    path.chmod(0)
    with pytest.raises(StorageError):
        work(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_a_folder_that_cannot_be_written_is_told_and_can_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    path = make(folder)
    folder.chmod(0o500)
    path.chmod(0o400)
    try:
        assert read_all(path) == 50
        with pytest.raises(StorageError):
            write_to(path)
    finally:
        folder.chmod(0o700)


# ---- what is well ------------------------------------------------------------------------


def test_a_manifest_that_is_not_there_reads_as_empty_and_is_not_made(tmp_path: Path) -> None:
    assert read_all(tmp_path / "nowhere" / schema.FILE_NAME) == 0
    assert contents(tmp_path) == {}


def test_a_file_where_a_folder_should_be_reads_as_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"")
    assert not schema.exists(tmp_path / "state" / schema.FILE_NAME)


def test_reading_leaves_no_trace_beside_the_manifest(tmp_path: Path) -> None:
    path = make(tmp_path)
    before = contents(tmp_path)
    assert read_all(path) == 50
    assert contents(tmp_path) == before


def test_a_new_manifest_is_its_owners_only(tmp_path: Path) -> None:
    path = make(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_a_half_made_manifest_of_an_earlier_start_is_no_hindrance(tmp_path: Path) -> None:
    for end in ("", "-wal", "-shm", "-journal"):
        (tmp_path / f"{schema.FILE_NAME}.new{end}").write_bytes(b"half made")
    path = make(tmp_path)
    assert read_all(path) == 50


@pytest.mark.parametrize("name", ["a b", "100%", "what?", "c#", "حساب", "%41", "quo'te", "x&y=1"])
def test_the_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    path = make(folder)
    assert read_all(path) == 50
    assert {one.name for one in folder.iterdir()} == {path.name}
    assert [one.name for one in tmp_path.iterdir()] == [name]


def first_format(folder: Path) -> Path:
    """Make a manifest as the first format had it, with a job in it."""
    path = folder / schema.FILE_NAME
    with closing(sqlite3.connect(path)) as db:
        for statement in schema.MIGRATIONS[0]:
            db.execute(statement)
        db.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        db.execute("PRAGMA user_version = 1")
        columns = "id, variant, status, file_name, source_type, audio_format, user_id, state"
        values = "'a', 'denoised', 'success', 'x.wav', 'audio', 'wav', 'u', 'complete'"
        db.execute(f"INSERT INTO entry ({columns}) VALUES ({values})")
        db.commit()
    return path


def test_a_manifest_of_the_first_format_is_read_as_it_is(tmp_path: Path) -> None:
    path = first_format(tmp_path)
    before = path.read_bytes()
    with Reader(path) as reader:
        assert [entry.job.id for entry in reader.entries()] == ["a"]
    assert path.read_bytes() == before


def test_a_manifest_of_the_first_format_is_brought_up_to_date(tmp_path: Path) -> None:
    path = first_format(tmp_path)
    for _ in range(2):
        with closing(Store(path)) as store:
            assert (store.count(), store.records([JobId("a")])) == (1, {})
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)


def test_a_manifest_is_brought_up_to_date_wholly_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = first_format(tmp_path)
    broken = (*schema.MIGRATIONS, ("CREATE TABLE one (x)", "no statement at all"))
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", broken)
        patch.setattr(schema, "VERSION", len(broken))
        with pytest.raises(StorageError):
            Store(path)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
    with closing(Store(path)) as store:
        assert store.count() == 1


def test_opening_again_keeps_everything(tmp_path: Path) -> None:
    path = make(tmp_path)
    write_to(path)
    write_to(path)
    assert read_all(path) == 51


def test_the_whole_check_finds_what_a_large_manifest_is_not_checked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path, 500)
    assert schema.check_whole(path) is None
    monkeypatch.setattr(schema, "CHECKED_BYTES", 0)
    path.write_bytes(zeroed_page(path.read_bytes(), number=20))
    assert schema.check_whole(path) is not None
