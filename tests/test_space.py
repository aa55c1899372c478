"""The promise never to fill the disk below `--min-free`."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from fetcher.errors import FullError, StorageError, TransferError
from fetcher.files.space import Space, free_bytes

if TYPE_CHECKING:
    from pathlib import Path

DISK_BYTES = 1_000_000


@pytest.fixture(autouse=True)
def disk(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let every disk have so many bytes free as the one number in this list says."""
    free = [DISK_BYTES]
    real = os.statvfs

    def statvfs(path: str | Path) -> os.statvfs_result:
        said = list(real(path))
        said[1], said[4] = 1, free[0]  # f_frsize, f_bavail
        return os.statvfs_result(said)

    monkeypatch.setattr(os, "statvfs", statvfs)
    return free


def test_what_an_ordinary_user_may_write_counts(tmp_path: Path) -> None:
    assert free_bytes(tmp_path) == DISK_BYTES


@pytest.mark.parametrize(
    ("min_free", "more", "is_enough"),
    [
        pytest.param(0, 0, True, id="no limit"),
        pytest.param(0, DISK_BYTES, True, id="to the last byte"),
        pytest.param(0, DISK_BYTES + 1, False, id="one byte more"),
        pytest.param(DISK_BYTES, 0, True, id="at the limit"),
        pytest.param(DISK_BYTES, 1, False, id="one byte below it"),
        pytest.param(DISK_BYTES + 1, 0, False, id="below it from the start"),
        pytest.param(400_000, 600_000, True, id="up to the limit"),
    ],
)
def test_the_disk_is_filled_to_the_limit_and_no_further(
    tmp_path: Path, min_free: int, more: int, is_enough: bool
) -> None:
    space = Space(tmp_path, min_free)
    if is_enough:
        space.check(more)
        space.promise("a", more)
    else:
        for ask in (space.check, lambda more: space.promise("a", more)):
            with pytest.raises(StorageError, match="min-free") as caught:
                ask(more)
            assert caught.value.exit_code == 6


def test_promises_add_up_and_are_given_back(tmp_path: Path) -> None:
    space = Space(tmp_path, 100_000)
    space.promise("a", 500_000)
    space.promise("b", 400_000)
    with pytest.raises(StorageError):
        space.check(1)
    space.release("a")
    space.check(500_000)
    space.release("a")
    space.release("nobody")


def test_a_promise_that_is_refused_takes_no_room_from_others(tmp_path: Path) -> None:
    space = Space(tmp_path, 100_000)
    space.promise("a", 500_000)
    for _ in range(2):
        with pytest.raises(FullError, match="500000 of them are for files under way"):
            space.promise("b", 400_001)
    space.wrote("a", 0, 500_000)
    space.promise("b", 400_000)


def test_of_files_that_do_not_fit_together_any_more_one_may_go_on(
    tmp_path: Path, disk: list[int]
) -> None:
    space = Space(tmp_path, 0)
    space.promise("a", 400_000)
    space.promise("b", 500_000)
    disk[0] = 450_000
    with pytest.raises(FullError):
        space.wrote("b", 1, 499_999)
    space.release("b")
    space.wrote("a", 1, 399_999)


@pytest.mark.parametrize(
    ("free_mib", "may_go_on"),
    [(19.0, True), (18.5, True), (17.0, True), (16.9, True), (10.1, True), (9.9, False)],
    ids=["all there", "not noted", "a piece each not noted", "taken", "beside a piece", "not so"],
)
def test_where_others_took_what_was_promised_the_next_pieces_of_all_must_fit(
    free_mib: float, may_go_on: bool, tmp_path: Path, disk: list[int]
) -> None:
    """Else several files, each of which would fit alone, fill the disk together."""
    mib = 1 << 20
    disk[0] = 20 * mib
    space = Space(tmp_path, 0)
    space.promise("a", 10 * mib)
    space.promise("b", 10 * mib)
    disk[0] = int(free_mib * mib)
    if may_go_on:
        space.wrote("a", mib, 9 * mib)
        return
    with pytest.raises(FullError):
        space.wrote("a", mib, 9 * mib)


def test_of_files_that_others_left_too_little_room_for_the_last_comes_to_its_end(
    tmp_path: Path, disk: list[int]
) -> None:
    """What is refused writes no more, though it takes a moment to give its promise back."""
    mib = 1 << 20
    disk[0] = 20 * mib
    space = Space(tmp_path, 0)
    left = dict.fromkeys("abcd", 5 * mib)
    for holder, bytes_left in left.items():
        space.promise(holder, bytes_left)
    disk[0] = 10 * mib + mib // 2
    under_way = list(left)
    while under_way:
        holder = under_way.pop(0)
        disk[0] -= mib
        left[holder] -= mib
        with contextlib.suppress(FullError):
            space.wrote(holder, mib, left[holder])
            under_way += [holder] if left[holder] else []
    assert sorted(left.values())[0] == 0
    assert disk[0] >= 0


def test_a_promise_shrinks_with_what_was_written(tmp_path: Path, disk: list[int]) -> None:
    space = Space(tmp_path, 0)
    for left in range(DISK_BYTES, -1, -100_000):
        disk[0] = left
        space.promise("a", left)


def test_a_disk_that_others_fill_is_noticed(tmp_path: Path, disk: list[int]) -> None:
    space = Space(tmp_path, 1000)
    space.promise("a", 500_000)
    disk[0] = 500_999
    with pytest.raises(StorageError):
        space.promise("a", 500_000)


def test_a_disk_that_others_fill_is_noticed_while_a_file_comes(
    tmp_path: Path, disk: list[int]
) -> None:
    now = [0.0]
    disk[0] = 1 << 30
    space = Space(tmp_path, 1000, lambda: now[0])
    space.promise("a", 500_000)
    disk[0] = 300_000
    space.wrote("a", 1000, 499_000)  # there was plenty: nobody looks
    now[0] = 0.3
    with pytest.raises(StorageError):
        space.wrote("a", 1000, 498_000)
    disk[0] = 1 << 30
    space.check()
    disk[0] = 300_000
    space.wrote("a", 1000, 497_000)
    with pytest.raises(StorageError):
        space.wrote("a", 16 << 20, 496_000)


def test_where_room_is_scarce_every_write_is_followed_by_a_look(
    tmp_path: Path, disk: list[int]
) -> None:
    space = Space(tmp_path, 1000, lambda: 0.0)
    space.promise("a", 500_000)
    disk[0] = 400_000
    with pytest.raises(StorageError):
        space.wrote("a", 1000, 499_000)


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        Space(tmp_path / "gone", 0).check()


def test_what_found_no_room_on_one_thread_goes_on_on_none(tmp_path: Path, disk: list[int]) -> None:
    space = Space(tmp_path, 0)
    for holder in ("a", "b"):
        space.promise(holder, 400_000)
    disk[0] = 100_000
    with pytest.raises(FullError):
        space.wrote("a", 0, 400_000)
    with pytest.raises(FullError):
        space.go_on("a")
    space.go_on("b")
    disk[0] = DISK_BYTES
    space.promise("a", 400_000)
    space.go_on("a")


def test_only_what_is_larger_than_the_whole_disk_is_refused_for_ever(
    tmp_path: Path, disk: list[int]
) -> None:
    disk[0] = 0
    space = Space(tmp_path, 0)
    whole = os.statvfs(tmp_path).f_blocks  # of 1 byte
    for total in (None, 0, whole):
        space.require_disk(total)
    with pytest.raises(TransferError, match=f"announces {whole + 1} bytes"):
        space.require_disk(whole + 1)
