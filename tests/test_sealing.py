"""Finished files: durable, then visible, whole or not at all, whatever stands in the way."""

from __future__ import annotations

import errno
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from fetcher.errors import FetcherError, HaltedError, StorageError
from fetcher.files.journal import Version
from fetcher.files.parts import Part, Parts
from fetcher.files.places import Places, TakenError
from fetcher.files.sealing import Sealable, confirm, seal, write_durable
from fetcher.files.space import Space
from fetcher.models import Validator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BODY = b"RIFF and so on" * 100
MTIME_NS = 1_714_558_830_123_456_000


class Bench:
    """A destination, and what is needed to seal files into it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.parts = Parts(root / ".fetcher" / "partial")
        self.parts.folder.mkdir(parents=True)
        self.places = Places(root)
        self.threads = ThreadPoolExecutor(4)

    def small(self, path: str, body: bytes = BODY, key: str | None = None) -> Sealable:
        """Return a finished file that is in memory."""
        key = key or path.replace("/", "_")[:100]
        return Sealable(
            content=body,
            part_path=self.parts.path(key),
            path=path,
            mtime_ns=MTIME_NS,
            sha256=hashlib.sha256(body).hexdigest(),
            bytes_stored=len(body),
        )

    def large(self, path: str, body: bytes = BODY) -> Sealable:
        """Return a finished file that is an open part."""
        key = path.replace("/", "_")
        part = self.parts.begin(key, Version(Validator('"v1"'), len(body)))
        part.append(body)
        return replace(self.small(path, body, key), content=part, part_path=part.path)

    def seal(
        self, *group: Sealable, min_free: int = 0, is_halted: Callable[[], bool] = lambda: False
    ) -> list[FetcherError | None]:
        space = Space(self.root, min_free)
        return seal(group, self.places, space, self.threads, is_halted=is_halted)

    @property
    def visible(self) -> dict[str, bytes]:
        """The files below DIR but not in its state folder."""
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in self.root.rglob("*")
            if path.is_file() and ".fetcher" not in path.parts
        }

    @property
    def unfinished(self) -> set[str]:
        """What lies in the folder of unfinished files."""
        return {path.name for path in self.parts.folder.iterdir()}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "dest")
    yield made
    made.threads.shutdown()


def open_files() -> int:
    return len(os.listdir("/dev/fd"))  # noqa: PTH208 - only counted


# ---- in place ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["small", "large"])
def test_a_sealed_file_is_whole_in_place_with_its_time(bench: Bench, kind: str) -> None:
    files = open_files()
    one = bench.small("a/b.wav") if kind == "small" else bench.large("a/b.wav")
    assert bench.seal(one) == [None]
    assert bench.visible == {"a/b.wav": BODY}
    assert (bench.root / "a" / "b.wav").stat().st_mtime_ns == MTIME_NS
    assert bench.unfinished == set()
    assert open_files() == files


def test_a_file_without_a_time_keeps_that_of_its_writing(bench: Bench) -> None:
    assert bench.seal(replace(bench.small("a.wav"), mtime_ns=None)) == [None]
    assert (bench.root / "a.wav").stat().st_mtime_ns > MTIME_NS


def test_a_group_is_sealed_together(bench: Bench) -> None:
    files = open_files()
    group = [bench.small(f"{n % 7}/{n}.wav", b"%d" % n) for n in range(40)]
    group += [bench.large(f"{n % 7}/{n}.wav", b"%d" % n) for n in range(40, 64)]
    assert bench.seal(*group) == [None] * 64
    assert bench.visible == {f"{n % 7}/{n}.wav": b"%d" % n for n in range(64)}
    assert bench.unfinished == set()
    assert open_files() == files


def test_nothing_to_seal_is_nothing(bench: Bench) -> None:
    assert bench.seal() == []


def test_data_is_durable_before_it_is_visible_and_its_folder_after(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[str, bool]] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        real(fd)
        is_folder = os.path.isdir(f"/dev/fd/{fd}")  # noqa: PTH112 - a descriptor's own path
        steps.append(("folder" if is_folder else "data", bool(bench.visible)))

    monkeypatch.setattr(os, "fsync", fsync)
    assert bench.seal(bench.small("a/b.wav")) == [None]
    assert steps[0] == ("data", False)
    assert steps[1:] == [("folder", True)] * 2, "the file's folder, and DIR, which has a new one"


def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return where the paths of whatever is fsynced are noted."""
    paths: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        real(fd)
        paths.append(os.readlink(f"/dev/fd/{fd}") if os.path.islink(f"/dev/fd/{fd}") else "?")  # noqa: PTH114, PTH115

    monkeypatch.setattr(os, "fsync", fsync)
    return paths


@pytest.mark.skipif(not os.path.islink("/dev/fd/0"), reason="descriptors do not tell their paths")  # noqa: PTH114
@pytest.mark.parametrize("how", ["confirmed", "sealed once more"])
def test_what_is_in_place_already_is_made_durable_with_all_that_leads_to_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Whoever put it there may have been killed before its name reached the disk."""
    path = bench.root / "a" / "b" / "c.wav"
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY)
    paths = synced(monkeypatch)
    if how == "confirmed":
        assert confirm(["a/b/c.wav"], bench.places, bench.threads) == [None]
    else:
        assert bench.seal(bench.small("a/b/c.wav")) == [None]
    wanted = {path, path.parent, path.parent.parent, bench.root}
    assert {str(one.resolve()) for one in wanted} <= set(paths)


def test_what_is_in_place_and_cannot_be_made_durable_is_not_recorded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bench.root / "a.wav").write_bytes(BODY)
    files = open_files()

    def fsync(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    [halted] = confirm(["a.wav"], bench.places, bench.threads, is_halted=lambda: True)
    assert isinstance(halted, HaltedError)
    monkeypatch.setattr(os, "fsync", fsync)
    [trouble] = confirm(["a.wav"], bench.places, bench.threads)
    assert isinstance(trouble, StorageError)
    assert open_files() == files


def test_one_file_in_place_that_cannot_be_made_durable_is_its_own_trouble(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bench.root / "a.wav").write_bytes(BODY)
    number = (bench.root / "a.wav").stat().st_ino
    real = os.fsync

    def fsync(fd: int) -> None:
        if os.fstat(fd).st_ino == number:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    trouble, none = bench.seal(bench.small("a.wav"), bench.small("b.wav"))
    assert isinstance(trouble, StorageError)
    assert none is None
    assert (bench.root / "b.wav").read_bytes() == BODY


# ---- a stop that cannot wait for the disk ------------------------------------------------


def test_what_is_not_durable_at_a_halt_is_not_put_in_place(bench: Bench) -> None:
    files = open_files()
    group = [bench.small("a/b.wav"), bench.large("c.wav")]
    troubles = bench.seal(*group, is_halted=lambda: True)
    assert [type(trouble) for trouble in troubles] == [HaltedError] * 2
    assert bench.visible == {}
    for one in group:
        if isinstance(one.content, Part):
            one.content.close()
    assert open_files() == files


def test_a_halt_begins_no_other_fsync(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    group = [bench.small(f"{n}.wav") for n in range(64)]
    troubles = bench.seal(*group, is_halted=lambda: len(synced) >= 4)
    assert all(isinstance(trouble, HaltedError) for trouble in troubles)
    assert 4 <= len(synced) <= 4 + 4, "no more than were under way on four threads"
    assert bench.visible == {}


def test_a_file_whose_folder_is_not_durable_at_a_halt_is_not_recorded(bench: Bench) -> None:
    one = bench.small("a/b.wav")
    assert [type(t) for t in bench.seal(one, is_halted=lambda: bool(bench.visible))] == [
        HaltedError
    ]
    assert bench.visible == {"a/b.wav": BODY}, "as a crash would leave it: the next run adopts it"


# ---- trouble of single files -------------------------------------------------------------


def test_one_files_trouble_is_its_own(bench: Bench) -> None:
    (bench.root / "taken.wav").write_bytes(b"mine")
    group = [
        bench.small("first.wav"),
        bench.small("taken.wav"),
        bench.small("n" * 300 + "/x.wav"),
        bench.large("last/x.wav"),
    ]
    troubles = bench.seal(*group)
    kinds = [type(trouble).__name__ for trouble in troubles]
    assert kinds == ["NoneType", "TakenError", "PlaceError", "NoneType"]
    assert bench.visible == {"first.wav": BODY, "taken.wav": b"mine", "last/x.wav": BODY}


def test_of_two_with_one_path_the_first_gets_it_and_no_byte_is_lost(bench: Bench) -> None:
    one, other = bench.small("a.wav", b"one"), bench.small("a.wav", b"other", key="other")
    troubles = bench.seal(one, other)
    assert troubles[0] is None
    assert isinstance(troubles[1], TakenError)
    assert bench.visible == {"a.wav": b"one"}
    assert other.part_path.read_bytes() == b"other"


def test_a_file_that_was_refused_is_sealed_elsewhere(bench: Bench) -> None:
    (bench.root / "a.wav").write_bytes(b"mine")
    for make in (bench.small, bench.large):
        one = make("a.wav")
        [trouble] = bench.seal(one)
        assert isinstance(trouble, TakenError)
        path = f"{type(one.content).__name__}.wav"
        assert bench.seal(replace(one, path=path, is_durable=True)) == [None]
    assert bench.visible == {"a.wav": b"mine", "bytes.wav": BODY, "Part.wav": BODY}
    assert bench.unfinished == set()


@pytest.mark.parametrize("kind", ["small", "large"])
def test_the_same_bytes_in_place_already_count_as_done(bench: Bench, kind: str) -> None:
    assert bench.seal(bench.small("a/b.wav")) == [None]
    again = bench.small("a/b.wav") if kind == "small" else bench.large("a/b.wav")
    assert bench.seal(again) == [None]
    assert bench.visible == {"a/b.wav": BODY}
    assert bench.unfinished == set()


def link_to_the_same_bytes(place: Path, outside: Path) -> None:
    outside.write_bytes(BODY)
    place.symlink_to(outside)


def hard_link_of_other_bytes(place: Path, outside: Path) -> None:
    outside.write_bytes(BODY[::-1])
    place.hardlink_to(outside)


def folder(place: Path, outside: Path) -> None:
    place.mkdir()


def empty_file(place: Path, outside: Path) -> None:
    place.touch()


def pipe(place: Path, outside: Path) -> None:
    os.mkfifo(place)


@pytest.mark.parametrize("may_replace", [False, True])
@pytest.mark.parametrize(
    "foreign", [link_to_the_same_bytes, hard_link_of_other_bytes, folder, empty_file, pipe]
)
def test_what_is_not_the_same_file_is_never_taken_for_it(
    bench: Bench, tmp_path: Path, foreign: Callable[[Path, Path], None], may_replace: bool
) -> None:
    place, outside = bench.root / "a.wav", tmp_path / "outside"
    foreign(place, outside)
    before = place.lstat()
    [trouble] = bench.seal(replace(bench.small("a.wav"), may_replace=may_replace))
    if may_replace and foreign in {hard_link_of_other_bytes, empty_file}:
        assert trouble is None
        assert place.read_bytes() == BODY
    else:
        assert isinstance(trouble, TakenError)
        assert place.lstat() == before
    assert not outside.exists() or outside.stat().st_size == len(BODY)


def test_a_damaged_file_of_ours_stays_until_its_replacement_is_in_place(bench: Bench) -> None:
    place = bench.root / "a.wav"
    place.write_bytes(b"damaged")
    assert isinstance(bench.seal(bench.small("a.wav"))[0], TakenError)
    assert place.read_bytes() == b"damaged"
    assert bench.seal(replace(bench.small("a.wav"), may_replace=True)) == [None]
    assert place.read_bytes() == BODY


# ---- trouble of the disk -----------------------------------------------------------------


def failing(name: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one call of `os` fail with that errno from now on."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, name, fail)


@pytest.mark.parametrize("kind", ["small", "large"])
@pytest.mark.parametrize("call", ["fsync", "utime"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
def test_a_disk_that_fails_stops_the_group_and_shows_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, kind: str, call: str, number: int
) -> None:
    one = bench.small("a/b.wav") if kind == "small" else bench.large("a/b.wav")
    with monkeypatch.context() as patch:
        failing(call, number, patch)
        [trouble] = bench.seal(one)
    assert isinstance(trouble, StorageError)
    assert trouble.exit_code == 6
    assert bench.visible == {}
    assert one.part_path.exists(), "what was fetched is kept"


def test_a_disk_that_fills_while_a_small_file_is_written_shows_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        failing("write", errno.ENOSPC, patch)
        [trouble] = bench.seal(bench.small("a.wav"))
    assert isinstance(trouble, StorageError)
    assert "full" in str(trouble)
    assert bench.visible == {}
    assert bench.seal(bench.small("a.wav")) == [None]


def test_a_folder_that_cannot_be_made_durable_leaves_no_file_unaccounted_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def fsync(fd: int) -> None:
        if os.path.isdir(f"/dev/fd/{fd}"):  # noqa: PTH112 - a descriptor's own path
            raise OSError(errno.EIO, "I/O error")
        real(fd)

    files = open_files()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        troubles = bench.seal(bench.small("a.wav"), bench.small("b.wav"))
    assert [type(trouble) for trouble in troubles] == [StorageError] * 2
    assert open_files() == files
    assert bench.seal(bench.small("a.wav"), bench.small("b.wav")) == [None] * 2


def test_bytes_that_a_write_leaves_over_are_written_after_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: real(fd, bytes(data)[:7]))
        assert bench.seal(bench.small("a.wav")) == [None]
    assert bench.visible == {"a.wav": BODY}


@pytest.fixture
def nearly_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every disk have 2,000,000 bytes free."""
    real = os.statvfs

    def statvfs(path: str | Path) -> os.statvfs_result:
        said = list(real(path))
        said[1], said[4] = 1, 2_000_000  # f_frsize, f_bavail
        return os.statvfs_result(said)

    monkeypatch.setattr(os, "statvfs", statvfs)


@pytest.mark.usefixtures("nearly_full")
@pytest.mark.parametrize(
    ("sizes", "fits"),
    [
        ((600_000, 600_000), [True, False]),
        ((1_000_001,), [False]),
        ((1_000_001, 400_000, 700_000, 600_000), [False, True, False, True]),
        ((500_000, 500_000, 1), [True, True, False]),
    ],
)
def test_of_a_group_those_that_fit_above_the_limit_are_sealed(
    bench: Bench, sizes: tuple[int, ...], fits: list[bool]
) -> None:
    group = [bench.small(f"{n}.wav", bytes(size)) for n, size in enumerate(sizes)]
    troubles = bench.seal(*group, min_free=1_000_000)
    assert [trouble is None for trouble in troubles] == fits
    assert all(isinstance(trouble, StorageError) for trouble in troubles if trouble is not None)
    assert set(bench.visible) == {f"{n}.wav" for n, fit in enumerate(fits) if fit}
    assert bench.unfinished == set()


@pytest.mark.usefixtures("nearly_full")
def test_what_is_on_disk_already_takes_no_room(bench: Bench) -> None:
    assert bench.seal(bench.large("a.wav"), min_free=3_000_000) == [None]
    assert set(bench.visible) == {"a.wav"}


def test_a_small_file_is_not_written_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    (tmp_path / "a.part").symlink_to(outside)
    with pytest.raises(OSError, match="link"):
        write_durable(tmp_path / "a.part", BODY, None)
    assert outside.read_bytes() == b"mine"


def test_what_lay_there_before_is_gone_whole(tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(b"x" * 10_000)
    write_durable(tmp_path / "a.part", b"short", None)
    assert (tmp_path / "a.part").read_bytes() == b"short"
