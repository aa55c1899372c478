"""Paths under DIR: nothing leads out of it, nothing is overwritten, nothing is half there."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetcher.errors import FullError, PlaceError, StorageError
from fetcher.files.places import Places, TakenError, digest_file, mtime_ns
from fetcher.files.trouble import explain, explained, readable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BODY = b"RIFF and so on"
AT = datetime(2024, 5, 1, 10, 20, 30, 123456, tzinfo=UTC)


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    folder = tmp_path / "dest"
    (folder / ".fetcher" / "partial").mkdir(parents=True)
    return folder


@pytest.fixture
def source(dest: Path) -> Path:
    """Give a finished file that is to be put in place."""
    path = dest / ".fetcher" / "partial" / "a.part"
    path.write_bytes(BODY)
    return path


def put(dest: Path, source: Path, path: str, *, over_file: bool = False) -> list[Path]:
    """Put the file in place; return the folders that were changed."""
    fd, changed = Places(dest).put(source, path, over_file=over_file)
    assert os.path.samestat(os.fstat(fd), (dest / path).parent.stat())
    os.close(fd)
    return changed


def snapshot(folder: Path) -> dict[str, object]:
    """Return what stands below a folder, links not followed."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        kind = "link" if path.is_symlink() else "folder" if path.is_dir() else path.read_bytes()
        found[str(path.relative_to(folder))] = kind
    return found


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


# ---- putting in place --------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "a.wav",
        "talk/talk.0f8fad5b.wav",
        "a/b/c/d/e/f.wav",
        "تسجيل/تسجيل صوتي.wav",
        "日本語/\U0001f468\u200d\U0001f469.wav",
        "e\u0301/x.wav",
        f"{'f' * 255}/{'n' * 255}",
        f"{'ع' * 127}/{'ع' * 127}",
        "-rf/--help",
        "a b/ $(id) `id` ;.wav",
    ],
)
def test_a_file_is_moved_to_its_place_whole(dest: Path, source: Path, path: str) -> None:
    put(dest, source, path)
    assert (dest / path).read_bytes() == BODY
    assert not source.exists()


def test_the_folders_that_were_changed_are_told_from_the_top(dest: Path, source: Path) -> None:
    assert put(dest, source, "a/b/c.wav") == [dest, dest / "a"]
    source.write_bytes(BODY)
    assert put(dest, source, "a/b/d.wav") == []


def test_folders_that_exist_are_used(dest: Path, source: Path) -> None:
    (dest / "talk").mkdir(mode=0o750)
    (dest / "talk" / "notes.txt").write_bytes(b"mine")
    put(dest, source, "talk/talk.wav")
    assert snapshot(dest / "talk") == {"notes.txt": b"mine", "talk.wav": BODY}


def test_dir_itself_may_be_a_link(tmp_path: Path, dest: Path, source: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(dest)
    put(link, source, "talk/talk.wav")
    assert (dest / "talk" / "talk.wav").read_bytes() == BODY
    assert Places(link).contains("talk/talk.wav")


# ---- what stands in the way --------------------------------------------------------------


def a_file(dest: Path, outside: Path) -> None:
    (dest / "talk").mkdir()
    (dest / "talk" / "a.wav").write_bytes(b"mine")


def an_empty_file(dest: Path, outside: Path) -> None:
    (dest / "talk").mkdir()
    (dest / "talk" / "a.wav").touch()


def a_folder(dest: Path, outside: Path) -> None:
    (dest / "talk" / "a.wav").mkdir(parents=True)


def a_link_to_a_file_outside(dest: Path, outside: Path) -> None:
    (dest / "talk").mkdir()
    (dest / "talk" / "a.wav").symlink_to(outside / "secret")


def a_dangling_link(dest: Path, outside: Path) -> None:
    (dest / "talk").mkdir()
    (dest / "talk" / "a.wav").symlink_to(outside / "new")


def a_link_to_itself(dest: Path, outside: Path) -> None:
    (dest / "talk").mkdir()
    (dest / "talk" / "a.wav").symlink_to("a.wav")


def a_pipe(dest: Path, outside: Path) -> None:
    (dest / "talk").mkdir()
    os.mkfifo(dest / "talk" / "a.wav")


def a_file_where_the_folder_should_be(dest: Path, outside: Path) -> None:
    (dest / "talk").write_bytes(b"mine")


def a_folder_that_is_a_link_out(dest: Path, outside: Path) -> None:
    (dest / "talk").symlink_to(outside)


def a_folder_that_is_a_relative_link_out(dest: Path, outside: Path) -> None:
    (dest / "talk").symlink_to("../outside")


def a_folder_that_is_a_link_to_the_parent(dest: Path, outside: Path) -> None:
    (dest / "talk").symlink_to("..")


def a_folder_that_is_a_dangling_link(dest: Path, outside: Path) -> None:
    (dest / "talk").symlink_to(outside / "new")


def a_folder_that_is_a_link_to_itself(dest: Path, outside: Path) -> None:
    (dest / "talk").symlink_to("talk")


def a_folder_that_is_a_link_to_a_file(dest: Path, outside: Path) -> None:
    (dest / "file").write_bytes(b"mine")
    (dest / "talk").symlink_to("file")


def a_folder_that_is_a_link_to_the_state(dest: Path, outside: Path) -> None:
    (dest / "talk").symlink_to(".fetcher")


def a_folder_that_is_a_link_into_the_state(dest: Path, outside: Path) -> None:
    (dest / "talk").symlink_to(dest / ".fetcher" / "partial")


def a_folder_that_is_a_link_to_dir_itself(dest: Path, outside: Path) -> None:
    (dest / "talk").symlink_to(".")


def a_chain_of_links_out(dest: Path, outside: Path) -> None:
    (dest / "first").symlink_to(outside)
    (dest / "talk").symlink_to("first")


OBSTACLES = [
    a_file,
    an_empty_file,
    a_folder,
    a_link_to_a_file_outside,
    a_dangling_link,
    a_link_to_itself,
    a_pipe,
    a_file_where_the_folder_should_be,
    a_folder_that_is_a_link_out,
    a_folder_that_is_a_relative_link_out,
    a_folder_that_is_a_link_to_the_parent,
    a_folder_that_is_a_dangling_link,
    a_folder_that_is_a_link_to_itself,
    a_folder_that_is_a_link_to_a_file,
    a_folder_that_is_a_link_to_the_state,
    a_folder_that_is_a_link_into_the_state,
    a_folder_that_is_a_link_to_dir_itself,
    a_chain_of_links_out,
]


@pytest.mark.parametrize(
    ("obstacle", "over_file"),
    [(one, False) for one in OBSTACLES] + [(one, True) for one in OBSTACLES[2:]],
    ids=lambda one: getattr(one, "__name__", str(one)),
)
def test_what_stands_in_the_way_is_neither_overwritten_nor_followed(
    tmp_path: Path,
    dest: Path,
    source: Path,
    obstacle: Callable[[Path, Path], None],
    over_file: bool,
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"not yours")
    obstacle(dest, outside)
    before, files = snapshot(tmp_path) if obstacle is not a_pipe else {}, open_files()
    foreseen = Places(dest).trouble("talk/a.wav", over_file=over_file)
    with pytest.raises(TakenError) as caught:
        Places(dest).put(source, "talk/a.wav", over_file=over_file)
    assert (type(foreseen), str(foreseen)) == (TakenError, str(caught.value))
    if obstacle is not a_pipe:
        assert snapshot(tmp_path) == before
    assert source.read_bytes() == BODY, "what was fetched stays"
    assert open_files() == files


def test_an_older_file_of_ours_is_replaced_in_one_step(dest: Path, source: Path) -> None:
    a_file(dest, dest)
    assert Places(dest).trouble("talk/a.wav", over_file=True) is None
    put(dest, source, "talk/a.wav", over_file=True)
    assert (dest / "talk" / "a.wav").read_bytes() == BODY


def test_a_link_to_a_folder_inside_dir_is_followed(dest: Path, source: Path) -> None:
    (dest / "real" / "deep").mkdir(parents=True)
    (dest / "talk").symlink_to("real/deep")
    (dest / "real" / "deep" / "more").symlink_to(dest / "real")
    put(dest, source, "talk/a.wav")
    assert (dest / "real" / "deep" / "a.wav").read_bytes() == BODY
    source.write_bytes(BODY)
    assert Places(dest).trouble("talk/more/new/b.wav") is None
    put(dest, source, "talk/more/new/b.wav")
    assert (dest / "real" / "new" / "b.wav").read_bytes() == BODY


@pytest.mark.parametrize("name", ["n" * 256, "ع" * 128])
@pytest.mark.parametrize("shape", ["{}", "{}/a.wav", "a/{}/b.wav"])
def test_a_name_that_is_too_long_is_that_files_trouble(
    dest: Path, source: Path, shape: str, name: str
) -> None:
    files = open_files()
    with pytest.raises(PlaceError):
        Places(dest).put(source, shape.format(name))
    assert source.exists()
    assert open_files() == files


@pytest.mark.parametrize("name", ["n" * 256, "ع" * 128])
@pytest.mark.parametrize("shape", ["{}", "{}/a.wav"])
def test_a_name_that_is_too_long_is_foreseen(dest: Path, shape: str, name: str) -> None:
    assert isinstance(Places(dest).trouble(shape.format(name)), PlaceError)


@pytest.mark.parametrize("path", ["a.wav", "talk/a.wav", "new/a.wav", "talk/new/deep/a.wav"])
@pytest.mark.parametrize("is_there", [True, False])
def test_asking_for_trouble_makes_nothing(dest: Path, path: str, *, is_there: bool) -> None:
    (dest / "talk").mkdir()
    before, files = snapshot(dest.parent), open_files()
    places = Places(dest if is_there else dest / "gone")
    assert places.trouble(path) is None
    assert (snapshot(dest.parent), open_files()) == (before, files)


def test_a_source_that_is_gone_is_the_storages_trouble(dest: Path) -> None:
    files = open_files()
    with pytest.raises(StorageError):
        Places(dest).put(dest / ".fetcher" / "partial" / "gone", "a/b.wav")
    assert open_files() == files


def test_a_dir_that_is_gone_is_the_storages_trouble(tmp_path: Path, source: Path) -> None:
    with pytest.raises(StorageError):
        Places(tmp_path / "gone").put(source, "a/b.wav")


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a folder on another file system."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no other file system")
    folder = Path(tempfile.mkdtemp(dir=shared))
    yield folder
    shutil.rmtree(folder)


def test_a_folder_on_another_file_system_is_that_files_trouble(
    other_disk: Path, source: Path
) -> None:
    with pytest.raises(PlaceError):
        Places(other_disk).put(source, "a/b.wav")
    assert source.read_bytes() == BODY


def test_a_folder_that_refuses_is_that_files_trouble_and_dir_the_storages(
    dest: Path, source: Path
) -> None:
    (dest / "talk").mkdir()
    for locked, trouble in ((dest / "talk", PlaceError), (dest, StorageError)):
        if subprocess.run(
            ["chattr", "+i", str(locked)], capture_output=True, check=False
        ).returncode:
            pytest.skip("no folder can be made immutable here")
        try:
            path = f"{'talk/' if locked != dest else ''}a.wav"
            with pytest.raises(trouble):
                Places(dest).put(source, path)
            with pytest.raises(trouble):
                raise Places(dest).trouble(path) or AssertionError("it foresees none")
        finally:
            subprocess.run(["chattr", "-i", str(locked)], check=True)
    assert source.exists()


# ---- looking -----------------------------------------------------------------------------


def stamp(path: Path, ns: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(BODY)
    os.utime(path, ns=(ns, ns))


@pytest.mark.parametrize(
    ("ns", "is_ours"),
    [
        pytest.param(mtime_ns(AT), True, id="to the nanosecond"),
        pytest.param(mtime_ns(AT) // 10**9 * 10**9, True, id="to the second"),
        pytest.param(mtime_ns(AT) + 1000, False, id="a microsecond later"),
        pytest.param(mtime_ns(AT) // 10**9 * 10**9 + 10**9, False, id="the next second"),
    ],
)
def test_a_file_bears_its_jobs_mark_or_does_not(dest: Path, ns: int, is_ours: bool) -> None:
    stamp(dest / "talk" / "a.wav", ns)
    assert Places(dest).is_ours("talk/a.wav", AT) is is_ours


@pytest.mark.parametrize("obstacle", OBSTACLES[2:], ids=lambda one: one.__name__)
def test_what_is_no_file_in_dir_is_nobodys(
    tmp_path: Path, dest: Path, obstacle: Callable[[Path, Path], None]
) -> None:
    outside = tmp_path / "outside"
    stamp(outside / "a.wav", mtime_ns(AT))
    stamp(outside / "secret", mtime_ns(AT))
    obstacle(dest, outside)
    places = Places(dest)
    assert not places.is_ours("talk/a.wav", AT)
    places.restamp("talk/a.wav", AT, AT + timedelta(days=1))
    assert (outside / "a.wav").stat().st_mtime_ns == mtime_ns(AT)
    assert (outside / "secret").stat().st_mtime_ns == mtime_ns(AT)


def test_an_empty_file_and_a_job_without_a_time_are_nobodys(dest: Path) -> None:
    (dest / "a.wav").touch()
    os.utime(dest / "a.wav", ns=(mtime_ns(AT), mtime_ns(AT)))
    stamp(dest / "b.wav", mtime_ns(AT))
    assert not Places(dest).is_ours("a.wav", AT)
    assert not Places(dest).is_ours("b.wav", None)


def test_a_file_that_bears_the_mark_can_be_given_a_newer_one(dest: Path) -> None:
    places, later = Places(dest), AT + timedelta(days=1)
    stamp(dest / "a.wav", mtime_ns(AT))
    stamp(dest / "b.wav", 10**18)
    for path in ("a.wav", "b.wav", "gone.wav"):
        places.restamp(path, AT, later)
    assert places.is_ours("a.wav", later)
    assert (dest / "b.wav").stat().st_mtime_ns == 10**18


@pytest.mark.parametrize("path", ["gone", "a/b/c", "a.wav/b", "n" * 300, "nul\0byte", "loop/x"])
def test_what_is_not_there_is_not_found(dest: Path, path: str) -> None:
    stamp(dest / "a.wav", 0)
    (dest / "loop").symlink_to("loop")
    assert Places(dest).find(path) is None
    assert not Places(dest).is_ours(path, AT)


@pytest.mark.parametrize(
    "at",
    [
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(1901, 12, 13, 20, 45, 52, tzinfo=UTC),
        datetime(2446, 5, 10, 22, 38, 55, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    ],
    ids=str,
)
def test_a_file_bears_a_time_that_no_file_system_holds(dest: Path, at: datetime) -> None:
    stamp(dest / "a.wav", mtime_ns(at))
    assert (dest / "a.wav").stat().st_mtime_ns == mtime_ns(at)
    assert Places(dest).is_ours("a.wav", at)


@settings(deadline=None)
@given(
    st.datetimes(
        datetime(1902, 1, 1),  # noqa: DTZ001 - the zone is drawn
        datetime(2446, 1, 1),  # noqa: DTZ001
        timezones=st.just(UTC) | st.just(timezone(timedelta(hours=14))),
    )
)
def test_a_time_is_exact_to_the_microsecond(at: datetime) -> None:
    since = at - datetime(1970, 1, 1, tzinfo=UTC)
    microseconds = (since.days * 86_400 + since.seconds) * 10**6 + since.microseconds
    assert mtime_ns(at) == 1000 * microseconds


# ---- tidying -----------------------------------------------------------------------------


def test_empty_folders_above_a_path_are_removed_up_to_dir(dest: Path) -> None:
    (dest / "a" / "b" / "c").mkdir(parents=True)
    (dest / "a" / "notes").write_bytes(b"mine")
    Places(dest).prune("a/b/c/gone.wav")
    assert snapshot(dest / "a") == {"notes": b"mine"}
    (dest / "a" / "notes").unlink()
    Places(dest).prune("a/gone.wav")
    assert not (dest / "a").exists()
    Places(dest).prune("gone.wav")
    assert dest.is_dir()


def test_folders_outside_are_not_removed(tmp_path: Path, dest: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "empty").mkdir(parents=True)
    (dest / "talk").symlink_to(outside)
    Places(dest).prune("talk/empty/gone.wav")
    Places(dest).prune("talk/gone.wav")
    assert (outside / "empty").is_dir()
    assert (dest / "talk").is_symlink()


@pytest.mark.parametrize("obstacle", OBSTACLES[2:], ids=lambda one: one.__name__)
def test_only_files_in_dir_have_a_beginning(
    tmp_path: Path, dest: Path, obstacle: Callable[[Path, Path], None]
) -> None:
    stamp(dest / "mine.wav", 0)
    assert Places(dest).beginning("mine.wav", 4) == BODY[:4]
    stamp(tmp_path / "outside" / "a.wav", 0)
    stamp(tmp_path / "outside" / "secret", 0)
    obstacle(dest, tmp_path / "outside")
    assert Places(dest).beginning("talk/a.wav", 4) == b""


# ---- reading -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1])
def test_a_file_is_digested_whole(dest: Path, size: int) -> None:
    body = os.urandom(size)
    (dest / "a.wav").write_bytes(body)
    assert digest_file(dest / "a.wav") == (hashlib.sha256(body).hexdigest(), size)


@pytest.mark.parametrize("kind", ["folder", "link", "loop", "pipe", "device"])
def test_what_is_no_regular_file_is_not_read(dest: Path, kind: str) -> None:
    path = dest / "a.wav"
    match kind:
        case "folder":
            path.mkdir()
        case "link":
            (dest / "b.wav").write_bytes(BODY)
            path.symlink_to("b.wav")
        case "loop":
            path.symlink_to("a.wav")
        case "pipe":
            os.mkfifo(path)
        case _:
            path = Path("/dev/zero")
    files = open_files()
    with pytest.raises(PlaceError):
        digest_file(path)
    assert open_files() == files


def test_a_file_that_is_gone_is_its_own_trouble(dest: Path) -> None:
    with pytest.raises(PlaceError, match="cannot be read"):
        digest_file(dest / "gone")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that fails to be read")
def test_a_file_that_fails_to_be_read_is_its_own_trouble() -> None:
    with pytest.raises(PlaceError, match="cannot be read"):
        digest_file(Path("/proc/self/mem"))


@pytest.mark.parametrize("path", ["gone", "a.wav/x", "x" * 300, "loop/x", "nul\0", "a.wav"])
def test_what_can_be_told_is_not_hidden(dest: Path, path: str) -> None:
    (dest / "a.wav").write_bytes(BODY)
    (dest / "loop").symlink_to("loop")
    assert Places(dest).hidden(path) is None


# ---- what the system says ----------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_says_so(number: int) -> None:
    error = explain(OSError(number, os.strerror(number)), "a.wav")
    assert (type(error), error.exit_code) == (FullError, 6)
    assert "full" in str(error)


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.EACCES, errno.ENOENT])
def test_a_disk_that_fails_is_the_storages_trouble(number: int) -> None:
    assert type(explain(OSError(number, os.strerror(number)), "a.wav")) is StorageError


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EIO, errno.ENOENT])
def test_what_hinders_the_reading_of_one_file_is_that_files_trouble(number: int) -> None:
    with pytest.raises(PlaceError), readable("a.wav"):
        raise OSError(number, os.strerror(number))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_what_hinders_the_reading_of_all_files_is_the_storages_trouble(number: int) -> None:
    with pytest.raises(StorageError), readable("a.wav"):
        raise OSError(number, os.strerror(number))


@pytest.mark.parametrize("number", [errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.ELOOP])
def test_a_name_that_cannot_be_is_that_files_trouble(number: int) -> None:
    with pytest.raises(PlaceError), explained("a.wav"):
        raise OSError(number, os.strerror(number))


def test_only_errors_of_the_system_are_explained() -> None:
    with pytest.raises(ValueError, match="other"), explained("a.wav"):
        raise ValueError("other")
