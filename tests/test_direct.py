"""Writes past the page cache: the file is the same, whichever way its bytes went."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fetcher.files.direct import Detour, Writer
from fetcher.memory import ALIGNMENT_BYTES, aligned, is_aligned

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


@pytest.fixture
def direct_writes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Collect (offset, length) of every write that goes past the cache."""
    found: list[tuple[int, int]] = []
    real = os.pwrite

    def pwrite(fd: int, data: Any, offset: int) -> int:
        if is_direct(fd):
            found.append((offset, len(data)))
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    return found


def is_direct(fd: int) -> bool:
    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT)


def memory(content: bytes) -> memoryview:
    """Return the content where a page begins."""
    view = aligned(max(1, len(content)))[: len(content)]
    view[:] = content
    return view


def put(writer: Writer, data: bytes | memoryview, offset: int) -> None:
    """Write all of it, as a part does."""
    view = memoryview(data)
    while view:
        count = writer.write(view, offset)
        view, offset = view[count:], offset + count


def content_of(fd: int) -> bytes:
    fcntl.fcntl(fd, fcntl.F_SETFL, 0)
    return os.pread(fd, os.fstat(fd).st_size, 0)


@pytest.fixture
def takes_direct_writes(tmp_path: Path) -> None:
    try:
        os.close(os.open(tmp_path / "probe", os.O_WRONLY | os.O_CREAT | os.O_DIRECT))
    except OSError:
        pytest.skip("the file system of the temporary folder takes no direct writes")


def test_memory_is_aligned_where_a_page_begins_and_nowhere_else() -> None:
    view = aligned(3 * ALIGNMENT_BYTES)
    assert is_aligned(view)
    assert is_aligned(view[ALIGNMENT_BYTES:])
    assert not is_aligned(view[1:])
    assert not is_aligned(view[:0])
    assert not is_aligned(memoryview(b"bytes may lie anywhere"))


@pytest.mark.usefixtures("takes_direct_writes")
def test_whole_pages_go_past_the_cache_and_the_rest_through_it(
    file: int, direct_writes: list[tuple[int, int]]
) -> None:
    content = os.urandom(MIB + 1000)
    put(Writer(file, Detour()), memory(content), 0)
    assert direct_writes == [(0, MIB)]
    assert content_of(file) == content


@pytest.mark.parametrize(
    ("content", "offset"),
    [
        (memory(bytes(MIB)), 1),
        (memory(bytes(MIB + 8))[8:], 0),
        (memory(bytes(4096)), 0),
        (bytes(MIB), 0),
        (bytearray(MIB), 4096),
    ],
    ids=["unaligned offset", "unaligned memory", "a page only", "bytes", "bytearray"],
)
def test_what_cannot_or_does_not_pay_goes_through_the_cache(
    content: bytes | memoryview, offset: int, file: int, direct_writes: list[tuple[int, int]]
) -> None:
    put(Writer(file, Detour()), content, offset)
    assert direct_writes == []
    assert os.fstat(file).st_size == offset + len(content)


pieces = st.lists(
    st.tuples(
        st.sampled_from([1, 4095, 4096, 65_536, 70_000, 131_072, 262_144]),
        st.sampled_from(["memory", "shifted memory", "bytes"]),
    ),
    max_size=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces)
def test_any_succession_of_pieces_makes_the_same_file(
    tmp_path: Path, plan: list[tuple[int, str]]
) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    writer = Writer(fd, Detour())
    expected = b""
    for length, kind in plan:
        content = os.urandom(length)
        shifted = memory(bytes(7) + content)[7:]
        forms: dict[str, bytes | memoryview] = {
            "memory": memory(content),
            "shifted memory": shifted,
            "bytes": content,
        }
        put(writer, forms[kind], len(expected))
        expected += content
    os.close(fd)
    assert (tmp_path / "file").read_bytes() == expected


@pytest.mark.usefixtures("takes_direct_writes")
@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP])
@pytest.mark.parametrize("refusing", ["the flag", "the write"])
def test_a_file_system_that_refuses_is_asked_once(
    number: int, refusing: str, file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    real_fcntl, real_pwrite = Writer._turn, os.pwrite

    def turn(self: Writer, *, direct: bool) -> None:
        if direct and refusing == "the flag":
            asked.append(1)
            raise OSError(number, "refused")
        real_fcntl(self, direct=direct)

    def pwrite(fd: int, data: Any, offset: int) -> int:
        if is_direct(fd):
            asked.append(1)
            raise OSError(number, "refused")
        return real_pwrite(fd, data, offset)

    monkeypatch.setattr(Writer, "_turn", turn)
    monkeypatch.setattr(os, "pwrite", pwrite)
    content, detour = os.urandom(MIB), Detour()
    for n in range(3):
        put(Writer(file, detour), memory(content), n * MIB)
    assert len(asked) == 1
    assert content_of(file) == 3 * content


def test_a_disk_that_takes_a_part_gets_the_rest_through_the_cache(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite

    def pwrite(fd: int, data: Any, offset: int) -> int:
        return real(fd, data[: 4096 * 3 if is_direct(fd) else 10_000], offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    content = os.urandom(MIB)
    put(Writer(file, Detour()), memory(content), 0)
    assert content_of(file) == content


def test_a_disk_that_is_full_is_told(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def pwrite(fd: int, data: Any, offset: int) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "pwrite", pwrite)
    detour = Detour()
    with pytest.raises(OSError, match="full"):
        Writer(file, detour).write(memory(bytes(MIB)), 0)
    assert detour.is_open()


def test_a_slow_disk_is_left_to_the_cache_for_a_minute() -> None:
    now = [0.0]
    detour = Detour(lambda: now[0])
    detour.took(MIB, 0.3)
    assert detour.is_open()  # one slow write says nothing
    for _ in range(16):
        detour.took(MIB, 0.1)
    assert not detour.is_open()
    now[0] = 61
    assert detour.is_open()
    for _ in range(100):
        detour.took(MIB, 0.02)
    assert detour.is_open()


def test_a_detour_that_is_closed_is_never_taken(
    file: int, direct_writes: list[tuple[int, int]]
) -> None:
    put(Writer(file, Detour(is_possible=False)), memory(bytes(MIB)), 0)
    assert direct_writes == []
